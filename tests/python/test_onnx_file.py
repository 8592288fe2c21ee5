"""Parts of a graph, against the ONNX package's own extractor; and bytes that are no such file."""

import numpy as np
import onnx
import onnx.utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fedmed_edge.errors import InputError
from fedmed_edge.onnx_file import graph_part, model_metadata
from fedmed_edge.protobuf import field


def model() -> onnx.ModelProto:
    """Two inputs, three outputs; `shared` serves two of these, `w` all."""

    def port(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])

    nodes = [
        helper.make_node("Mul", ["a", "w"], ["shared"]),
        helper.make_node("Clip", ["shared", "", "top"], ["one"]),
        helper.make_node("Add", ["shared", "v"], ["two"]),
        helper.make_node("Mul", ["b", "w"], ["inner"]),
        helper.make_node("Relu", ["inner"], ["three"]),
    ]
    weights = {"w": np.ones((1, 4)), "v": np.ones((1, 4)), "top": np.array(2.0)}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    outputs = [port(name) for name in ("one", "two", "three")]
    graph = helper.make_graph(nodes, "g", [port("a"), port("b")], outputs, constants)
    graph.value_info.append(port("shared"))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(made, {"fedmed": "text", "other": "é"})
    return made


@pytest.mark.parametrize(
    ("outputs", "inputs", "nodes", "constants"),
    [
        (["one"], ["a"], 2, {"w", "top"}),
        (["one", "two"], ["a"], 3, {"w", "v", "top"}),
        (["three"], ["b"], 2, {"w"}),
        (["one", "two", "three"], ["a", "b"], 5, {"w", "v", "top"}),
    ],
)
def test_a_part_is_what_its_outputs_need(
    outputs: list[str], inputs: list[str], nodes: int, constants: set[str]
) -> None:
    content = model().SerializeToString()
    part = onnx.load_model_from_string(graph_part(content, outputs, "m"))
    onnx.checker.check_model(part, full_check=True)
    assert [one.name for one in part.graph.input] == inputs
    assert [one.name for one in part.graph.output] == outputs
    assert len(part.graph.node) == nodes and {one.name for one in part.graph.initializer} == constants
    assert (part.ir_version, part.opset_import[0].version, len(part.metadata_props)) == (9, 18, 0)
    wanted = onnx.utils.Extractor(model()).extract_model(inputs, outputs)
    assert list(part.graph.node) == list(wanted.graph.node)


def test_what_stays_stays_as_it_was_written() -> None:
    """Fields of numbers of fixed width, which ONNX may have one day, at both levels; an uncommon varint."""
    fixed, wide, odd = b"\xfd\x3e\0\0\x80\x3f", b"\xf9\x3e" + bytes(8), b"\xf8\x3e\x81\0"
    made = model()
    inner = made.graph.SerializeToString() + fixed + wide + odd
    made.ClearField("graph")
    content = made.SerializeToString() + field(7, inner) + fixed + odd
    part = graph_part(content, ["one"], "m")
    assert part.endswith(fixed + odd) and fixed + wide + odd in part[: -len(fixed + odd)]
    kept = onnx.load_model_from_string(part)
    assert [node.op_type for node in kept.graph.node] == ["Mul", "Clip"]


def test_texts_are_read() -> None:
    assert model_metadata(model().SerializeToString(), "m") == {"fedmed": "text", "other": "é"}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255), st.integers(0, 40))
def test_damaged_bytes_are_refused_or_read(place: int, value: int, cut: int) -> None:
    content = bytearray(model().SerializeToString())
    content[place % len(content)] = value
    damaged = bytes(content[: len(content) - cut])
    for read in (
        lambda: graph_part(damaged, ["one"], "m"),
        lambda: model_metadata(damaged, "m"),
    ):
        try:
            read()
        except InputError as error:
            assert str(error) == "m: not an ONNX file, or cut off"
