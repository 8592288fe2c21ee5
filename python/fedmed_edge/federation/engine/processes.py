"""The processes under a supervisor: `python -m fedmed_edge.federation.engine.processes ROLE FOLDER`.

A server has the engine's server and the coordinator, an agent the engine's client and the worker that does
what the server asked.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from fedmed_edge.atomic import locked, write_atomic
from fedmed_edge.backoff import wait_s
from fedmed_edge.config import ServerConfig, SiteConfig, absolute_paths, read_config
from fedmed_edge.errors import FedmedError, InputError, Unreachable
from fedmed_edge.federation.engine.identities import identities_of
from fedmed_edge.federation.engine.settings import GIVEN_UP
from fedmed_edge.federation.engine.site_kit import CONNECTED, installed_name, set_server
from fedmed_edge.federation.engine.supervisor import Child, supervise

__all__ = ["connected", "run_agent", "run_server"]

_ENGINE: Final = "nvflare.private.fed.app."
_ENVIRONMENT: Final = {
    "PYTHONUNBUFFERED": "1",
    "GRPC_VERBOSITY": "ERROR",
    # parts of files come and go in many threads: what is free goes back to the system at once
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    # a site that was killed never says how its job ended: nobody waits the engine's quarter of an hour for it
    "NVFLARE_CLIENT_OUTCOME_WAIT_TIMEOUT": "5",
}
REVOCATIONS_S: Final = 1.0
ENGINE_S: Final = 30.0
DUTIES_S: Final = 5.0
LONGEST_PAUSE_S: Final = 60.0
STALE_S: Final = 30.0
_ANSWERED: Final = "answered"
FREED_S: Final = 3.0
"""Until a server that was killed has let go of its port."""

JOB_LOG_S: Final = 86_400.0
"""How long the log of a job is kept."""

Tell = Callable[[dict[str, bool]], None]

log = logging.getLogger(__name__)


def server_children(server: Path) -> list[Child]:
    """The engine's server and the coordinator."""
    kit = (server / "engine" / "server").resolve()
    engine = [sys.executable, "-m", _ENGINE + "server.server_train", "-m", str(kit), "-s", "fed_server.json"]
    engine += ["--set", "secure_train=true", "org=fedmed", "config_folder=config"]
    environment = _ENVIRONMENT | absolute_paths(ServerConfig)
    return [
        Child(
            "engine",
            engine,
            kit,
            kit / "console.txt",
            environment,
            well=lambda: _fresh(kit / _ANSWERED),
            given_up=server.resolve() / GIVEN_UP,
        ),
        _own("coordinator", server, kit / "coordinator.txt", environment),
    ]


def agent_children(site: Path, proxy: str | None) -> list[Child]:
    """The engine's client and the worker."""
    kit = (site / "engine").resolve()
    engine = [sys.executable, "-m", _ENGINE + "client.client_train", "-m", str(kit), "-s", "fed_client.json"]
    engine += [
        "--set",
        "secure_train=true",
        f"uid={installed_name(site)}",
        "org=fedmed",
        "config_folder=config",
    ]
    environment = _ENVIRONMENT | absolute_paths(SiteConfig)
    proxied = environment | ({"https_proxy": f"http://{proxy}"} if proxy else {})
    return [
        Child("engine", engine, kit, kit / "console.txt", proxied, lambda: connected(site)),
        _own("worker", site, kit / "worker.txt", environment),
    ]


def _own(role: str, folder: Path, output: Path, environment: dict[str, str]) -> Child:
    command = [sys.executable, "-m", __name__, role, str(folder.resolve())]
    return Child(role, command, folder, output, environment)


def run_server(server: Path, config: ServerConfig, tell: Tell, stop: Callable[[], bool]) -> None:
    """Run engine and coordinator until `stop` says so.

    Raises:
        InputError: They run already in this folder, or another program listens on the port.
    """
    from fedmed_edge.federation.engine.kits import ensure_server_kits

    with _alone(server, "server"):
        _check_port(config.federation.port)
        ensure_server_kits(server, config.federation.host, config.federation.port)
        revoked = sorted(one.name for one in identities_of(server).all() if one.revoked)
        kit = server / "engine" / "server"
        (kit / _ANSWERED).unlink(missing_ok=True)
        write_atomic(kit / "disabled_clients.json", json.dumps({"disabled_clients": revoked}).encode())
        _sweep_jobs(kit, 0)

        def told(alive: dict[str, bool]) -> None:
            _sweep_jobs(kit, JOB_LOG_S)
            tell(alive | {"answering": _fresh(kit / _ANSWERED)})

        supervise(server_children(server), told, stop)


