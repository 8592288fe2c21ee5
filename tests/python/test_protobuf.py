"""Messages written and read again, by us and by the package that others use."""

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.protobuf import Malformed, as_bytes, field, fields_of, message, packed, text, walk

VALUES = st.one_of(st.integers(0, (1 << 63) - 1), st.binary(max_size=300))


@given(st.lists(st.tuples(st.integers(1, (1 << 29) - 1), VALUES), max_size=8))
def test_what_is_written_is_read(fields: list[tuple[int, int | bytes]]) -> None:
    content = b"".join(field(number, value) for number, value in fields)
    found = [(n, v if isinstance(v, int) else bytes(v)) for n, v in walk(memoryview(content))]
    assert found == fields
    for cut in range(1, min(len(content), 20)):
        try:
            list(walk(memoryview(content[:-cut])))
        except Malformed:
            continue


@given(st.text(max_size=40), st.integers(0, (1 << 63) - 1))
def test_another_writer_says_the_same(name: str, number: int) -> None:
    entry = onnx.StringStringEntryProto(key=name, value="x")
    assert field(1, name.encode()) + field(2, b"x") == entry.SerializeToString() or not name
    dims = onnx.TensorProto(dims=[number, 3])
    (sides,) = fields_of(memoryview(dims.SerializeToString()))[1][:1]
    assert sides == number or packed(as_bytes(sides)) == [number, 3]


def test_refusals() -> None:
    for content in (b"\x0a\x05ab", b"\x0b", b"\x80", b"\xff" * 11):
        with pytest.raises(Malformed):
            fields_of(memoryview(content))
    two = fields_of(memoryview(field(1, b"") + field(1, b"")))
    for number in (1, 2):
        with pytest.raises(Malformed):
            message(two, number)
    with pytest.raises(Malformed):
        as_bytes(3)
    assert text(memoryview(b"a\nb")) == r"'a\nb'" and len(text(memoryview(b"a" * 99))) == 64
