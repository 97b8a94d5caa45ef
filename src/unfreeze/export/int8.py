"""An ONNX file whose convolutions and matrix products compute in 8-bit integers, and what that costs.

Depthwise convolutions stay float32.  They hold 5 % of an EfficientNet-Lite0's weights, and their channels are so unlike each
other that one scale for all of a layer's activations loses the small ones: with them in 8 bits, a classifier of blood cells
lost 45 points of accuracy on 180 photos, and without 3.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from unfreeze.errors import ModelError, reason
from unfreeze.evaluation.metrics import balanced_accuracy, correct_predictions
from unfreeze.evaluation.resampling import FloatArray, Groups, IntArray, Interval
from unfreeze.evaluation.significance import gain
from unfreeze.export.deployed import INPUT

CALIBRATED = 128  # training photos that the ranges of activations are read off
BATCH = 8
KINDS = ["Conv", "MatMul", "Gemm"]


@dataclass(frozen=True)
class Cost:
    """What 8 bits cost: int8 minus float32 on the same photos, fractions.

    Attributes:
        n: Photos.
        unseen: Whether the model never saw them; on photos that it was trained on, only the agreement means something.
        agreement: Share with the same most probable class.
        accuracy: Of the float32 file; absent where the photos were trained on, as are all below.
        accuracy_change: Negative is a loss.
        accuracy_change_ci95: Paired bootstrap.
        balanced_accuracy: Of the float32 file.
        balanced_accuracy_change: Likewise.
        balanced_accuracy_change_ci95: Likewise.
        p_value: Of both being equally accurate: McNemar's exact test, with groups a sign-flip test.
    """

    n: int
    unseen: bool
    agreement: float
    accuracy: float | None = None
    accuracy_change: float | None = None
    accuracy_change_ci95: Interval | None = None
    balanced_accuracy: float | None = None
    balanced_accuracy_change: float | None = None
    balanced_accuracy_change_ci95: Interval | None = None
    p_value: float | None = None

    def sentence(self) -> str:
        """Return it for people."""
        same = f"the same answer as float32 on {self.agreement * 100:.1f} %"
        if self.accuracy is None or self.accuracy_change is None or self.accuracy_change_ci95 is None:
            return f"int8 gives {same} of {self.n} photos that the model was trained on: what it costs on others is unknown"
        low, high = self.accuracy_change_ci95
        balanced = f"balanced {(self.balanced_accuracy_change or 0) * 100:+.1f}"
        return (
            f"int8 changes accuracy from {self.accuracy * 100:.1f} % by {self.accuracy_change * 100:+.1f} points "
            f"(95 % interval {low * 100:+.1f} to {high * 100:+.1f}, p = {self.p_value:.2g}; {balanced}) on {self.n} test "
            f"photos, and gives {same}"
        )


def cost(labels: IntArray, before: FloatArray, after: FloatArray, groups: Groups, *, unseen: bool) -> Cost:
    """Compare the answers (N, C) of the float32 file with those of the int8 file."""
    agreement = float((before.argmax(axis=1) == after.argmax(axis=1)).mean())
    if not unseen:
        return Cost(len(labels), unseen, agreement)
    change = gain(labels, before, after, groups=groups)
    right = correct_predictions(labels, before)
    return Cost(
        n=change.n,
        unseen=unseen,
        agreement=agreement,
        accuracy=float(right.mean()),
        accuracy_change=change.accuracy,
        accuracy_change_ci95=change.accuracy_ci95,
        balanced_accuracy=balanced_accuracy(labels, right),
        balanced_accuracy_change=change.balanced_accuracy,
        balanced_accuracy_change_ci95=change.balanced_accuracy_ci95,
        p_value=change.p_value,
    )


def _depthwise(prepared: Path) -> list[str]:
    """Return the names of an ONNX file's depthwise convolutions, of which each filter sees one channel."""
    import onnx

    graph = onnx.load(prepared).graph
    seen = {tensor.name: tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) == 4}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv"
        and seen.get(node.input[1]) == 1
        and any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]


def write(source: Path, place: Path, batches: Iterable[Tensor]) -> None:
    """Write the int8 form of an ONNX file.

    Args:
        source: The float32 file.
        place: The new one.
        batches: PixelSource training photos, to read the ranges of activations off.

    Raises:
        ModelError: The network can't be computed in int8.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] | None:
            batch = next(self.left, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        prepared = Path(folder, "prepared.onnx")
        logging.disable(logging.WARNING)
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                place,
                Photos(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=KINDS,
                nodes_to_exclude=_depthwise(prepared),
                per_channel=True,
                reduce_range=True,  # 7 bits of a weight: 8 overflow on CPUs without VNNI, which then answer otherwise
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # a foreign tool on any network: it may fail in any way
            raise ModelError(
                f"This network can't be computed in int8: {reason(error)}", mend="Leave --int8 out."
            ) from error
        finally:
            logging.disable(logging.NOTSET)