def run_agent(site: Path, config: SiteConfig, tell: Tell, stop: Callable[[], bool]) -> None:
    """Keep the connection, and do what the server asks, until `stop` says so.

    Raises:
        InputError: An agent runs already in this folder, or it has no kit.
    """
    if config.federation.server is not None:
        set_server(site, config.federation.server)
    children = agent_children(site, config.federation.proxy)
    kit = site / "engine"
    with _alone(site, "agent"):
        (kit / CONNECTED).unlink(missing_ok=True)  # of the agent before
        _sweep_jobs(kit, 0)

        def told(alive: dict[str, bool]) -> None:
            _sweep_jobs(kit, JOB_LOG_S)
            tell(alive | {"connected": connected(site)})

        supervise(children, told, stop)


def _alone(folder: Path, what: str) -> AbstractContextManager[None]:
    busy = f"{folder}: another {what} is running here already"
    return locked(folder / "engine" / "lock", busy=busy, hint="stop that one first")


def _check_port(port: int) -> None:
    """The engine would try for ever, or share the port with another server of its kind."""
    end = time.monotonic() + FREED_S
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                return probe.bind(("", port))
            except OSError as error:
                if time.monotonic() > end:
                    raise InputError(
                        f"port {port}: cannot be listened on: {error.strerror}",
                        hint="stop what listens there, or change `port` in [federation] of fedmed.toml",
                    ) from None
        time.sleep(0.2)


def connected(site: Path) -> bool:
    """Whether the server answered a heartbeat in the last half minute."""
    return _fresh(site / "engine" / CONNECTED)


def _fresh(path: Path) -> bool:
    """Whether a file was touched in the last half minute."""
    try:
        return time.time() - path.stat().st_mtime < STALE_S
    except OSError:
        return False


def _sweep_jobs(kit: Path, older_s: float) -> None:
    """Delete the folders of jobs that nothing was written to for so long; nothing that lasts lies in them."""
    for folder in kit.iterdir():
        with contextlib.suppress(ValueError, OSError):
            uuid.UUID(folder.name)
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - newest >= older_s:
                shutil.rmtree(folder, ignore_errors=True)


def coordinate(server: Path) -> None:
    """Run the coordinator until SIGTERM."""
    from fedmed_edge.federation.coordinator import Coordinator
    from fedmed_edge.federation.engine.sessions import EngineSites
    from fedmed_edge.store.store import open_store

    config, sites, ended = read_config(ServerConfig, server), EngineSites(server), threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())

    def revocations() -> None:
        while not ended.wait(REVOCATIONS_S):
            with contextlib.suppress(Unreachable):
                sites.enforce_revocations()

    def watch() -> None:
        """A session to an engine that was started anew may hang for good: then this process begins anew.

        An engine that hangs itself is started anew by the supervisor, whom a file tells when it answered.
        """
        heard = sites.heard
        while not ended.wait(REVOCATIONS_S):
            if sites.heard != heard:
                heard = sites.heard
                with contextlib.suppress(OSError):
                    (server / "engine" / "server" / _ANSWERED).touch()
            if time.monotonic() - heard > ENGINE_S:
                log.warning("the engine does not answer")
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    while not ended.is_set():
        try:
            sites.abort_left_over()
            break
        except Unreachable:
            ended.wait(1.0)
    threading.Thread(target=revocations, daemon=True).start()
    try:
        Coordinator(server, config, open_store(config), sites).run(ended.is_set)
    finally:
        sites.close()


def work(site: Path) -> None:
    """Do what the server asked, one thing after another, until SIGTERM."""
    said, failures = "", 0
    while True:
        try:
            work_once(site)
            said, failures = "", 0
        except FedmedError as error:
            if str(error) != said:
                log.warning("%s", error)
            said, failures = str(error), failures + 1
        time.sleep(wait_s(failures, DUTIES_S, LONGEST_PAUSE_S))


def work_once(site: Path) -> None:
    """Do what is asked now and place what came; where nothing is, neither settings nor images are looked at.

    Raises:
        FedmedError: As `duties.work` and `place_models`, or the settings cannot be read.
    """
    from fedmed_edge.federation import duties
    from fedmed_edge.federation.asked import Asked
    from fedmed_edge.federation.inbox import Inbox
    from fedmed_edge.federation.placing import place_models, to_place

    try:
        if to_place(Inbox(site / "inbox")):
            place_models(site, read_config(SiteConfig, site))
    finally:  # a model that cannot be kept holds up no request
        if Asked(site / "requests").open():
            duties.work(site, read_config(SiteConfig, site))


def main() -> None:
    """Run one of our own processes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    role, folder = sys.argv[1], Path(sys.argv[2])
    {"coordinator": coordinate, "worker": work}[role](folder)


if __name__ == "__main__":
    main()
