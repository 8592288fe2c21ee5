import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from kits import run_python
from PIL import Image as Picture

from fedmed_edge import signing
from fedmed_edge.errors import DeviceError, InputError, TrustError
from fedmed_edge.images.image import Image, read_image
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.images.windows import OVERLAP, importance, window_starts
from fedmed_edge.inference.predict import UNLIKE, load_model, predict


def picture(path, values):
    Picture.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def volume(shape=(20, 18, 14), seed=0):
    pixels = np.random.default_rng(seed).uniform(0, 255, (1, *shape)).astype(np.float32)
    return Image(pixels, np.eye(4), (1.0, 1.0, 1.0), "", "nifti", Path("a.nii"))


def sigmoid(score):
    return 1 / (1 + np.exp(-score))


def test_classification_of_a_png(model_of, recipe_of, tmp_path):
    model = model_of(recipe_of(), threshold=9.0)
    answer = predict(model, picture(tmp_path / "a.png", np.full((16, 16), 153)))
    assert answer.label == "bright"
    assert answer.probabilities["bright"] == pytest.approx(sigmoid(20 * 0.1), abs=1e-5)
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.distance == pytest.approx(100 * 0.1**2, abs=1e-3)
    assert answer.known is True and answer.mask is None and answer.seconds > 0


def test_unknown_image_is_told_and_no_threshold_tells_nothing(model_of, recipe_of, tmp_path):
    path = picture(tmp_path / "a.png", np.full((16, 16), 255))
    told = predict(model_of(recipe_of(), threshold=9.0), path)
    assert told.known is False and told.warnings == (UNLIKE,) and UNLIKE.startswith("unlike: ")
    silent = predict(model_of(recipe_of(), threshold=None), path)
    assert silent.known is None and silent.warnings == ()


def test_segmentation_of_a_png_at_its_own_size(model_of, recipe_of, tmp_path):
    values = np.zeros((40, 24))
    values[8:30, 6:20] = 255
    answer = predict(model_of(recipe_of("segmentation")), picture(tmp_path / "a.png", values))
    assert answer.mask.shape == (40, 24) and answer.mask.dtype == np.uint8 and answer.label is None
    assert np.mean(answer.mask == (values > 0)) > 0.95
    assert answer.probabilities["bright"] == pytest.approx(np.mean(values > 0), abs=0.05)


def test_volume_is_blended_from_overlapping_windows(model_of, recipe_of):
    recipe = recipe_of("segmentation", (8, 8, 8))
    model, image = model_of(recipe), volume()
    answer = predict(model, image)
    grid = prepare(image, recipe).pixels
    total, weight = np.zeros((2, *grid.shape[1:])), np.zeros(grid.shape[1:])
    distances = []
    for start in window_starts(grid.shape[1:], recipe.size, OVERLAP):
        region = tuple(slice(s, s + 8) for s in start)
        bright = sigmoid(20 * (grid[0][region].astype(np.float64) - 0.5))
        total[(slice(None), *region)] += np.stack([1 - bright, bright]) * importance(recipe.size)
        weight[region] += importance(recipe.size)
        distances.append(100 * (grid[0][region].mean() - 0.5) ** 2)
    blended = total / weight
    assert answer.mask.shape == image.shape
    sure = np.abs(blended[1] - 0.5) > 1e-4
    assert np.array_equal(answer.mask[sure], (blended[1] > 0.5)[sure])
    assert answer.probabilities["bright"] == pytest.approx(blended[1].mean(), abs=1e-5)
    assert answer.distance == pytest.approx(np.mean(distances), abs=1e-4)


def test_turned_volume_gives_the_turned_mask(model_of, recipe_of):
    """The answer lies where the patient is, whatever way the scanner stored the axes."""
    model, image = model_of(recipe_of("segmentation", (8, 8, 8))), volume()
    expected = predict(model, image).mask
    affine = np.diag([-1.0, 1.0, -1.0, 1.0])
    affine[:3, 3] = [image.shape[0] - 1, 0, image.shape[2] - 1]
    turned = Image(image.pixels[:, ::-1, :, ::-1], affine, image.spacing_mm, "", "nifti", image.source)
    assert np.array_equal(predict(model, turned).mask, expected[::-1, :, ::-1])
    swapped = Image(
        image.pixels.transpose(0, 2, 1, 3),
        np.eye(4)[[1, 0, 2, 3]].T,
        image.spacing_mm,
        "",
        "nifti",
        image.source,
    )
    assert np.array_equal(predict(model, swapped).mask, expected.transpose(1, 0, 2))


