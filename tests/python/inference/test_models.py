"""Models that come, wait, become active and go back, in a site folder."""

import base64
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import onnx
import PIL.Image
import pytest

from fedmed_edge import signing
from fedmed_edge.errors import FedmedError, InputError, TrustError
from fedmed_edge.images.dataset import read_dataset
from fedmed_edge.inference import models as life
from fedmed_edge.inference.model_folder import ModelFolder, variant_path
from fedmed_edge.inference.models import activate, add_model, rollback, verify_models, verify_variants
from fedmed_edge.model.manifest import Sample, parse_manifest

CELLS = np.arange(4, dtype=np.uint8).reshape(1, 2, 2) * 80


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def trust(server):
    return server / "server.pub"


def sample_of(recipe, *, off=0.0):
    """What the toy graph of the conftest answers to an image of this mean, which is below the half."""
    mean = float(CELLS.mean() / 255)
    second = 1 / (1 + np.exp(-20 * (mean - 0.5)))
    return Sample(
        shape=CELLS.shape,
        values=base64.b64encode(CELLS.tobytes()).decode(),
        probabilities=(1 - second + off, second),
        distance=100 * (mean - 0.5) ** 2,
    )


@pytest.fixture
def made(write_model, recipe_of, manifest):
    """Write the model of a number; `off` is how wrong its sample says that it answers."""

    def make(number, *, name=None, off=0.0, precision="fp32"):
        recipe = recipe_of()
        fields = {"model": f"{number:064x}", "precision": precision, "sample": sample_of(recipe, off=off)}
        text = manifest(recipe).model_copy(update=fields).text
        return write_model(recipe, name=name or f"model-{number}.onnx", text=text)

    return make


@pytest.fixture
def wrong(made, server):
    """A model, rightly signed and without a sample, that takes dark for bright."""

    def make(number):
        path = made(number)
        model = onnx.load(path)
        (concat,) = [node for node in model.graph.node if node.op_type == "Concat"]
        concat.input[:] = list(concat.input)[::-1]
        manifest = parse_manifest(model.metadata_props[0].value, "m").model_copy(update={"sample": None})
        onnx.helper.set_model_props(model, {"fedmed": manifest.text})
        signing.write_signed(path, model.SerializeToString(), signing.read_private_key(server / "server.key"))
        return path

    return make


