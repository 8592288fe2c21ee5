"""How the hospitals of a federated story are run: in this process, or as processes of their own over TLS."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final, Protocol

from fedmed_edge.config import (
    FILE_NAME,
    Policy,
    ServerConfig,
    ServerFederation,
    SiteConfig,
    read_config,
    write_config,
)
from fedmed_edge.errors import FedmedError, Unreachable
from fedmed_edge.federation.coordinator import FOLDER, Coordinator
from fedmed_edge.federation.duties import work
from fedmed_edge.federation.loopback import LoopbackSites
from fedmed_edge.recipe import Recipe, write_recipe
from fedmed_edge.signing import generate_key, write_key, write_public_key
from fedmed_edge.store.store import Store

__all__ = ["Hospitals", "InProcess", "Processes"]

COLLECT_S: Final = 2.0
_STOP_S: Final = 30.0
_TAIL: Final = 2000


class Hospitals(Protocol):
    """A server's folder and hospitals that are switched on and off."""

    @property
    def server(self) -> Path:
        """The server's folder; its store is there from the beginning."""
        ...

    def enrol(self, site: str, data: Path) -> None:
        """Make a hospital's folder and let it in; it is off still."""
        ...

    def folder(self, site: str) -> Path:
        """A hospital's folder."""
        ...

    def switch_on(self, sites: Sequence[str]) -> None:
        """Connect these hospitals."""
        ...

    def switch_off(self) -> None:
        """Stop every process of every hospital."""
        ...

    def until(self, done: Callable[[], bool], what: str, timeout_s: float = 900.0) -> None:
        """Let time pass until it is done.

        Raises:
            Unreachable: It took too long; names `what`.
        """
        ...

    def close(self) -> None:
        """Stop everything, the server too."""
        ...


class InProcess:
    """Hospitals in this process, one after the other; no engine.

    Args:
        folder: Where the server's and the hospitals' folders are made; empty or new.
        min_cohort: Of every hospital's policy.
    """

    def __init__(self, folder: Path, recipe: Recipe, *, min_cohort: int) -> None:
        self.server, self._root = folder / "server", folder
        self._recipe, self._min_cohort = recipe, min_cohort
        store = Store.create(self.server / "store")
        key = generate_key()
        write_key(self.server / "server.key", key)
        write_public_key(self.server / "server.pub", key.public_key())
        rules = ServerFederation(collect_s=0.001)
        write_config(self.server / FILE_NAME, ServerConfig(federation=rules))
        self._store, self._sites = store, LoopbackSites(store, self.server / FOLDER, {})
        config = read_config(ServerConfig, self.server)
        self._coordinator = Coordinator(self.server, config, store, self._sites)

    def folder(self, site: str) -> Path:
        """As `Hospitals.folder`."""
        return self._root / site

    def enrol(self, site: str, data: Path) -> None:
        """As `Hospitals.enrol`."""
        folder, key = self.folder(site), generate_key()
        folder.mkdir()
        write_key(folder / "site.key", key)
        write_recipe(folder / "recipe.toml", self._recipe)
        server_key = self.server.resolve() / "server.pub"
        config = SiteConfig(site=site, data=data.resolve(), server_key=server_key)
        write_config(folder / FILE_NAME, _with_policy(config, self._min_cohort))
        self._store.add_site(site, key.public_key())

    def switch_on(self, sites: Sequence[str]) -> None:
        """As `Hospitals.switch_on`."""
        for site in sites:
            self._sites.sites[site] = self.folder(site), read_config(SiteConfig, self.folder(site))

    def switch_off(self) -> None:
        """As `Hospitals.switch_off`."""
        self._sites.sites.clear()

    def until(self, done: Callable[[], bool], what: str, timeout_s: float = 900.0) -> None:
        """As `Hospitals.until`."""
        until = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > until:
                raise Unreachable(f"{what}: not done after {timeout_s:.0f} s")
            self._coordinator.step()
            for folder, config in self._sites.sites.values():
                work(folder, config)

    def close(self) -> None:
        """As `Hospitals.close`."""
        self.switch_off()


