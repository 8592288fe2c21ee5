"""What `fedmed-edge doctor` looks at where a site connects to a server."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from fedmed_edge.config import SiteConfig
from fedmed_edge.federation.engine.certificates import expiry
from fedmed_edge.federation.engine.reachability import Way, try_connection
from fedmed_edge.federation.engine.site_kit import CERTIFICATE, server_address
from fedmed_edge.heartbeat import faults_of, running
from fedmed_edge.words import counted

LEAST_DAYS = 60

Answer = tuple[str, str] | tuple[str, str, str]


def connection_looks(folder: Path) -> dict[str, Callable[[SiteConfig], Answer]]:
    """The looks at a site's folder; none where it does not connect at all, but hands over files."""
    if not (folder / CERTIFICATE).exists():
        return {}
    looks = {"firewall": _firewall, "certificate": _certificate, "connection": _connection, "agent": _agent}
    return {name: partial(look, folder) for name, look in looks.items()}


def way_of(folder: Path, config: SiteConfig) -> Way:
    """How this site reaches its server: by its settings, else as its kit says."""
    host, port = server_address(folder)
    if config.federation.server is not None:
        host, _, named = config.federation.server.rpartition(":")
        port = int(named)
    return Way.of(host, port, config.federation.proxy)


def _firewall(folder: Path, config: SiteConfig) -> Answer:
    way = way_of(folder, config)
    via = f"; through the proxy {way.proxy}" if way.proxy else ""
    return "ok", f"allow outbound TCP from this machine to {way.host} port {way.port}, nothing inbound{via}"


def _connection(folder: Path, config: SiteConfig) -> Answer:
    way = way_of(folder, config)
    return "ok", f"{way}: {try_connection(folder, way)}, both certificates are good"


def _certificate(folder: Path, _: SiteConfig) -> Answer:
    until = expiry((folder / CERTIFICATE).read_bytes())
    days = (until - datetime.now(UTC)).days
    found = f"good until {until.date().isoformat()}, {counted(days, 'day')}"
    hint = "send the .request file to the server's admin again, then `fedmed-edge init --install`"
    if days < 0:
        return "fault", f"ran out on {until.date().isoformat()}", hint
    return ("warning", found, hint) if days < LEAST_DAYS else ("ok", found)


def _agent(folder: Path, _: SiteConfig) -> Answer:
    if "agent" not in running(folder):
        return "warning", "does not run", f"run `fedmed-edge agent -C {folder}` as a service"
    faults = faults_of(folder, "agent")
    return (
        ("warning", "; ".join(faults), f"see {folder / 'engine' / 'log.txt'}")
        if faults
        else ("ok", "connected")
    )
