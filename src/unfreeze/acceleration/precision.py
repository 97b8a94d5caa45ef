"""The precision of frozen stages: what the hardware has units for."""

from __future__ import annotations

from typing import Literal

import torch

from unfreeze.errors import ConfigError


def choose_precision(name: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """Return the precision of frozen stages; ``auto`` is bf16 where the hardware has units for it.

    Raises:
        ConfigError: The device has no bf16 units, and ``name`` is bf16.
    """
    has_bf16 = _has_bf16(device)
    if name == "bf16" and not has_bf16:
        raise ConfigError(
            f"This machine's {device.type} has no bf16 units: it would be slower, not faster.",
            where="--precision",
            mend="Leave --precision out, or take fp32.",
        )
    return torch.bfloat16 if has_bf16 and name != "fp32" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    units = cpu_capabilities() if device.type == "cpu" else {}
    return any(units.get(unit) is True for unit in ("amx_bf16", "avx512_bf16"))


def cpu_capabilities() -> dict[str, object]:
    """Return which instruction sets this CPU has, as torch names them; empty where torch is too old to say."""
    return dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {}
