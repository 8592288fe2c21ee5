"""An exported model at lower precision: its encoder in FP16, or in INT8 as calibrated on images.

Lift, head and distance stay FP32: they cost little, and thresholds depend on them.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from fedmed_edge.errors import InputError
from fedmed_edge.export.graph import PREFIX
from fedmed_edge.export.parity import sample_fault
from fedmed_edge.model.manifest import METADATA_KEY, Precision, parse_manifest
from fedmed_edge.words import counted

__all__ = ["to_fp16", "to_int8"]

Float32 = npt.NDArray[np.float32]

LEAST_IMAGES = 16
"""Images that INT8's ranges are measured on, at least."""


def to_fp16(content: bytes) -> bytes:
    """The same model with its encoder in FP16; inputs and outputs stay FP32.

    Args:
        content: An exported FP32 model.

    Raises:
        InputError: It is none, or at FP16 answers its sample otherwise than that precision allows.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = _parsed(content)
    with _quiet():
        encoder = convert_float_to_float16(_encoder(model), keep_io_types=True)
    return _finished(model, encoder, "fp16")


def to_int8(content: bytes, images: Sequence[Float32]) -> bytes:
    """The same model with its encoder in INT8 (QDQ, per channel), the ranges of values measured on images.

    Args:
        content: An exported FP32 model.
        images: (channels, *size) float32 windows, prepared as the recipe says.

    Raises:
        InputError: It is none, there are fewer than `LEAST_IMAGES` images, or the model at INT8 answers its
            sample otherwise than that precision allows.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if len(images) < LEAST_IMAGES:
        raise InputError(
            f"export: int8 has {counted(len(images), 'image')} to calibrate on, "
            f"expected at least {LEAST_IMAGES}",
            hint="name a dataset folder of public images of this kind with --calibration",
        )
    model = _parsed(content)
    with tempfile.TemporaryDirectory() as name, _quiet():
        plain, ready, done = (Path(name) / stage for stage in ("plain.onnx", "ready.onnx", "done.onnx"))
        onnx.save(_encoder(model), plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            done,
            _Calibration(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return _finished(model, onnx.load(done), "int8")


class _Calibration:
    """Hands images to the calibration one by one."""

    def __init__(self, images: Sequence[Float32]) -> None:
        self._left: Iterator[Float32] = iter(images)

    def get_next(self) -> dict[str, Float32] | None:
        image = next(self._left, None)
        return None if image is None else {"image": np.ascontiguousarray(image, np.float32)[None]}

    def set_range(self, start_index: int, end_index: int) -> None:
        """For calibrators that read in strides; ours does not."""


def _parsed(content: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(content)
    except DecodeError:
        raise InputError("export: not an exported model") from None


def _is_tail(node: onnx.NodeProto) -> bool:
    """Whether a node stands behind the encoder."""
    return bool(node.name.startswith(f"{PREFIX}node_"))


def _encoder(model: onnx.ModelProto) -> onnx.ModelProto:
    """The encoder alone, with the maps that the rest takes as its outputs."""
    made, graph = onnx.ModelProto(), model.graph
    made.CopyFrom(model)
    nodes = [node for node in graph.node if not _is_tail(node)]
    taken = {name for node in graph.node if _is_tail(node) for name in node.input}
    used = {name for node in nodes for name in node.input}
    for field in ("node", "initializer", "output", "value_info"):
        del getattr(made.graph, field)[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(one for one in graph.initializer if one.name in used)
    for name in (name for node in nodes for name in node.output if name in taken):
        made.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return made


def _finished(model: onnx.ModelProto, encoder: onnx.ModelProto, precision: Precision) -> bytes:
    """Put the encoder in the place of the model's own, and compare the sample."""
    tail = [node for node in model.graph.node if _is_tail(node)]
    used = {name for node in tail for name in node.input}
    constants = [one for one in model.graph.initializer if one.name in used]
    own = {one.name for one in encoder.graph.initializer}
    outputs = list(model.graph.output)
    del encoder.graph.output[:]
    encoder.graph.output.extend(outputs)
    encoder.graph.node.extend(tail)
    encoder.graph.initializer.extend(one for one in constants if one.name not in own)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    manifest = parse_manifest(entry.value, "export").model_copy(update={"precision": precision})
    del encoder.metadata_props[:]
    helper.set_model_props(encoder, {METADATA_KEY: manifest.text})
    content = bytes(encoder.SerializeToString(deterministic=True))
    fault = sample_fault(content, manifest)
    if fault:
        raise InputError(
            f"export: {precision}: {fault}",
            hint="this model loses too much at this precision: ship FP32 alone",
        )
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """The converters talk to the root logger and warn of what they always do."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
