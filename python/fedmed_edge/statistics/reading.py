"""A contribution file from anybody: caps, layout and names, before a library parses it."""

import base64
import binascii
import json
import math
import os
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, NamedTuple

from safetensors import SafetensorError
from safetensors.numpy import load

from fedmed_edge.errors import InputError
from fedmed_edge.recipe import parse_settings
from fedmed_edge.statistics.header import ContributionHeader, canonical_json
from fedmed_edge.statistics.tensors import WEIGHT_NAME, TensorRule, Tensors, tensor_rules, weight_rule

FILE_CAP: Final = 1 << 30
HEADER_CAP: Final = 1 << 20
TENSOR_CAP: Final = 4096
METADATA_KEY: Final = "fedmed_contribution"

_SIGNATURE_BYTES = 64
_NAME_CAP = 256
_FINGERPRINT_LENGTH = 50
_ITEM_BYTES = {"F64": 8, "F32": 4, "I64": 8}


class Entry(NamedTuple):
    """One tensor as the file's header lists it; `begin` and `end` count from the first tensor's byte."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Envelope(NamedTuple):
    """The checked beginning of a contribution file; signature and signer are claims."""

    header: ContributionHeader
    signature: bytes | None
    signer: str | None
    entries: dict[str, Entry]
    data_start: int


def read_content(path: Path, *, header_only: bool = False) -> bytes:
    """Bytes of a file, read only after its size and its header's length are known to be within the caps.

    Raises:
        InputError: The file is missing, no file, too large or cut off.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not S_ISREG(status.st_mode):
                raise InputError(f"{path}: not a file")
            if status.st_size > FILE_CAP:
                raise InputError(f"{path}: has {status.st_size} bytes, expected at most {FILE_CAP}")
            start = file.read(8)
            header = file.read(_header_bytes(start, str(path)))
            return start + header + (b"" if header_only else file.read(FILE_CAP))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _header_bytes(content: bytes, where: str) -> int:
    if len(content) < 8:
        raise InputError(f"{where}: cut off: has {len(content)} bytes")
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= HEADER_CAP:
        raise InputError(f"{where}: header has {length} bytes, expected 2 to {HEADER_CAP}")
    return length


def parse_envelope(content: bytes, where: str) -> Envelope:
    """Parse the beginning of a contribution file; the tensors' bytes need not be there.

    Raises:
        InputError: The header is too long, cut off, no JSON, has a key twice, or says what it may not say.
    """
    length = _header_bytes(content, where)
    if 8 + length > len(content):
        raise InputError(f"{where}: cut off: header has {len(content) - 8} bytes, expected {length}")
    table = _strict_json(content[8 : 8 + length], where)
    metadata = table.pop("__metadata__", None)
    if not isinstance(metadata, dict) or list(metadata) != [METADATA_KEY]:
        raise InputError(f"{where}: not a contribution: `__metadata__` has no `{METADATA_KEY}` alone")
    header, signature, signer = _parse_claims(str(metadata[METADATA_KEY]), where)
    if len(table) > TENSOR_CAP:
        raise InputError(f"{where}: has {len(table)} tensors, expected at most {TENSOR_CAP}")
    entries = {name: _entry(name, entry, where) for name, entry in table.items()}
    return Envelope(header, signature, signer, entries, 8 + length)


