"""Every byte that left this site: when, in which request, about what, and which rule let it out.

One JSON line a request in `egress.jsonl`, written before its bytes go out: a line may tell of bytes that
never left, never the other way round.
"""

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fedmed_edge.errors import InputError
from fedmed_edge.federation.wire import Channel, Reply, Request, encode

__all__ = ["FILE_NAME", "Egress", "Followed", "Metered", "Pace", "read_egress"]

FILE_NAME: Final = "egress.jsonl"


@dataclass(frozen=True)
class Egress:
    """One request that left.

    Attributes:
        when: UTC, as ISO 8601.
        bytes: Header and data, without what the transport adds.
        subject: Digest of the file, or id of the request, that it is about.
        rule: Of the site's settings that let it out.
    """

    when: str
    op: str
    bytes: int
    subject: str
    rule: str


class Pace:
    """At most so many bytes a second, over all threads that send.

    Example:
        >>> pace = Pace(None)
        >>> pace.wait(1 << 30)
    """

    def __init__(self, bytes_per_s: int | None) -> None:
        self._rate, self._free_at, self._lock = bytes_per_s, 0.0, threading.Lock()

    def wait(self, size: int) -> None:
        """Wait until so many bytes may go."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + size / self._rate
        time.sleep(start - now)


class Metered:
    """A channel that writes down what goes out, and keeps to the site's bandwidth.

    Args:
        folder: The site's folder.
    """

    def __init__(self, channel: Channel, folder: Path, pace: Pace) -> None:
        self._channel, self._path, self._pace = channel, folder / FILE_NAME, pace

    def ask(self, op: str, fields: Mapping[str, Any], data: bytes = b"", *, rule: str = "") -> Reply:
        """As `Channel.ask`, under a rule.

        Raises:
            Unreachable: As `Channel.ask`.
            InputError: It cannot be written down; then nothing goes out.
        """
        size = len(encode(Request(op, fields)))
        self._pace.wait(size + len(data))
        subject = str(fields.get("digest") or fields.get("request") or "")
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._write(Egress(when, op, size + len(data), subject, rule))
        return self._channel.ask(op, fields, data)

    def _write(self, entry: Egress) -> None:
        line = json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n"
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                end = os.fstat(descriptor).st_size
                if end and os.pread(descriptor, 1, end - 1) != b"\n":  # a full disk cut the last one off
                    line = b"\n" + line
                if os.write(descriptor, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be written: {error.strerror}",
                hint="nothing leaves that is not written down: make room and try again",
            ) from None


class Followed:
    """What leaves a site, as it is written down; what was read once is not read again.

    Args:
        folder: The site's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._offset = folder / FILE_NAME, 0

    def new(self) -> Iterator[Egress]:
        """What was written since this was asked last, oldest first, but for lines that were cut off."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return  # it is being written
                    self._offset += len(line)
                    with contextlib.suppress(ValueError, TypeError):
                        yield Egress(**json.loads(line))
        except FileNotFoundError:
            return


def read_egress(folder: Path) -> Iterator[Egress]:
    """All that left this site, oldest first."""
    return Followed(folder).new()
