"""Where verbs find a site's or server's settings: `-C DIR`, else the folder they run in."""

import math
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from fedmed_edge.atomic import TEMPORARY
from fedmed_edge.errors import InputError

if TYPE_CHECKING:
    from fedmed_edge.config import ServerConfig, SiteConfig
    from fedmed_edge.generation import Generation
    from fedmed_edge.images.dataset import Dataset
    from fedmed_edge.signing import PrivateKey
    from fedmed_edge.store.store import Store

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# What cannot be read is told by who opens it, as what is missing is: neither is wrong usage.
FILE = click.Path(path_type=Path, dir_okay=False, readable=False)
FOLDER = click.Path(path_type=Path, file_okay=False, readable=False)
ANY_PATH = click.Path(path_type=Path, readable=False)

DEVICE = click.Choice(["auto", "cpu", "cuda", "tensorrt"])
TORCH_DEVICE = click.Choice(["auto", "cpu", "cuda"])


class Number(click.FloatRange):
    """A finite number within bounds; `click.FloatRange` takes nan, which no bound excludes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """What was given as a number; click says in its own words what is wrong with it."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def folder_option(what: Literal["Site", "Server"]) -> Callable[[Decorated], Decorated]:
    """`-C/--folder`, the folder that `init` made, and `--set`, which comes before its settings."""
    folder = click.option(
        "-C",
        "--folder",
        type=FOLDER,
        default=Path(),
        envvar="FEDMED_FOLDER",
        help=f"{what} folder, as `init` made it (default: this folder).",
    )
    setting = click.option(
        "--set",
        metavar="KEY=VALUE",
        multiple=True,
        expose_value=False,
        callback=partial(_set, what),
        help="A key of fedmed.toml, such as policy.min_cohort=20; repeatable.",
    )
    return lambda command: folder(setting(command))


def _set(what: str, _context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> None:
    """Into the environment, from where the processes that a verb starts have it too."""
    if not given:
        return
    from fedmed_edge.config import ServerConfig, SiteConfig, variables

    names = {
        ".".join(key): name for name, key in variables(SiteConfig if what == "Site" else ServerConfig).items()
    }
    for setting in given:
        key, _, value = setting.partition("=")
        if key not in names or not value:
            raise click.BadParameter(
                f"has {setting}, expected KEY=VALUE and a key of fedmed.toml, such as `{next(iter(names))}=…`"
            )
        os.environ[names[key]] = value


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written later, before minutes of work go into it.

    Raises:
        InputError: Its folder is missing or not writable, or it is a private key.
    """
    from fedmed_edge.kinds import file_kind

    if file_kind(path) == "private key":
        raise InputError(f"{path}: is a private key and is not written over", hint="choose another file")
    check_writable_folder(path.parent, path)


def check_writable_folder(folder: Path, wanted: Path | None = None) -> None:
    """Refuse a folder that files cannot be made in; `wanted` names what was to be written.

    Raises:
        InputError: As `check_writable`.
    """
    probe = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{wanted or folder}: cannot be written: {error.strerror}",
            hint=f"check that the folder {folder.absolute()} exists and is writable, or name another",
        ) from None


def make_key(path: Path) -> "PrivateKey":
    """A fresh private key; the one that is there already where an `init` was cut off."""
    from fedmed_edge.signing import generate_key, read_private_key, write_key

    if path.exists():
        return read_private_key(path)
    key = generate_key()
    write_key(path, key)
    return key


def read_site(folder: Path, **flags: Any) -> "SiteConfig":
    """Settings of the site in `folder`; flags that are None count as not given."""
    from fedmed_edge.config import SiteConfig, read_config

    _require_settings(folder, "fedmed-edge init")
    config = read_config(SiteConfig, folder, flags=flags)
    if config.threads:
        # where the kernels and the runtime look
        os.environ["FEDMED_THREADS"] = str(config.threads)
    return config


def read_server(folder: Path) -> "tuple[ServerConfig, Store]":
    """Settings and store of the server in `folder`."""
    from fedmed_edge.store.store import open_store

    config = read_server_config(folder)
    return config, open_store(config)


def read_server_config(folder: Path) -> "ServerConfig":
    """Settings of the server in `folder`."""
    from fedmed_edge.config import ServerConfig, read_config

    _require_settings(folder, "fedmed-server init")
    return read_config(ServerConfig, folder)


def read_site_data(config: "SiteConfig") -> "Dataset":
    """The site's data set, for the recipe of its settings."""
    from fedmed_edge.images.dataset import read_dataset
    from fedmed_edge.recipe import read_recipe

    return read_dataset(config.data, read_recipe(config.recipe))


def read_site_generation(config: "SiteConfig") -> "Generation":
    """The generation of the site's settings, signed by the server that the site trusts."""
    from fedmed_edge.generation import parse_generation
    from fedmed_edge.kinds import mistaken
    from fedmed_edge.signing import verify_trusted

    if said := mistaken(config.generation, "generation"):  # which has no signature, or another one
        raise InputError(f"{config.generation}: {said}")
    return parse_generation(verify_trusted(config.generation, config.server_key), str(config.generation))


def _require_settings(folder: Path, command: str) -> None:
    if not (folder / "fedmed.toml").is_file():
        raise InputError(
            f"{folder}: has no fedmed.toml", hint=f"make the folder with `{command} DIR`, or name it with -C"
        )
    from fedmed_edge.recipe import read_toml

    keys, program = set(read_toml(folder / "fedmed.toml")), command.split()[0]
    if "site" in keys and program == "fedmed-server":
        raise InputError(
            f"{folder}: is the folder of a hospital, expected a server's",
            hint="name the server's folder with -C; `fedmed-edge doctor` tells about a hospital's",
        )
    if "store" in keys and "site" not in keys and program == "fedmed-edge":
        raise InputError(
            f"{folder}: is the folder of a server, expected a hospital's",
            hint="name the hospital's folder with -C; `fedmed-server status` tells about a server's",
        )
