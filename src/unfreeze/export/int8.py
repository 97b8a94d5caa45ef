"""Quantise an ONNX file: convolutions and matrix products in 8-bit integers; and measure the change in accuracy.

Depthwise convolutions stay float32.  They hold 5 % of an EfficientNet-Lite0's weights, and the ranges of their
channels differ so much that one scale per layer loses the small ones: with them in 8 bits, a classifier of blood cells
lost 45 points of accuracy on 180 images, and 3 without.  So does a head on several stages, whose features differ in
range by orders of magnitude.
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

N_CALIBRATION = 128  # training images from which the ranges of activations are measured
BATCH = 8
OP_TYPES = ["Conv", "MatMul", "Gemm"]


@dataclass(frozen=True)
class Cost:
    """Accuracy of int8 minus float32 on the same images, as fractions; None where the model was trained on them.

    Attributes:
        n: Number of images.
        unseen: Whether the model never saw them; otherwise only the agreement is measured.
        agreement: Share of the images with the same most probable class.
        accuracy: Accuracy of the float32 file.
        accuracy_change: Change in accuracy; negative is a loss.
        accuracy_change_ci95: Its paired bootstrap interval.
        balanced_accuracy: Balanced accuracy of the float32 file.
        balanced_accuracy_change: Change in balanced accuracy; negative is a loss.
        balanced_accuracy_change_ci95: Its paired bootstrap interval.
        p_value: p-value of equal accuracy: McNemar's exact test, with groups a sign-flip test.
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
        """Return the cost as a sentence for people."""
        same = f"the same answer as float32 on {self.agreement * 100:.1f} %"
        if self.accuracy is None or self.accuracy_change is None or self.accuracy_change_ci95 is None:
            text = f"int8 gives {same} of {self.n} photos that the model was trained on"
            return f"{text}: the cost on other photos is unknown"
        low, high = self.accuracy_change_ci95
        balanced = f"balanced {(self.balanced_accuracy_change or 0) * 100:+.1f}"
        return (
            f"int8 changes accuracy from {self.accuracy * 100:.1f} % by {self.accuracy_change * 100:+.1f} points "
            f"(95 % interval {low * 100:+.1f} to {high * 100:+.1f}, p = {self.p_value:.2g}; {balanced}) on {self.n} "
            f"test photos, and gives {same}"
        )


def cost(labels: IntArray, before: FloatArray, after: FloatArray, groups: Groups, *, unseen: bool) -> Cost:
    """Compare the probabilities (N, C) of the float32 file (``before``) and the int8 file (``after``)."""
    agreement = float((before.argmax(axis=1) == after.argmax(axis=1)).mean())
    if not unseen:
        return Cost(len(labels), unseen, agreement)
    change = gain(labels, before, after, groups=groups)
    correct = correct_predictions(labels, before)
    return Cost(
        n=change.n,
        unseen=unseen,
        agreement=agreement,
        accuracy=float(correct.mean()),
        accuracy_change=change.accuracy,
        accuracy_change_ci95=change.accuracy_ci95,
        balanced_accuracy=balanced_accuracy(labels, correct),
        balanced_accuracy_change=change.balanced_accuracy,
        balanced_accuracy_change_ci95=change.balanced_accuracy_ci95,
        p_value=change.p_value,
    )


def _depthwise(prepared: Path) -> list[str]:
    """Return the names of an ONNX file's depthwise convolutions, whose filters have one input channel."""
    import onnx

    graph = onnx.load(prepared).graph
    n_input_channels = {tensor.name: tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) == 4}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv"
        and n_input_channels.get(node.input[1]) == 1
        and any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]


def _head_on_stages(prepared: Path) -> list[str]:
    """Return the name of the last matrix product, if its features are joined from several stages."""
    import onnx

    nodes = onnx.load(prepared).graph.node
    joined = {output for node in nodes if node.op_type == "Concat" for output in node.output}
    products = [node for node in nodes if node.op_type in ("MatMul", "Gemm")]
    return [node.name for node in products[-1:] if node.input[0] in joined]


def write(source: Path, path: Path, batches: Iterable[Tensor]) -> None:
    """Write the int8 form of an ONNX file.

    Args:
        source: The float32 file.
        path: The new int8 file.
        batches: Rendered training images, uint8, from which the ranges of activations are measured.

    Raises:
        ModelError: The network can't be computed in int8.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.remaining: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] | None:
            batch = next(self.remaining, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared = Path(folder, "prepared.onnx")
        disabled = logging.root.manager.disable
        logging.disable(max(disabled, logging.WARNING))
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                path,
                Photos(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OP_TYPES,
                nodes_to_exclude=[*_depthwise(prepared), *_head_on_stages(prepared)],
                per_channel=True,
                reduce_range=True,  # 7-bit weights: with 8, sums saturate on CPUs without VNNI
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # third-party code on any network: it may fail in any way
            raise ModelError(
                f"This network can't be computed in int8: {reason(error)}", mend="Leave --int8 out."
            ) from error
        finally:
            logging.disable(disabled)
