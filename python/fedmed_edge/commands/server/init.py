"""`fedmed-server init`: a server folder with its settings, key and store."""

import importlib.util
from pathlib import Path
from typing import Any

import click

from fedmed_edge.commands.folders import FILE, FOLDER, make_key
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.config import ServerConfig, read_config, write_config
from fedmed_edge.errors import InputError
from fedmed_edge.recipe import parse_settings, read_toml
from fedmed_edge.signing import fingerprint, write_public_key
from fedmed_edge.store.encryption import FileCipher, make_store_key, read_store_key
from fedmed_edge.store.store import Store
from fedmed_edge.words import counted

PUBLIC_KEY = "server.pub"


@click.command(cls=Verb)
@click.argument("folder", type=FOLDER)
@click.option("--host", default="localhost", help="Name or address that hospitals reach this server under.")
@click.option("--port", default=8002, help="TCP port that they connect to.")
@click.option("--index", help="URL of a PostgreSQL database for the store's index; default a file.")
@click.option("--objects", help="fsspec URL (s3://bucket/name) for the store's files; default a folder.")
@click.option("--store-key", type=FILE, help="Encrypt the store's files with this key; made where none is.")
@click.pass_obj
def command(out: Output, /, folder: Path, host: str, port: int, **places: Any) -> None:
    """Make FOLDER with fedmed.toml, the key that models are signed with, and an empty store.

    With the extra `federation` also the authority and the kits that hospitals connect by; without it
    contributions and models travel as files.

    An `init` that was cut off is taken up where it stopped.

    Example: fedmed-server init server --host federation.example.org
    """
    if places["store_key"]:
        places["store_key"] = places["store_key"].absolute()
    config = parse_settings(ServerConfig, {"federation": {"host": host, "port": port}, **places}, "init")
    # where the environment names a place, every later verb looks there
    found = read_config(ServerConfig, None, flags=places)
    _refuse_used(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    key = make_key(folder / config.key)
    public = folder / PUBLIC_KEY
    write_public_key(public, key.public_key())
    store_folder, place = folder / config.store, {"index": found.index, "objects": found.objects}
    there = Store.exists(store_folder, **place)
    if found.store_key and not found.store_key.exists():
        if there:  # a new key would open nothing
            raise InputError(
                f"`store_key`: {found.store_key}: no such file, expected the key of the store that is there",
                hint="put the store's key back; where it has none leave out --store-key, and encrypt it "
                "afterwards by `fedmed-server store key` and `store encrypt`",
            )
        make_store_key(found.store_key)
    cipher = FileCipher(read_store_key(found.store_key) if found.store_key else None)
    store = (Store.open if there else Store.create)(store_folder, cipher=cipher, **place)
    connects = importlib.util.find_spec("nvflare") is not None
    if connects:
        from fedmed_edge.federation.engine.kits import ensure_server_kits

        ensure_server_kits(folder, host, port)
    write_config(folder / "fedmed.toml", config)
    mark = fingerprint(key.public_key())
    held = len(store.contribution_entries())
    out.answer(
        {"folder": str(folder), "public_key": str(public), "fingerprint": mark, "contributions": held}
        | {"connects": connects, "store_key": cipher.key.id if cipher.key else None},
        [
            f"{folder}: ready"
            + (f", with the store that was there: {counted(held, 'contribution')}" if there else ""),
            *_on_key(cipher),
            f"give {public} to the hospitals; its fingerprint is {mark}",
        ],
    )


def _on_key(cipher: FileCipher) -> list[str]:
    key = cipher.key
    return [f"store: encrypted with key {key.id} of {key.where}; keep a copy of it elsewhere"] if key else []


def _refuse_used(folder: Path, config: ServerConfig) -> None:
    """Refuse a folder that holds what no `init` of ours began."""
    settings = folder / "fedmed.toml"
    if settings.exists():
        whose = "of a hospital" if "site" in read_toml(settings) else "of a server"
        raise InputError(f"{settings}: is there already, {whose}", hint="choose another folder")
    if not folder.is_dir():
        return
    own = {PUBLIC_KEY, str(config.key), str(config.store), "engine", getattr(config.store_key, "name", "")}
    found = sorted(path.name for path in folder.iterdir())
    strange = [name for name in found if name not in own and name != "lost+found" and name[0] != "."]
    if strange:
        raise InputError(
            f"{folder}: holds `{strange[0]}`, expected a new or empty folder", hint="choose another folder"
        )
    if str(config.store) in found and str(config.key) not in found:
        raise InputError(
            f"{folder}: has a store and no {config.key}, which its models are signed with",
            hint=f"put the server's {config.key} back beside the store, or choose another folder",
        )
