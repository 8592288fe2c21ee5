"""The processes under a supervisor: `python -m fedmed_edge.federation.engine.processes ROLE FOLDER`.

A server has the engine's server and the coordinator, an agent the engine's client and the worker that does
what the server asked.
"""

import contextlib
import json
import logging
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from fedmed_edge.atomic import write_atomic
from fedmed_edge.config import ServerConfig, SiteConfig, read_config
from fedmed_edge.errors import FedmedError, Unreachable
from fedmed_edge.federation.engine.site_kit import installed_name
from fedmed_edge.federation.engine.supervisor import Child

__all__ = ["agent_children", "server_children"]

_ENGINE: Final = "nvflare.private.fed.app."
_OFFLINE: Final = {"PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "ERROR"}
REVOCATIONS_S: Final = 1.0
DUTIES_S: Final = 5.0

log = logging.getLogger(__name__)


def server_children(server: Path) -> list[Child]:
    """The engine's server and the coordinator."""
    kit = (server / "engine" / "server").resolve()
    engine = [sys.executable, "-m", _ENGINE + "server.server_train", "-m", str(kit), "-s", "fed_server.json"]
    engine += ["--set", "secure_train=true", "org=fedmed", "config_folder=config"]
    return [
        Child("engine", engine, kit, kit / "console.txt", _OFFLINE),
        _own("coordinator", server, kit / "coordinator.txt"),
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
    environment = _OFFLINE | ({"https_proxy": f"http://{proxy}"} if proxy else {})
    return [
        Child("engine", engine, kit, kit / "console.txt", environment),
        _own("worker", site, kit / "worker.txt"),
    ]


def _own(role: str, folder: Path, output: Path) -> Child:
    return Child(
        role, [sys.executable, "-m", __name__, role, str(folder.resolve())], folder, output, _OFFLINE
    )


def refuse_revoked(server: Path) -> None:
    """Tell the engine before it starts whom it must not let in."""
    from fedmed_edge.federation.engine.kits import identities_of

    names = sorted(one.name for one in identities_of(server).all() if one.revoked)
    path = server / "engine" / "server" / "disabled_clients.json"
    write_atomic(path, json.dumps({"disabled_clients": names}).encode())


def coordinate(server: Path) -> None:
    """Run the coordinator until SIGTERM."""
    from fedmed_edge.federation.coordinator import Coordinator
    from fedmed_edge.federation.engine.sessions import EngineSites

    config, sites, ended = read_config(ServerConfig, server), EngineSites(server), threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())

    def revocations() -> None:
        while not ended.wait(REVOCATIONS_S):
            with contextlib.suppress(Unreachable):
                sites.enforce_revocations()

    while not ended.is_set():
        try:
            sites.abort_left_over()
            break
        except Unreachable:
            ended.wait(1.0)
    threading.Thread(target=revocations, daemon=True).start()
    try:
        Coordinator(server, config, sites).run(ended.is_set)
    finally:
        sites.close()


def work(site: Path) -> None:
    """Do what the server asked, one thing after another, until SIGTERM."""
    from fedmed_edge.federation import duties

    while True:
        try:
            duties.work(site, read_config(SiteConfig, site))
        except FedmedError as error:
            log.warning("%s", error)
        time.sleep(DUTIES_S)


def main() -> None:
    """Run one of our own processes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    role, folder = sys.argv[1], Path(sys.argv[2])
    {"coordinator": coordinate, "worker": work}[role](folder)


if __name__ == "__main__":
    main()