@pytest.fixture
def check_set(tmp_path, recipe_of):
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["image,label,patient,split"]
    for number in range(8):
        value, label = ((40, "dark"), (220, "bright"))[number % 2]
        PIL.Image.new("L", (16, 16), value + number).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{label},p{number},{'test' if number > 1 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_dataset(folder, recipe_of()).test


def states(site):
    return [(entry.model[-1], entry.state) for entry in ModelFolder(site).entries()]


def test_a_model_comes_waits_answers_and_goes_back(site, made, trust, check_set):
    with pytest.raises(InputError, match="models: none is active, expected one"):
        ModelFolder(site).active()
    with pytest.raises(InputError, match="models: none waits, expected one"):
        activate(site, trust=trust)
    first = add_model(site, made(1), trust=trust)
    assert (first.state, first.precisions, first.task) == ("waiting", ("fp32",), "toy")
    assert add_model(site, made(1), trust=trust).name == first.name
    done = activate(site, trust=trust, check_set=check_set)
    assert (done.entry.state, done.score, done.score_before, done.images) == ("active", 1.0, None, 6)
    assert ModelFolder(site).active() == done.entry
    second = add_model(site, made(2), trust=trust)
    assert states(site) == [("1", "active"), ("2", "waiting")]
    done = activate(site, trust=trust, check_set=check_set)
    assert (done.entry.name, done.score, done.score_before, done.forced) == (second.name, 1.0, 1.0, False)
    assert states(site) == [("2", "active"), ("1", "previous")]
    assert rollback(site, trust=trust).name == first.name
    assert states(site) == [("1", "active"), ("2", "waiting")]
    with pytest.raises(InputError, match="none was active before"):
        rollback(site, trust=trust)
    activate(site, second.model[:70], trust=trust)
    add_model(site, made(3), trust=trust)
    activate(site, trust=trust)
    assert states(site) == [("3", "active"), ("2", "previous")]
    with pytest.raises(InputError, match="models: 0 models begin with `nothing`, expected one"):
        activate(site, "nothing", trust=trust)


def test_a_model_that_does_worse_here_is_refused_with_figures(site, made, wrong, trust, check_set):
    add_model(site, made(1), trust=trust)
    activate(site, trust=trust, check_set=check_set)
    add_model(site, wrong(2), trust=trust)
    with pytest.raises(
        InputError, match=r"score on 6 test images of this site has 0\.000, expected at least 0\.980"
    ):
        activate(site, trust=trust, check_set=check_set)
    assert states(site) == [("1", "active"), ("2", "waiting")]
    assert activate(site, trust=trust, check_set=check_set, margin=1.0).forced is False
    rollback(site, trust=trust)
    done = activate(site, trust=trust, check_set=check_set, force=True)
    assert (done.forced, done.score, done.score_before) == (True, 0.0, 1.0)


def test_a_model_for_other_images_than_the_sites_needs_force(site, made, trust, check_set, recipe_of):
    add_model(site, made(1), trust=trust)
    other = replace(check_set, recipe=recipe_of(classes=("benign", "malignant")))
    with pytest.raises(InputError, match="model: is for toy, expected the classes of toy"):
        activate(site, trust=trust, check_set=other)
    done = activate(site, trust=trust, check_set=other, force=True)
    assert (done.entry.state, done.score, done.images) == ("active", None, 6)


def test_what_is_not_as_it_was_signed_does_not_come_in(site, made, trust, tmp_path):
    path = made(1)
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    with pytest.raises(TrustError, match="wrong signature"):
        add_model(site, path, trust=trust)
    path.write_bytes(content)
    with pytest.raises(TrustError, match="no key to check its signature"):
        add_model(site, path, trust=None)
    signing.write_public_key(tmp_path / "other.pub", signing.generate_key().public_key())
    with pytest.raises(TrustError, match="signed by"):
        add_model(site, path, trust=tmp_path / "other.pub")
    path.with_name(path.name + ".sig").unlink()
    with pytest.raises(TrustError, match="no such file"):
        add_model(site, path, trust=trust)
    with pytest.raises(InputError, match="no such file"):
        add_model(site, tmp_path / "none.onnx", trust=trust)
    assert [path.name for path in (site / "models").iterdir()] == [".lock"]


def test_a_sample_that_is_answered_otherwise_is_refused(site, made, trust):
    with pytest.raises(
        TrustError, match=r"sample: `probabilities` is off by 0\.05, expected at most 0\.001, on cpu"
    ):
        add_model(site, made(1, off=0.05), trust=trust)
    assert verify_models(made(2), trust=trust, device="cpu")[0].digest[-1] == "2"


def test_variants_come_along_and_are_of_the_same_model(site, made, trust):
    path = made(1)
    made(1, name="model-1.int8.onnx", precision="int8", off=0.05)
    entry = add_model(site, path, trust=trust)
    assert entry.precisions == ("fp32", "int8")
    checks = verify_variants(entry, trust=trust, device="cpu")
    assert [(check.precision, check.device) for check in checks] == [("fp32", "cpu"), ("int8", "cpu")]
    assert "sample off by 5.0e-02" in checks[1].found
    made(2, name="model-1.fp16.onnx", precision="fp16")
    with pytest.raises(TrustError, match=r"model-1\.fp16\.onnx: is not the fp16 variant of model-1\.onnx"):
        add_model(site, path, trust=trust)
    made(1, name="model-1.fp16.onnx", precision="fp16")
    assert add_model(site, path, trust=trust).precisions == ("fp32", "fp16", "int8")
    with pytest.raises(InputError, match="`precision` has int8, expected fp32"):
        add_model(site, variant_path(path, "int8"), trust=trust)


def test_a_damaged_model_is_mended_by_adding_it_again(site, made, trust):
    path = made(1)
    entry = add_model(site, path, trust=trust)
    activate(site, trust=trust)
    entry.path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TrustError, match="is not the file that was added as"):
        verify_variants(entry, trust=trust)
    assert add_model(site, path, trust=trust).state == "active"
    assert verify_variants(entry, trust=trust)
    (site / "models" / "active.json").write_text("{")
    with pytest.raises(InputError, match=r"active\.json: damaged, or of a newer release") as refused:
        ModelFolder(site).active()
    (site / "models" / "active.json").unlink()
    for file in (entry.path.with_name("facts.json"), site / "models" / "withdrawn.json"):
        file.write_text('{"format_version": 1}')
        with pytest.raises(InputError, match=rf"{file.name}: damaged, or of a newer release"):
            ModelFolder(site).entries()
    assert refused.value.hint.startswith("delete it, then say with `fedmed-edge model activate`")


