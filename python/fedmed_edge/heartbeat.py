"""What a long-running verb says of itself, every few seconds, in a file that `health` reads.

    FOLDER/run/agent.json     {"verb": "agent", "pid": 7, "since": …, "beat": …, "connected": true, …}

Facts are flags and short numbers; no secret and no patient's value is among them.
"""

import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError

RUN_FOLDER: Final = "run"
INTERVAL_S: Final = 5.0
STALE_S: Final = 30.0
"""A beat older than this means that the process hangs or is gone."""

Fact = bool | int | float | str


class Heartbeat:
    """Keeps the file of one verb fresh while the block runs, and takes it away at the end.

    A disk that is full does not stop the verb: the file grows stale, which says the same.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with Heartbeat(folder, "agent") as beat:
        ...     beat.tell(connected=True)
        ...     faults_of(folder)
        []
        >>> faults_of(folder)
        ['nothing is running']
    """

    def __init__(self, folder: Path, verb: str) -> None:
        self.path = folder / RUN_FOLDER / f"{verb}.json"
        self._facts: dict[str, Fact] = {"verb": verb, "pid": os.getpid(), "since": round(time.time(), 1)}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"{verb} heartbeat", daemon=True)

    def tell(self, **facts: Fact) -> None:
        """Set facts and write them at once; a flag that is false is a fault."""
        with self._lock:
            self._facts |= facts
        self._write()

    def __enter__(self) -> "Heartbeat":
        """Begin to beat.

        Raises:
            InputError: The folder is not writable.
        """
        try:
            self.path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path.parent}: cannot be made: {error.strerror}",
                hint="check who owns the folder and its permissions",
            ) from None
        self._write(quietly=False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and take the file away."""
        self._stop.set()
        self._thread.join(timeout=INTERVAL_S)
        self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._write()

    def _write(self, *, quietly: bool = True) -> None:
        with self._lock:
            content = json.dumps({**self._facts, "beat": round(time.time(), 1)}).encode()
        try:
            write_atomic(self.path, content)
        except InputError:
            if not quietly:
                raise


def running(folder: Path) -> dict[str, dict[str, Fact]]:
    """Verb → what it last said, of every one that left a file; a file that cannot be read says nothing.

    Args:
        folder: Site or server folder.
    """
    found = {}
    for path in sorted((folder / RUN_FOLDER).glob("*.json")):
        try:
            said = json.loads(path.read_text())
        except (OSError, ValueError):
            said = {}
        found[path.stem] = said if isinstance(said, dict) else {}
    return found


def faults_of(folder: Path, verb: str | None = None) -> list[str]:
    """What is wrong with the verbs that run in a folder, or with one of them; empty where all is well.

    A verb is well while its beat is younger than `STALE_S` and none of its flags is false.
    """
    verbs = running(folder)
    if verb is not None:
        verbs = {name: said for name, said in verbs.items() if name == verb}
    if not verbs:
        return [f"{verb or 'nothing'} is {'not ' if verb else ''}running"]
    faults = []
    for verb, said in verbs.items():
        beat = said.get("beat")
        if not isinstance(beat, (int, float)) or time.time() - beat > STALE_S:
            faults.append(f"{verb}: no sign of life for {STALE_S:.0f} s")
        faults += [f"{verb}: not {name.replace('_', ' ')}" for name, fact in said.items() if fact is False]
    return faults
