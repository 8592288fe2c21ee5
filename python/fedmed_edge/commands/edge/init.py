"""`fedmed-edge init`: a site folder with its settings and keys."""

from pathlib import Path

import click

from fedmed_edge.atomic import write_atomic
from fedmed_edge.commands.folders import FILE, FOLDER, make_key
from fedmed_edge.commands.joining import install_answer, make_request
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.config import FILE_NAME, SiteConfig, write_config
from fedmed_edge.errors import InputError
from fedmed_edge.recipe import parse_settings, read_recipe
from fedmed_edge.signing import fingerprint, read_public_key, write_public_key

RECIPE, SERVER_KEY = "recipe.toml", "server.pub"


@click.command(cls=Verb)
@click.argument("folder", type=FOLDER)
@click.option(
    "--site", help="Name that the server's admin enrols this hospital under; needed without --install."
)
@click.option("--data", type=FOLDER, help="Dataset folder (labels.csv and images); it may come later.")
@click.option("--recipe", type=FILE, help="Recipe file of the task; copied into the folder.")
@click.option("--server-key", type=FILE, help="The server's public key; copied into the folder.")
@click.option("--install", "answer", type=FILE, help="The server's answer to this hospital's request.")
@click.option("--fingerprint", "told", help="Of the server's key, as its admin read it out; with --install.")
@click.pass_obj
def command(
    out: Output,
    folder: Path,
    site: str | None,
    data: Path | None,
    recipe: Path | None,
    server_key: Path | None,
    answer: Path | None,
    told: str | None,
) -> None:
    """Make FOLDER with fedmed.toml, two key pairs and a request; the private keys never leave it.

    A key, recipe or server key that lies there already is taken up, and nothing is written over. The request
    holds both public keys; with the server's answer to it, --install lets this hospital connect.

    Example: fedmed-edge init hospital-a --site hospital-a --data /data/lesions --recipe lesion.toml
    """
    if answer is not None:
        if site or data or recipe or server_key:
            raise click.UsageError("--install goes with --fingerprint alone")
        out.answer(*install_answer(folder, answer, told))
        return
    if site is None or told:
        raise click.UsageError("give --site NAME" if site is None else "--fingerprint goes with --install")
    if (folder / FILE_NAME).exists():
        raise InputError(f"{folder / FILE_NAME}: is there already", hint="choose another folder")
    copies = {RECIPE: recipe, SERVER_KEY: server_key}
    contents = {name: source.read_bytes() for name, source in _checked(folder, copies).items()}
    values = {"site": site, "data": data.resolve() if data else Path("data")}
    values |= {"server_key": Path(SERVER_KEY)} if SERVER_KEY in contents else {}
    config = parse_settings(SiteConfig, values, "init")
    private, public = folder / config.key, folder / f"{site}.pub"
    kept = private.exists()
    if public.exists() and not kept:
        raise InputError(f"{public}: is there already without its private key", hint="choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    key = make_key(private)
    write_public_key(public, key.public_key())
    request = make_request(folder, site, key)
    for name, content in contents.items():
        write_atomic(folder / name, content)
    # last: where an init is cut off, this file is missing and the same command goes on
    write_config(folder / FILE_NAME, config)
    mark = fingerprint(key.public_key())
    missing = [str(path) for path in (folder / config.data, folder / config.recipe) if not path.exists()]
    out.answer(
        {"folder": str(folder), "site": site, "public_key": str(public), "fingerprint": mark}
        | {"request": str(request), "missing": missing},
        [
            f"{folder}: ready for site {site}"
            + (f", with the {private.name} that was there" if kept else ""),
            f"send {request} to the server's admin; its fingerprint is {mark}",
            *(
                f"{path}: not there yet; `fedmed-edge doctor -C {folder}` tells when all is"
                for path in missing
            ),
        ],
    )


def _checked(folder: Path, copies: dict[str, Path | None]) -> dict[str, Path]:
    """Files to copy by their new name: those that were given, else those that are in the folder already."""
    found = {}
    for name, given in copies.items():
        there = folder / name
        source = given or (there if there.exists() else None)
        if source is None:
            continue
        _ = read_recipe(source) if name == RECIPE else read_public_key(source)
        if there.exists() and there.read_bytes() != source.read_bytes():
            raise InputError(
                f"{there}: is there already and differs from {source}", hint="choose another folder"
            )
        found[name] = source
    return found
