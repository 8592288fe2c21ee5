import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from PIL import Image as Raster

from fedmed_edge.errors import InputError
from fedmed_edge.features.publish import draft_generation
from fedmed_edge.images.image import read_image
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.recipe import Intensity, Recipe
from fedmed_edge.universal import pool as room
from fedmed_edge.universal.pool import pool_recipe, read_pool
from fedmed_edge.universal.standardise import standardise


def test_images_are_prepared_as_those_of_a_task(make: SimpleNamespace, tmp_path: Path) -> None:
    folder, recipe = make.draw(tmp_path / "pool", 9), pool_recipe([make.recipe])
    told: list[str] = []
    pool = read_pool(folder, recipe, progress=told.append)
    assert len(pool) == len(told) == 9 and pool.refused == ()
    for index, path in enumerate(pool.paths):
        np.testing.assert_array_equal(pool.pixels(index), prepare(read_image(path), make.recipe).pixels)


def test_grey_is_repeated_where_the_encoder_takes_colour(make: SimpleNamespace, tmp_path: Path) -> None:
    make.draw(tmp_path / "pool" / "grey", 5)
    make.draw(tmp_path / "pool" / "colour", 5, seed=1, colour=True)
    wide = pool_recipe([make.recipe.model_copy(update={"channels": 3})])
    pool = read_pool(tmp_path / "pool", wide)
    assert {pool.pixels(index).shape for index in range(10)} == {(3, 32, 32)}
    grey = [np.ptp(pool.pixels(index), axis=0).max() == 0 for index in range(10)]
    assert sum(grey) == 5
    with pytest.raises(InputError, match="pool has 5 images that can be used, expected at least 8"):
        read_pool(tmp_path / "pool", pool_recipe([make.recipe]))


def test_what_cannot_be_used_is_listed_and_counted(make: SimpleNamespace, tmp_path: Path) -> None:
    folder = make.draw(tmp_path / "pool", 9)
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("from the archive\n")
    (folder / "named.dcm").write_text("no image\n")
    shutil.copy(folder / "1.png", folder / "again.png")
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)), folder / "volume.nii.gz")
    pool = read_pool(folder, pool_recipe([make.recipe]))
    assert len(pool) == 9 and pool.copies == 1 and pool.passed_over == 1
    reasons = {Path(name).name: reason for name, reason in pool.refused}
    assert set(reasons) == {"cut.png", "named.dcm", "volume.nii.gz"}
    assert "image has 3 dimensions, expected 2" in reasons["volume.nii.gz"]


def test_an_image_that_changes_after_the_pool_was_read_is_refused(
    make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "CACHE_BYTES", 0)
    pool = read_pool(make.draw(tmp_path / "pool", 9), pool_recipe([make.recipe]))
    pool.refuse_changed(9)
    shutil.copy(pool.paths[1], pool.paths[3])
    pool.pixels(1)
    pool.refuse_changed(3)
    for look in (lambda: pool.pixels(3), lambda: pool.refuse_changed(4)):
        with pytest.raises(InputError, match=f"{pool.paths[3].name}: changed since the pool was read"):
            look()
    draft = draft_generation(make.recipe, make.local_model("a", 1).weights)
    with pytest.raises(InputError, match="changed since the pool was read"):
        standardise(draft, pool, [make.recipe], device="cpu")


def test_names_and_folders_change_nothing(make: SimpleNamespace, tmp_path: Path) -> None:
    one, other = make.draw(tmp_path / "one", 9), tmp_path / "other" / "deep"
    other.mkdir(parents=True)
    for path in one.iterdir():
        shutil.copy(path, other / f"x{path.name}")
    recipe = pool_recipe([make.recipe])
    first, second = read_pool(one, recipe), read_pool(tmp_path / "other", recipe)
    assert first.digest == second.digest
    assert [path.name for path in second.paths] == [f"x{path.name}" for path in first.paths]
    (one / "0.png").unlink()
    assert read_pool(one, recipe).digest != first.digest


