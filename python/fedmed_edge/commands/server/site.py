"""`fedmed-server site`: enrol hospitals, list them, refuse one."""

from dataclasses import asdict
from pathlib import Path

import click

from fedmed_edge.commands.folders import FILE, folder_option, read_server
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.signing import fingerprint, read_public_key


@click.group()
def command() -> None:
    """Enrol hospitals and list them.

    Example: fedmed-server site add -C server hospital-a --key hospital-a.pub
    """


@command.command(cls=Verb)
@folder_option("Server")
@click.argument("name")
@click.option("--key", type=FILE, required=True, help="The hospital's public key.")
@click.pass_obj
def add(out: Output, folder: Path, name: str, key: Path) -> None:
    """Enrol the hospital NAME by its public key.

    Example: fedmed-server site add -C server hospital-a --key hospital-a.pub
    """
    _, store = read_server(folder)
    public = read_public_key(key)
    store.add_site(name, public)
    out.answer({"site": name, "fingerprint": fingerprint(public)}, f"{name}: enrolled, {fingerprint(public)}")


@command.command("list", cls=Verb)
@folder_option("Server")
@click.pass_obj
def list_(out: Output, folder: Path) -> None:
    """List the enrolled hospitals.

    Example: fedmed-server site list -C server
    """
    _, store = read_server(folder)
    entries = store.sites()
    out.answer(
        {"sites": [asdict(entry) for entry in entries]},
        [
            f"{entry.name:<24} {entry.contributions:>4} contributions  {entry.fingerprint}"
            + ("  revoked" if entry.revoked else "")
            for entry in entries
        ]
        or "no site is enrolled yet; `fedmed-server site add NAME --key FILE` enrols one",
    )


@command.command(cls=Verb)
@folder_option("Server")
@click.argument("name")
@click.pass_obj
def revoke(out: Output, folder: Path, name: str) -> None:
    """Refuse what NAME contributes from now on; `withdraw` deletes what it contributed before.

    Example: fedmed-server site revoke -C server hospital-a
    """
    _, store = read_server(folder)
    store.revoke_site(name)
    held = store.site(name).contributions
    out.answer(
        {"site": name, "revoked": True, "contributions": held},
        f"{name}: revoked" + (f"; its {held} contributions stay until `withdraw`" if held else ""),
    )
