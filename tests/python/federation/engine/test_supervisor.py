"""Processes are kept alive, ended with all they started, and there once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("nvflare")
from fedmed_edge.federation.engine.supervisor import Child, supervise  # noqa: E402

# a process that starts another one in a session of its own, as the engine starts its jobs
FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(below.pid, flush=True)
time.sleep(60)
"""


def child(folder: Path, code: str) -> Child:
    return Child("one", [sys.executable, "-c", code], folder, folder / "out.txt")


def running(folder: Path, code: str, seconds: float) -> tuple[list[dict[str, bool]], float]:
    """Supervise for a while; what was told, and how long the end took."""
    told: list[dict[str, bool]] = []
    end = time.monotonic() + seconds
    supervise([child(folder, code)], told.append, lambda: time.monotonic() > end)
    return told, time.monotonic() - end


def gone(pid: int) -> bool:
    """Whether a process has ended; who adopted it may not have looked yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_all_that_was_started_ends_within_two_seconds(tmp_path: Path) -> None:
    told, took = running(tmp_path, FAMILY, 1.5)
    assert told[0] == {"one": True} and took < 2.0
    assert gone(int((tmp_path / "out.txt").read_text()))


def test_what_died_is_started_again_after_growing_pauses(tmp_path: Path) -> None:
    running(tmp_path, f"open({str(tmp_path / 'starts')!r}, 'a').write('x')", 6.0)
    assert (tmp_path / "starts").read_text() in ("xx", "xxx")


def test_what_is_given_up_is_started_anew_at_once(tmp_path: Path) -> None:
    one = child(tmp_path, f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); import time; time.sleep(60)")
    one.given_up = tmp_path / "stalled"
    one.given_up.touch()  # of an earlier one
    began, seen = time.monotonic(), []

    def stop() -> bool:
        starts = tmp_path / "starts"
        seen.append(starts.read_text() if starts.exists() else "")
        if seen[-1] == "x" and time.monotonic() - began > 2.0:
            (tmp_path / "stalled").touch()
        return len(seen[-1]) == 2 or time.monotonic() - began > 20.0

    supervise([one], lambda alive: None, stop)
    assert seen[-1] == "xx" and 2.0 < time.monotonic() - began < 10.0


def test_children_of_a_killed_supervisor_die_with_it(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from fedmed_edge.federation.engine.supervisor import Child, supervise
folder = Path({str(tmp_path)!r})
one = Child("one", [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"],
            folder, folder / "out.txt")
supervise([one], lambda alive: None, lambda: False)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 20
    while not (tmp_path / "out.txt").exists() or not (tmp_path / "out.txt").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(5)
    pid = int((tmp_path / "out.txt").read_text())
    end = time.monotonic() + 5
    while not gone(pid):
        assert time.monotonic() < end
        time.sleep(0.05)
