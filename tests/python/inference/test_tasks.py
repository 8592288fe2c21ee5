"""Files of several tasks: each input is answered by the tasks that are about it, and by no other."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import pytest

from fedmed_edge import signing
from fedmed_edge.errors import InputError, NothingMatched, TrustError
from fedmed_edge.inference.batch import exit_code, infer
from fedmed_edge.inference.inputs import find_inputs
from fedmed_edge.inference.model_folder import ModelFolder
from fedmed_edge.inference.models import activate, add_model, rollback, verify_variants
from fedmed_edge.inference.options import Options
from fedmed_edge.inference.predict import load_model, load_models, predict
from fedmed_edge.inference.study import answer_study
from fedmed_edge.inference.survey import document_of, recipes_of, survey
from fedmed_edge.model.manifest import METADATA_KEY, TasksManifest
from fedmed_edge.onnx_file import model_metadata

FAR = 1e6  # of a threshold: everything is known


def picture(path, level=200, colour=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((16, 16, 3), (level, 0, level)) if colour else np.full((16, 16), level)
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def answered(models, paths, out, **options):
    with find_inputs(paths, *(model.recipe for model in models), skip=out) as found:
        return list(infer(models, found, out, Options(**options)))


def told(results):
    return [(Path(one.input).name, one.task, one.error is None) for one in results]


@pytest.fixture
def both(models_of, recipe_of):
    """A classification of small images and a segmentation of larger ones."""
    lesion = recipe_of(name="lesion")
    organs = recipe_of("segmentation", (24, 32), name="organs")
    return models_of((lesion, 5.0), (organs, FAR))


def test_every_task_runs_on_its_own_part(both, tmp_path):
    assert [(model.manifest.task, model.session.inputs) for model in both] == [
        ("lesion", {"image0": (1, 1, 16, 16)}),
        ("organs", {"image1": (1, 1, 24, 32)}),
    ]
    path = picture(tmp_path / "a.png")
    lesion, organs = (predict(model, path) for model in both)
    assert lesion.label == "bright" and lesion.probabilities["bright"] > 0.99
    assert organs.mask is not None and organs.mask.shape == (16, 16) and organs.mask.min() == 1
    assert lesion.distance == pytest.approx(organs.distance, rel=1e-4) == pytest.approx(8.0834, rel=1e-4)


def test_one_row_a_task_and_input(both, tmp_path):
    out, path = tmp_path / "out", picture(tmp_path / "a.png", 170)
    results = answered(both, [path], out)
    assert told(results) == [("a.png", "lesion", True), ("a.png", "organs", True)]
    assert [one.output for one in results] == [str(out / "a" / "lesion"), str(out / "a" / "organs")]
    assert [one.document()["task"] for one in results] == ["lesion", "organs"]
    assert results[0].label == "bright" and results[1].mask == str(out / "a" / "organs" / "mask.png")
    for one in results:
        stored = json.loads((Path(one.output) / "result.json").read_text())
        assert (stored["task"], stored["model"]) == (one.task, one.model)
    with (out / "results.csv").open(newline="") as file:
        assert [(row["task"], row["error"]) for row in csv.DictReader(file)] == [
            ("lesion", ""),
            ("organs", ""),
        ]
    again = answered(both, [path], out)
    assert [one.output for one in again] == [one.output for one in results]
    assert exit_code(results) == 0


def test_without_json_no_task_writes_over_another(both, tmp_path):
    path = picture(tmp_path / "a.png", 170)
    answered(both, [path], tmp_path / "out", formats=frozenset({"png"}), preview=True)
    found = sorted(str(one.relative_to(tmp_path / "out")) for one in (tmp_path / "out").rglob("*.png"))
    assert found == ["a/lesion/preview.png", "a/organs/mask.png", "a/organs/preview.png"]


def test_a_task_that_does_not_know_the_image_leaves_it_to_the_others(both, tmp_path, caplog):
    path = picture(tmp_path / "a.png", 255)  # 25 from what lesion was made from
    with caplog.at_level("INFO"):
        (result,) = answered(both, [path], tmp_path / "out")
    assert result.task == "organs" and not (tmp_path / "out" / "a" / "lesion").exists()
    assert "lesion: " in caplog.text and "`distance` has 25, expected at most 5" in caplog.text


def test_an_earlier_answer_of_a_task_that_does_not_take_the_image_now_goes(both, tmp_path):
    out, path = tmp_path / "out", picture(tmp_path / "a.png", 170)
    assert len(answered(both, [path], out)) == 2
    (out / "a" / "lesion" / "notes.txt").write_text("of the radiographer")
    picture(path, 255)
    assert told(answered(both, [path], out)) == [("a.png", "organs", True)]
    assert [one.name for one in (out / "a" / "lesion").iterdir()] == ["notes.txt"]
    assert "lesion" not in (out / "results.csv").read_text()
    picture(path, 170)
    (out / "a" / "lesion" / "notes.txt").unlink()
    assert len(answered(both, [path], out)) == 2
    picture(path, 255)
    answered(both, [path], out)
    assert not (out / "a" / "lesion").exists()


def test_no_task_that_knows_the_image_tells_why(models_of, recipe_of, tmp_path):
    models = models_of((recipe_of(name="a"), 5.0), (recipe_of("segmentation", name="b"), 6.0))
    good = picture(tmp_path / "good.png", 130)
    results = answered(models, [picture(tmp_path / "far.png", 255), good], tmp_path / "out")
    assert told(results) == [
        ("far.png", "a", False),
        ("far.png", "b", False),
        ("good.png", "a", True),
        ("good.png", "b", True),
    ]
    assert results[1].error.endswith(
        "is unlike the images that the model was made from: `distance` has 25, expected at most 6"
    )
    assert results[0].document()["known"] is False and exit_code(results) == 3


def test_colours_go_to_the_task_that_takes_them(models_of, recipe_of, tmp_path):
    models = models_of((recipe_of(name="a"), FAR), (recipe_of(name="b", channels=3), FAR))
    results = answered(models, [picture(tmp_path / "c.png", colour=True)], tmp_path / "out")
    assert told(results) == [("c.png", "b", True)]
    greys = models_of((recipe_of(name="a"), FAR), (recipe_of(name="b"), FAR))
    results = answered(greys, [tmp_path / "c.png"], tmp_path / "out")
    assert told(results) == [("c.png", "a", False), ("c.png", "b", False)]
    assert "3 channels that differ (colour), expected 1" in results[0].error


def test_a_broken_file_fails_in_every_task_and_stops_no_other(both, tmp_path):
    good, broken = picture(tmp_path / "x" / "good.png", 170), tmp_path / "x" / "broken.png"
    broken.write_bytes(good.read_bytes()[:45])
    results = answered(both, [tmp_path / "x"], tmp_path / "out")
    assert told(results) == [
        ("broken.png", "lesion", False),
        ("broken.png", "organs", False),
        ("good.png", "lesion", True),
        ("good.png", "organs", True),
    ]


def test_series_go_by_each_tasks_rules(models_of, recipe_of, scan, write_dicom, tmp_path):
    volume = recipe_of("segmentation", (16, 16, 16), name="organs", modality=("MR",))
    flat = recipe_of(name="lesion", modality=("DX",))
    flat_mr = recipe_of(name="slice", modality=("MR",))
    write_dicom("series/dx.dcm", np.full((8, 8), 170, np.uint16), SeriesInstanceUID="1.9", Modality="DX")
    with find_inputs([scan], flat, volume, flat_mr) as found:
        by_task = {
            number: {Path(one.name).name for one in found.inputs if number in one.tasks and one.series}
            for number in range(3)
        }
        assert by_task[0] == {"dx.dcm"} and by_task[1] == {"series#1"}
        assert by_task[2] >= {"short0.dcm", "short1.dcm", "short2.dcm"} and "dx.dcm" not in by_task[2]
    with pytest.raises(
        NothingMatched, match=r"lesion: `modality` has MR, expected DX; .*organs: .*expected CT"
    ):
        find_inputs([scan / "loc.dcm"], flat, volume.model_copy(update={"modality": ("CT",)}))


@pytest.mark.parametrize("alone", [False, True])
def test_an_answer_by_rules_that_have_changed_goes(
    alone, models_of, model_of, recipe_of, write_dicom, tmp_path
):
    path, out = write_dicom("dx/one.dcm", np.full((8, 8), 170, np.uint16), Modality="DX"), tmp_path / "out"
    write_dicom("dx/two.dcm", np.full((8, 8), 170, np.uint16), SeriesInstanceUID="1.9", Modality="CR")
    other = (recipe_of(name="other", modality=("DX", "CR")), FAR)
    lesions = [recipe_of(name="lesion", modality=taken) for taken in (("DX", "CR"), ("CR",))]
    before, after = (
        (model_of(one, threshold=FAR),) if alone else models_of((one, FAR), other) for one in lesions
    )
    first, *_ = answered(before, [path.parent], out)
    assert first.task == "lesion" and Path(first.output).exists()
    answered(after, [path.parent], out)
    assert not Path(first.output).exists()
    with (out / "results.csv").open(newline="") as file:
        rows = {(Path(row["input"]).name, row["task"]) for row in csv.DictReader(file)}
    both = set() if alone else {("one.dcm", "other"), ("two.dcm", "other")}
    assert rows == {("two.dcm", "lesion")} | both


def test_an_answer_that_does_not_say_whose_it_is_stays(model_of, recipe_of, write_dicom, tmp_path):
    """Two models share a folder without `json`: what one's rules exclude, the other answered there."""
    folder, out = (
        write_dicom("in/one.dcm", np.full((8, 8), 170, np.uint16), Modality="DX").parent,
        tmp_path / "out",
    )
    write_dicom("in/two.dcm", np.full((8, 8), 170, np.uint16), SeriesInstanceUID="1.9", Modality="CR")
    for name, taken in (("lesion", "DX"), ("organs", "CR")):
        model = model_of(recipe_of("segmentation", name=name, modality=(taken,)), threshold=FAR)
        answered((model,), [folder], out, formats=frozenset({"png"}))
    assert len(list(out.rglob("mask.png"))) == 2


