"""What is measured, what may answer, and what `infer` then loads."""

import json

import numpy as np
import pytest

from fedmed_edge.errors import DeviceError, TrustError
from fedmed_edge.images.dataset import read_dataset
from fedmed_edge.inference import bench as measuring
from fedmed_edge.inference import choice as choosing
from fedmed_edge.inference.bench import Row, bench, choice_of, windows_of
from fedmed_edge.inference.choice import Choice, load_active, read_choice, write_choice
from fedmed_edge.inference.model_folder import precisions_beside
from fedmed_edge.inference.models import activate, add_model


@pytest.fixture
def trust(server):
    return server / "server.pub"


@pytest.fixture
def model(write_model, recipe_of, manifest):
    """A model and an INT8 variant of it: the same graph, as it says of itself."""
    recipe = recipe_of()
    texts = {p: manifest(recipe).model_copy(update={"precision": p}).text for p in ("fp32", "int8")}
    write_model(recipe, name="model.int8.onnx", text=texts["int8"])
    return write_model(recipe, text=texts["fp32"])


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return [random.random((1, 16, 16), np.float32) for _ in range(8)]


def test_every_precision_and_device_is_a_row_and_one_is_chosen(model, trust, images):
    assert precisions_beside(model) == ("fp32", "int8")
    rows = bench(model, precisions_beside(model), trust=trust, images=images, seconds=0)
    by = {(row.precision, row.device): row for row in rows}
    assert set(by) == {(p, d) for p in ("fp32", "int8") for d in ("cpu", "cuda", "tensorrt")}
    for precision in ("fp32", "int8"):
        row = by[precision, "cpu"]
        assert (
            row.milliseconds > 0 and row.processor_milliseconds > 0 and row.load_seconds > 0 and row.gain > 0
        )
        assert (row.difference, row.agreement, row.parity, row.note) == (0, 1, True, "")
    assert by["fp32", "cpu"].gain == 1
    for row in rows:
        if row.device != "cpu" and row.milliseconds is None:
            assert "expected one that comes up on this machine" in row.note and not row.parity
    assert sum(row.chosen for row in rows) == 1 and choice_of(rows).device == "cpu"


def test_a_lower_precision_needs_images_of_the_site(model, trust, images):
    rows = bench(model, ("fp32", "int8"), trust=trust, images=images[:7], seconds=0)
    (row,) = (row for row in rows if (row.precision, row.device) == ("int8", "cpu"))
    assert (row.parity, row.chosen) == (False, False)
    assert row.note == "compared on 7 images of this site, expected at least 8"


def test_what_answers_otherwise_may_not_answer():
    wanted = [(np.array([0.2, 0.8], np.float32), 1.0), (np.array([0.6, 0.4], np.float32), 3.0)]
    same = measuring._compared("fp32", wanted, wanted, 2.0)
    assert (same.difference, same.agreement, same.fault) == (0, 1, "")
    moved = [(np.array([0.2, 0.8], np.float32), 2.5), (np.array([0.45, 0.55], np.float32), 3.0)]
    compared = measuring._compared("int8", moved, wanted, 2.0)
    assert "probabilities differ by 0.15, expected at most 0.1" in compared.fault
    assert "distances differ by 1.5, expected at most 0.2" in compared.fault
    assert "50.0% have the same class, expected 99%" in compared.fault
    assert "another image counts as known" in compared.fault


def test_only_a_real_gain_is_chosen():
    def chosen(*rows):
        (row,) = (row for row in measuring._with_choice(rows) if row.chosen)
        return row.precision, row.device

    def row(precision, device, ms, parity=True):
        return Row(precision, device, milliseconds=ms, parity=parity)

    cpu, cuda = row("fp32", "cpu", 10.0), row("fp32", "cuda", 2.0)
    absent = Row("fp32", "cuda", note="not here")
    assert chosen(cpu, row("int8", "cpu", 9.5), absent) == ("fp32", "cpu")
    assert chosen(cpu, row("int8", "cpu", 8.0), absent) == ("int8", "cpu")
    assert chosen(cpu, row("int8", "cpu", 1.0, parity=False)) == ("fp32", "cpu")
    assert chosen(cpu, cuda, row("fp16", "cuda", 1.9)) == ("fp32", "cuda")
    assert chosen(cpu, cuda, row("fp32", "tensorrt", 1.0)) == ("fp32", "tensorrt")
    assert chosen(cpu, row("fp32", "cuda", 30.0)) == ("fp32", "cpu")


@pytest.fixture
def site(tmp_path, model, trust):
    folder = tmp_path / "site"
    folder.mkdir()
    activate(folder, add_model(folder, model, trust=trust).name, trust=trust)
    return folder


def test_the_choice_is_used_on_this_machine_alone(site, trust, monkeypatch, caplog):
    def precision(device="auto"):
        return load_active(site, trust=trust, device=device)[0].manifest.precision

    entry = choosing.ModelFolder(site).active()
    assert precision() == "fp32" and read_choice(entry) is None
    write_choice(entry, Choice("int8", "cpu"))
    assert (precision(), precision("cpu")) == ("int8", "int8")
    with pytest.raises(DeviceError, match="`device` has tensorrt"):
        precision("tensorrt")
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "fingerprint", lambda: "another machine")
        assert precision() == "fp32"
    write_choice(entry, Choice("fp32", "tensorrt"))
    assert (
        precision() == "fp32" and "tensorrt, which `fedmed-edge bench` chose, cannot be used" in caplog.text
    )
    path = entry.path.with_name("choice.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "precision": "fp16"}))
    assert read_choice(entry) is None
    path.write_text("{")
    assert precision() == "fp32" and "choice.json: damaged" in caplog.text
    write_choice(entry, Choice("int8", "cpu"))
    variant = entry.path.with_name("model.int8.onnx")
    variant.write_bytes(variant.read_bytes() + b" ")
    with pytest.raises(TrustError, match="wrong signature"):
        precision()


def test_windows_are_spread_over_the_images(tmp_path, recipe_of):
    import PIL.Image

    lines = ["image,label"]
    for number in range(10):
        PIL.Image.new("L", (20, 18), 20 * number).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'dark' if number < 5 else 'bright'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    windows = windows_of(read_dataset(tmp_path, recipe_of()), 4)
    assert [round(float(window.mean()) * 255) for window in windows] == [0, 60, 120, 180]
    assert all(window.shape == (1, 16, 16) for window in windows)
