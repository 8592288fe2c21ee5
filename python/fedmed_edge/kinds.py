"""What a file of ours is, told by its first bytes, for messages; nothing in it is believed."""

import re
import tomllib
from pathlib import Path
from typing import Final, Literal

FileKind = Literal[
    "contribution",
    "generation",
    "backbone",
    "model",
    "exported model",
    "recipe",
    "settings file",
    "public key",
    "private key",
    "signature",
    "request",
    "server's answer",
]

HEADER_CAP: Final = 1 << 22
TEXT_CAP: Final = 1 << 16

_TENSOR_FILES: Final[dict[bytes, FileKind]] = {
    b"fedmed_contribution": "contribution",
    b"fedmed_generation": "generation",
    b"fedmed_backbone": "backbone",
    b"fedmed_model": "model",
}
# field 1 of an ONNX model, its format's version
_ONNX_START: Final = b"\x08"


def file_kind(path: Path) -> FileKind | None:
    """What a file is; None where it is none of ours, or cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "site.pub"
        >>> _ = path.write_text("-----BEGIN PUBLIC KEY-----")
        >>> file_kind(path)
        'public key'
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            start = file.read(TEXT_CAP)
            length = int.from_bytes(start[:8], "little")
            if TEXT_CAP < length <= HEADER_CAP:
                start += file.read(length + 8 - len(start))
    except OSError:
        return None
    return content_kind(start)


def mistaken(file: Path | bytes, wanted: str) -> str | None:
    """What to say of a file of ours, or of its beginning, where `wanted` is another kind of file.

    Example:
        >>> mistaken(b"-----BEGIN PUBLIC KEY-----", "exported model")
        'is a public key, expected an exported model'
    """
    kind = file_kind(file) if isinstance(file, Path) else content_kind(file[: HEADER_CAP + 8])
    if kind is None or kind == wanted:
        return None
    return f"is {with_article(kind)}, expected {with_article(wanted)}"


def with_article(noun: str) -> str:
    """A kind of file as a sentence names one.

    Example:
        >>> with_article("exported model")
        'an exported model'
    """
    return f"{'an' if noun.startswith('e') else 'a'} {noun}"


def content_kind(start: bytes) -> FileKind | None:
    """What a file is that begins so; None where it is none of ours.

    Example:
        >>> content_kind(b"-----BEGIN PUBLIC KEY-----")
        'public key'
    """
    length = int.from_bytes(start[:8], "little")
    if 2 <= length <= HEADER_CAP:
        said = re.search(rb'"__metadata__"\s*:\s*\{\s*"(\w+)"', start[8 : 8 + length])
        return _TENSOR_FILES.get(said[1]) if said else None
    return "exported model" if start.startswith(_ONNX_START) else _text_kind(start[:TEXT_CAP])


def _text_kind(start: bytes) -> FileKind | None:
    if b"PRIVATE KEY-----" in start:
        return "private key"
    if start.lstrip().startswith(b"-----BEGIN PUBLIC KEY-----"):
        return "public key"
    if start.startswith(b"{") and b'"fedmed site request v1"' in start:
        return "request"
    if start.startswith(b"{") and b'"fedmed site answer v1"' in start:
        return "server's answer"
    if start.startswith(b"{") and b'"signer"' in start and b'"signature"' in start:
        return "signature"
    try:
        keys = tomllib.loads(start.decode()).keys()
    except (ValueError, RecursionError):
        return None
    if {"name", "kind", "classes"} <= keys:
        return "recipe"
    return "settings file" if {"site", "store"} & keys else None
