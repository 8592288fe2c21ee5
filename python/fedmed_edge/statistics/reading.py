"""A contribution file from anybody: who claims to have signed what, and whether its tensors may be there."""

import base64
import binascii
from pathlib import Path
from typing import Final, NamedTuple

from fedmed_edge.atomic import map_regular, read_regular
from fedmed_edge.errors import InputError
from fedmed_edge.recipe import parse_settings
from fedmed_edge.statistics.header import ContributionHeader, canonical_json
from fedmed_edge.statistics.tensors import WEIGHT_NAME, TensorRule, Tensors, tensor_rules, weight_rule
from fedmed_edge.tensorfile import Content, Entry, Layout, load_tensors, parse_layout, strict_json

FILE_CAP: Final = 1 << 30
METADATA_KEY: Final = "fedmed_contribution"

_SIGNATURE_BYTES = 64
_FINGERPRINT_LENGTH = 50


class Envelope(NamedTuple):
    """The checked beginning of a contribution file; signature and signer are claims."""

    header: ContributionHeader
    signature: bytes | None
    signer: str | None
    layout: Layout


def read_content(path: Path) -> bytes:
    """Bytes of a file of at most 1 GiB.

    Raises:
        InputError: The file is missing, no file or too large.
    """
    return read_regular(path, FILE_CAP)


def map_content(path: Path) -> Content:
    """As `read_content`, mapped into memory and not read.

    Raises:
        InputError: As `read_content`.
    """
    return map_regular(path, FILE_CAP)


def parse_envelope(content: Content, where: str) -> Envelope:
    """Parse the beginning of a contribution file; the tensors' bytes need not be there.

    Raises:
        InputError: The header is too long, cut off, no JSON, has a key twice, or says what it may not say.
    """
    layout = parse_layout(content, METADATA_KEY, where)
    header, signature, signer = _parse_claims(layout.said, where)
    return Envelope(header, signature, signer, layout)


def _parse_claims(text: str, where: str) -> tuple[ContributionHeader, bytes | None, str | None]:
    claims = strict_json(text, where)
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


def read_tensors(content: Content, envelope: Envelope, where: str) -> Tensors:
    """The file's tensors, after names, dtypes, shapes and offsets have been checked against its header.

    Raises:
        InputError: A tensor is missing, unknown, of another dtype or shape, or the bytes do not add up.
    """
    _check_entries(envelope, where)
    return load_tensors(content, envelope.layout, where)


def _check_entries(envelope: Envelope, where: str) -> None:
    rules = tensor_rules(envelope.header)
    for name, entry in envelope.layout.entries.items():
        rule = rules.get(name)
        if rule is None and WEIGHT_NAME.match(name) and "weights" in envelope.header.parts:
            rule = weight_rule(len(entry.shape))
        if rule is None:
            raise InputError(f"{where}: unknown tensor `{name}`, or of a part that the header does not list")
        _check_entry(name, entry, rule, where)
    for name, rule in rules.items():
        if rule.required and name not in envelope.layout.entries:
            raise InputError(f"{where}: has no tensor `{name}`")
    if "weights" in envelope.header.parts and not any(map(WEIGHT_NAME.match, envelope.layout.entries)):
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
