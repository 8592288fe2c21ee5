"""`fedmed-edge init` in folders that hold something, and on a full disk."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed_edge.config import SiteConfig, read_config
from fedmed_edge.recipe import read_recipe
from fedmed_edge.signing import generate_key, read_public_key, write_key, write_public_key

EDGE = "fedmed-edge"
RECIPE = 'name = "lesion"\nkind = "classification"\nclasses = ["benign", "malignant"]\n'
Listing = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "lesion.toml"
    path.write_text(RECIPE)
    return path


def refused(said: Any, message: str, hint: str = "choose another folder") -> None:
    assert (said.code, said.out) == (1, "") and f": {message}" in said.err, said.err
    assert f"\nhint: {hint}" in said.err


def test_images_and_recipe_may_come_later(kit: ModuleType, tmp_path: Path) -> None:
    folder, data = tmp_path / "a", tmp_path / "not" / "yet"
    said = kit.run(EDGE, "init", folder, "--site", "a", "--data", data, "--json")
    assert said.code == 0 and said.json["missing"] == [str(data), str(folder / "recipe.toml")]
    assert read_config(SiteConfig, folder, environment={}).data == data
    assert not data.exists()
    said = kit.run(EDGE, "init", tmp_path / "b", "--site", "b")
    assert f"{tmp_path / 'b' / 'data'}: not there yet; `fedmed-edge doctor -C {tmp_path / 'b'}`" in said.out


def test_what_is_there_already_is_taken_up(kit: ModuleType, recipe: Path, tmp_path: Path) -> None:
    folder, data = tmp_path / "a", tmp_path / "images"
    folder.mkdir()
    data.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    write_public_key(folder / "server.pub", generate_key().public_key())
    write_key(folder / "site.key", generate_key())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    said = kit.run(EDGE, "init", folder, "--site", "a", "--data", data, "--recipe", recipe)
    assert said.code == 0 and "ready for site a, with the site.key that was there" in said.out
    assert "not there yet" not in said.out
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert before.items() <= after.items()
    config = read_config(SiteConfig, folder, environment={})
    assert config.server_key == folder / "server.pub" and read_recipe(config.recipe).name == "lesion"
    assert "with the site.key" not in kit.run(EDGE, "init", tmp_path / "b", "--site", "b").out


def test_a_recipe_may_be_named_where_it_lies(kit: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    said = kit.run(EDGE, "init", tmp_path, "--site", "a", "--recipe", tmp_path / "recipe.toml")
    assert said.code == 0 and (tmp_path / "recipe.toml").read_text() == RECIPE


def test_nothing_is_written_over_and_nothing_else_is_made(
    kit: ModuleType, recipe: Path, tmp_path: Path, listing: Listing
) -> None:
    folder, key = tmp_path / "a", tmp_path / "server.pub"
    folder.mkdir()
    write_public_key(key, generate_key().public_key())
    write_public_key(folder / "server.pub", generate_key().public_key())
    given = (EDGE, "init", folder, "--site", "a")
    before = listing(tmp_path)
    message = f"is there already and differs from {key}"
    refused(kit.run(*given, "--server-key", key), message)
    (folder / "recipe.toml").write_text(RECIPE.replace("lesion", "other"))
    refused(kit.run(*given, "--recipe", recipe), f"is there already and differs from {recipe}")
    (folder / "recipe.toml").write_text(RECIPE + "sise = [32, 32]\n")
    refused(kit.run(*given), "unknown key `sise`", "did you mean `size`?")
    (folder / "recipe.toml").unlink()
    write_public_key(folder / "a.pub", generate_key().public_key())
    refused(kit.run(*given), "is there already without its private key")
    (folder / "a.pub").unlink()
    (folder / "site.key").write_text("x")
    said = kit.run(*given)
    assert said.code == 1 and "site.key: not a private key in PEM form" in said.err
    (folder / "site.key").unlink()
    assert listing(tmp_path) == before


@pytest.mark.parametrize("room", [50, 115, 125])
def test_on_a_full_disk_nothing_half_written_is_left(
    room: int, kit: ModuleType, recipe: Path, tmp_path: Path
) -> None:
    given = (EDGE, "init", tmp_path / "a", "--site", "a", "--recipe", recipe)
    said = kit.run_alone(*given, room=room)
    assert said.code == 1 and "cannot be written: File too large" in said.err and "hint: " in said.err
    assert not (tmp_path / "a" / "fedmed.toml").exists()
    left = {path.name for path in (tmp_path / "a").iterdir()}
    assert left <= {"site.key", "a.pub", "recipe.toml", "engine"}
    key = (tmp_path / "a" / "site.key").read_bytes() if "site.key" in left else None
    said = kit.run(*given)
    assert said.code == 0, said.err
    assert key in (None, (tmp_path / "a" / "site.key").read_bytes())
    assert (
        read_public_key(tmp_path / "a" / "a.pub") and (tmp_path / "a" / "recipe.toml").read_text() == RECIPE
    )
    assert not list(tmp_path.rglob(".part-*"))