class Processes:
    """Server and hospitals as a user runs them: commands, processes, mutual TLS on loopback.

    Args:
        folder: As of `InProcess`.
        min_cohort: Of every hospital's policy.
    """

    def __init__(self, folder: Path, recipe: Recipe, *, min_cohort: int) -> None:
        self.server, self._root = folder / "server", folder
        self._recipe, self._min_cohort = recipe, min_cohort
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        _command("server", "init", str(self.server), "--host", "localhost", "--port", str(_free_port()))
        write_recipe(folder / "recipe.toml", recipe)
        self._start("server", "server", "start", "-C", str(self.server))

    def folder(self, site: str) -> Path:
        """As `Hospitals.folder`."""
        return self._root / site

    def enrol(self, site: str, data: Path) -> None:
        """As `Hospitals.enrol`: the hospital makes its keys and a request, the server answers with a file."""
        folder, answer = str(self.folder(site)), str(self._root / f"{site}.signed")
        recipe, server_key = str(self._root / "recipe.toml"), str(self.server / "server.pub")
        made = _command(
            *("edge", "init", folder, "--site", site, "--data", str(data)),
            *("--recipe", recipe, "--server-key", server_key),
        )
        _command(
            *("server", "site", "add", site, "-C", str(self.server)),
            *("--request", made["request"], "--fingerprint", made["fingerprint"], "--out", answer),
        )
        _command("edge", "init", folder, "--install", answer)
        settings = self.folder(site) / FILE_NAME
        config = read_config(SiteConfig, self.folder(site), environment={})
        settings.unlink()
        write_config(settings, _with_policy(config, self._min_cohort))

    def switch_on(self, sites: Sequence[str]) -> None:
        """As `Hospitals.switch_on`."""
        for site in sites:
            self._start(site, "edge", "agent", "-C", str(self.folder(site)))

    def switch_off(self) -> None:
        """As `Hospitals.switch_off`."""
        self._stop([name for name in self._running if name != "server"])

    def until(self, done: Callable[[], bool], what: str, timeout_s: float = 900.0) -> None:
        """As `Hospitals.until`."""
        until = time.monotonic() + timeout_s
        while not done():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise Unreachable(f"{what}: the process of {name} ended: {self._said(name)}")
            if time.monotonic() > until:
                raise Unreachable(f"{what}: not done after {timeout_s:.0f} s: {self._said('server')}")
            time.sleep(0.5)

    def close(self) -> None:
        """As `Hospitals.close`."""
        self._stop(list(self._running))

    def _start(self, name: str, *arguments: str) -> None:
        log = self._root / f"{name}.log"
        with log.open("ab") as file:
            self._running[name] = _begin(*arguments, out=file)

    def _stop(self, names: Sequence[str]) -> None:
        for name in names:
            self._running[name].send_signal(signal.SIGTERM)
        for name in names:
            process = self._running.pop(name)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _said(self, name: str) -> str:
        """The end of what a process wrote."""
        return (self._root / f"{name}.log").read_text(errors="replace")[-_TAIL:]


def _with_policy(config: SiteConfig, min_cohort: int) -> SiteConfig:
    policy = Policy(min_cohort=min_cohort, width_rule="off")
    rules = config.federation.model_copy(update={"may_contribute": True})
    return config.model_copy(update={"policy": policy, "federation": rules, "device": "cpu"})


def _arguments(program: str, *arguments: str) -> list[str]:
    code = f"from fedmed_edge.commands.{program} import main; main()"
    return [sys.executable, "-c", code, *arguments]


def _environment() -> dict[str, str]:
    return os.environ | {"FEDMED_FEDERATION_COLLECT_S": str(COLLECT_S)}


def _begin(program: str, *arguments: str, out: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        _arguments(program, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        env=_environment(),
        start_new_session=True,  # so that a Ctrl-C stops the demo, and the demo stops these
    )


def _command(program: str, *arguments: str) -> dict[str, Any]:
    """Run a command and give its answer.

    Raises:
        FedmedError: It failed; with what it said.
    """
    done = subprocess.run(
        [*_arguments(program, *arguments), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FedmedError(f"fedmed-{program} {arguments[0]}: {done.stderr.strip()[-_TAIL:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port
