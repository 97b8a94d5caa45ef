"""Frozen stages in OpenVINO, which computes them faster than torch on a CPU (benchmarks/frozen.py).

A photo at a time, as many at once as there are threads: no thread waits for another within a layer, what a layer hands on
stays in the core's own cache, and a photo's bits can't depend on its neighbours.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn


def openvino_version() -> str | None:
    """Return the version of the installed OpenVINO, or None where there is none."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def compile_stages(
    stages: nn.Module, precisions: Iterable[torch.dtype], example: Tensor
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield ``stages`` as a function from float32 to float32 for each precision within, on torch's number of threads.

    Args:
        stages: In evaluation mode.
        precisions: float32 or bfloat16; a second one costs little, for the stages are converted once.
        example: What will cross them, for one photo or more.

    Raises:
        Exception: OpenVINO can't compute them; it may say so in any way.
    """
    # Merely importing OpenVINO would tell its makers so over the network; without this module it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    one = example[:1]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of whatever a network computes from shapes: here they are fixed
        traced = torch.jit.trace(stages, one, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, example_input=one)
    model.reshape(list(one.shape))
    threads = torch.get_num_threads()
    for precision in precisions:
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,  # photos are decoded on the same cores
        }
        yield partial(_photo_by_photo, openvino.Core().compile_model(model, "CPU", options))


def _photo_by_photo(compiled: Any, x: Tensor) -> Tensor:
    photos = [photo.contiguous().numpy() for photo in torch.split(x, 1)]
    requests = [compiled.create_infer_request() for _ in photos]
    for request, photo in zip(requests, photos, strict=True):
        request.start_async([photo], share_inputs=True)
    for request in requests:
        request.wait()
    return torch.cat([torch.from_numpy(request.get_output_tensor().data) for request in requests])
