"""Kits: the folders from which the engine's server, its admin session and a site's client start.

SERVER/engine/authority   the key that signs certificates; back it up, show it to nobody
SERVER/engine/server      the server's kit, with what the engine stores and logs
SERVER/engine/admin       the coordinator's kit
SERVER/engine/sites       which certificates were handed out
SITE/engine               a site's kit
"""

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fedmed_edge.atomic import write_atomic
from fedmed_edge.federation.engine import settings
from fedmed_edge.federation.engine.authority import CERTIFICATE_DAYS, Authority
from fedmed_edge.federation.engine.certificates import expiry, names_of
from fedmed_edge.federation.engine.enrolment import Answer, SiteRequest
from fedmed_edge.federation.engine.identities import Identity, certificate_name, identities_of
from fedmed_edge.signing import PublicKey

__all__ = ["ENGINE", "approve", "ensure_server_kits"]

ENGINE: Final = "engine"
RENEW_DAYS: Final = 31


def ensure_server_kits(server: Path, host: str, port: int) -> None:
    """Make the authority and the kits of server and coordinator where they are not there yet.

    The kits are made anew for another host or port, and where a certificate runs out within a month. Sites
    keep their certificates; a new host or port must be told to them.

    Raises:
        InputError: A file cannot be written.
    """
    folder = server / ENGINE
    if _up_to_date(folder / "server", host, port):
        return
    authority = Authority.create(folder / "authority")
    storage = _storage(folder / "server")
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


def _up_to_date(kit: Path, host: str, port: int) -> bool:
    wanted = settings.server_files(host, port, _storage(kit))
    try:
        same = all(json.loads((kit / name).read_bytes()) == values for name, values in wanted.items())
        certificate = (kit / "startup" / "server.crt").read_bytes()
    except (OSError, ValueError):
        return False
    left = expiry(certificate) - datetime.datetime.now(datetime.UTC)
    return same and left.days > RENEW_DAYS and host in names_of(certificate)


def _storage(kit: Path) -> Path:
    return (kit / "storage").resolve()


def approve(
    server: Path,
    request: SiteRequest,
    *,
    host: str,
    port: int,
    server_key: PublicKey,
    enrol: Callable[[str, PublicKey], None],
    days: int = CERTIFICATE_DAYS,
) -> Answer:
    """Certificate and address for a site whose request is found good.

    Args:
        enrol: Takes the site's name and its signing key into the store.
        days: How long the certificate holds.

    Raises:
        StoreError: The request's key was revoked, or the site has a certificate for another one.
    """
    site, authority = request.site, Authority(server / ENGINE / "authority")
    name = certificate_name(site, request.tls_key)
    certificate = authority.sign(name, request.tls_request, days=days)
    identities, identity = identities_of(server), Identity(name, site, expiry(certificate).date().isoformat())
    identities.check(identity)
    enrol(site, request.signing_key)
    identities.add(identity)
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
