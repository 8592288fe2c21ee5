"""`fedmed-edge init`: a site folder with its settings and keys."""

import shutil
from pathlib import Path

import click

from fedmed_edge.commands.folders import FILE, FOLDER, make_key
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.config import SiteConfig, write_config
from fedmed_edge.errors import InputError
from fedmed_edge.recipe import parse_settings, read_recipe
from fedmed_edge.signing import fingerprint, read_public_key, write_public_key


@click.command(cls=Verb)
@click.argument("folder", type=FOLDER)
@click.option("--site", required=True, help="Name that the server's admin enrols this hospital under.")
@click.option("--data", type=FOLDER, help="Dataset folder (labels.csv and images).")
@click.option("--recipe", type=FILE, help="Recipe file of the task; copied into the folder.")
@click.option("--server-key", type=FILE, help="The server's public key; copied into the folder.")
@click.pass_obj
def command(
    out: Output, folder: Path, site: str, data: Path | None, recipe: Path | None, server_key: Path | None
) -> None:
    """Make FOLDER with fedmed.toml and a key pair; the private key never leaves it.

    Example: fedmed-edge init hospital-a --site hospital-a --data /data/lesions --recipe lesion.toml
    """
    if (folder / "fedmed.toml").exists():
        raise InputError(f"{folder / 'fedmed.toml'}: is there already", hint="choose another folder")
    if recipe:
        read_recipe(recipe)
    if server_key:
        read_public_key(server_key)
    values = {"site": site, "data": data.resolve() if data else Path("data")}
    config = parse_settings(SiteConfig, values | ({"server_key": "server.pub"} if server_key else {}), "init")
    folder.mkdir(parents=True, exist_ok=True)
    key = make_key(folder / config.key)
    write_public_key(folder / f"{site}.pub", key.public_key())
    for source, name in ((recipe, "recipe.toml"), (server_key, "server.pub")):
        if source:
            shutil.copyfile(source, folder / name)
    write_config(folder / "fedmed.toml", config)
    public = folder / f"{site}.pub"
    out.answer(
        {
            "folder": str(folder),
            "site": site,
            "public_key": str(public),
            "fingerprint": fingerprint(key.public_key()),
        },
        [
            f"{folder}: ready for site {site}",
            f"send {public} to the server's admin; its fingerprint is {fingerprint(key.public_key())}",
        ],
    )
