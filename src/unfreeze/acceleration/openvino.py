"""Frozen stages in OpenVINO, which computes them faster than torch on a CPU (benchmarks/frozen.py).

Each thread computes one photo at a time: no thread waits for another within a layer, activations stay in the core's own
cache, and a photo's bits can't depend on its neighbours.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from unfreeze.runtime import limit_threads, suppress_warnings


def openvino_version() -> str | None:
    """Return the version of the installed OpenVINO, or None where there is none."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def convert_stages(stages: nn.Module, example: Tensor) -> Callable[[torch.dtype], Callable[[Tensor], Tensor]]:
    """Return what compiles ``stages`` to compute in a precision, on torch's number of threads: from float32 to float32.

    Converting takes most of the time, and is done once for all precisions.

    Args:
        stages: In evaluation mode; no weight asks for a gradient.
        example: What will cross them, for one photo or more.

    Raises:
        Exception: OpenVINO can't compute them; it may say so in any way, and when they are compiled, too.
    """
    # Merely importing OpenVINO would tell its makers so over the network; without this module it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    one = example[:1]
    with (
        suppress_warnings(),
        torch.no_grad(),
    ):  # tracing warns of whatever a network computes from shapes: here they are fixed
        traced = torch.jit.trace(_Closed(stages).eval(), one, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(torch.jit.freeze(traced), example_input=one)
    model.reshape(list(one.shape))

    def compiled(precision: torch.dtype) -> Callable[[Tensor], Tensor]:
        threads = torch.get_num_threads()
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,  # photos are decoded on the same cores
        }
        return _PhotoByPhoto(openvino.Core().compile_model(model, "CPU", options))

    return compiled


class _Closed(nn.Module):
    """Stages as one module without parts, which is traced and converted in half the time."""

    def __init__(self, stages: nn.Module) -> None:
        super().__init__()
        self._run = stages.forward

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._run(x)
        return out


class _PhotoByPhoto:
    """A compiled model that computes photos one by one, in requests that are made once; several threads may call it."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: deque[Any] = deque()

    def __call__(self, x: Tensor) -> Tensor:
        with limit_threads(x.numel()):
            photos = [photo.float().contiguous().numpy() for photo in torch.split(x, 1)]
            requests = [self._request() for _ in photos]
            for request, photo in zip(requests, photos, strict=True):
                request.start_async([photo], share_inputs=True)
            for request in requests:
                request.wait()
            outputs = torch.cat([torch.from_numpy(request.get_output_tensor().data) for request in requests])
        self._idle.extend(requests)
        return outputs

    def _request(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()
