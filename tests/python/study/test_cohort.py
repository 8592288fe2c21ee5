import csv
import hashlib
import shutil
import subprocess
import time
import tomllib

import nibabel
import numpy as np
import pydicom
import pytest

from fedmed_edge.images.dataset import read_dataset, read_task
from fedmed_edge.study import cohort
from fedmed_edge.study.phantoms import FINDINGS, ORGANS, blur, radiograph


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return cohort.write_cohort(tmp_path_factory.mktemp("cohort"), size="tiny")


def rows_of(folder):
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def slices_of(folder):
    return sorted((pydicom.dcmread(p) for p in folder.iterdir()), key=lambda d: d.ImagePositionPatient[2])


def test_both_tasks_have_four_sites_in_the_dataset_form(tasks):
    assert list(tasks) == ["chest_findings", "abdomen_ct"]
    for folder, kind, modality in (
        (tasks["chest_findings"], "classification", "DX"),
        (tasks["abdomen_ct"], "segmentation", "CT"),
    ):
        task = tomllib.loads((folder / "task.toml").read_text())
        assert (task["kind"], task["modality"], task["channels"]) == (kind, modality, 1)
        assert task["classes"] == list(FINDINGS if kind == "classification" else ORGANS)
        sites = sorted(p.name for p in folder.iterdir() if p.is_dir())
        assert sites == list(cohort.SITES) and sites[-1] == "westfield"


def test_patients_stay_on_one_side_and_some_have_two_images(tasks):
    for site in cohort.SITES:
        rows = rows_of(tasks["chest_findings"] / site)
        assert [r["split"] for r in rows].count("train") == cohort.SIZES["tiny"].train_images
        assert [r["split"] for r in rows].count("test") == cohort.SIZES["tiny"].test_images
        train = {r["patient"] for r in rows if r["split"] == "train"}
        test = {r["patient"] for r in rows if r["split"] == "test"}
        assert not train & test
        assert len(train) + len(test) < len(rows)
        for split in ("train", "test"):
            assert {r["label"] for r in rows if r["split"] == split} == set(FINDINGS)


def test_identifiers_are_legal_unique_and_from_the_seed(tasks):
    seen = []
    for folder in tasks.values():
        for path in folder.rglob("*.dcm"):
            data = pydicom.dcmread(path, stop_before_pixels=True)
            for uid in (data.SOPInstanceUID, data.SeriesInstanceUID, data.StudyInstanceUID):
                assert uid.is_valid and uid.startswith("2.25.") and len(uid) <= 64
            seen.append(data.SOPInstanceUID)
    assert len(set(seen)) == len(seen)


