import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from fedmed_edge.errors import InputError, NothingMatched
from fedmed_edge.inference.inputs import find_inputs
from fedmed_edge.recipe import Recipe
from fedmed_edge.study.cohort import ABDOMEN, CHEST, write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), size="tiny")


def png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.zeros((4, 4), np.uint8)).save(path, "PNG")
    return path


def names(found):
    return [Path(one.name) for one in found.inputs]


def test_a_file_is_one_input_whatever_it_is(tmp_path):
    missing = tmp_path / "none.png"
    found = find_inputs([missing, missing], Recipe(name="t", kind="classification", classes=("a", "b")))
    ((name, error),) = found.refused
    assert not found.inputs and name == str(missing) and str(error) == f"{missing}: no such file"


def test_folder_of_pictures_by_content_and_in_order(tmp_path, recipe_of):
    b, a = png(tmp_path / "b.png"), png(tmp_path / "a.without_ending")
    deep = png(tmp_path / "sub" / "c.png")
    (tmp_path / "labels.csv").write_text("image,label")
    (tmp_path / "fake.png").write_text("no picture")
    png(tmp_path / ".hidden" / "d.png")
    png(tmp_path / ".e.png")
    assert names(find_inputs([tmp_path], recipe_of())) == [a, b, deep]
    assert names(find_inputs([tmp_path / "sub", tmp_path], recipe_of())) == [deep, a, b]


def test_series_folders_are_one_input_each_for_a_model_of_volumes(cohort, recipe_of):
    site = cohort[ABDOMEN] / "harbour"
    series = sorted((site / "series").iterdir())
    volumes = recipe_of("segmentation", (16, 16, 16))
    assert names(find_inputs([series[0]], volumes)) == [series[0]]
    assert names(find_inputs([site / "series"], volumes, every=True)) == series
    with_masks = names(find_inputs([site], volumes, every=True))
    assert set(series) < set(with_masks) and len(with_masks) == 2 * len(series)
    assert len(find_inputs([series[0]], recipe_of()).inputs) == len(list(series[0].iterdir()))


def test_slices_are_answered_in_order_of_their_names_pictures_among_them(cohort, recipe_of, tmp_path):
    series = min((cohort[ABDOMEN] / "harbour" / "series").iterdir())
    folder = shutil.copytree(series, tmp_path / "flat")
    slices = sorted(folder.iterdir())
    picture = png(slices[1].with_suffix(".png"))
    with find_inputs([folder], recipe_of()) as found:
        assert names(found) == sorted([*slices, picture])
        by_position = {frame.path: place for place, frame in enumerate(volume_of(folder, recipe_of).frames)}
    assert [by_position[path] for path in slices] != sorted(by_position.values()), "they lie in another order"


def volume_of(folder, recipe_of):
    (one,) = (
        one
        for one in find_inputs([folder], recipe_of("segmentation", (16, 16, 16)), every=True).inputs
        if one.series
    )
    return one.series


def test_folder_of_single_images_gives_one_input_each(cohort, recipe_of):
    images = cohort[CHEST] / "harbour" / "images"
    assert sorted(names(find_inputs([images], recipe_of()))) == sorted(images.iterdir())


def test_results_are_not_inputs_of_the_next_run(tmp_path, recipe_of):
    image, out = png(tmp_path / "a.png"), tmp_path / "out"
    mask = png(out / "a" / "mask.png")
    assert names(find_inputs([tmp_path], recipe_of(), skip=out)) == [image]
    assert names(find_inputs([out], recipe_of(), skip=out)) == [mask], "asked for by name"


def test_nothing_matched(tmp_path, caplog, recipe_of):
    with pytest.raises(NothingMatched, match="no image found among the inputs") as refused:
        find_inputs([tmp_path], recipe_of())
    assert refused.value.exit_code == 4
    assert "folder holds no image" in caplog.text


