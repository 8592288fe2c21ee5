"""Readers of hostile files in a process of their own, with little memory beyond what they are loaded with."""

import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmed_edge.errors import FedmedError

Refused = Callable[..., None]


def held(what: str) -> int:
    """Bytes of this process: `VmSize` of address space, `VmHWM` at the most in memory."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def _read(read: Callable[[Path], object], path: Path, mib: int, seconds: float) -> str:
    space = held("VmSize") + (mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of the processor; ends the process
    try:
        read(path)
    except FedmedError as refusal:
        return str(refusal)
    except BaseException as error:
        return f"not refused: {type(error).__name__} {error}"
    return f"{path}: taken"


@pytest.fixture
def refused() -> Refused:
    """Checks that a file is refused with its message, in so much memory, and time of the processor.

    Of a file that is well but for what nobody looks at, the message is `taken`.
    """

    def check(
        read: Callable[[Path], object], path: Path, message: str, *, mib: int = 192, seconds: float = 5
    ) -> None:
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(theirs, json.dumps(_read(read, path, mib, seconds)).encode())
            finally:
                os._exit(0)
        os.close(theirs)
        limit = time.monotonic() + 60
        with os.fdopen(ours, "rb") as pipe:
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                if time.monotonic() > limit:  # it waits for something
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.005)
            told = pipe.read()
        assert told, f"ended by itself or after {seconds} s: {path}"
        said = json.loads(told)
        assert re.search(message, said), said
        assert said.startswith(f"{path}: ") and said.isprintable(), said

    return check
