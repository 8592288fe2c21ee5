"""`fedmed-server init`: a server folder with its settings, key and store."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import FOLDER, make_key
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.config import ServerConfig, write_config
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.signing import fingerprint, write_public_key
from fedmed_edge.store.store import Store


@click.command(cls=Verb)
@click.argument("folder", type=FOLDER)
@click.pass_obj
def command(out: Output, folder: Path) -> None:
    """Make FOLDER with fedmed.toml, the key that models are signed with, and an empty store.

    Example: fedmed-server init server
    """
    if (folder / "fedmed.toml").exists():
        raise InputError(f"{folder / 'fedmed.toml'}: is there already", hint="choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    config = ServerConfig()
    key = make_key(folder / config.key)
    public = folder / "server.pub"
    write_public_key(public, key.public_key())
    store = folder / config.store
    try:
        Store.create(store)
    except StoreError:  # made already by an `init` that was cut off
        if not any(store.glob("*.sqlite")):
            raise
        Store.open(store)
    write_config(folder / "fedmed.toml", config)
    mark = fingerprint(key.public_key())
    out.answer(
        {"folder": str(folder), "public_key": str(public), "fingerprint": mark},
        [f"{folder}: ready", f"give {public} to the hospitals; its fingerprint is {mark}"],
    )
