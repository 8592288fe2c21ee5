"""What `fedmed-edge doctor` looks at where a site connects to a server."""

from datetime import UTC, datetime

from fedmed_edge.config import SiteConfig
from fedmed_edge.federation.engine.certificates import expiry
from fedmed_edge.federation.engine.reachability import Way, try_connection
from fedmed_edge.federation.engine.site_kit import CERTIFICATE, server_address
from fedmed_edge.heartbeat import faults_of, running

LEAST_DAYS = 60

Answer = tuple[str, str] | tuple[str, str, str]


def connects(config: SiteConfig) -> bool:
    """Whether this site connects at all, or hands over files."""
    return (config.key.parent / CERTIFICATE).exists()


def _way(config: SiteConfig) -> Way:
    host, port = server_address(config.key.parent)
    if config.federation.server is not None:
        host, _, named = config.federation.server.rpartition(":")
        port = int(named)
    return Way.of(host, port, config.federation.proxy)


def _firewall(config: SiteConfig) -> Answer:
    way = _way(config)
    via = f"; through the proxy {way.proxy}" if way.proxy else ""
    return "ok", f"allow outbound TCP from this machine to {way.host} port {way.port}, nothing inbound{via}"


def _connection(config: SiteConfig) -> Answer:
    way = _way(config)
    return "ok", f"{way}: {try_connection(config.key.parent, way)}, both certificates are good"


def _certificate(config: SiteConfig) -> Answer:
    until = expiry((config.key.parent / CERTIFICATE).read_bytes())
    days = (until - datetime.now(UTC)).days
    found = f"good until {until.date().isoformat()}, {days} days"
    hint = "send the .request file to the server's admin again, then `fedmed-edge init --install`"
    if days < 0:
        return "fault", f"ran out on {until.date().isoformat()}", hint
    return ("warning", found, hint) if days < LEAST_DAYS else ("ok", found)


def _agent(config: SiteConfig) -> Answer:
    folder = config.key.parent
    if "agent" not in running(folder):
        return "warning", "does not run", f"run `fedmed-edge agent -C {folder}` as a service"
    faults = [fault for fault in faults_of(folder) if fault.startswith("agent")]
    return (
        ("warning", "; ".join(faults), f"see {folder / 'engine' / 'log.txt'}")
        if faults
        else ("ok", "connected")
    )


CONNECTION_LOOKS = {
    "firewall": _firewall,
    "certificate": _certificate,
    "connection": _connection,
    "agent": _agent,
}