def _strict_json(content: bytes, where: str) -> dict[str, Any]:
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
        table = json.loads(content.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: header is no JSON, or nested too deep") from None
    if not isinstance(table, dict):
        raise InputError(f"{where}: header is no JSON object")
    return table


def _parse_claims(text: str, where: str) -> tuple[ContributionHeader, bytes | None, str | None]:
    claims = _strict_json(text.encode("utf-8", "surrogatepass"), where)
    unknown = set(claims) - {"header", "signature", "signer"}
    values = claims.get("header")
    if unknown or not isinstance(values, dict):
        raise InputError(f"{where}: `{METADATA_KEY}` expected `header`, `signature` and `signer`")
    version = values.get("format_version")
    if version != 1:
        raise InputError(
            f"{where}: `format_version` has {ascii(version)[:20]}, expected 1", hint="use a newer fedmed-edge"
        )
    header = parse_settings(ContributionHeader, values, where)
    if canonical_json({**claims, "header": header.values}) != text:
        raise InputError(f"{where}: header is not in canonical form")
    return header, _signature(claims.get("signature"), where), _signer(claims.get("signer"), where)


def _signature(claim: object, where: str) -> bytes | None:
    if claim is None:
        return None
    try:
        signature = base64.b64decode(claim, validate=True) if isinstance(claim, str) else b""
    except (ValueError, binascii.Error):
        signature = b""
    if len(signature) != _SIGNATURE_BYTES:
        raise InputError(f"{where}: `signature` has {len(signature)} bytes, expected {_SIGNATURE_BYTES}")
    return signature


def _signer(claim: object, where: str) -> str | None:
    if claim is None:
        return None
    if not isinstance(claim, str) or len(claim) != _FINGERPRINT_LENGTH or not claim.startswith("SHA256:"):
        raise InputError(f"{where}: `signer` is no fingerprint")
    return claim


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value <= 2 * FILE_CAP  # a bool is an int to Python


def _entry(name: str, entry: object, where: str) -> Entry:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{where}: `{name}` expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or len(dtype) > 16 or not dtype.isalnum():
        raise InputError(f"{where}: `{name}` has no dtype")
    if not isinstance(shape, list) or len(shape) > 16 or not all(map(_whole, shape)):
        raise InputError(f"{where}: `{name}` has a shape that is none")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
        raise InputError(f"{where}: `{name}` has offsets that are none")
    return Entry(dtype, tuple(shape), *offsets)


def load_tensors(content: bytes, envelope: Envelope, where: str) -> Tensors:
    """The file's tensors, after names, dtypes, shapes and offsets have been checked against its header.

    Raises:
        InputError: A tensor is missing, unknown, of another dtype or shape, or the bytes do not add up.
    """
    _check_entries(envelope, where)
    _check_offsets(envelope.entries, len(content) - envelope.data_start, where)
    try:
        return dict(load(content))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{where}: not a safetensors file: {error}") from None


def _check_entries(envelope: Envelope, where: str) -> None:
    rules = tensor_rules(envelope.header)
    for name, entry in envelope.entries.items():
        rule = rules.get(name)
        if rule is None and WEIGHT_NAME.match(name) and "weights" in envelope.header.parts:
            rule = weight_rule(len(entry.shape))
        if rule is None:
            raise InputError(f"{where}: unknown tensor `{name}`, or of a part that the header does not list")
        _check_entry(name, entry, rule, where)
    for name, rule in rules.items():
        if rule.required and name not in envelope.entries:
            raise InputError(f"{where}: has no tensor `{name}`")
    if "weights" in envelope.header.parts and not any(map(WEIGHT_NAME.match, envelope.entries)):
        raise InputError(f"{where}: has no tensor `weights/…`")


def _check_entry(name: str, entry: Entry, rule: TensorRule, where: str) -> None:
    if entry.dtype != rule.dtype:
        raise InputError(f"{where}: `{name}` has dtype {entry.dtype}, expected {rule.dtype}")
    fits = len(entry.shape) == len(rule.shape) and all(
        wanted is None or wanted == got for got, wanted in zip(entry.shape, rule.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if side is None else str(side) for side in rule.shape)
        raise InputError(f"{where}: `{name}` has shape {list(entry.shape)}, expected [{wanted}]")
    size = math.prod(entry.shape) * _ITEM_BYTES[entry.dtype]
    if entry.end - entry.begin != size:
        raise InputError(f"{where}: `{name}` has {entry.end - entry.begin} bytes, expected {size}")


def _check_offsets(entries: dict[str, Entry], have: int, where: str) -> None:
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise InputError(f"{where}: `{name}` begins at byte {entry.begin}, expected {place}")
        place = entry.end
    if have < place:
        raise InputError(f"{where}: cut off: tensors have {have} bytes, expected {place}")
    if have > place:
        raise InputError(f"{where}: has {have - place} bytes after its last tensor")