def test_a_series_is_answered_through_the_one_call(models_of, recipe_of, write_dicom, tmp_path):
    path = write_dicom("one.dcm", np.full((8, 8), 170, np.uint16), Modality="DX")
    models = models_of(
        (recipe_of("segmentation", name="area", modality=("DX",)), FAR),
        (recipe_of(name="lesion", modality=("DX",)), FAR),
        (recipe_of(name="other", modality=("CT",)), FAR),
    )
    results = answer_study(models, [path], tmp_path / "out")
    assert told(results) == [("one.dcm", "area", True), ("one.dcm", "lesion", True)]
    kinds = [[made.kind for made in one.objects] for one in results]
    assert kinds == [["sr", "sc"], ["sr", "sc"]]
    uids = [made.sop_instance_uid for one in results for made in one.objects]
    assert len(set(uids)) == len(uids)
    with pytest.raises(NothingMatched, match="`modality` has DX, expected CT"):
        answer_study(models[2:], [path], tmp_path / "out")


def test_a_survey_tells_what_each_task_would_take(write_tasks, recipe_of, scan):
    volume = recipe_of("segmentation", (16, 16, 16), name="organs", modality=("MR",))
    recipes = recipes_of(write_tasks((recipe_of(name="lesion", modality=("DX",)), 1.0), (volume, 1.0)))
    named, rest = survey([scan], *recipes)
    documents = [document_of(*one) for one in named]
    taken = {(one["task"], Path(one["name"]).name) for one in documents if one["taken"]}
    assert {one["task"] for one in documents} == {"lesion", "organs"} and taken == {("organs", "series#1")}
    assert any(name.endswith("picture.png") and "taken as it is" in what for name, what in rest)


