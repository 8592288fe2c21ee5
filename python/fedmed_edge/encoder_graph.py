"""An encoder from anybody: its ONNX graph, checked before a runtime sees it.

An encoder is a fixed-shape graph of plain operators: no branch or loop, no operator of a vendor's own, no
weights in other files. Nor does it depend on an image's values whether it runs through, and with which
shapes: noise on what it gives hides a patient, but not that one image makes it fail or take an hour. The few
fields that say so are read here from the protobuf bytes themselves, since a hospital has no ONNX package.
Source: onnx.proto3 of ONNX 1.17.
"""

import math
import re
from collections.abc import Sequence
from typing import Final

from fedmed_edge.errors import InputError
from fedmed_edge.protobuf import Fields, Malformed, Value, as_bytes, fields_of, message, packed, text

__all__ = ["ELEMENT_CAP", "NODE_CAP", "check_encoder"]

NODE_CAP: Final = 20_000
"""Most operators; a DenseNet of 264 layers has some 4,000."""

ELEMENT_CAP: Final = 1 << 28
"""Most numbers in all constants of the graph: 1 GiB of float32."""

CONTROL_FLOW: Final = {"If", "Loop", "Scan"}
DOMAINS: Final = {b"", b"ai.onnx"}

PLAIN: Final = re.compile(
    r"Abs|Add|AveragePool|BatchNormalization|Celu|Concat|Conv|ConvTranspose|DepthToSpace|Div|Einsum|Elu|Erf|Exp"
    r"|Flatten|Gelu|Gemm|Global(Average|Max)Pool|(Group|Instance|Layer|Lp)Normalization|Hard(Sigmoid|Swish)"
    r"|Identity|LRN|LeakyRelu|Log|LogSoftmax|MatMul|Max|MaxPool|Mean|MeanVarianceNormalization|Min|Mish|Mul|Neg"
    r"|PRelu|Pow|Reciprocal|Relu|Selu|Sigmoid|Softmax|Softplus|Softsign|SpaceToDepth|Sqrt|Sub|Sum|Tanh"
    r"|ThresholdedRelu|Transpose"
)
"""Operators that make float32 of float32, in a shape that follows from shapes alone, whatever the values."""

BY_FIRST: Final = re.compile(
    r"Clip|Expand|Gather|Pad|Reduce(L1|L2|Max|Mean|Min|Sum|SumSquare)|Reshape|Resize|Slice|Split|Squeeze|Tile"
    r"|Unsqueeze"
)
"""The same of their first operand alone: the others are shapes, places and bounds."""

_SHAPES: Final = {"Shape", "Size"}
_SEVERAL: Final = {"Split"}

_SIDE_CAP = 4096
_AXES_CAP = 16
_FLOAT = 1

# field numbers of onnx.proto3
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 20, 25
_OPSET_DOMAIN = 1
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = 5, 10
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (6, 11), (22, 23)
_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 8, 13, 14
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE = 1, 1, 2
_SHAPE_DIM, _DIM_VALUE = 1, 1


def check_encoder(
    content: bytes, *, channels: int, size: Sequence[int], widths: Sequence[int], where: str
) -> None:
    """Refuse an encoder that is anything but a plain graph from one image to the maps of every scale.

    Args:
        content: Serialised ONNX model.
        channels, size: Of its one input, `image` (1, channels, *size) float32.
        widths: Channels C_k of its outputs, `scale0` … (1, C_k, *s_k) float32.
        where: Names the file in messages.

    Raises:
        InputError: It is no ONNX model, has control flow, functions, operators of another domain or whose
            course an image's values decide, external or sparse data, too many operators or constants, or
            other inputs or outputs.
    """
    try:
        model = fields_of(memoryview(content))
        graph = message(model, _MODEL_GRAPH)
        _check_model(model, where)
        _check_graph(graph, where)
        inputs = [_port(as_bytes(one)) for one in graph.get(_GRAPH_INPUT, [])]
        outputs = [_port(as_bytes(one)) for one in graph.get(_GRAPH_OUTPUT, [])]
    except Malformed:
        raise InputError(f"{where}: `encoder` is no ONNX model, or cut off") from None
    if inputs != [("image", _FLOAT, (1, channels, *size))]:
        raise InputError(
            f"{where}: `encoder` takes {_told(inputs)}, "
            f"expected image (1, {channels}, {_sides(size)}) float32"
        )
    names = [f"scale{index}" for index in range(len(widths))]
    fits = [
        name == wanted and kind == _FLOAT and shape[:2] == (1, width) and _fixed(shape, len(size))
        for (name, kind, shape), wanted, width in zip(outputs, names, widths, strict=False)
    ]
    if len(outputs) != len(widths) or not all(fits):
        raise InputError(
            f"{where}: `encoder` gives {_told(outputs)}, expected {len(widths)} maps "
            f"(1, C, …) float32 of {list(widths)} channels"
        )


def _check_model(model: Fields, where: str) -> None:
    for number, what in ((_MODEL_TRAINING, "training steps"), (_MODEL_FUNCTIONS, "functions")):
        if number in model:
            raise InputError(f"{where}: `encoder` has {what}, expected plain operators")
    for opset in model.get(_MODEL_OPSET, []):
        _check_domain(fields_of(as_bytes(opset)).get(_OPSET_DOMAIN, []), where)