@pytest.mark.parametrize("depth", ["dataset", "task", "tasks"])
def test_of_a_table_the_images_are_taken_and_the_masks_are_not(
    make: SimpleNamespace, tmp_path: Path, depth: str
) -> None:
    inner = {"dataset": ".", "task": "site", "tasks": "task/site"}[depth]
    folder = make.draw(tmp_path / "pool" / inner / "images", 10).parent
    mask = Raster.fromarray(np.zeros((40, 44), np.uint8))
    lines = ["image,label,mask,patient,split"]
    for index in range(9):
        mask.putpixel((index, 0), 1)
        mask.save(folder / f"mask{index}.png")
        lines.append(f"images/{index}.png,,mask{index}.png,p{index},train")
    lines.append("images/gone.png,,,p9,train")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    pool = read_pool(tmp_path / "pool", pool_recipe([make.recipe]))
    assert sorted(path.name for path in pool.paths) == [f"{index}.png" for index in range(9)]
    assert pool.passed_over == 9 + 1 + 1  # masks, an image that is not listed, the table
    assert [Path(name).name for name, _ in pool.refused] == ["gone.png"]


def test_volumes_are_files_or_folders_of_slices(make: SimpleNamespace, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(8):
        voxels = random.normal(size=(12, 12, 10)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{index}.nii.gz")
    fields = {"size": (8, 8, 8), "spacing_mm": (1.0, 1.0, 1.0), "intensity": Intensity()}
    pool = read_pool(tmp_path, pool_recipe([Recipe(**{**make.recipe.model_dump(), **fields})]))
    assert pool.pixels(0).shape == (1, 12, 12, 10)


def test_no_pool_is_refused(make: SimpleNamespace, tmp_path: Path) -> None:
    recipe = pool_recipe([make.recipe])
    with pytest.raises(InputError, match="gone: no such folder"):
        read_pool(tmp_path / "gone", recipe)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: not a folder"):
        read_pool(tmp_path / "file", recipe)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="pool has 0 images that can be used, expected at least 8") as told:
        read_pool(tmp_path / "empty", recipe)
    assert "of no patient of a site" in (told.value.hint or "")
    few = make.draw(tmp_path / "few", 7)
    (few / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"pool has 7 images .*; .*cut\.png: "):
        read_pool(few, recipe)
    broken = make.draw(tmp_path / "broken", 9)
    (broken / "labels.csv").write_text("picture,label\n0.png,a\n")
    with pytest.raises(InputError, match=r"labels\.csv"):
        read_pool(broken, recipe)


def test_beyond_the_cache_images_are_read_again(
    make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, recipe = make.draw(tmp_path / "pool", 9), pool_recipe([make.recipe])
    whole = read_pool(folder, recipe)
    monkeypatch.setattr(room, "CACHE_BYTES", 3 * 4 * 32 * 32)
    part = read_pool(folder, recipe)
    assert len(part._kept) == 3
    for index in range(9):
        np.testing.assert_array_equal(part.pixels(index), whole.pixels(index))
    assert len(part._kept) == 3
    missing = next(index for index in range(9) if index not in part._kept)
    part.paths[missing].write_bytes(b"changed")
    with pytest.raises(InputError, match=r"\.png"):
        part.pixels(missing)


def test_tasks_of_one_encoder_agree_on_its_input(make: SimpleNamespace) -> None:
    one = make.recipe.model_copy(update={"modality": ("DX",)})
    other = one.model_copy(
        update={"name": "other", "intensity": Intensity(rule="zscore"), "kind": "segmentation"}
    )
    made = pool_recipe([one, other])
    assert made.modality == () and made.intensity == Intensity() and made.size == (32, 32)
    assert pool_recipe([one]).intensity == one.intensity
    wide = other.model_copy(update={"size": (64, 64)})
    with pytest.raises(
        InputError, match=r"`size` of task other has \(64, 64\), expected \(32, 32\) as task shapes"
    ):
        pool_recipe([one, wide])
