"""Dataset and task folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Item, default_recipe, read_dataset, read_task
from fedmed_edge.recipe import Recipe

LABELS = default_recipe("lesion", "classification", ["benign", "malignant"])
MASKS = default_recipe("lesion", "segmentation", ["background", "lesion"])


def picture(path: Path, value: object = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.full((4, 6), value, np.uint8)).save(path)
    return path


def site(folder: Path, table: str, names: str = "abcd") -> Path:
    for name in names:
        picture(folder / f"{name}.png")
    (folder / "labels.csv").write_text(table, encoding="utf-8")
    return folder


def test_a_table_gives_items(tmp_path: Path) -> None:
    folder = site(tmp_path, "image,label,mask,patient,split\na.png,malignant,b.png,p,test\nc.png,,,,train\n")
    found = read_dataset(folder, LABELS)
    assert found.items == (
        Item(folder / "a.png", 1, None, "p", "test"),
        Item(folder / "c.png", None, None, "c.png", "train"),
    )
    assert [len(part) for part in (found, found.train, found.test)] == [2, 1, 1]
    assert list(found.subset([1, 0])) == [found.items[1], found.items[0]]
    assert list(found.labelled) == [found.items[0]] and found.labelled.recipe is found.recipe
    assert found.labelled.patients == {found.items[0].patient} < found.patients
    assert [found.classes_of(item) for item in found] == [(1,), ()]
    assert found.counts() == {"benign": 0, "malignant": 1}
    assert found.load(found.items[0]).shape == (4, 6)


def test_a_segmentation_takes_masks(tmp_path: Path) -> None:
    picture(tmp_path / "m.png", np.eye(4, 6))
    folder = site(tmp_path, "image,label,mask\na.png,benign,m.png\nb.png,malignant,\n")
    found = read_dataset(folder, MASKS)
    labelled, unlabelled = found
    assert list(found.labelled) == [labelled]
    assert (labelled.label, labelled.mask, unlabelled.mask) == (None, folder / "m.png", None)
    assert found.classes_of(labelled) == (0, 1)
    assert found.counts() == {"background": 1, "lesion": 1}
    np.testing.assert_array_equal(found.load_mask(labelled, found.load(labelled)), np.eye(4, 6))
    with pytest.raises(InputError, match=r"b.png: image has no mask"):
        found.load_mask(unlabelled, found.load(unlabelled))


def test_a_table_of_the_other_kind_of_task_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "m.png", np.eye(4, 6))
    for table, recipe, lacks in (
        ("image,label\na.png,benign\n", MASKS, "rows have a `label` and none a `mask`, which a segmentation"),
        ("image,mask\na.png,m.png\n", LABELS, "rows have a `mask` and none a `label`, which a class"),
    ):
        caplog.clear()
        folder = site(tmp_path, table)
        assert len(read_dataset(folder, recipe).labelled) == 0
        (line,) = caplog.messages
        assert line.startswith(f"warning: {folder / 'labels.csv'}: {lacks}")
    for table in ("image,label,mask\na.png,benign,m.png\nb.png,benign,\n", "image\na.png\n"):
        caplog.clear()
        read_dataset(site(tmp_path, table), MASKS)
        assert caplog.messages == []


def test_class_folders_give_items(tmp_path: Path) -> None:
    for name in ("benign/b.png", "benign/a.png", "malignant/.hidden.png", "malignant/c.png"):
        picture(tmp_path / name)
    (tmp_path / "benign" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    found = read_dataset(tmp_path, LABELS)
    assert [(item.image.name, item.label, item.patient) for item in found] == [
        ("a.png", 0, "benign/a.png"),
        ("b.png", 0, "benign/b.png"),
        ("c.png", 1, "malignant/c.png"),
    ]


def test_a_data_set_by_patient_and_without_labels(tmp_path: Path) -> None:
    table = "image,label,patient\na.png,benign,p\nb.png,benign,q\nc.png,malignant,p\n"
    found = read_dataset(site(tmp_path, table), LABELS)
    theirs, others = found.by_patient({"p"})
    assert [[item.image.name for item in side] for side in (theirs, others)] == [
        ["a.png", "c.png"],
        ["b.png"],
    ]
    bare = found.without_labels
    assert not len(bare.labelled) and [item.image for item in bare] == [item.image for item in found]


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        (
            "image,label\na.png,cyst\n",
            "row 2: label `cyst` is not in the recipe, expected one of benign, malignant",
            None,
        ),
        ("image,label\na.png,benin\n", "row 2: label `benin` is not in the recipe", "did you mean `benign`?"),
        ("image,label\na.png,benign\nz.png,benign\n", "row 3: image `z.png` does not exist", None),
        (
            "image,label\na.png,\nb.png,\n./a.png,\n",
            r"row 4 lists `./a.png` again, first in row 2",
            None,
        ),
        ("image,label\n,benign\n", "row 2 has no `image`", None),
        ("image,label\n../a.png,benign\n", "row 2: image `../a.png` lies outside the folder", None),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, table: str, message: str, hint: str | None) -> None:
    with pytest.raises(InputError, match=rf"labels.csv: {message}") as refusal:
        read_dataset(site(tmp_path, table), LABELS)
    assert hint == refusal.value.hint or hint is None


def test_a_mask_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 2: mask `m.png` does not exist"):
        read_dataset(site(tmp_path, "image,mask\na.png,m.png\n"), MASKS)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone: no such folder$"):
        read_dataset(tmp_path / "gone", LABELS)
    with pytest.raises(InputError, match=r"a.png: not a folder$"):
        read_dataset(picture(tmp_path / "a.png"), LABELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: folder is empty, expected labels.csv or one folder of"):
        read_dataset(tmp_path / "empty", LABELS)
    picture(tmp_path / "flat" / "a.png")
    message = r"flat: folder has neither labels.csv nor a folder of images, expected labels.csv or one folder"
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path / "flat", LABELS)
    picture(tmp_path / "classes" / "cyst" / "a.png")
    with pytest.raises(InputError, match=r"cyst: label `cyst` is not in the recipe"):
        read_dataset(tmp_path / "classes", LABELS)
    with pytest.raises(InputError, match=r"classes: folder has no labels.csv, which names the masks"):
        read_dataset(tmp_path / "classes", MASKS)


def test_a_class_without_a_patient_is_refused(tmp_path: Path) -> None:
    for name, label in (("one", "benign"), ("two", "malignant")):
        site(tmp_path / name, f"image,label\na.png,{label}\n")
    assert set(read_task(tmp_path, LABELS).sites) == {"one", "two"}
    (tmp_path / "two" / "labels.csv").write_text("image,label\na.png,benign\n")
    with pytest.raises(InputError, match=r"class `malignant` has no patient at any site, expected at least"):
        read_task(tmp_path, LABELS)


def test_sites_have_names_that_a_federation_can_spell(tmp_path: Path) -> None:
    """Keys and contributions take unaccented letters alone; a name that is so already stays as it is."""
    for name in ("Sankt Jörg", "Sankt-Jorg", "süd", "site", "北京", "上海"):
        site(tmp_path / name, "image,label\na.png,benign\nb.png,malignant\n")
    task = read_task(tmp_path)
    assert {name: folder.name for name, folder in task.sites.items()} == {
        "Sankt-Jorg": "Sankt-Jorg",
        "Sankt-Jorg-2": "Sankt Jörg",
        "site": "site",
        "site-2": "上海",
        "site-3": "北京",
        "sud": "süd",
    }
    assert [task.site_named(name) for name in ("süd", "sud", "nowhere")] == ["sud", "sud", "nowhere"]


def test_a_task_file_makes_the_recipe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "task.toml").write_text(
        'kind = "segmentation"\nclasses = ["background", "organ"]\nmodality = "CT"\ndimensions = 3\n'
        'spacing_mm = [1.5, 1.5, 3]\nsource = "made up"\n'
    )
    site(tmp_path / "north", "image,mask\na.png,\n")
    site(tmp_path / "south", "image,mask\na.png,\n")
    (tmp_path / "notes").mkdir()
    picture(tmp_path / "lost" / "images" / "a.png")
    task = read_task(tmp_path)
    assert list(task.sites) == ["north", "south"]
    assert task.skipped == {
        "notes": "has neither labels.csv nor one folder of images a class",
        "lost": "has folders of images but no labels.csv that lists them",
    }
    assert "lost is passed over: it has folders of images but no labels.csv" in caplog.text
    assert (task.recipe.dimensions, task.recipe.spacing_mm) == (3, (1.5, 1.5, 3.0))
    assert (task.recipe.modality, task.recipe.name) == (("CT",), task.name)


def test_a_task_is_read_off_its_sites(tmp_path: Path) -> None:
    root = tmp_path / "my task!"
    site(root / "north", "image,label\na.png,malignant\n")
    picture(root / "south" / "benign" / "a.png")
    colours = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    Pillow.fromarray(colours).save(root / "south" / "benign" / "0.png")
    task = read_task(root)
    assert (task.name, task.recipe.kind, task.recipe.classes) == (
        "my-task",
        "classification",
        ("benign", "malignant"),
    )
    assert (task.recipe.channels, task.recipe.modality, task.recipe.dimensions) == (3, (), 2)


def test_colour_after_grey_images_is_seen(tmp_path: Path) -> None:
    for index in range(20):
        picture(tmp_path / "north" / "benign" / f"{index:02}.png")
        picture(tmp_path / "south" / "malignant" / f"{index:02}.png")
    colours = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    for index in range(10, 20):
        Pillow.fromarray(colours).save(tmp_path / "south" / "malignant" / f"{index}.png")
    assert read_task(tmp_path).recipe.channels == 3


def test_a_segmentation_is_read_off_its_masks(tmp_path: Path) -> None:
    picture(tmp_path / "north" / "m.png", np.eye(4, 6) * 2)
    site(tmp_path / "north", "image,mask\na.png,m.png\n")
    task = read_task(tmp_path)
    assert (task.recipe.kind, task.recipe.classes) == ("segmentation", ("background", "class1", "class2"))


def test_task_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone: no such folder"):
        read_task(tmp_path / "gone")
    with pytest.raises(InputError, match=r"folder holds no dataset folder, expected one a site"):
        read_task(tmp_path)
    dataset = site(tmp_path / "north", "image,label\na.png,\n")
    with pytest.raises(InputError, match="folder holds no dataset folder") as refusal:
        read_task(dataset)
    assert "give the folder above" in str(refusal.value.hint)
    with pytest.raises(InputError, match=r"no labels.csv names a label or a mask"):
        read_task(tmp_path)
    (tmp_path / "task.toml").write_text('kind = "classification"\nclases = ["a", "b"]\n')
    with pytest.raises(InputError, match=r"task.toml: unknown key `clases`|`classes` is missing"):
        read_task(tmp_path)
    (tmp_path / "task.toml").write_text('kind = "classification"\nclasses = ["a", "b"]\nchanels = 1\n')
    with pytest.raises(InputError, match=r"task.toml: unknown key `chanels`") as refusal:
        read_task(tmp_path)
    assert refusal.value.hint == "did you mean `channels`?"


@pytest.mark.parametrize(
    ("kind", "channels", "dimensions", "wanted"),
    [
        ("classification", 1, 2, ("residual_encoder", (24, 48, 96, 192), (128, 128), "uniform", 512)),
        ("segmentation", 3, 2, ("unet", (16, 32, 64, 128), (128, 128), "dice", 512)),
        ("segmentation", 1, 3, ("unet", (8, 16, 32, 64), (48, 48, 48), "dice", 256)),
    ],
)
def test_defaults_follow_kind_and_channels(kind: str, channels: int, dimensions: int, wanted: object) -> None:
    recipe = default_recipe("x", kind, ["a", "b"], (), channels, dimensions)  # type: ignore[arg-type]
    backbone = recipe.backbone
    assert (backbone.network, backbone.widths, recipe.size, recipe.priors, recipe.lift.lift_dim) == wanted
    assert recipe.intensity.rule == ("range" if channels == 3 else "percentile")


def test_ct_is_clipped_to_hounsfield_units() -> None:
    recipe = default_recipe("x", "segmentation", ["a", "b"], ["CT"], 1, 3)
    assert (recipe.intensity.rule, recipe.intensity.low, recipe.intensity.high) == ("range", -1000, 1000)
    assert isinstance(recipe, Recipe)


def test_a_recipe_that_cannot_be_is_refused() -> None:
    with pytest.raises(
        InputError, match="recipe x: `classes` has a length of 1, expected a length of at least 2"
    ):
        default_recipe("x", "classification", ["only"])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("blood_cells", 742),
        ("body_part", 2400),
        ("breast_ultrasound", 300),
        ("chest_xray", 310),
        ("dermoscopy", 960),
        ("nuclei", 187),
        ("pneumonia", 5856),
        ("retinal_vessels", 28),
    ],
)
def test_real_tasks_are_read(shared_data: Path, name: str, images: int) -> None:
    task = read_task(shared_data / name)
    assert task.name == name and not task.skipped
    datasets = [read_dataset(folder, task.recipe) for folder in task.sites.values()]
    assert sum(len(dataset) for dataset in datasets) == images
    for dataset in datasets:
        assert len(dataset.train) + len(dataset.test) == len(dataset)
        image = dataset.load(dataset.items[0])
        assert image.channels in (1, 3)
        if task.recipe.kind == "segmentation":
            labelled = next(item for item in dataset if item.mask is not None)
            assert dataset.load_mask(labelled, dataset.load(labelled)).max() < 2


@pytest.mark.data
def test_a_folder_that_is_no_task_is_refused(shared_data: Path) -> None:
    with pytest.raises(InputError, match="volumes: folder holds no dataset folder"):
        read_task(shared_data / "volumes")
