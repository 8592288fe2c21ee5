"""An ONNX file, read without the ONNX package: its texts, and the part of its graph behind some outputs.

Source: onnx.proto3 of ONNX 1.17.
"""

from collections.abc import Collection

from fedmed_edge.errors import InputError
from fedmed_edge.kinds import mistaken
from fedmed_edge.protobuf import Malformed, Value, as_bytes, field, fields_of, spans, walk

__all__ = ["graph_part", "model_metadata"]

# field numbers of onnx.proto3
_MODEL_GRAPH, _MODEL_METADATA, _ENTRY_KEY, _ENTRY_VALUE = 7, 14, 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUES = 1, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT = 1, 2
_NAME_IN = {_GRAPH_INITIALIZER: 8, _GRAPH_INPUT: 1, _GRAPH_OUTPUT: 1}


def model_metadata(content: bytes, where: str) -> dict[str, str]:
    """The texts that an ONNX file carries beside its graph, by name; the graph is not looked at.

    Raises:
        InputError: The bytes are no ONNX file.

    Example:
        >>> model_metadata(bytes.fromhex("72080a03666f6f120178"), "here")
        {'foo': 'x'}
    """
    found = {}
    try:
        for number, value in walk(memoryview(content)):
            if number == _MODEL_METADATA:
                entry = fields_of(as_bytes(value))
                key, text = (_name(entry[part][0]) for part in (_ENTRY_KEY, _ENTRY_VALUE))
                found[key] = text
        return found
    except (Malformed, KeyError, UnicodeDecodeError):
        if said := mistaken(content, "exported model"):
            raise InputError(f"{where}: {said}") from None
        raise _no_onnx(where) from None


def graph_part(content: bytes, outputs: Collection[str], where: str) -> bytes:
    """The model that is left of an ONNX file where only some of its outputs are wanted, without its texts.

    Operators, constants and inputs that these do not need are gone: a runtime computes all that a graph
    holds, whichever outputs are asked for.

    Args:
        content: Serialised ONNX model of plain operators.
        outputs: Names of the graph's outputs to keep.

    Raises:
        InputError: The bytes are no ONNX file.
    """
    kept: list[bytes | memoryview] = []
    try:
        for number, value, whole in spans(memoryview(content)):
            if number == _MODEL_GRAPH:
                kept.append(field(number, _part(as_bytes(value), set(outputs))))
            elif number != _MODEL_METADATA:
                kept.append(whole)
    except (Malformed, KeyError, UnicodeDecodeError):
        raise _no_onnx(where) from None
    return b"".join(kept)


def _part(graph: memoryview, outputs: set[str]) -> bytes:
    parts, needed = list(spans(graph)), set(outputs)
    kept: list[memoryview] = []
    for number, value, whole in reversed(parts):  # operators stand behind those that they take from
        if number == _GRAPH_NODE:
            node = fields_of(as_bytes(value))
            if needed.isdisjoint(map(_name, node.get(_NODE_OUTPUT, []))):
                continue
            needed.update(map(_name, node.get(_NODE_INPUT, [])))
            kept.append(whole)
    kept.reverse()
    for number, value, whole in parts:
        if number in _NAME_IN:
            name = _name(fields_of(as_bytes(value))[_NAME_IN[number]][0])
            if name in (outputs if number == _GRAPH_OUTPUT else needed):
                kept.append(whole)
        elif number not in (_GRAPH_NODE, _GRAPH_VALUES):  # shapes in between are found again
            kept.append(whole)
    return b"".join(kept)


def _name(value: Value) -> str:
    return bytes(as_bytes(value)).decode()


def _no_onnx(where: str) -> InputError:
    return InputError(f"{where}: not an ONNX file, or cut off")
