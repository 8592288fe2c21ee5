"""How a hospital comes to connect: its request, and the server's answer to it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed_edge.atomic import write_atomic
from fedmed_edge.commands.folders import read_site
from fedmed_edge.config import FILE_NAME
from fedmed_edge.errors import InputError
from fedmed_edge.signing import fingerprint, public_pem, read_public_key

if TYPE_CHECKING:
    from fedmed_edge.signing import PrivateKey


def make_request(folder: Path, site: str, key: "PrivateKey") -> Path:
    """Make the key pair of TLS, and the request that holds both public keys; its path."""
    from fedmed_edge.federation.engine.enrolment import make_tls_key, write_request
    from fedmed_edge.federation.engine.site_kit import TLS_KEY

    (folder / TLS_KEY).parent.mkdir(parents=True, exist_ok=True)
    path = folder / f"{site}.request"
    write_request(path, site, key, make_tls_key(folder / TLS_KEY))
    return path


def install_answer(folder: Path, path: Path, told: str | None) -> tuple[dict[str, Any], list[str]]:
    """Check the server's answer and install the kit that it makes; what to tell of it.

    Raises:
        InputError: Nobody said which server to trust, or the answer is for another site.
        TrustError: The answer is not by the trusted server, or for another key.
    """
    from fedmed_edge.federation.engine.certificates import expiry
    from fedmed_edge.federation.engine.enrolment import make_tls_key, read_answer
    from fedmed_edge.federation.engine.site_kit import TLS_KEY, install

    config = read_site(folder)
    known = None if config.server_key is None else fingerprint(read_public_key(config.server_key))
    trusted = told or known
    if trusted is None:
        raise InputError(
            f"{path}: nothing to check its signature against",
            hint="--fingerprint SHA256:…, as the server's admin reads it out",
        )
    if known not in (None, trusted):
        raise InputError(
            f"{config.server_key}: has {known}, expected {trusted}", hint="which one is the server's?"
        )
    answer = read_answer(path, trusted, make_tls_key(folder / TLS_KEY))
    if answer.site != config.site:
        raise InputError(f"{path}: `site` has {answer.site}, expected {config.site}")
    if config.server_key is None:
        write_atomic(folder / "server.pub", public_pem(answer.server_key))
        _name_server_key(folder / FILE_NAME)
    install(folder, answer)
    until = expiry(answer.certificate).date().isoformat()
    return (
        {"folder": str(folder), "site": answer.site, "server": f"{answer.host}:{answer.port}"}
        | {"fingerprint": trusted, "certificate_until": until},
        [
            f"{folder}: site {answer.site} may connect until {until}, when its certificate runs out",
            f"let this machine reach {answer.host}, TCP port {answer.port}, outbound alone; "
            f"`fedmed-edge doctor -C {folder}` checks it",
            f"then `fedmed-edge agent -C {folder}` stays connected",
        ],
    )


def _name_server_key(settings: Path) -> None:
    """Name the key in fedmed.toml, behind the site's name; comments and all else stay as they are."""
    lines = settings.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.lstrip().startswith("site"))
    lines.insert(place + 1, 'server_key = "server.pub"')
    write_atomic(settings, ("\n".join(lines) + "\n").encode())
