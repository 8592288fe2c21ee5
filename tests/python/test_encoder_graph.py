"""Encoders made by somebody who means harm are refused from their bytes alone, each with its own reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fedmed_edge import encoder_graph
from fedmed_edge.encoder_graph import check_encoder
from fedmed_edge.errors import InputError
from fedmed_edge.runtime import open_session

Change = Callable[[onnx.ModelProto], object]


def port(name: str, *sides: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(sides))


def plain() -> onnx.ModelProto:
    """Image (1, 1, 8, 6) to maps of 2 and 3 channels; weights as an initializer, and as a constant."""
    first = numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "w0")
    second = numpy_helper.from_array(np.ones((3, 2, 2, 2), np.float32), "w1")
    nodes = [
        helper.make_node("Constant", [], ["w1"], value=second),
        helper.make_node("Conv", ["image", "w0"], ["scale0"]),
        helper.make_node("Conv", ["scale0", "w1"], ["scale1"], strides=[2, 2]),
    ]
    outputs = [port("scale0", 1, 2, 8, 6), port("scale1", 1, 3, 4, 3)]
    graph = helper.make_graph(nodes, "g", [port("image", 1, 1, 8, 6)], outputs, [first])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def check(content: bytes) -> None:
    check_encoder(content, channels=1, size=(8, 6), widths=(2, 3), where="x.generation")


def test_a_plain_encoder_is_taken() -> None:
    onnx.checker.check_model(plain(), full_check=True)
    check(plain().SerializeToString())


def node(operator: str, domain: str = "", **attributes: object) -> Change:
    made = helper.make_node(operator, ["image"], ["y"], domain=domain, **attributes)
    return lambda model: model.graph.node.append(made)


def inner() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["image"], ["z"])], "inner", [], [port("z", 1)])


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def located(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].t.data_location = TensorProto.EXTERNAL


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(4)


def sparse_constant(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.dims.append(4)


def function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("own", "f", ["a"], ["b"], [], model.opset_import))


def giant(*sides: int) -> Change:
    return lambda model: model.graph.initializer.add().dims.extend(sides)


def giant_constant(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].t.dims[0] = 1 << 29


def outputs(*made: onnx.ValueInfoProto) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.output[:]
        model.graph.output.extend(made)

    return change


def inputs(*made: onnx.ValueInfoProto) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.input[:]
        model.graph.input.extend(made)

    return change


FIRST = port("scale0", 1, 2, 8, 6)
SPARSE = "has sparse weights, expected dense ones"
FILES = "has weights in another file, expected them within"
FLOW = "expected no control flow"
OTHER = r"takes .*, expected image \(1, 1, 8, 6\) float32"
MAPS = r"gives .*, expected 2 maps \(1, C, …\) float32 of \[2, 3\] channels"

HOSTILE: dict[str, tuple[Change, str]] = {
    "loop": (node("Loop", body=inner()), f"has the operator Loop, {FLOW}"),
    "branch": (node("If", then_branch=inner(), else_branch=inner()), f"has the operator If, {FLOW}"),
    "scan": (node("Scan", body=inner(), num_scan_inputs=1), f"has the operator Scan, {FLOW}"),
    "a graph elsewhere": (node("SequenceMap", body=inner()), f"has a graph within an operator, {FLOW}"),
    "graphs elsewhere": (node("Neg", bodies=[inner(), inner()]), f"has a graph within an operator, {FLOW}"),
    "own operator": (node("Shell", domain="evil.ops"), "operators of the domain `evil.ops`, expected those"),
    "a domain that writes to the terminal": (node("Neg", domain="\x1b[2J"), r"domain `'\\x1b\[2J'`"),
    "own operator set": (
        lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
        "operators of the domain `com.microsoft`",
    ),
    "function": (function, "has functions, expected plain operators"),
    "training": (lambda model: model.training_info.add(), "has training steps, expected plain operators"),
    "external weights": (external, FILES),
    "external constant": (located, FILES),
    "sparse weights": (sparse, SPARSE),
    "sparse constant": (sparse_constant, SPARSE),
    "giant weights": (giant(1 << 20, 1 << 20), r"has \d+ numbers in its constants, expected at most 2684"),
    "negative side": (giant(-1, 4), "numbers in its constants, expected at most"),
    "giant constant": (giant_constant, "numbers in its constants, expected at most"),
    "sides without end": (giant(*[1] * 17), "is no ONNX model, or cut off"),
    "no operators": (lambda model: model.graph.ClearField("node"), "has 0 operators, expected 1 to 20000"),
    "another input": (inputs(port("picture", 1, 1, 8, 6)), OTHER),
    "another size": (inputs(port("image", 1, 1, 6, 8)), OTHER),
    "a free side": (inputs(port("image", 1, 1, "h", 6)), OTHER),
    "another type": (inputs(port("image", 1, 1, 8, 6, kind=TensorProto.DOUBLE)), OTHER),
    "two inputs": (inputs(port("image", 1, 1, 8, 6), port("more", 1)), OTHER),
    "no input": (inputs(), r"takes nothing, expected image \(1, 1, 8, 6\)"),
    "a map less": (outputs(FIRST), MAPS),
    "a map more": (outputs(FIRST, port("scale1", 1, 3, 4, 3), port("scale2", 1, 3, 4, 3)), MAPS),
    "another order": (outputs(port("scale1", 1, 2, 8, 6), port("scale0", 1, 3, 4, 3)), MAPS),
    "another width": (outputs(FIRST, port("scale1", 1, 4, 4, 3)), MAPS),
    "a batch": (outputs(FIRST, port("scale1", 2, 3, 4, 3)), MAPS),
    "a flat map": (outputs(FIRST, port("scale1", 1, 3, 12)), MAPS),
    "a giant map": (outputs(FIRST, port("scale1", 1, 3, 1 << 20, 1 << 20)), MAPS),
    "a free map": (outputs(FIRST, port("scale1", 1, 3, 4, "w")), MAPS),
    "whole numbers": (outputs(FIRST, port("scale1", 1, 3, 4, 3, kind=TensorProto.INT64)), MAPS),
}


def chain(*nodes: onnx.NodeProto) -> Change:
    return lambda model: model.graph.node.extend(nodes)


def steps(*operators: tuple[str, dict[str, int]]) -> Change:
    """One operator after the other on the image."""
    names = ["image", *(f"y{index}" for index in range(len(operators)))]
    return chain(
        *(
            helper.make_node(operator, [taken], [given], **attributes)
            for (operator, attributes), taken, given in zip(operators, names, names[1:], strict=False)
        )
    )


ALIKE = r"on values of the image, expected one that runs alike whatever these are"
TO_INT = ("Cast", {"to": TensorProto.INT64})

VARYING: dict[str, tuple[Change, str]] = {
    "as whole numbers": (steps(TO_INT), f"the operator Cast {ALIKE}"),
    "how many there are": (steps(("Relu", {}), ("NonZero", {})), f"the operator NonZero {ALIKE}"),
    "which are there": (steps(("Unique", {})), f"the operator Unique {ALIKE}"),
    "place": (chain(helper.make_node("Gather", ["w0", "image"], ["y"])), f"the operator Gather {ALIKE}"),
    "shape": (chain(helper.make_node("Expand", ["image", "image"], ["y"])), f"the operator Expand {ALIKE}"),
    "times": (chain(helper.make_node("Tile", ["w0", "image"], ["y"])), f"the operator Tile {ALIKE}"),
    "places of the largest": (
        chain(helper.make_node("MaxPool", ["image"], ["y", "places"], kernel_shape=[2, 2])),
        f"the operator MaxPool {ALIKE}",
    ),
    "through a split": (
        chain(
            helper.make_node("Split", ["image"], ["left", "right"], axis=2, num_outputs=2),
            helper.make_node("ArgMax", ["right"], ["y"]),
        ),
        f"the operator ArgMax {ALIKE}",
    ),
    "before it is there": (
        chain(
            helper.make_node("Tile", ["w0", "later"], ["y"]), helper.make_node("Neg", ["image"], ["later"])
        ),
        "the operator Tile before one that it takes a value from",
    ),
}


@pytest.mark.parametrize("case", VARYING)
def test_values_of_an_image_decide_neither_whether_it_runs_nor_for_how_long(case: str) -> None:
    change, message = VARYING[case]
    model = plain()
    change(model)
    with pytest.raises(InputError, match=message):
        check(model.SerializeToString())


def test_shapes_of_the_image_may_decide() -> None:
    model = plain()
    chain(
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Reshape", ["image", "shape"], ["same"]),
        helper.make_node("Shape", ["same"], ["again"]),
        helper.make_node("Gather", ["again", "again"], ["some"]),
    )(model)
    check(model.SerializeToString())


def test_an_encoder_that_fails_on_one_image_alone_is_refused(tmp_path: Path) -> None:
    """What it would tell: whether that image is among the hospital's, past any noise."""
    model = plain()
    limit = numpy_helper.from_array(np.array(0.5, np.float32), "limit")
    model.graph.initializer.append(limit)
    chain(
        helper.make_node("ReduceMax", ["image"], ["largest"], keepdims=0),
        helper.make_node("Sub", ["largest", "limit"], ["over"]),
        helper.make_node("Ceil", ["over"], ["is_it"]),
        helper.make_node("Cast", ["is_it"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["scale1", "place"], ["first"]),
    )(model)
    del model.graph.output[1]
    model.graph.output.append(port("first", 3, 4, 3))
    model.ir_version = 10
    path = tmp_path / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    session = open_session(path, device="cpu")
    image = np.zeros((1, 1, 8, 6), np.float32)
    session.run({"image": image})
    with pytest.raises(InputError, match="could not be run"):
        session.run({"image": image + 1})
    with pytest.raises(InputError, match=f"the operator Ceil {ALIKE}"):
        check(path.read_bytes())


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_encoder_is_refused(case: str) -> None:
    change, message = HOSTILE[case]
    model = plain()
    change(model)
    with pytest.raises(InputError, match=message) as refusal:
        check(model.SerializeToString())
    assert str(refusal.value).startswith("x.generation: `encoder` ")
    assert str(refusal.value).isprintable()


def test_too_many_operators_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_graph, "NODE_CAP", 2)
    with pytest.raises(InputError, match="has 3 operators, expected 1 to 2"):
        check(plain().SerializeToString())


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 40, b"\x0b\x0c", b"\x3a\x05a"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"x\.generation: `encoder` is no ONNX model, or cut off"):
        check(content)


def test_a_graph_in_two_halves_is_refused() -> None:
    """A reader of protobuf merges them, so that each half alone says nothing."""
    model = plain()
    with pytest.raises(InputError, match="is no ONNX model, or cut off"):
        check(model.SerializeToString() + onnx.ModelProto(graph=inner()).SerializeToString())


@settings(max_examples=300)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_any_damage_is_taken_or_refused_and_never_crashes(place: int, patch: bytes) -> None:
    content = plain().SerializeToString()
    damaged = content[:place] + patch + content[place + len(patch) :]
    try:
        check(damaged)
    except InputError as refusal:
        assert str(refusal).startswith("x.generation: `encoder` ") and str(refusal).isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_never_crash(content: bytes) -> None:
    with pytest.raises(InputError):
        check(content)


def test_it_needs_no_onnx_package() -> None:
    text = Path(encoder_graph.__file__).read_text()
    assert "import onnx" not in text and "from onnx" not in text
