"""Which sites may contribute, and with which key."""

from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, func, insert, select, update

from fedmed_edge.errors import InputError, StoreError, TrustError
from fedmed_edge.recipe import Name
from fedmed_edge.signing import PublicKey, fingerprint, parse_public_key, public_pem
from fedmed_edge.store import ledger
from fedmed_edge.store.entries import SiteEntry
from fedmed_edge.store.tables import contributions, now, sites


def enrol(connection: Connection, name: str, key: PublicKey) -> None:
    """Enrol a site, or enrol a revoked one anew; the same name and key again change nothing.

    Raises:
        StoreError: The name is none, or it or the key is enrolled otherwise.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise StoreError(
            f"site `{name[:64]}`: expected a name of 1 to 64 letters, digits, dots, dashes or underscores"
        ) from None
    values = {"public_key": public_pem(key), "fingerprint": fingerprint(key), "revoked": False}
    other = connection.scalar(select(sites.c.name).where(sites.c.fingerprint == values["fingerprint"]))
    if other is not None and other != name:
        raise StoreError(f"site `{name}`: its key is that of site `{other}`, expected a key of its own")
    row = connection.execute(select(sites).where(sites.c.name == name)).one_or_none()
    if row is None:
        connection.execute(insert(sites).values(name=name, enrolled=now(), **values))
    elif row.revoked:
        connection.execute(update(sites).where(sites.c.name == name).values(**values))
    elif row.fingerprint == values["fingerprint"]:
        return
    else:
        raise StoreError(
            f"site `{name}`: is enrolled with the key {row.fingerprint}, expected that one",
            hint="`fedmed-server site revoke` first, then add it with its new key",
        )
    ledger.append(connection, "enrolled", site=name, details={"fingerprint": values["fingerprint"]})


def revoke(connection: Connection, name: str) -> None:
    """Refuse the site's contributions from now on; what it contributed stays until it is withdrawn.

    Raises:
        StoreError: No such site.
    """
    if not require_site(connection, name).revoked:
        connection.execute(update(sites).where(sites.c.name == name).values(revoked=True))
        ledger.append(connection, "revoked", site=name)


def require_site(connection: Connection, name: str) -> Any:
    """Row of an enrolled site.

    Raises:
        StoreError: No such site; names those that are.
    """
    row = connection.execute(select(sites).where(sites.c.name == name)).one_or_none()
    if row is None:
        known = ", ".join(connection.scalars(select(sites.c.name).order_by(sites.c.name))) or "none"
        raise StoreError(f"store: no site `{name[:64]}`, enrolled are: {known}")
    return row


def entries(connection: Connection) -> list[SiteEntry]:
    """Every enrolled site, in order of name."""
    held = select(func.count()).where(contributions.c.site == sites.c.name).scalar_subquery()
    query = select(
        sites.c.name, sites.c.fingerprint, sites.c.enrolled, sites.c.revoked, held.label("contributions")
    ).order_by(sites.c.name)
    return [SiteEntry(**row) for row in connection.execute(query).mappings()]


def disagreements(connection: Connection) -> list[str]:
    """Sites that are not enrolled as the ledger tells: who writes to the index enrols whom they like."""
    told: dict[str, tuple[str | None, bool | None]] = {}
    for entry in ledger.entries(connection):
        if entry.kind == "started":  # tells of no keys
            told |= {name: (None, None) for name in entry.details.get("sites", ())}
        elif entry.kind == "enrolled":
            told[entry.site or ""] = entry.details.get("fingerprint"), False
        elif entry.kind == "revoked":
            told[entry.site or ""] = told.get(entry.site or "", (None, None))[0], True
    found = []
    for row in connection.execute(select(sites).order_by(sites.c.name)):
        key, revoked = told.get(row.name, ("", False))
        if key == "":
            found.append(f"site `{row.name}`: is enrolled, and the ledger tells of no enrolment")
        elif row.fingerprint != (key or row.fingerprint) or row.fingerprint != _fingerprint(row):
            found.append(f"site `{row.name}`: its key is another than the ledger tells")
        elif revoked is not None and row.revoked != revoked:
            found.append(
                f"site `{row.name}`: is {'' if row.revoked else 'not '}revoked, unlike the ledger tells"
            )
    return found


def _fingerprint(row: Any) -> str | None:
    """Of the very key that signatures are checked against."""
    try:
        return fingerprint(parse_public_key(row.public_key, "key"))
    except InputError:
        return None


def signing_key(connection: Connection, signer: str | None, site: str, where: str) -> PublicKey:
    """Key of the enrolled site that claims to have signed a contribution of `site`; `where` names the file.

    Raises:
        TrustError: Not signed, an unknown or revoked signer, or the key of another site.
    """
    if signer is None:
        raise TrustError(f"{where}: has no signature", hint="`fedmed-edge contribute` signs")
    row = connection.execute(select(sites).where(sites.c.fingerprint == signer)).one_or_none()
    if row is None:
        raise TrustError(
            f"{where}: unknown signer {signer}, no site is enrolled with it",
            hint="`fedmed-server site add NAME --key FILE` enrols one, once its fingerprint is confirmed",
        )
    if row.name != site:
        raise TrustError(f"{where}: `site` has {site}, expected {row.name}, which its key is enrolled under")
    if row.revoked:
        raise TrustError(f"{where}: site `{site}` was revoked")
    return parse_public_key(row.public_key, f"store: key of site `{site}`")
