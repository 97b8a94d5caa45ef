from __future__ import annotations

import pytest
import torch
from tests.support.backbones import CPU

from unfreeze.acceleration.precision import choose_precision
from unfreeze.errors import ConfigError


@pytest.mark.parametrize(("unit", "auto"), [("amx_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_precision_is_what_the_hardware_multiplies(
    monkeypatch: pytest.MonkeyPatch, unit: str, auto: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True}, raising=False)
    assert choose_precision("auto", CPU) == auto
    assert choose_precision("fp32", CPU) == torch.float32
    if auto == torch.bfloat16:
        assert choose_precision("bf16", CPU) == torch.bfloat16
    else:
        with pytest.raises(ConfigError, match="no bf16 units"):
            choose_precision("bf16", CPU)
    assert choose_precision("auto", torch.device("meta")) == torch.float32


def test_a_torch_that_does_not_tell_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_precision("auto", CPU) == torch.float32
