"""What a hospital and a server send each other at enrolment, from the code that both run."""

from pathlib import Path

from fedmed_edge.federation.engine.enrolment import (
    make_tls_key,
    read_request,
    write_answer,
    write_request,
)
from fedmed_edge.federation.engine.kits import approve, ensure_server_kits
from fedmed_edge.signing import fingerprint, generate_key


def enrol(folder: Path) -> None:
    """Write a.request, its answer a.signed, the request's tls.key, and the fingerprint to be `trusted`."""
    key = generate_key()
    write_request(folder / "a.request", "alpha", generate_key(), make_tls_key(folder / "tls.key"))
    ensure_server_kits(folder / "server", "localhost", 8002)
    made = approve(
        folder / "server",
        read_request(folder / "a.request"),
        host="localhost",
        port=8002,
        server_key=key.public_key(),
        enrol=lambda name, signing: None,
    )
    write_answer(folder / "a.signed", made, key)
    (folder / "trusted").write_text(fingerprint(key.public_key()))
