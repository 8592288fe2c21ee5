"""The images, run by a real engine: `run.sh` builds them, starts it, and starts pytest with it."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kits import Said

DOCKER = "/usr/bin/docker"  # the engine's own client
HARDENED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp:rw,size=256m,mode=1777",
    "--pids-limit=1024",
    "--memory=1g",
)
"""How docs/containers.md tells to run every image."""

if "FEDMED_CONTAINER_WORK" not in os.environ:  # `make test` has no engine; `make test-containers` has one
    collect_ignore_glob = ["test_*.py"]


class Engine:
    """The engine's client, and what was started through it."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def __call__(self, *arguments: object, check: bool = True, timeout: float = 400) -> Said:
        done = subprocess.run(
            [DOCKER, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0 or not check, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    def start(self, image: str, *command: object, options: tuple[object, ...] = (), name: str = "") -> str:
        """A hardened container that goes on; its name."""
        name = name or f"fedmed-{uuid.uuid4().hex[:8]}"
        self.started.append(name)
        self("run", "--detach", "--name", name, *HARDENED, *options, image, *command)
        return name

    def ask(self, image: str, *command: object, options: tuple[object, ...] = (), check: bool = True) -> Said:
        """What a hardened container answers that runs to its end."""
        return self("run", "--rm", *HARDENED, *options, image, *command, check=check)

    def state(self, name: str) -> Any:
        (found,) = self("inspect", name).json
        return found["State"]

    def address(self, name: str, network: str = "bridge") -> str:
        (found,) = self("inspect", name).json
        return str(found["NetworkSettings"]["Networks"][network]["IPAddress"])

    def logs(self, name: str) -> str:
        said = self("logs", name)
        return said.out + said.err

    def stop_all(self) -> None:
        if self.started:
            self("rm", "--force", "--volumes", *self.started, check=False)
        self.started.clear()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.stop_all()


@pytest.fixture(scope="session")
def work() -> Path:
    """Where `run.sh` keeps what it built."""
    return Path(os.environ["FEDMED_CONTAINER_WORK"])


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Wait until something holds; fails with the logs where it does not."""

    def wait(
        holds: Callable[[], object], what: str, *, seconds: float = 400, logs: Callable[[], str] = str
    ) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if holds():
                return
            time.sleep(1)
        pytest.fail(f"{what}: not within {seconds} s\n{logs()}")

    return wait


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    """A named volume, as `docker run -v NAME:/var/lib/fedmed` makes it."""
    name = f"fedmed-{uuid.uuid4().hex[:8]}"
    engine("volume", "create", name)
    yield name
    engine("volume", "rm", "--force", name, check=False)