def test_what_is_named_like_an_image_in_a_folder_and_is_none_is_refused(tmp_path, recipe_of):
    image = png(tmp_path / "a.png")
    for name in ("cut.nii.gz", "empty.PNG", "note.dcm", "note.txt"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"note")
    with find_inputs([tmp_path], recipe_of()) as found:
        assert names(found) == [image]
        refused = {Path(name).name: str(error).removeprefix(f"{name}: ") for name, error in found.refused}
    none = "not a PNG, JPEG, NIfTI or DICOM file"
    assert refused == {"cut.nii.gz": none, "empty.PNG": "is empty", "note.dcm": none}


def test_empty_folder_beside_a_good_one_is_named(tmp_path, caplog, recipe_of):
    image = png(tmp_path / "good" / "a.png")
    (tmp_path / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        assert names(find_inputs([tmp_path / "empty", tmp_path / "good"], recipe_of())) == [image]
    assert f"{tmp_path / 'empty'}: folder holds no image" in caplog.text
    assert "good" not in caplog.text


def test_an_empty_zip_is_named_and_a_folder_of_copies_is_not(
    write_series, recipe_of, tmp_path, caplog, monkeypatch
):
    scan = write_series(np.zeros((4, 8, 8), np.uint16))
    shutil.copytree(scan, tmp_path / "copy")
    min(scan.iterdir()).unlink()
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    monkeypatch.chdir(tmp_path)
    paths = [Path(scan.name), Path("copy"), Path("empty.zip")]
    with (
        caplog.at_level(logging.WARNING),
        find_inputs(paths, recipe_of("segmentation", (16, 16, 16))) as found,
    ):
        assert [one.name for one in found.inputs] == ["."]
    assert caplog.messages == ["empty.zip: zip holds no image"]


def test_one_folder_of_many_series_gives_the_best_stack(scan, recipe_of):
    with find_inputs([scan], recipe_of("segmentation", (16, 16, 16), modality=("MR",))) as found:
        assert [one.name for one in found.inputs] == [f"{scan}#1", str(scan / "picture.png")]
        volume = found.inputs[0]
        (image,) = volume.images()
        assert image.shape == (5, 6, 4) and image.source == scan == volume.path
        assert dict(found.not_taken) == {
            str(scan / "loc.dcm"): "`localizer` has a localizer, expected an image; "
            "`place` has 1 slice, expected a stack of slices",
            f"{scan}#2": "another series of the study comes first: it has 4 slices, this one 3 slices",
        }
        ((name, error),) = found.refused
        assert name == str(scan / "cut.dcm") and str(error) == f"{scan / 'cut.dcm'}: is empty"


def test_a_model_of_2d_images_answers_every_instance(scan, recipe_of):
    found = find_inputs([scan], recipe_of(size=(16, 16)))
    dicom = [one for one in found.inputs if one.series is not None]
    assert len(dicom) == 7 and all(len(one.series.frames) == 1 for one in dicom)
    assert [image.shape for one in dicom for image in one.images()] == [(6, 5)] * 7


def test_the_frames_of_a_cine_are_one_input(write_dicom, recipe_of):
    frames = np.random.default_rng(0).integers(0, 255, (5, 6, 4)).astype(np.uint8)
    path = write_dicom("us.dcm", frames[0], Modality="US", NumberOfFrames=5, PixelData=frames.tobytes())
    (cine,) = find_inputs([path], recipe_of(size=(16, 16))).inputs
    assert cine.series.is_cine
    for frame, image in zip(frames, cine.images(), strict=True):
        np.testing.assert_array_equal(image.pixels[0], frame)


def test_series_can_be_asked_for_by_uid(scan, recipe_of):
    recipe = recipe_of("segmentation", (16, 16, 16), modality=("MR",))
    (one,) = find_inputs([scan], recipe, series="1.2").inputs
    assert one.series.series_uid == "1.2"
    every = find_inputs([scan], recipe, every=True).inputs
    assert len([one for one in every if one.series]) == 2
    (scan / "cut.dcm").unlink()
    with pytest.raises(NothingMatched, match=r"^series 1\.77: is not among the inputs$"):
        find_inputs([scan], recipe, series="1.77")
    recipe = recipe_of("segmentation", (16, 16, 16), modality=("CT",))
    with pytest.raises(NothingMatched, match=r"`modality` has MR, expected CT$"):
        find_inputs([scan], recipe, series="1.2")


def test_volumes_that_were_named_each_are_all_answered(write_series, write_dicom, recipe_of, tmp_path):
    write_series(np.zeros((4, 6, 5), np.int16))
    (tmp_path / "series").rename(tmp_path / "first")
    write_series(np.zeros((3, 6, 5), np.int16), SeriesInstanceUID="1.9")
    recipe = recipe_of("segmentation", (16, 16, 16))
    named = [tmp_path / "first", tmp_path / "series"]
    assert names(find_inputs(named, recipe)) == named
    assert names(find_inputs([tmp_path], recipe)) == named[:1]
    files = [path for folder in named for path in sorted(folder.iterdir())]
    assert names(find_inputs(files, recipe)) == named[:1], "a shell's *.dcm"


def test_nothing_that_fits_says_what_the_rules_found(scan, recipe_of):
    recipe = recipe_of("segmentation", (16, 16, 16), modality=("CT",))
    (scan / "picture.png").unlink()
    (scan / "cut.dcm").unlink()
    with pytest.raises(
        NothingMatched, match=r"series#1: `modality` has MR, expected CT \(and 2 more\)"
    ) as none:
        find_inputs([scan], recipe)
    assert none.value.exit_code == 4


def test_a_named_file_that_is_no_image_is_refused_and_a_found_one_passed_over(
    write_dicom, recipe_of, tmp_path
):
    seg = write_dicom("seg.dcm", np.zeros((4, 4), np.uint8), SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    note = tmp_path / "note.txt"
    note.write_text("none")
    found = find_inputs([seg, note], recipe_of())
    assert not found.inputs
    assert [str(error).partition(": ")[2] for _, error in found.refused] == [
        "not a PNG, JPEG, NIfTI or DICOM file",
        "file holds a segmentation, expected an image",
    ]
    with pytest.raises(NothingMatched, match=r"seg.dcm: holds a segmentation, no image"):
        find_inputs([tmp_path], recipe_of())


def test_a_zip_is_read_and_cleaned_up(scan, recipe_of, tmp_path):
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in scan.iterdir():
            archive.write(file, f"exam/{file.name}")
    recipe = recipe_of("segmentation", (16, 16, 16), modality=("MR",))
    with find_inputs([path], recipe) as found:
        assert [one.name for one in found.inputs] == [f"{path}/exam#1", f"{path}/exam/picture.png"]
        assert [image.shape for image in found.inputs[0].images()] == [(5, 6, 4)]
        assert str(dict(found.refused)[f"{path}/exam/cut.dcm"]) == f"{path}/exam/cut.dcm: is empty"
        unpacked = found.sources.unpacked
        for file in found.inputs[0].series.files:
            file.write_bytes(file.read_bytes()[:-200])
        with pytest.raises(InputError, match=rf"^{path}/exam/\d+-000.dcm: pixel data are missing, cut off"):
            list(found.inputs[0].images())
    assert not unpacked.exists()


def test_a_crooked_stack_fails_when_it_is_read_and_lenient_reads_it(write_series, recipe_of):
    positions = np.array([[0, 0, z] for z in (0.0, 1, 2, 4)])
    folder = write_series(np.zeros((4, 6, 5), np.int16), positions)
    (one,) = find_inputs([folder], recipe_of("segmentation", (16, 16, 16))).inputs
    with pytest.raises(InputError, match=r"slices 3 and 4 along the normal are 2.000 mm apart"):
        list(one.images())
    (image,) = one.images(lenient=True)
    assert image.shape == (5, 6, 5) and image.warnings[0].startswith("resampled: slices 3 and 4")
