"""Where verbs find a site's or server's settings: `-C DIR`, else the folder they run in."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedmed_edge.errors import InputError

if TYPE_CHECKING:
    from fedmed_edge.config import ServerConfig, SiteConfig
    from fedmed_edge.generation import Generation
    from fedmed_edge.images.dataset import Dataset
    from fedmed_edge.signing import PrivateKey
    from fedmed_edge.store.store import Store

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
ANY_PATH = click.Path(path_type=Path)


def folder_option(what: str) -> Callable[[Decorated], Decorated]:
    """`-C/--folder`: the folder that `init` made."""
    return click.option(
        "-C",
        "--folder",
        type=FOLDER,
        default=Path(),
        envvar="FEDMED_FOLDER",
        help=f"{what} folder, as `init` made it (default: this folder).",
    )


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
    from fedmed_edge.config import ServerConfig, read_config
    from fedmed_edge.store.store import Store

    _require_settings(folder, "fedmed-server init")
    config = read_config(ServerConfig, folder)
    return config, Store.open(config.store)


def read_site_data(config: "SiteConfig") -> "Dataset":
    """The site's data set, for the recipe of its settings."""
    from fedmed_edge.images.dataset import read_dataset
    from fedmed_edge.recipe import read_recipe

    return read_dataset(config.data, read_recipe(config.recipe))


def read_site_generation(config: "SiteConfig") -> "Generation":
    """The generation of the site's settings."""
    from fedmed_edge.generation import read_generation

    return read_generation(config.generation)


def _require_settings(folder: Path, command: str) -> None:
    if not (folder / "fedmed.toml").is_file():
        raise InputError(
            f"{folder}: has no fedmed.toml", hint=f"make the folder with `{command} DIR`, or name it with -C"
        )
