"""Helpers that the tests of several rooms share, as modules of the folders that they belong to."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parent


def load(path: str) -> ModuleType:
    """A module below this folder, such as `end_to_end/pacs.py`; the same one whoever asks."""
    name = "fedmed_test_" + path.removesuffix(".py").replace("/", "_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOLDER / path)
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def run_python(
    code: str, *arguments: object, environment: Mapping[str, str] | None = None, timeout_s: float = 120
) -> str:
    """What a program prints that runs in a process of its own and has to end well.

    Args:
        environment: All of it; None is that of this process.
    """
    # of its own: what it does not clean up as it is killed goes with it
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**(os.environ if environment is None else environment), "TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# A script that begins with this and says in ROOMS which files count: a child of fork is killed, or stopped
# otherwise, at its n-th line of those.
CHILD = """
import os, shutil, signal, sys
from pathlib import Path

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def traced(limit, stop):
    count = 0
    def trace(frame, event, argument):
        nonlocal count
        if not any(room in frame.f_code.co_filename for room in ROOMS):
            return None
        if event == "line":
            count += 1
            if count == limit:
                stop()
        return trace
    return trace

def child(run, limit=0, stop=kill):
    pid = os.fork()
    if pid == 0:
        try:
            if limit:
                sys.settrace(traced(limit, stop))
            run()
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr)
            os._exit(3)
        os._exit(0)
    return pid

def ended(pid):
    status = os.waitpid(pid, 0)[1]
    assert not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 3), "failed otherwise"
    return status
"""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Said:
    """What a program answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)
