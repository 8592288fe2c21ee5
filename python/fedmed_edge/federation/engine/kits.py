"""Kits: the folders from which the engine's server, its admin session and a site's client start.

SERVER/engine/authority   the key that signs certificates; back it up, show it to nobody
SERVER/engine/server      the server's kit, with what the engine stores and logs
SERVER/engine/admin       the coordinator's kit
SERVER/engine/sites       which certificates were handed out
SITE/engine               a site's kit
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.federation.engine import settings
from fedmed_edge.federation.engine.authority import CERTIFICATE_DAYS, Authority, expiry
from fedmed_edge.federation.engine.enrolment import Answer, SiteRequest
from fedmed_edge.federation.engine.identities import Identities, Identity, certificate_name
from fedmed_edge.signing import PublicKey

__all__ = ["ENGINE", "approve", "identities_of", "make_server_kits"]

ENGINE: Final = "engine"


def identities_of(server: Path) -> Identities:
    """The certificates that a server handed out."""
    return Identities(server / ENGINE / "sites")


def make_server_kits(server: Path, host: str, port: int) -> None:
    """Make the authority and the kits of server and coordinator; or the kits anew for another host or port.

    Sites that are enrolled keep their certificates; a new host or port must be told to them.

    Raises:
        InputError: A file cannot be written.
    """
    folder = server / ENGINE
    authority = Authority.create(folder / "authority")
    storage = (folder / "server" / "storage").resolve()
    for part in ("jobs", "snapshots"):
        (storage / part).mkdir(parents=True, exist_ok=True)
    own = authority.issue(settings.SERVER_NAME, host=host)
    _write_kit(
        folder / "server",
        settings.server_files(host, port, storage),
        {"server.crt": own.certificate, "server.key": own.key, "rootCA.pem": authority.certificate},
    )
    admin = authority.issue(settings.ADMIN, role=settings.ADMIN_ROLE)
    _write_kit(
        folder / "admin",
        settings.admin_files(port),
        {"client.crt": admin.certificate, "client.key": admin.key, "rootCA.pem": authority.certificate},
    )


def approve(
    server: Path,
    request: SiteRequest,
    site: str,
    *,
    host: str,
    port: int,
    server_key: PublicKey,
    days: int = CERTIFICATE_DAYS,
) -> Answer:
    """Certificate and address for a site whose request is found good.

    Args:
        days: How long the certificate holds.

    Raises:
        InputError: The request is of another site, or this server has no kits.
        StoreError: The request's key was revoked, or the site has a certificate for another one.
    """
    if request.site != site:
        raise InputError(f"request: `site` has {request.site[:64]}, expected {site}")
    folder = server / ENGINE / "authority"
    if not folder.is_dir():
        raise InputError(
            f"{server}: has no kits to let hospitals connect",
            hint='pip install "fedmed-edge[federation]" and run `fedmed-server init` again',
        )
    authority = Authority(folder)
    name = certificate_name(site, request.tls_key)
    certificate = authority.sign(name, request.tls_request, days=days)
    identities_of(server).add(Identity(name, site, expiry(certificate).date().isoformat()))
    return Answer(
        site=site,
        name=name,
        host=host,
        port=port,
        server_name=settings.SERVER_NAME,
        certificate=certificate,
        authority=authority.certificate,
        server_key=server_key,
    )


def _write_kit(folder: Path, files: Mapping[str, Any], secrets: Mapping[str, bytes]) -> None:
    for part in ("startup", "local", "transfer"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, content in secrets.items():
        path = folder / "startup" / name
        # a key is never written over by accident; here it is replaced on purpose
        path.unlink(missing_ok=True)
        write_atomic(path, content, mode=0o600 if name.endswith(".key") else 0o644)
    for name, values in files.items():
        write_atomic(folder / name, (json.dumps(values, indent=1) + "\n").encode())