def test_one_task_is_not_loaded_out_of_several(write_tasks, recipe_of, server):
    path = write_tasks((recipe_of(name="a"), FAR), (recipe_of(name="b"), FAR))
    with pytest.raises(InputError, match="answers 2 tasks, a, b, expected one") as caught:
        load_model(path, trust=server / "server.pub", device="cpu")
    assert caught.value.hint == "`fedmed-server export --task T` writes the model of one"


def spoil(path, server, change):
    """The file with its graph or manifest changed, and signed all the same."""
    model = onnx.load(path)
    change(model)
    content = model.SerializeToString()
    signing.write_signed(path, content, signing.read_private_key(server / "server.key"))


def swap_sizes(model):
    text = model_metadata(model.SerializeToString(), "m")[METADATA_KEY]
    several = TasksManifest.model_validate_json(text)
    recipes = [one.recipe.model_copy(update={"size": (24, 24)}) for one in several.tasks]
    tasks = [
        one.model_copy(update={"recipe": recipe, "recipe_digest": recipe.digest})
        for one, recipe in zip(several.tasks, recipes, strict=True)
    ]
    onnx.helper.set_model_props(model, {METADATA_KEY: TasksManifest(tasks=tasks).text})


def drop_output(model):
    del model.graph.output[-1]