def test_small_volume_is_padded_and_says_so(model_of, recipe_of):
    model, image = model_of(recipe_of("segmentation", (8, 8, 8))), volume((8, 8, 5))
    answer = predict(model, image)
    assert answer.mask.shape == (8, 8, 5)
    assert answer.warnings == (
        "padded: the volume is smaller than the model's window",
        "edge: bright reaches the border of the scan, its volume may be incomplete",
    )
    inside = sigmoid(20 * (image.pixels[0].astype(np.float64) / 255 - 0.5))
    assert answer.probabilities["bright"] == pytest.approx(inside.mean(), abs=1e-4)


def test_classified_volume_is_the_geometric_mean_of_its_windows(model_of, recipe_of):
    recipe = recipe_of("classification", (8, 8, 8))
    image = volume((16, 16, 8))
    answer = predict(model_of(recipe), image)
    halves = [image.pixels[0, i : i + 8, j : j + 8].mean() / 255 - 0.5 for i in (0, 8) for j in (0, 8)]
    assert answer.probabilities["bright"] == pytest.approx(sigmoid(20 * np.mean(halves)), abs=1e-5)


def test_the_same_image_twice_gives_the_same_bits(model_of, recipe_of):
    model, image = model_of(recipe_of("segmentation", (8, 8, 8))), volume()
    first, second = predict(model, image), predict(model, image)
    assert first.probabilities == second.probabilities and np.array_equal(first.mask, second.mask)


def test_dicom_without_a_modality_is_answered_with_a_warning(model_of, recipe_of):
    model = model_of(recipe_of(modality=("DX", "CR")))
    pixels = np.full((1, 16, 16), 100, np.float32)
    answer = predict(model, Image(pixels, None, None, "", "dicom", Path("a.dcm")))
    assert answer.warnings == ("modality: the file states none, expected DX or CR",)
    with pytest.raises(InputError, match=re.escape("a.dcm: `modality` has CT, expected DX or CR")):
        predict(model, Image(pixels, None, None, "CT", "dicom", Path("a.dcm")))


def test_nan_probabilities_are_an_error(model_of, recipe_of):
    model = model_of(recipe_of())
    broken = Image(np.full((1, 16, 16), np.nan, np.float32), None, None, "", "png", Path("a.png"))
    with pytest.raises(InputError, match=r"a\.png: `probabilities` has NaN or infinite values"):
        predict(model, broken)


def test_volume_for_a_flat_model_and_the_other_way_round(model_of, recipe_of, tmp_path):
    with pytest.raises(InputError, match="image has 3 dimensions, expected 2"):
        predict(model_of(recipe_of()), volume())
    path = picture(tmp_path / "a.png", np.zeros((16, 16)))
    with pytest.raises(InputError, match=r"a\.png: image has 2 dimensions, expected 3"):
        predict(model_of(recipe_of("segmentation", (8, 8, 8)), name="other.onnx"), path)


def test_no_key_no_signature_wrong_key_changed_file(write_model, recipe_of, server, tmp_path):
    path = write_model(recipe_of())
    with pytest.raises(TrustError, match=r"model\.onnx: no key to check its signature against") as refused:
        load_model(path, trust=None)
    assert "--trust" in str(refused.value.hint) and refused.value.exit_code == 5
    signing.write_public_key(tmp_path / "stranger.pub", signing.generate_key().public_key())
    with pytest.raises(TrustError, match="signed by SHA256:"):
        load_model(path, trust=tmp_path / "stranger.pub")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(TrustError, match="wrong signature"):
        load_model(path, trust=server / "server.pub")
    signing.signature_path(path).unlink()
    with pytest.raises(TrustError, match="no such file"):
        load_model(path, trust=server / "server.pub")


