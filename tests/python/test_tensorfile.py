"""One layout for all files of tensors; what is refused in it is tried in `tests/attacks`."""

import json
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load

from fedmed_edge.atomic import map_regular
from fedmed_edge.errors import InputError
from fedmed_edge.tensorfile import LARGEST, load_tensors, parse_layout, refuse_unusable, tensor_file

KEY = "fedmed_toy"
DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]


@given(st.dictionaries(st.text("abc/_.", min_size=1), st.sampled_from(DTYPES), max_size=5), st.data())
def test_what_was_written_is_read(names: dict[str, Any], data: st.DataObject) -> None:
    shapes = array_shapes(min_dims=0, max_dims=3, max_side=4, min_side=0)
    tensors = {name: data.draw(arrays(dtype, shapes)) for name, dtype in names.items()}
    content = tensor_file(tensors, KEY, '{"a":1}')
    layout = parse_layout(content, KEY, "f")
    assert layout.said == '{"a":1}'
    assert {name: entry.shape for name, entry in layout.entries.items()} == {
        name: value.shape for name, value in tensors.items()
    }
    mapped = mmap.mmap(-1, len(content))
    mapped[:] = content
    for read in (load_tensors(content, layout, "f"), load_tensors(mapped, layout, "f")):
        assert read.keys() == tensors.keys() == load(content).keys()
        for name, value in tensors.items():
            assert read[name].dtype == value.dtype and read[name].flags.aligned
            np.testing.assert_array_equal(read[name], value)


def test_tensors_of_a_mapped_file_are_views_that_cannot_be_written_to(tmp_path: Path) -> None:
    content = tensor_file({"w": np.arange(4.0)}, KEY, "{}")
    # a header of odd length moves the tensors: they are copied then, for who needs them aligned
    header = content[8 : -4 * 8]
    odd = (len(header) + 1).to_bytes(8, "little") + header + b" " + content[-4 * 8 :]
    for text, copied in ((content, False), (odd, True)):
        (tmp_path / "f").write_bytes(text)
        mapped = map_regular(tmp_path / "f", 1 << 20)
        layout = parse_layout(mapped, KEY, "f")
        value = load_tensors(mapped, layout, "f")["w"]
        np.testing.assert_array_equal(value, np.arange(4.0))
        assert value.flags.aligned and value.flags.writeable is copied


def test_a_transposed_tensor_is_written_by_its_values() -> None:
    value = np.arange(6.0).reshape(2, 3).T
    content = tensor_file({"w": value}, KEY, "{}")
    np.testing.assert_array_equal(load_tensors(content, parse_layout(content, KEY, "f"), "f")["w"], value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1234567", "f: cut off: has 7 bytes"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "f: not a toy file: header has 727905341920923785 bytes"),
        (struct.pack("<Q", 40) + b"{}", "f: cut off: header has 2 bytes, expected 40"),
        (tensor_file({}, "fedmed_other", "{}"), "f: not a toy file: `__metadata__` has no `fedmed_toy`"),
        (struct.pack("<Q", 33) + b'{"__metadata__":{"fedmed_toy":1}}', "`__metadata__` has no `fedmed_toy`"),
    ],
)
def test_another_file_is_named(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_layout(content, KEY, "f")


@pytest.mark.parametrize("dtype", ["BF16", "F8", "C64", "F128"])
def test_a_dtype_that_numpy_lacks_is_refused(dtype: str) -> None:
    entry = {"dtype": dtype, "shape": [1], "data_offsets": [0, 2]}
    text = json.dumps({"__metadata__": {KEY: "{}"}, "w": entry}).encode()
    content = struct.pack("<Q", len(text)) + text + b"\0\0"
    with pytest.raises(InputError, match=f"f: `w` has dtype {dtype}, expected one of NumPy's"):
        load_tensors(content, parse_layout(content, KEY, "f"), "f")


def test_values_that_cannot_be_used_are_refused() -> None:
    for value in (np.array([1, 2]), np.zeros((0, 3)), np.float32([-1e15]), np.array([True])):
        refuse_unusable("w", value, "f")
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="f: `w` has NaN or Inf, expected finite values"):
            refuse_unusable("w", np.array([0, value]), "f")
    with pytest.raises(InputError, match=r"f: `w` has a value of 2e\+15, expected at most 1e\+15"):
        refuse_unusable("w", np.array([-2 * LARGEST, 1]), "f")
