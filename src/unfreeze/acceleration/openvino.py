"""Frozen stages in OpenVINO, which computes them faster than torch on a CPU (benchmarks/frozen.py).

Each thread computes one image at a time: no thread waits for another within a layer, activations stay in the core's own
cache, and an image's bits can't depend on its neighbours in the batch.
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
    """Return the version of the installed OpenVINO, or None if it is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def convert_stages(stages: nn.Module, example: Tensor) -> Callable[[torch.dtype], Callable[[Tensor], Tensor]]:
    """Convert ``stages``; return a function that compiles them for a precision, on torch's number of threads.

    Compiled stages map float32 to float32.  Converting takes most of the time, and is done once for all precisions.

    Args:
        stages: In evaluation mode; no weight requires a gradient.
        example: Input of the stages, for one image or more.

    Raises:
        Exception: OpenVINO can't compute them; compiling may raise, too, and the type may be any.
    """
    # Importing OpenVINO sends telemetry over the network; without this module it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    one = example[:1]
    # Tracing warns of values that a network computes from shapes; the shapes are fixed here.
    with suppress_warnings(), torch.no_grad():
        traced = torch.jit.trace(_Opaque(stages).eval(), one, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(torch.jit.freeze(traced), example_input=one)
    model.reshape(list(one.shape))

    def compile_for(precision: torch.dtype) -> Callable[[Tensor], Tensor]:
        threads = torch.get_num_threads()
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,  # images are decoded on the same cores
        }
        return _ImageByImage(openvino.Core().compile_model(model, "CPU", options))

    return compile_for


class _Opaque(nn.Module):
    """Stages as one module without submodules, which is traced and converted in half the time."""

    def __init__(self, stages: nn.Module) -> None:
        super().__init__()
        self._run = stages.forward

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._run(x)
        return out


class _ImageByImage:
    """A compiled model that computes images one by one, in reused requests; several threads may call it."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: deque[Any] = deque()

    def __call__(self, x: Tensor) -> Tensor:
        with limit_threads(x.numel()):
            images = [image.float().contiguous().numpy() for image in torch.split(x, 1)]
            requests = [self._request() for _ in images]
            for request, image in zip(requests, images, strict=True):
                request.start_async([image], share_inputs=True)
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
