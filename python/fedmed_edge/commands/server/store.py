"""`fedmed-server store`: encrypt the store's files, change their key, or make them plain."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed_edge.commands.folders import FILE, check_writable, folder_option, read_server_config
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.store.encryption import FileCipher


@click.group()
def command() -> None:
    """Encrypt the store's files, or make them plain again.

    Example: fedmed-server store encrypt -C server
    """


@command.command(cls=Verb)
@click.argument("file", type=FILE)
@click.pass_obj
def key(out: Output, file: Path) -> None:
    """Make a store key in FILE, which only its owner can read.

    Without it nobody can read the store again: keep a copy, elsewhere than the copies of the store.

    Example: fedmed-server store key /etc/fedmed/store.key
    """
    from fedmed_edge.store.encryption import make_store_key

    check_writable(file)
    made = make_store_key(file)
    out.answer(
        {"file": str(file), "key": made.id}, f"{file}: store key {made.id}; keep a copy of it elsewhere"
    )


@command.command(cls=Verb)
@folder_option("Server")
@click.option("--old-key", type=FILE, help="Key that files are under until now, where it is another.")
@click.pass_obj
def encrypt(out: Output, folder: Path, old_key: Path | None) -> None:
    """Bring every file of the store under the key that `store_key` names.

    May be stopped and run again. Stop `fedmed-server start` before: without the key nothing can be taken.

    Example: fedmed-server store encrypt -C server
    """
    from fedmed_edge.store.encryption import FileCipher, read_store_key

    config = read_server_config(folder)
    if config.store_key is None:
        raise InputError(
            f"{folder / 'fedmed.toml'}: has no `store_key`, expected the file of a store key",
            hint="`fedmed-server store key FILE` makes one; name it in fedmed.toml or as FEDMED_STORE_KEY",
        )
    older = [read_store_key(old_key)] if old_key else []
    _rewrite(out, folder, FileCipher(read_store_key(config.store_key), older))


@command.command(cls=Verb)
@folder_option("Server")
@click.pass_obj
def decrypt(out: Output, folder: Path) -> None:
    """Make every file of the store plain again; then take `store_key` out of fedmed.toml.

    Stop `fedmed-server start` before: what it takes meanwhile is encrypted again.

    Example: fedmed-server store decrypt -C server
    """
    from fedmed_edge.store.encryption import FileCipher, read_store_key

    config = read_server_config(folder)
    older = [read_store_key(config.store_key)] if config.store_key else []
    _rewrite(out, folder, FileCipher(None, older))


def _rewrite(out: Output, folder: Path, cipher: "FileCipher") -> None:
    from fedmed_edge.store.store import Store

    config = read_server_config(folder)
    store = Store.open(config.store, index=config.index, objects=config.objects, cipher=cipher)
    with out.progress("files", len(store.key_ids())) as advance:
        written = store.rewrite(advance)
    held = len(store.key_ids())
    state = f"encrypted with key {cipher.key.id}" if cipher.key else "plain"
    out.answer(
        {"files": held, "written": written, "key": cipher.key.id if cipher.key else None},
        f"{folder}: {counted(held, 'file is', 'files are')} {state}, {written} written anew",
    )