def test_one_site_stores_monochrome1_and_one_inverts_without_saying_so(tasks):
    corner, photometric = {}, {}
    for site in cohort.SITES:
        folder = tasks["chest_findings"] / site
        data = pydicom.dcmread(folder / rows_of(folder)[0]["image"])
        top = 2**data.BitsStored - 1
        stored = data.pixel_array / top
        photometric[site] = data.PhotometricInterpretation
        shown = 1 - stored if photometric[site] == "MONOCHROME1" else stored
        corner[site] = float(shown[:3, :3].mean() - shown[shown.shape[0] // 2, shown.shape[1] // 2])
    assert [s for s in cohort.SITES if photometric[s] == "MONOCHROME1"] == ["lakeside"]
    assert [s for s in cohort.SITES if corner[s] > 0] == ["westfield"], "air is dark, but at one site"


def test_series_is_regular_and_its_mask_lies_on_it(tasks):
    means = {}
    for site in cohort.SITES:
        folder = tasks["abdomen_ct"] / site
        row = rows_of(folder)[0]
        slices = slices_of(folder / row["image"])
        scanner = cohort.TOMOGRAPHY[site]
        heights = np.array([float(d.ImagePositionPatient[2]) for d in slices])
        assert np.allclose(np.diff(heights), scanner.slice_mm, atol=1e-3)
        volume = np.stack(
            [d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices], -1
        )
        mask = nibabel.load(folder / row["mask"])
        labels = np.asarray(mask.dataobj)
        assert labels.shape == (scanner.columns, scanner.rows, len(slices))
        first = slices[0]
        assert np.allclose(
            mask.affine[:3, 3],
            np.array([-1, -1, 1]) * [float(mm) for mm in first.ImagePositionPatient],
            atol=1e-3,
        )
        turn = float(first.ImageOrientationPatient[0])
        assert np.allclose(np.diag(mask.affine)[:2], -turn * scanner.spacing_mm)
        assert set(np.unique(labels)) == {0, 1, 2}
        by_class = [volume[labels.transpose(1, 0, 2) == k].mean() for k in range(3)]
        means[site] = by_class[2] - by_class[1]
        assert abs(by_class[1] - scanner.organ_hu) < 15, "Hounsfield units at every scanner"
    assert means["westfield"] > 20 and all(means[s] < -15 for s in cohort.SITES if s != "westfield")


def test_scanners_store_differently(tasks):
    headers = {}
    for site in cohort.SITES:
        path = next((tasks["abdomen_ct"] / site / "series" / "p000").iterdir())
        headers[site] = pydicom.dcmread(path, stop_before_pixels=True)
    assert len({(float(d.RescaleSlope), float(d.RescaleIntercept)) for d in headers.values()}) >= 3
    assert {d.PixelRepresentation for d in headers.values()} == {0, 1}
    assert headers["northgate"].PixelPaddingValue == -2000
    assert len({d.SliceThickness for d in headers.values()}) >= 3


def test_file_names_do_not_give_the_order(tasks):
    folder = tasks["abdomen_ct"] / "harbour" / "series" / "p000"
    by_name = [float(pydicom.dcmread(p).ImagePositionPatient[2]) for p in sorted(folder.iterdir())]
    assert by_name != sorted(by_name) and by_name != sorted(by_name, reverse=True)


def test_same_seed_same_bytes(tasks, tmp_path):
    def digest(folder):
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return [(str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]

    root = tasks["chest_findings"].parent
    cohort.write_cohort(tmp_path / "again", size="tiny")
    cohort.write_cohort(tmp_path / "other", seed=1, size="tiny")
    assert digest(tmp_path / "again") == digest(root)
    assert digest(tmp_path / "other") != digest(root)


def test_grey_levels_do_not_tell_the_class():
    """Total brightness of the findings must not depend on the class."""
    means = {}
    for label in range(len(FINDINGS)):
        drawn = [radiograph(label, 48, np.random.default_rng((7, n))).mean() for n in range(60)]
        means[label] = np.mean(drawn), np.std(drawn)
    spread = max(m for m, _ in means.values()) - min(m for m, _ in means.values())
    assert spread < 0.25 * min(s for _, s in means.values())


def test_blur_keeps_the_sum_and_matches_scipy():
    from scipy.ndimage import gaussian_filter

    image = np.random.default_rng(0).random((16, 20))
    assert np.allclose(blur(image, 1.5), gaussian_filter(image, 1.5, mode="wrap", truncate=8), atol=2e-3)


@pytest.mark.slow
def test_small_cohort_is_written_in_time(tmp_path):
    started = time.process_time()
    cohort.write_cohort(tmp_path, size="small")
    assert time.process_time() - started < 20


def test_the_cohort_is_what_the_readers_expect(tasks):
    for name, size in (("chest_findings", (96, 96)), ("abdomen_ct", (32, 32, 32))):
        task = read_task(tasks[name])
        assert list(task.sites) == list(cohort.SITES) and not task.skipped and task.recipe.size == size
        for folder in task.sites.values():
            dataset = read_dataset(folder, task.recipe)
            item = dataset.items[0]
            image = dataset.load(item)
            assert image.modality == task.recipe.modality[0]
            if task.recipe.kind == "segmentation":
                assert set(np.unique(dataset.load_mask(item, image))) == {0, 1, 2}
                assert image.pixels.min() >= -1100, "padding is not measured"


def test_files_are_valid_dicom(tasks, lacks):
    if shutil.which("dciodvfy") is None:
        lacks("dciodvfy: sh tests/packages.sh installs it")
    for site in cohort.SITES:
        for path in (
            next((tasks["chest_findings"] / site / "images").iterdir()),
            next((tasks["abdomen_ct"] / site / "series" / "p000").iterdir()),
        ):
            done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
            faults = [line for line in done.stderr.splitlines() if line.startswith(("Error", "Warning"))]
            assert not faults
