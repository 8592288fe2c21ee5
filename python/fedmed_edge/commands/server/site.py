"""`fedmed-server site`: enrol hospitals, list them, refuse one."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmed_edge.commands.folders import FILE, check_writable, folder_option, read_server
from fedmed_edge.commands.server.holding_back import hold, release
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.federation.engine.identities import identities_of
from fedmed_edge.signing import fingerprint, read_private_key, read_public_key
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.config import ServerConfig


@click.group()
def command() -> None:
    """Enrol hospitals and list them; hold one back.

    Example: fedmed-server site add -C server hospital-a --request hospital-a.request
    """


command.add_command(hold)
command.add_command(release)


@command.command(cls=Verb)
@folder_option("Server")
@click.argument("name")
@click.option("--request", type=FILE, help="The hospital's request: it will connect.")
@click.option("--key", type=FILE, help="The hospital's public key: its contributions come as files.")
@click.option("--fingerprint", "told", help="Of the hospital's key, as it read it out; another is refused.")
@click.option("--out", "answer", type=FILE, help="Answer to a request (default: NAME.signed).")
@click.pass_obj
def add(
    out: Output,
    folder: Path,
    name: str,
    request: Path | None,
    key: Path | None,
    told: str | None,
    answer: Path | None,
) -> None:
    """Enrol the hospital NAME, by its request or by its public key alone.

    The answer to a request is a file for the hospital; there is no secret in it.

    Example: fedmed-server site add -C server hospital-a --request hospital-a.request
    """
    if (request is None) == (key is None) or (answer and key):
        raise click.UsageError("give either --request FILE, which --out goes with, or --key FILE")
    config, store = read_server(folder)
    if key is not None:
        public = read_public_key(key)
        _refuse_own(key, fingerprint(public), config)
        _compare(told, fingerprint(public))
        store.add_site(name, public)
        result: dict[str, Any] = {"site": name, "fingerprint": fingerprint(public)}
        lines: list[str] = []
    else:
        assert request is not None
        result, lines = _approve(folder, config, store, name, request, told, answer or Path(f"{name}.signed"))
    out.answer(result, [f"{name}: enrolled, {result['fingerprint']}", *lines])


def _approve(
    folder: Path,
    config: "ServerConfig",
    store: Any,
    name: str,
    path: Path,
    told: str | None,
    answer: Path,
) -> tuple[dict[str, Any], list[str]]:
    from fedmed_edge.federation.engine.enrolment import read_request, write_answer
    from fedmed_edge.federation.engine.kits import approve, ensure_server_kits

    request, key, rules = read_request(path), read_private_key(config.key), config.federation
    mark = fingerprint(request.signing_key)
    if request.site != name:
        raise InputError(
            f"{path}: `site` has {request.site[:64]}, expected {name}",
            hint="enrol the hospital under the name in its request, or ask it for one with the right name",
        )
    _refuse_own(path, mark, config)
    _compare(told, mark)
    check_writable(answer)
    ensure_server_kits(folder, rules.host, rules.port)
    made = approve(
        folder,
        request,
        host=rules.host,
        port=rules.port,
        server_key=key.public_key(),
        enrol=store.add_site,
    )
    write_answer(answer, made, key)
    return (
        {"site": name, "fingerprint": mark, "answer": str(answer), "certificate": made.name},
        [
            "compare the fingerprint with what the hospital reads out, by another way than the file came",
            f"send {answer} back; the hospital runs `fedmed-edge init FOLDER --install {answer.name} "
            f"--fingerprint {fingerprint(key.public_key())}`: read this server's fingerprint out to it too",
        ],
    )


def _refuse_own(path: Path, mark: str, config: "ServerConfig") -> None:
    if mark == fingerprint(read_private_key(config.key).public_key()):
        raise InputError(
            f"{path}: is this server's own key, expected the hospital's",
            hint="`fedmed-edge init` makes a hospital's key pair; its public key is NAME.pub there",
        )


def _compare(told: str | None, found: str) -> None:
    if told is not None and told != found:
        raise TrustError(f"site: `fingerprint` has {found}, expected {told}", hint="ask the hospital again")


@command.command("list", cls=Verb)
@folder_option("Server")
@click.pass_obj
def list_(out: Output, folder: Path) -> None:
    """List the enrolled hospitals.

    Example: fedmed-server site list -C server
    """
    _, store = read_server(folder)
    entries, identities = store.sites(), identities_of(folder)
    until = {entry.name: [one.expires for one in identities.of(entry.name)] for entry in entries}
    rows = [{**asdict(entry), "certificate_until": next(iter(until[entry.name]), None)} for entry in entries]
    out.answer(
        {"sites": rows},
        [
            f"{entry.name:<24} {counted(entry.contributions, 'contribution'):>18}  {entry.fingerprint}"
            + "".join(f"  connects, certificate until {day}" for day in until[entry.name])
            + ("  revoked" if entry.revoked else "")
            for entry in entries
        ]
        or "no site is enrolled yet; `fedmed-server site add NAME --request FILE` enrols one",
    )


@command.command(cls=Verb)
@folder_option("Server")
@click.argument("name")
@click.pass_obj
def revoke(out: Output, folder: Path, name: str) -> None:
    """Refuse what NAME contributes and its connection from now on; `withdraw` deletes what is there of it.

    Example: fedmed-server site revoke -C server hospital-a
    """
    _, store = read_server(folder)
    store.revoke_site(name)
    certificates = identities_of(folder).revoke(name)
    held = store.site(name).contributions
    stays = counted(held, "contribution stays", "contributions stay")
    out.answer(
        {"site": name, "revoked": True, "contributions": held, "certificates": certificates},
        f"{name}: revoked" + (f"; its {stays} until `withdraw`" if held else ""),
    )
