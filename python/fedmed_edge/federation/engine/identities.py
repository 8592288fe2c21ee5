"""Which certificate is whose: one file a certificate, under `engine/sites` of the server's folder.

A certificate's name is made of the site's name and its key, so a site that is revoked and comes back with a
new key has another name, and the old certificate stays out for ever.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from fedmed_edge.atomic import read_regular, write_atomic
from fedmed_edge.errors import FedmedError, InputError, StoreError
from fedmed_edge.tensorfile import strict_json

__all__ = ["Identities", "Identity", "certificate_name", "identities_of"]

_CAP: Final = 1 << 14
_NAME: Final = re.compile("[A-Za-z0-9-]{1,64}")


def certificate_name(site: str, tls_key: bytes) -> str:
    """Name of a site in its certificate, at most 64 characters; the engine allows no dots in it.

    Example:
        >>> certificate_name("st.mary", b"key")
        'st-mary-2c70e12b7a06'
    """
    return f"{re.sub('[^A-Za-z0-9]', '-', site)[:51]}-{hashlib.sha256(tls_key).hexdigest()[:12]}"


def identities_of(server: Path) -> "Identities":
    """The certificates that the server in a folder handed out."""
    return Identities(server / "engine" / "sites")


@dataclass(frozen=True)
class Identity:
    """A certificate that was handed out.

    Attributes:
        name: In the certificate, and to the engine.
        expires: Last day, UTC, as ISO 8601.
        revoked: True where it is not let in any more; this is never undone.
    """

    name: str
    site: str
    expires: str
    revoked: bool = False


class Identities:
    """The certificates that were handed out; read anew at every question, so a revocation holds at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Identity]:
        """Every certificate, in order of name."""
        return [self._read(path) for path in sorted(self._folder.glob("*.json"))]

    def of(self, site: str) -> list[Identity]:
        """The certificates of a site that are not revoked; none where it has no connection, else one."""
        return [identity for identity in self.all() if identity.site == site and not identity.revoked]

    def check(self, identity: Identity) -> None:
        """Refuse a certificate that may not be handed out.

        Raises:
            StoreError: It was revoked, or its site has another one.
        """
        known = self.find(identity.name)
        if known and known.revoked:
            raise StoreError(
                f"site `{identity.site}`: its TLS key was revoked, expected a new one",
                hint="have the hospital make a new site folder with `fedmed-edge init`",
            )
        if any(other.name != identity.name for other in self.of(identity.site)):
            raise StoreError(
                f"site `{identity.site}`: has a certificate for another key already",
                hint="`fedmed-server site revoke` first, then add it with its new request",
            )

    def add(self, identity: Identity) -> None:
        """Keep a certificate that `check` let pass; the same again gets the new day that it runs out on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write(identity)

    def revoke(self, site: str) -> list[str]:
        """Let no certificate of a site in from now on; their names."""
        found = self.of(site)
        for identity in found:
            self._write(replace(identity, revoked=True))
        return [identity.name for identity in found]

    def find(self, name: str) -> Identity | None:
        """The certificate of a name, or None."""
        if not _NAME.fullmatch(name):
            return None
        try:
            return self._read(self._folder / f"{name}.json")
        except FedmedError:
            return None

    def _read(self, path: Path) -> Identity:
        fields = strict_json(read_regular(path, _CAP), str(path))
        try:
            return Identity(**fields)
        except TypeError:
            raise InputError(f"{path}: not a certificate's entry") from None

    def _write(self, identity: Identity) -> None:
        write_atomic(self._folder / f"{identity.name}.json", (json.dumps(asdict(identity)) + "\n").encode())
