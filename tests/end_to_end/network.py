"""The tiny hospitals connected for real: server and agents as processes, mutual TLS over loopback."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from kits import free_port

from fedmed_edge.federation.outbox import Outbox
from fedmed_edge.statistics.contribution import read_contribution

SETTINGS = {"collect_s": 3.0, "sync_s": 60.0, "quorum": 1}
EDGE, SERVER = "fedmed-edge", "fedmed-server"
PROGRAM = "import sys; from importlib.metadata import entry_points; sys.argv = sys.argv[1:]; \
entry, = entry_points(group='console_scripts', name=sys.argv[0]); entry.load()()"


def until(what: str, said: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Wait until something is true; its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = said()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


class Network:
    """A federation's server and sites as processes; everything is ended with the block.

    Args:
        federation: `Federation` of `federation.py`, whose folders are used.
    """

    def __init__(self, federation: Any, **settings: Any) -> None:
        self.f, self.port = federation, free_port()
        self.processes: dict[str, Any] = {}
        values = SETTINGS | {"port": self.port} | settings
        self.set(federation.server, **values)

    def set(self, folder: Path, **values: Any) -> None:
        """Change keys of `[federation]` in a folder's fedmed.toml."""
        lines = (folder / "fedmed.toml").read_text().splitlines()
        if "[federation]" not in lines:
            lines += ["", "[federation]"]
        at = lines.index("[federation]")
        kept = [line for line in lines[at + 1 :] if line.partition(" ")[0] not in values]
        new = [
            f"{key} = {str(value).lower() if isinstance(value, bool) else value!r}"
            for key, value in values.items()
        ]
        text = "\n".join([*lines[: at + 1], *new, *kept]) + "\n"
        (folder / "fedmed.toml").write_text(text.replace("'", '"'))

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.stop(name)

    def enrol(self, *names: str) -> None:
        """Let sites that the server knows by their keys connect."""
        for name in names:
            folder, answer = self.f.root / name, self.f.root / f"{name}.signed"
            self.f.admin("site", "add", name, "--request", folder / f"{name}.request", "--out", answer)
            self.f.ask(EDGE, "init", folder, "--install", answer)

    def start(self, name: str, *, under: Sequence[str] = (), **environment: str) -> Any:
        """Start the server (`server`) or the agent of a site; `under` a tracer."""
        program, verb = (SERVER, "start") if name == "server" else (EDGE, "agent")
        with (self.f.root / f"{name}.console").open("ab") as console:
            self.processes[name] = psutil.Popen(
                [*under, sys.executable, "-c", PROGRAM, program, verb, "-C", str(self.f.root / name)],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        return self.processes[name]

    def hand_over(self, name: str, file: Path | None = None) -> Any:
        """Put a contribution into a site's outbox, by default what it learnt with the others; the parcel."""
        return Outbox(self.f.root / name / "outbox").add(
            read_contribution(file or self.f.root / f"{name}.contribution")
        )

    def until_taken(self, *names: str, seconds: float = 240) -> None:
        """Wait until the server has all that these sites handed over."""
        for name in names:
            outbox = Outbox(self.f.root / name / "outbox")
            until(
                f"{name} is taken",
                lambda outbox=outbox: {one.state for one in outbox.all()} == {"taken"},
                seconds=seconds,
            )

    def program(self, *words: object, program: str = EDGE, **environment: str) -> "subprocess.Popen[str]":
        """A command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, program, *map(str, words)],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self, name: str) -> float:
        """End a process as a service manager does; seconds that it took."""
        process, began = self.processes.pop(name), time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            self.kill_all(process)
            raise AssertionError(f"{name}: did not end") from None
        return time.monotonic() - began

    def kill(self, name: str) -> None:
        """Kill a supervisor and all below it, as a power cut does."""
        self.kill_all(self.processes.pop(name))

    def kill_all(self, process: Any) -> None:
        """SIGKILL to a process and its descendants."""
        family = [process, *process.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=5)

    def below(self, name: str, word: str) -> Iterator[Any]:
        """Processes under a supervisor whose command line has a word."""
        for one in self.processes[name].children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(word in part for part in one.cmdline()):
                    yield one

    def connected(self, name: str) -> bool:
        """Whether the server answered a heartbeat of the site a moment ago."""
        try:
            return time.time() - (self.f.root / name / "engine" / "connected").stat().st_mtime < 20
        except FileNotFoundError:
            return False

    def up(self, *names: str) -> float:
        """Start server and sites, wait until all are connected; seconds until then."""
        began = time.monotonic()
        self.start("server")
        for name in names:
            (self.f.root / name / "engine" / "connected").unlink(missing_ok=True)
            self.start(name)
        for name in names:
            until(f"{name} connects", lambda name=name: self.connected(name))
        return time.monotonic() - began

    def log(self, name: str) -> str:
        """All that the processes of a server or site wrote down."""
        folder = self.f.root / name / "engine"
        files = [*folder.rglob("*.txt"), *folder.rglob("*.log"), self.f.root / f"{name}.console"]
        return "\n".join(path.read_text(errors="replace") for path in files if path.is_file())
