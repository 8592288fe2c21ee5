"""Keeps the processes of a server or an agent alive, and ends them all when it ends."""

import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from fedmed_edge.backoff import wait_s

__all__ = ["Child", "supervise"]

LOOK_S: Final = 0.2
TELL_S: Final = 5.0
GRACE_S: Final = 0.5
"""Time that processes have to end by themselves; all that counts is on the disk by then."""

HANGS_S: Final = 180.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_WELL_S: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1

log = logging.getLogger(__name__)


@dataclass
class Child:
    """A process to keep alive.

    Attributes:
        output: File that takes what it prints.
        well: Whether it does its work; where it says no for minutes, the process is started anew.
        given_up: File that is touched by who knows that it never will again; then that is done at once.
    """

    name: str
    command: list[str]
    folder: Path
    output: Path
    environment: dict[str, str] = field(default_factory=dict)
    well: Callable[[], bool] = lambda: True
    given_up: Path | None = None
    process: Any = field(default=None, init=False)
    began: float = field(default=0.0, init=False)
    ends: int = field(default=0, init=False)
    again_at: float = field(default=0.0, init=False)
    well_at: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Start the process, in a session of its own, so that Ctrl-C reaches the supervisor alone."""
        with self.output.open("ab") as output:
            self.process = psutil.Popen(
                self.command,
                cwd=self.folder,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.began = self.well_at = time.monotonic()

    def look(self) -> None:
        """Start it again where it ended, after a pause that grows while it does not last."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            self.well_at = now if self.well() else self.well_at
            given_up = self._given_up()
            if now - self.well_at < HANGS_S and not given_up:
                return
            why = "does its work no more" if given_up else f"does nothing for {HANGS_S:.0f} s"
            log.warning("%s %s", self.name, why)
        if self.process is not None:
            lasted = now - self.began
            _end([self])
            code = self.process.returncode
            self.ends = 0 if lasted > _WELL_S else self.ends + 1
            pause = wait_s(self.ends, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
            self.again_at, self.process = now + pause, None
            log.warning("%s ended with %s; again in %.0f s", self.name, code, pause)
        if now >= self.again_at:
            self.start()

    def _given_up(self) -> bool:
        """Since it was started, that is."""
        if self.given_up is None:
            return False
        with suppress(OSError, psutil.NoSuchProcess):
            return bool(self.given_up.stat().st_mtime > self.process.create_time())
        return False


def supervise(
    children: list[Child], tell: Callable[[dict[str, bool]], None], stop: Callable[[], bool]
) -> None:
    """Keep children alive until `stop` says so, then end them.

    Args:
        tell: Called every few seconds with who of them is alive, by name.
    """
    told = 0.0
    try:
        while not stop():
            for child in children:
                child.look()
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                tell({child.name: child.process is not None for child in children})
            time.sleep(LOOK_S)
    finally:
        _end(children)


def _end(children: list[Child]) -> None:
    """End children and what they started, jobs of the engine too, which leave the group."""
    family: list[Any] = []
    for child in children:
        if child.process is None:
            continue
        with _gone():
            family += child.process.children(recursive=True)
        family.append(child.process)
    for process in reversed(family):
        with _gone():
            process.terminate()
    _, left = psutil.wait_procs(family, timeout=GRACE_S)
    for process in left:
        with _gone():
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_S)


@contextmanager
def _gone() -> Iterator[None]:
    with suppress(psutil.NoSuchProcess):
        yield


def _die_with_parent() -> None:
    """A supervisor that is killed leaves nothing behind that would hold the port."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