def test_signed_files_that_are_no_models(write_model, recipe_of, server, tmp_path):
    trust = server / "server.pub"
    junk = tmp_path / "junk.onnx"
    signing.write_signed(junk, b"not an onnx file", signing.read_private_key(server / "server.key"))
    with pytest.raises(InputError, match=r"junk\.onnx: not an ONNX file, or cut off"):
        load_model(junk, trust=trust)
    with pytest.raises(InputError, match="has no manifest, expected a model made by `fedmed-server export`"):
        load_model(write_model(recipe_of(), text=""), trust=trust)
    with pytest.raises(
        InputError, match=r"`outputs` has \['probabilities'\], expected probabilities and distance"
    ):
        load_model(write_model(recipe_of(), outputs=("probabilities",)), trust=trust)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.contribution", None, "contribution"),
        ("server.pub", b"-----BEGIN PUBLIC KEY-----\n", "public key"),
        ("lesion.toml", b'name = "a"\nkind = "classification"\nclasses = ["a", "b"]\n', "recipe"),
    ],
)
def test_another_file_of_ours_is_named(server, tmp_path, name, content, kind):
    path = tmp_path / name
    if content is None:
        from safetensors.numpy import save

        content = save({"w": np.zeros(2)}, metadata={"fedmed_contribution": "{}"})
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: is a {kind}, expected an exported model") as refused:
        load_model(path, trust=server / "server.pub")
    assert "fedmed-server export" in str(refused.value.hint)


def test_paths_may_be_texts(write_model, recipe_of, server, tmp_path):
    model = load_model(str(write_model(recipe_of())), trust=str(server / "server.pub"), device="cpu")
    path = picture(tmp_path / "a.png", np.full((16, 16), 153))
    assert predict(model, str(path)).probabilities == predict(model, path).probabilities


def test_graph_of_another_size_than_its_manifest(write_model, recipe_of, manifest, server):
    text = manifest(recipe_of(size=(32, 32))).text
    with pytest.raises(InputError, match=r"`inputs` has .*\(1, 1, 16, 16\)}, expected .*\(1, 1, 32, 32\)"):
        load_model(write_model(recipe_of(), text=text), trust=server / "server.pub")


def test_device_that_does_not_come_up(write_model, recipe_of, server):
    with pytest.raises(DeviceError, match="`device` has tensorrt"):
        load_model(write_model(recipe_of()), trust=server / "server.pub", device="tensorrt")


def test_answering_a_png_is_light_from_a_cold_start(write_model, recipe_of, server, tmp_path):
    path = write_model(recipe_of())
    image = picture(tmp_path / "a.png", np.full((20, 20), 90))
    code = f"""
import sys
from pathlib import Path
from fedmed_edge.inference.predict import load_model
from fedmed_edge.inference.study import answer_study
model = load_model(Path({str(path)!r}), trust=Path({str(server / "server.pub")!r}))
results = answer_study(model, [Path({str(image)!r})], Path({str(tmp_path / "out")!r}))
assert results[0].error is None, results
import json, resource
heavy = {{"torch", "monai", "nibabel", "pydicom", "highdicom", "scipy", "matplotlib", "onnx"}}
heavy &= set(sys.modules)
used = resource.getrusage(resource.RUSAGE_SELF)
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # ru_maxrss has the parent's in it
print(json.dumps([sorted(heavy), used.ru_utime + used.ru_stime, int(peak) / 1024]))
"""
    heavy, cpu_seconds, peak_mib = json.loads(run_python(code))
    assert heavy == []
    # What a cold start may cost, with a toy model: a real one adds its own weights and arithmetic.
    assert cpu_seconds <= 0.8 and peak_mib <= 150


def test_reads_what_the_reader_reads(model_of, recipe_of, tmp_path):
    values = np.random.default_rng(1).uniform(0, 255, (12, 12, 12)).astype(np.float32)
    path = tmp_path / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 1.0, 1.0])), path)
    model = model_of(recipe_of("segmentation", (8, 8, 8)))
    assert np.array_equal(predict(model, path).mask, predict(model, read_image(path)).mask)
