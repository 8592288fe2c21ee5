"""A site's kit, made from the server's answer and the site's own key; needs no engine."""

import json
from pathlib import Path
from typing import Any, Final

from fedmed_edge.atomic import read_regular, write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.federation.engine import settings
from fedmed_edge.federation.engine.enrolment import Answer
from fedmed_edge.tensorfile import strict_json

__all__ = [
    "CERTIFICATE",
    "CONNECTED",
    "ROOT",
    "TLS_KEY",
    "install",
    "installed_name",
    "server_address",
    "set_server",
]

TLS_KEY: Final = Path("engine/startup/client.key")
CERTIFICATE: Final = Path("engine/startup/client.crt")
ROOT: Final = Path("engine/startup/rootCA.pem")
CONNECTED: Final = "connected"
"""Touched in the kit at every heartbeat that the server answered."""

_CLIENT: Final = Path("engine/startup/fed_client.json")


def install(site: Path, answer: Answer) -> None:
    """Write the kit beside the key that is there; running it again replaces an older one.

    Raises:
        InputError: It cannot be written.
    """
    for part in ("startup", "local", "transfer"):
        (site / "engine" / part).mkdir(parents=True, exist_ok=True)
    files = settings.site_files(answer.name, answer.host, answer.port, answer.server_name)
    write_atomic(site / CERTIFICATE, answer.certificate)
    write_atomic(site / ROOT, answer.authority)
    for name, values in sorted(files.items()):
        write_atomic(site / "engine" / name, (json.dumps(values, indent=1) + "\n").encode())


def installed_name(site: Path) -> str:
    """The site's name in its certificate.

    Raises:
        InputError: No kit is installed.
    """
    return str(_settings(site)["client"]["fqsn"])


def server_address(site: Path) -> tuple[str, int]:
    """Host and port of the server, the only ones that a site connects to.

    Raises:
        InputError: No kit is installed.
    """
    host, _, port = _settings(site)["servers"][0]["service"]["target"].rpartition(":")
    return host, int(port)


def set_server(site: Path, address: str) -> None:
    """Connect to another address of the same server from the next start on.

    Raises:
        InputError: No kit is installed.
    """
    values = _settings(site)
    if values["servers"][0]["service"]["target"] != address:
        values["servers"][0]["service"]["target"] = address
        write_atomic(site / _CLIENT, (json.dumps(values, indent=1) + "\n").encode())


def _settings(site: Path) -> dict[str, Any]:
    try:
        return strict_json(read_regular(site / _CLIENT, 1 << 16), str(_CLIENT))
    except InputError:
        raise InputError(
            f"{site}: has no kit to connect with",
            hint="send the .request file to the server's admin, then `fedmed-edge init --install SIGNED`",
        ) from None