def test_withdrawn_models_are_refused_for_good(site, made, trust):
    first, second = add_model(site, made(1), trust=trust), add_model(site, made(2), trust=trust)
    activate(site, first.name, trust=trust)
    activate(site, second.name, trust=trust)
    models = ModelFolder(site)
    models.mark_withdrawn([second.model])
    models.mark_withdrawn([f"{7:064x}"])
    with pytest.raises(TrustError, match="model 000000000000 was withdrawn") as caught:
        models.active()
    assert "fedmed-edge model rollback" in (caught.value.hint or "")
    with pytest.raises(TrustError, match="was withdrawn"):
        activate(site, second.name, trust=trust)
    with pytest.raises(TrustError, match="was withdrawn"):
        add_model(site, made(7), trust=trust)
    assert states(site) == [("1", "previous"), ("2", "withdrawn")]
    assert rollback(site, trust=trust).name == first.name and models.active().name == first.name
    models.mark_withdrawn([first.model])
    activate(site, add_model(site, made(3), trust=trust).name, trust=trust)
    with pytest.raises(TrustError, match="was withdrawn"):
        rollback(site, trust=trust)


CHANGES = """
import sys
from pathlib import Path
from fedmed_edge.errors import FedmedError
from fedmed_edge.inference.models import activate, add_model, rollback
site, trust, *files = map(Path, sys.argv[1:])
print("ready", flush=True)
while True:
    for file in files:
        entry = add_model(site, file, trust=trust)
        activate(site, entry.name, trust=trust, device="cpu")
    try:
        rollback(site, trust=trust)
    except FedmedError:
        pass
"""


def test_a_process_killed_at_any_moment_leaves_a_model_that_answers(site, made, trust):
    files = [made(number) for number in (1, 2, 3)]
    activate(site, add_model(site, files[0], trust=trust).name, trust=trust)
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(6):
        command = [sys.executable, "-c", textwrap.dedent(CHANGES), str(site), str(trust), *map(str, files)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(0.02 + 0.2 * random.random())
            os.kill(process.pid, signal.SIGKILL)
        entry = ModelFolder(site).active()
        seen.add(entry.name)
        assert verify_variants(entry, trust=trust, device="cpu")
        assert sum(entry.state == "active" for entry in ModelFolder(site).entries()) == 1
    add_model(site, files[0], trust=trust)
    assert not list((site / "models").glob(".part-*"))
    assert seen


@pytest.mark.parametrize("call", ["write_atomic", "write_document", "sync_folder"])
def test_a_disk_that_fills_changes_nothing(site, made, trust, call, monkeypatch):
    activate(site, add_model(site, made(1), trust=trust).name, trust=trust)
    before = states(site)

    def full(*_):
        raise InputError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(life, call, full)
        with pytest.raises(FedmedError, match="disk full"):
            add_model(site, made(2), trust=trust)
    if call != "sync_folder":  # by then it was in its place
        assert states(site) == before
    assert ModelFolder(site).active().model[-1] == "1"
    assert not list((site / "models").glob(".part-*"))