def cross_inputs(model):
    for node in model.graph.node:
        node.input[:] = ["image0" if name == "image1" else name for name in node.input]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_sizes, r"`inputs` has .*16, 16.*, expected .*24, 24"),
        (drop_output, r"`outputs` has \['b/probabilities'\], expected b/probabilities and b/distance"),
        (cross_inputs, r"`inputs` has .*image0.*, expected .*image1"),
    ],
)
def test_graphs_that_are_not_as_the_manifest_says_are_refused(
    write_tasks, recipe_of, server, change, message
):
    path = write_tasks((recipe_of(name="a"), FAR), (recipe_of(name="b"), FAR))
    spoil(path, server, change)
    with pytest.raises(InputError, match=message):
        load_models(path, trust=server / "server.pub", device="cpu")


def test_a_file_of_several_tasks_lives_in_a_site_folder(
    write_tasks, write_model, recipe_of, server, tmp_path
):
    site, trust = tmp_path / "site", server / "server.pub"
    site.mkdir()
    first = add_model(site, write_model(recipe_of(name="a"), name="one.onnx"), trust=trust)
    activate(site, trust=trust)
    path = write_tasks((recipe_of(name="a"), FAR), (recipe_of("segmentation", name="b"), FAR))
    entry = add_model(site, path, trust=trust)
    assert (entry.tasks, len(entry.digests), entry.state) == (("a", "b"), 2, "waiting")
    assert ModelFolder(site).find(entry.digests[1]) == entry
    assert [(one.task, one.found) for one in verify_variants(entry, trust=trust, device="cpu")] == [
        ("a", "signature right, no sample in it"),
        ("b", "signature right, no sample in it"),
    ]
    done = activate(site, trust=trust)
    assert (done.entry.name, done.dropped) == (entry.name, ())
    assert activate(site, first.name, trust=trust).dropped == ("b",)
    assert activate(site, entry.name, trust=trust).dropped == ()
    assert [model.manifest.task for model in load_models(entry.path, trust=trust)] == ["a", "b"]
    ModelFolder(site).mark_withdrawn([entry.digests[1]])
    with pytest.raises(TrustError, match=r"model 000000000000 was withdrawn"):
        ModelFolder(site).active()
    with pytest.raises(TrustError, match="was withdrawn"):
        add_model(site, path, trust=trust)
    assert rollback(site, trust=trust).name == first.name
    facts = entry.path.with_name("facts.json")
    facts.write_text(facts.read_text().replace('"task": "b"', '"task": 3'))
    with pytest.raises(InputError, match=r"facts\.json: damaged, or of a newer release"):
        ModelFolder(site).entries()


def test_the_site_scores_the_task_that_its_images_are_of(write_tasks, recipe_of, server, tmp_path):
    from fedmed_edge.images.dataset import read_dataset

    site, trust, data = tmp_path / "site", server / "server.pub", tmp_path / "data"
    site.mkdir()
    lines = ["image,label,patient,split"]
    for number in range(6):
        picture(data / f"{number}.png", (40, 220)[number % 2])
        lines.append(f"{number}.png,{('dark', 'bright')[number % 2]},p{number},test")
    (data / "labels.csv").write_text("\n".join(lines) + "\n")
    entry = add_model(
        site,
        write_tasks((recipe_of("segmentation", name="a"), FAR), (recipe_of(name="b"), FAR)),
        trust=trust,
    )
    done = activate(site, trust=trust, check_set=read_dataset(data, recipe_of(name="b")).test)
    assert (done.entry.name, done.score, done.images) == (entry.name, 1.0, 6)


def test_no_other_task_is_scored_on_the_sites_images(write_tasks, recipe_of, server, tmp_path):
    from fedmed_edge.images.dataset import read_dataset

    site, trust, data = tmp_path / "site", server / "server.pub", tmp_path / "data"
    site.mkdir()
    for number in range(2):
        picture(data / f"{number}.png", (40, 220)[number])
    (data / "labels.csv").write_text(
        "image,label,patient,split\n0.png,dark,p,test\n1.png,bright,q,test\n", encoding="utf-8"
    )
    add_model(site, write_tasks((recipe_of(name="a"), FAR), (recipe_of(name="b"), FAR)), trust=trust)
    check_set = read_dataset(data, recipe_of(name="c")).test  # of the same kind and classes
    with pytest.raises(InputError, match="model: answers a, b, expected c, which the test images are of"):
        activate(site, trust=trust, check_set=check_set)
    assert activate(site, trust=trust, check_set=check_set, force=True).score is None
