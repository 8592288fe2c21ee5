"""What crosses the hospital's wall: one request of a site, one reply of the server.

Both are a small JSON header and at most one part of a file behind it. An engine only has to carry these bytes
there and back, and to say whose certificate they came with.

    b"FMW1" · header's length (4 bytes, big-endian) · header (JSON: `op`, `fields`) · data
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.tensorfile import strict_json

__all__ = [
    "HEADER_CAP",
    "MESSAGE_CAP",
    "OPS",
    "PART_BYTES",
    "PROTOCOL",
    "Channel",
    "Reply",
    "Request",
    "Sites",
    "decode_reply",
    "decode_request",
    "encode",
    "refusal",
]

PROTOCOL: Final = 1
"""Rises when an older end could no longer talk to a newer one."""

PART_BYTES: Final = 4 << 20
"""Size of every part of a file but its last."""

HEADER_CAP: Final = 1 << 18
MESSAGE_CAP: Final = 8 + HEADER_CAP + PART_BYTES

OPS: Final = ("hello", "offer", "put", "commit", "get", "report")
"""All that a site may ask:

- `hello`: which objects are there for me, and what am I asked to do?
- `offer`: I have this file for you; which of its parts do you miss?
- `put`: one part of it.
- `commit`: that were all; take it.
- `get`: one part of an object that you have for me.
- `report`: what became of what you asked.
"""

_MAGIC: Final = b"FMW1"


@dataclass(frozen=True)
class Request:
    """What a site asks; `op` is one of `OPS`, `data` at most one part of a file."""

    op: str
    fields: Mapping[str, Any]
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Reply:
    """What the server answers; `fields` has `error` (and perhaps `hint`, `again`) where it refuses."""

    fields: Mapping[str, Any]
    data: bytes = field(default=b"", repr=False)


class Channel(Protocol):
    """A site's way to the server; several threads may ask at once."""

    def ask(self, op: str, fields: Mapping[str, Any], data: bytes = b"") -> Reply:
        """Ask and wait for the reply.

        The request may arrive late, twice or not at all, and so may its reply: every operation can be asked
        again.

        Raises:
            Unreachable: No reply came in time.
        """
        ...


class Sites(Protocol):
    """The server's way to its sites, as an engine gives it; several threads may use it at once."""

    def online(self) -> list[str]:
        """Names of the sites, as their certificates say, that are connected now.

        Raises:
            Unreachable: The engine does not answer.
        """
        ...

    def news(self) -> list[str]:
        """Names of those who said, since this was asked last, that they have something to hand over.

        Raises:
            Unreachable: As `online`.
        """
        ...

    def sync(self, site: str, deadline_s: float) -> None:
        """Have one site run `site_side.sync` against `server_side.serve`, and wait until that has ended.

        What came of it stands in the store and the server's folder, however it ended; so nothing is returned,
        and an engine's own job that is still there after the deadline is aborted.

        Raises:
            Unreachable: The site is not there, or was not done by the deadline.
        """
        ...


def encode(message: Request | Reply) -> bytes:
    """Bytes of a message.

    Raises:
        InputError: It is larger than a message may be.

    Example:
        >>> decode_request(encode(Request("put", {"part": 0}, b"abc")))
        Request(op='put', fields={'part': 0})
    """
    header: dict[str, Any] = {"fields": dict(message.fields)}
    if isinstance(message, Request):
        header["op"] = message.op
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    _check_sizes(len(text), len(message.data))
    return b"".join((_MAGIC, len(text).to_bytes(4, "big"), text, message.data))


def decode_request(content: bytes) -> Request:
    """A request from anybody; what its fields may be is for the operation to say.

    Raises:
        InputError: It is too large, cut off, of another version, no JSON, or of no known operation.
    """
    header, data = _decode(content, "request", {"op", "fields"})
    op = header["op"]
    if op not in OPS:
        raise InputError(f"request: `op` has {ascii(op)[:40]}, expected one of {', '.join(OPS)}")
    return Request(op, header["fields"], data)


def decode_reply(content: bytes) -> Reply:
    """A reply.

    Raises:
        InputError: As `decode_request`.
    """
    header, data = _decode(content, "reply", {"fields"})
    return Reply(header["fields"], data)


def _decode(content: bytes, what: str, keys: set[str]) -> tuple[dict[str, Any], bytes]:
    if len(content) > MESSAGE_CAP:
        raise InputError(f"{what}: has {len(content)} bytes, expected at most {MESSAGE_CAP}")
    if content[:4] != _MAGIC:
        raise InputError(f"{what}: not a message of this protocol")
    length = int.from_bytes(content[4:8], "big")
    _check_sizes(length, max(0, len(content) - 8 - length))
    if len(content) < 8 + length:
        raise InputError(f"{what}: cut off: header has {max(0, len(content) - 8)} bytes, expected {length}")
    header = strict_json(content[8 : 8 + length], what)
    if set(header) != keys or not isinstance(header["fields"], dict):
        raise InputError(f"{what}: header expected {' and '.join(sorted(keys))} alone")
    return header, content[8 + length :]


def _check_sizes(header: int, data: int) -> None:
    if header > HEADER_CAP:
        raise InputError(f"message: header has {header} bytes, expected at most {HEADER_CAP}")
    if data > PART_BYTES:
        raise InputError(f"message: data has {data} bytes, expected at most {PART_BYTES}")


def refusal(error: FedmedError, *, again: bool = False) -> Reply:
    """The reply that refuses; `again` where the same request may succeed later.

    The text crosses the wall, so it names no path and no patient.
    """
    fields: dict[str, Any] = {"error": str(error), "again": again}
    return Reply(fields if error.hint is None else {**fields, "hint": error.hint})
