"""Tensor files: safetensors whose one metadata entry, JSON text, says what the file is.

Contributions, generations, backbones and models are such files, and may come from anybody: layout, names,
dtypes, shapes and offsets are checked here before a library parses the tensors.
"""

import json
import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedmed_edge.errors import InputError
from fedmed_edge.kinds import HEADER_CAP as KIND_CAP
from fedmed_edge.kinds import mistaken

__all__ = [
    "HEADER_CAP",
    "LARGEST",
    "TENSOR_CAP",
    "Content",
    "Entry",
    "Layout",
    "Tensor",
    "give_back",
    "load_tensors",
    "parse_layout",
    "pieces",
    "refuse_unusable",
    "strict_json",
    "tensor_file",
]

HEADER_CAP: Final = 1 << 20
"""Largest header of a file, in bytes."""

TENSOR_CAP: Final = 4096
"""Most tensors of a file."""

LARGEST: Final = 1e15
"""Magnitude that no usable weight or feature reaches: products of two still add up in float32."""

_NAME_CAP = 256
_AXES_CAP = 16
_WHOLE_CAP = 1 << 40
_ITEM_BYTES: Final = {
    **{"F64": 8, "F32": 4, "F16": 2},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1},
    **{"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}

_DTYPES: Final = {
    name: np.dtype("?" if name == "BOOL" else f"<{name[0].lower()}{size}")
    for name, size in _ITEM_BYTES.items()
}

Tensor = npt.NDArray[Any]
Content = bytes | mmap.mmap
"""Bytes of a file, read or mapped."""

Looked = Callable[[], object]
Sliced = TypeVar("Sliced", memoryview, Tensor)
_PIECE_BYTES: Final = 1 << 24


class Entry(NamedTuple):
    """One tensor as the file's header lists it; `begin` and `end` count from the first tensor's byte."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Layout(NamedTuple):
    """The checked beginning of a file: the metadata's text, its tensors by name, and where they start."""

    said: str
    entries: dict[str, Entry]
    data_start: int


def tensor_file(tensors: Mapping[str, Tensor], key: str, said: str) -> bytes:
    """Bytes of a file; equal tensors and metadata are equal bytes.

    Example:
        >>> content = tensor_file({"w": np.ones(2, np.float32)}, "fedmed_toy", "{}")
        >>> layout = parse_layout(content, "fedmed_toy", "toy")
        >>> layout.said, load_tensors(content, layout, "toy")["w"]
        ('{}', array([1., 1.], dtype=float32))
    """
    contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    return save(contiguous, metadata={key: said})


def parse_layout(content: Content, key: str | None, where: str, *, header_cap: int = HEADER_CAP) -> Layout:
    """Parse the beginning of a file; the tensors' bytes need not be there.

    Args:
        key: The one metadata entry, `fedmed_` and what the file is; None where there is none, as in what the
            aggregation kernels write.
        where: Names the file in messages.

    Raises:
        InputError: The header is too long, cut off, no JSON, of another kind of file, or says what it may
            not say.
    """
    kind = (key or "tensor").removeprefix("fedmed_")
    if len(content) < 8:
        raise InputError(f"{where}: cut off: has {len(content)} bytes")
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= header_cap:
        _refuse_mistaken(content, kind, where)
        raise InputError(f"{where}: not a {kind} file: header has {length} bytes, expected 2 to {header_cap}")
    if 8 + length > len(content):
        raise InputError(f"{where}: cut off: header has {len(content) - 8} bytes, expected {length}")
    table = strict_json(content[8 : 8 + length], where)
    metadata = table.pop("__metadata__", None)
    if key is None and metadata is None:
        key, metadata = "", {"": ""}
    if not isinstance(metadata, dict) or list(metadata) != [key] or not isinstance(metadata[key], str):
        _refuse_mistaken(content, kind, where)
        raise InputError(f"{where}: not a {kind} file: `__metadata__` has no `{key}` alone")
    if len(table) > TENSOR_CAP:
        raise InputError(f"{where}: has {len(table)} tensors, expected at most {TENSOR_CAP}")
    entries = {name: _entry(name, entry, where) for name, entry in table.items()}
    return Layout(metadata[key], entries, 8 + length)


def _refuse_mistaken(content: Content, kind: str, where: str) -> None:
    if said := mistaken(bytes(content[: KIND_CAP + 8]), kind):
        raise InputError(f"{where}: {said}")


def strict_json(content: bytes | str, where: str) -> dict[str, Any]:
    """A JSON object whose keys are short, printable and there once.

    Raises:
        InputError: It is none.

    Example:
        >>> strict_json('{"a": 1}', "file")
        {'a': 1}
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys: dict[str, Any] = {}
        for key, value in items:
            # names reach messages and logs: no terminal escapes, no megabytes
            if len(key) > _NAME_CAP or not key.isprintable():
                raise InputError(
                    f"{where}: header has a key that is longer than {_NAME_CAP} or not printable"
                )
            if key in keys:
                raise InputError(f"{where}: header has the key `{key}` twice")
            keys[key] = value
        return keys

    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        table = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: header is no JSON, or nested too deep") from None
    if not isinstance(table, dict):
        raise InputError(f"{where}: header is no JSON object")
    return table


def load_tensors(content: Content, layout: Layout, where: str) -> dict[str, Tensor]:
    """The file's tensors by name, once their dtypes, sizes and places have been checked.

    Those of a mapped file are views of it that cannot be written to.

    Raises:
        InputError: A dtype is unknown, or the bytes do not add up.
    """
    place = 0
    for name, entry in sorted(layout.entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.dtype not in _ITEM_BYTES:
            raise InputError(f"{where}: `{name}` has dtype {entry.dtype}, expected one of NumPy's")
        size = math.prod(entry.shape) * _ITEM_BYTES[entry.dtype]
        if entry.end - entry.begin != size:
            raise InputError(f"{where}: `{name}` has {entry.end - entry.begin} bytes, expected {size}")
        if entry.begin != place:
            raise InputError(f"{where}: `{name}` begins at byte {entry.begin}, expected {place}")
        place = entry.end
    have = len(content) - layout.data_start
    if have < place:
        raise InputError(f"{where}: cut off: tensors have {have} bytes, expected {place}")
    if have > place:
        raise InputError(f"{where}: has {have - place} bytes after its last tensor")
    if not isinstance(content, bytes):
        return {name: _view(content, layout, entry) for name, entry in layout.entries.items()}
    try:
        return dict(load(content))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{where}: not a safetensors file: {error}") from None


def _view(content: Content, layout: Layout, entry: Entry) -> Tensor:
    count, start = math.prod(entry.shape), layout.data_start + entry.begin
    view = np.frombuffer(content, _DTYPES[entry.dtype], count, start).reshape(entry.shape)
    return np.require(view, requirements="A")  # a header of odd length moves all of them


def refuse_unusable(
    name: str, value: Tensor, where: str, *, largest: float = LARGEST, looked: Looked = lambda: None
) -> None:
    """Refuse a floating-point tensor with a value that is not finite, or beyond `largest` in magnitude.

    Args:
        looked: As of `give_back`.

    Raises:
        InputError: Naming file and tensor.
    """
    if value.dtype.kind != "f":
        return
    for piece in pieces(value.reshape(-1), looked):
        with np.errstate(invalid="ignore"):
            most = max(abs(float(piece.max())), abs(float(piece.min())))
        if not math.isfinite(most):
            raise InputError(f"{where}: `{name}` has NaN or Inf, expected finite values")
        if most > largest:
            raise InputError(f"{where}: `{name}` has a value of {most:.3g}, expected at most {largest:g}")


def give_back(content: Content) -> Looked:
    """What to call when part of a file was looked at: the system may take back the pages of a mapped one."""
    return partial(content.madvise, mmap.MADV_DONTNEED) if isinstance(content, mmap.mmap) else lambda: None


def pieces(flat: Sliced, looked: Looked) -> Iterator[Sliced]:
    """Something long in pieces of at most 16 MB, or 2 million numbers, one after the other."""
    step = _PIECE_BYTES if isinstance(flat, memoryview) else _PIECE_BYTES // 8
    for start in range(0, len(flat), step):
        yield flat[start : start + step]
        looked()


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value <= _WHOLE_CAP  # a bool is an int to Python


def _entry(name: str, entry: object, where: str) -> Entry:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{where}: `{name}` expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or len(dtype) > 16 or not dtype.isalnum():
        raise InputError(f"{where}: `{name}` has no dtype")
    if not isinstance(shape, list) or len(shape) > _AXES_CAP or not all(map(_whole, shape)):
        raise InputError(f"{where}: `{name}` has a shape that is none")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
        raise InputError(f"{where}: `{name}` has offsets that are none")
    return Entry(dtype, tuple(shape), *offsets)