def _check_graph(graph: Fields, where: str) -> None:
    nodes = graph.get(_GRAPH_NODE, [])
    if not 1 <= len(nodes) <= NODE_CAP:
        raise InputError(f"{where}: `encoder` has {len(nodes)} operators, expected 1 to {NODE_CAP}")
    if _GRAPH_SPARSE in graph:
        raise InputError(f"{where}: `encoder` has sparse weights, expected dense ones")
    elements = sum(_elements(as_bytes(one), where) for one in graph.get(_GRAPH_INITIALIZER, []))
    course = _Course(graph, where)
    for one in nodes:
        node = fields_of(as_bytes(one))
        elements += _check_node(node, where)
        if elements > ELEMENT_CAP:
            raise InputError(
                f"{where}: `encoder` has {elements} numbers in its constants, expected at most {ELEMENT_CAP}"
            )
        course.follow(node)


class _Course:
    """Follows which values depend on the image, operator by operator."""

    def __init__(self, graph: Fields, where: str) -> None:
        weights = (fields_of(as_bytes(one)) for one in graph.get(_GRAPH_INITIALIZER, []))
        self._fixed = {_name(value) for weight in weights for value in weight.get(_TENSOR_NAME, [])} | {b""}
        self._of_image = {b"image"}  # named so by every encoder: other inputs are refused
        self._where = where

    def follow(self, node: Fields) -> None:
        """Refuse an operator whose course values of the image decide.

        Raises:
            InputError: As said, or it takes what no operator before it gives.
        """
        names = node.get(_NODE_OPERATOR, [])
        if len(names) != 1:
            raise Malformed
        operator = text(names[0])
        taken = [_name(one) for one in node.get(_NODE_INPUT, [])]
        given = [name for name in map(_name, node.get(_NODE_OUTPUT, [])) if name]
        if not all(name in self._of_image or name in self._fixed for name in taken):
            raise InputError(
                f"{self._where}: `encoder` has the operator {operator} before one that it takes a value from"
            )
        varying = [place for place, name in enumerate(taken) if name in self._of_image]
        if not varying or operator in _SHAPES:
            self._fixed.update(given)
            return
        fits = PLAIN.fullmatch(operator) or (BY_FIRST.fullmatch(operator) and varying == [0])
        if not fits or (len(given) > 1 and operator not in _SEVERAL):
            raise InputError(
                f"{self._where}: `encoder` has the operator {operator} on values of the image, "
                "expected one that runs alike whatever these are"
            )
        self._of_image.update(given)


def _name(value: Value) -> bytes:
    return bytes(as_bytes(value))


def _check_node(node: Fields, where: str) -> int:
    """Check one operator; the numbers in its constants."""
    for name in node.get(_NODE_OPERATOR, []):
        if (operator := text(name)) in CONTROL_FLOW:
            raise InputError(f"{where}: `encoder` has the operator {operator}, expected no control flow")
    _check_domain(node.get(_NODE_DOMAIN, []), where)
    elements = 0
    for one in node.get(_NODE_ATTRIBUTE, []):
        attribute = fields_of(as_bytes(one))
        if any(number in attribute for number in _ATTRIBUTE_GRAPHS):
            raise InputError(f"{where}: `encoder` has a graph within an operator, expected no control flow")
        if any(number in attribute for number in _ATTRIBUTE_SPARSE):
            raise InputError(f"{where}: `encoder` has sparse weights, expected dense ones")
        tensors = [*attribute.get(_ATTRIBUTE_TENSOR, []), *attribute.get(_ATTRIBUTE_TENSORS, [])]
        elements += sum(_elements(as_bytes(tensor), where) for tensor in tensors)
    return elements


def _check_domain(domains: Sequence[Value], where: str) -> None:
    for domain in domains:
        if bytes(as_bytes(domain)) not in DOMAINS:
            raise InputError(
                f"{where}: `encoder` has operators of the domain `{text(domain)}`, expected those of ONNX"
            )


def _elements(content: memoryview, where: str) -> int:
    """Numbers that a tensor says it has."""
    tensor = fields_of(content)
    if _TENSOR_EXTERNAL in tensor or any(tensor.get(_TENSOR_LOCATION, [])):
        raise InputError(f"{where}: `encoder` has weights in another file, expected them within")
    sides: list[int] = []
    for dims in tensor.get(_TENSOR_DIMS, []):
        sides += [dims] if isinstance(dims, int) else packed(dims[: 10 * _AXES_CAP])
    if len(sides) > _AXES_CAP:
        raise Malformed
    return math.prod(sides)  # a negative side is a giant one as it is written


def _port(content: memoryview) -> tuple[str, int, tuple[int, ...]]:
    """Name, element type and shape of an input or output; −1 where a side is not fixed."""
    value = fields_of(content)
    kind = message(message(value, _VALUE_TYPE), _TYPE_TENSOR)
    sides = []
    for side in message(kind, _TENSOR_TYPE_SHAPE).get(_SHAPE_DIM, []):
        fixed = fields_of(as_bytes(side)).get(_DIM_VALUE, [])
        sides.append(fixed[0] if len(fixed) == 1 and isinstance(fixed[0], int) else -1)
    elements = kind.get(_TENSOR_TYPE_ELEMENT, [])
    element = elements[0] if len(elements) == 1 and isinstance(elements[0], int) else 0
    names = value.get(_VALUE_NAME, [])
    return "".join(map(text, names)), element, tuple(sides)


def _fixed(shape: Sequence[int], dimensions: int) -> bool:
    return len(shape) == dimensions + 2 and all(1 <= side <= _SIDE_CAP for side in shape)


def _told(ports: Sequence[tuple[str, int, tuple[int, ...]]]) -> str:
    told = [f"{name} {shape}{'' if kind == _FLOAT else ' not float32'}" for name, kind, shape in ports[:4]]
    return ", ".join([*told, *(["…"] if len(ports) > 4 else [])]) or "nothing"


def _sides(size: Sequence[int]) -> str:
    return ", ".join(map(str, size))
