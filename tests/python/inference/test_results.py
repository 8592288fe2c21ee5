import csv
import hashlib
import json
import math
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from fedmed_edge.atomic import alone_in
from fedmed_edge.errors import InputError
from fedmed_edge.images.image import read_image, read_mask
from fedmed_edge.inference.batch import exit_code
from fedmed_edge.inference.batch import infer as infer_found
from fedmed_edge.inference.inputs import find_inputs
from fedmed_edge.inference.options import Options
from fedmed_edge.inference.predict import UNLIKE, predict
from fedmed_edge.inference.result import Result
from fedmed_edge.inference.results import ResultsFolder, _stem
from fedmed_edge.study.cohort import ABDOMEN, write_cohort


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return (
        write_cohort(tmp_path_factory.mktemp("cohort"), size="tiny")[ABDOMEN]
        / "northgate"
        / "series"
        / "p000"
    )


def picture(path, level=200, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.full(size, level, np.uint8)).save(path)
    return path


def infer(model, paths, out, **options):
    """Results of what lies behind paths, one at a time."""
    return infer_found(model, find_inputs(paths, model.recipe, skip=out), out, Options(**options))


def table(out):
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_document_has_the_fields_of_the_contract(model_of, recipe_of, tmp_path):
    model = model_of(recipe_of(), threshold=30.0)
    path = picture(tmp_path / "a.png")
    (result,) = infer(model, [path], tmp_path / "out")
    document = result.document()
    names = (
        "format_version input output study series task label probabilities known distance threshold flags "
        "warnings model model_file_sha256 generation sites device_asked device seconds stages peak_mib "
        "idle_mib objects not_written error hint"
    )
    assert list(document) == names.split()
    assert document["input"] == str(path) and document["output"] == str(tmp_path / "out" / "a")
    assert (document["task"], document["label"], document["known"]) == ("toy", "bright", True)
    assert document["model"] == model.manifest.model == "1" * 64
    assert document["model_file_sha256"] == hashlib.sha256(model.path.read_bytes()).hexdigest()
    assert document["device"] == document["device_asked"] == "cpu" and document["error"] is None
    assert (document["generation"], document["sites"]) == ("0" * 64, 3)
    assert list(document["stages"]) == ["read", "prepare", "network", "blend", "write"]
    assert sum(document["stages"].values()) <= document["seconds"] + 1e-3
    assert document["peak_mib"] >= document["idle_mib"] > 10
    json.dumps(document, allow_nan=False)
    stored = json.loads((tmp_path / "out" / "a" / "result.json").read_text())
    assert {**document, "source": str(path)} == stored
    assert "bright 0.99" in result.line() or "bright 1.00" in result.line()


def test_mask_of_a_png_is_a_png_of_class_numbers(model_of, recipe_of, tmp_path):
    values = np.zeros((30, 20), np.uint8)
    values[:15] = 255
    path = tmp_path / "a.png"
    Picture.fromarray(values).save(path)
    (result,) = infer(model_of(recipe_of("segmentation")), [path], tmp_path / "out")
    assert "label" not in result.document() and result.mask == str(tmp_path / "out" / "a" / "mask.png")
    with Picture.open(result.mask) as stored:
        assert stored.mode == "L" and stored.size == (20, 30)
        assert set(np.unique(np.asarray(stored))) == {0, 1}
    mask = read_mask(tmp_path / "out" / "a" / "mask.png", read_image(path), 2)
    assert np.array_equal(mask, values > 0) or np.mean(mask == (values > 0)) > 0.9


def test_mask_of_a_series_lies_on_the_patient(model_of, recipe_of, series, tmp_path):
    recipe = recipe_of("segmentation", (16, 16, 16), modality=("CT",), spacing_mm=(4.0, 4.0, 4.0))
    model = model_of(recipe)
    (result,) = infer(model, [series], tmp_path / "out")
    folder = tmp_path / "out" / result.study / result.series
    assert result.error is None and result.mask == str(folder / "mask.nii.gz")
    image = read_image(series)
    stored = nibabel.load(result.mask)
    assert np.allclose(stored.affine, image.affine_ras, atol=1e-4) and stored.shape == image.shape
    assert stored.get_data_dtype() == np.uint8 and stored.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(np.asarray(stored.dataobj), predict(model, series).mask)
    assert np.array_equal(read_mask(folder / "mask.nii.gz", image, 2), stored.dataobj)


def test_same_answer_same_mask_bytes(model_of, recipe_of, series, tmp_path):
    recipe = recipe_of("segmentation", (16, 16, 16), spacing_mm=(4.0, 4.0, 4.0))
    model = model_of(recipe)
    one, other = (next(iter(infer(model, [series], tmp_path / out))).mask for out in ("one", "other"))
    assert Path(one).read_bytes() == Path(other).read_bytes()


def test_two_inputs_of_one_name_keep_their_own_results(model_of, recipe_of, tmp_path):
    model, out = model_of(recipe_of()), tmp_path / "out"
    bright, dark = picture(tmp_path / "x" / "a.png"), picture(tmp_path / "y" / "a.png", 10)
    also = picture(tmp_path / "y" / "a.jpeg", 10)
    results = list(infer(model, [bright, dark, also], out))
    assert [r.label for r in results] == ["bright", "dark", "dark"]
    assert len({r.output for r in results}) == 3 and results[0].output == str(out / "a")
    for result in results:
        stored = json.loads((Path(result.output) / "result.json").read_text())
        assert stored["input"] == result.input
    again = list(infer(model, [also, dark, bright], out))
    assert {r.input: r.output for r in again} == {r.input: r.output for r in results}, "whatever the order"
    assert len(table(out)) == 3


def test_table_keeps_the_rows_of_earlier_runs(model_of, recipe_of, tmp_path):
    model, out = model_of(recipe_of()), tmp_path / "out"
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 10)
    list(infer(model, [first], out))
    list(infer(model, [second], out))
    picture(first, 10)
    list(infer(model, [first], out))
    rows = table(out)
    assert [(row["input"], row["label"]) for row in rows] == [(str(first), "dark"), (str(second), "dark")]
    assert json.loads(rows[0]["probabilities"])["dark"] > 0.9
    assert (rows[0]["model"], rows[0]["model_file_sha256"]) == ("1" * 64, model.file_sha256)
    assert not [p for p in out.iterdir() if p.name.startswith(".part-")]


def test_another_task_gets_its_own_folder(model_of, recipe_of, tmp_path):
    out, path = tmp_path / "out", picture(tmp_path / "a.png")
    (one,) = infer(model_of(recipe_of()), [path], out)
    (other,) = infer(model_of(recipe_of(name="second"), name="second.onnx"), [path], out)
    assert one.output != other.output and len(table(out)) == 2


def test_an_unlike_image_is_told_everywhere(model_of, recipe_of, tmp_path):
    out, path = tmp_path / "out", picture(tmp_path / "a.png", 255)
    (result,) = infer(model_of(recipe_of(), threshold=9.0), [path], out)
    document, stored = result.document(), json.loads((out / "a" / "result.json").read_text())
    assert document["known"] is stored["known"] is False
    assert document["warnings"] == stored["warnings"] == [UNLIKE]
    assert result.line().endswith(f"  warning: {UNLIKE}") and "\n" not in result.line()
    assert (table(out)[0]["known"], table(out)[0]["warnings"]) == ("no", UNLIKE)


def test_a_folder_that_nothing_can_be_written_to_is_told_before_any_answer(model_of, recipe_of, tmp_path):
    out = tmp_path / "out"
    (out / ".results.lock").mkdir(parents=True)
    run = infer(model_of(recipe_of()), [picture(tmp_path / "a.png")], out)
    with pytest.raises(InputError, match=r"results\.lock: cannot be written: Is a directory"):
        next(run)
    assert [path.name for path in out.iterdir()] == [".results.lock"]


def test_a_bad_file_does_not_stop_the_others(model_of, recipe_of, tmp_path):
    out, good = tmp_path / "out", picture(tmp_path / "good.png")
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(good.read_bytes()[:45])
    results = list(infer(model_of(recipe_of()), [broken, good, missing], out))
    missed, cut, answered = sorted(
        results, key=lambda r: ("missing", "broken", "good").index(Path(r.input).stem)
    )
    assert str(broken) in cut.error and missed.error == f"{missing}: no such file" and not answered.error
    assert cut.document()["probabilities"] is None and "failed" in cut.line()
    assert {Path(row["input"]).stem: bool(row["error"]) for row in table(out)} == {
        "broken": True,
        "good": False,
        "missing": True,
    }
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["good"]
    assert exit_code(results) == 3
    assert exit_code([answered]) == 0 and exit_code([cut]) == 1


def test_an_earlier_answer_does_not_stay_beside_a_failure(model_of, recipe_of, tmp_path):
    out, path = tmp_path / "out", picture(tmp_path / "a.png")
    model = model_of(recipe_of("segmentation"))
    list(infer(model, [path], out, preview=True))
    path.write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    (failed,) = infer(model, [path], out)
    assert failed.error and sorted(p.name for p in (out / "a").iterdir()) == ["result.json"]
    assert json.loads((out / "a" / "result.json").read_text())["error"] == failed.error


def test_a_fault_in_a_reader_is_one_failed_input(model_of, recipe_of, tmp_path, monkeypatch):
    def fault(path):
        raise KeyError("PixelData")

    monkeypatch.setattr("fedmed_edge.inference.inputs.read_image", fault)
    (result,) = infer(model_of(recipe_of()), [picture(tmp_path / "a.png")], tmp_path / "out")
    assert result.error == f"{tmp_path / 'a.png'}: KeyError while it was answered: 'PixelData'"


def test_interrupted_run_leaves_its_table(model_of, recipe_of, tmp_path):
    out = tmp_path / "out"
    run = infer(model_of(recipe_of()), [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")], out)
    next(run)
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt)
    assert [row["input"] for row in table(out)] == [str(tmp_path / "a.png")]


def test_two_runs_at_once_lose_no_row(model_of, recipe_of, tmp_path):
    model, out = model_of(recipe_of()), tmp_path / "out"
    paths = [picture(tmp_path / f"{n}.png") for n in range(8)]
    runs = [threading.Thread(target=lambda p=p: list(infer(model, [p], out))) for p in paths]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert {row["input"] for row in table(out)} == {str(p) for p in paths}


def test_what_a_killed_run_left_half_written_goes_with_the_next_answer(model_of, recipe_of, tmp_path):
    out, path = tmp_path / "out", picture(tmp_path / "a.png")
    (out / "a").mkdir(parents=True)
    left = out / "a" / ".part-0123456789abcdef"
    left.write_text("half a mask")
    (result,) = infer(model_of(recipe_of()), [path], out)
    assert result.output == str(out / "a") and not left.exists()


def test_what_another_run_is_writing_stays(model_of, recipe_of, tmp_path):
    out, path = tmp_path / "out", picture(tmp_path / "a.png")
    (out / "a").mkdir(parents=True)
    being_written = out / "a" / ".part-0123456789abcdef"
    model = model_of(recipe_of())
    run = threading.Thread(target=lambda: list(infer(model, [path], out)))
    with alone_in(out / "a"):
        being_written.write_text("half a mask")
        run.start()
        run.join(0.5)
        assert run.is_alive() and being_written.exists()
    run.join()
    assert not being_written.exists() and (out / "a" / "result.json").exists()


def test_a_table_of_something_else_is_not_touched(model_of, recipe_of, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"results\.csv: has columns a,b, expected input,output"):
        ResultsFolder(out, model_of(recipe_of()), Options())
    assert (out / "results.csv").read_text() == "a,b\n1,2\n"


def test_folder_that_cannot_be_made(model_of, recipe_of, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out: cannot be made: Not a directory"):
        ResultsFolder(tmp_path / "file" / "out", model_of(recipe_of()), Options())


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("scan.nii.gz", "scan"),
        ("IM0001", "IM0001"),
        ("1.2.840.5", "1.2.840.5"),
        ("a b/ü?.PNG", "_"),
        (".dcm", "dcm"),
        ("...", "input"),
    ],
)
def test_names_are_safe(tmp_path, name, stem):
    assert _stem(tmp_path / name) == stem


def test_preview_of_each_kind(model_of, recipe_of, series, tmp_path):
    flat = picture(tmp_path / "a.png", size=(30, 60))
    one = model_of(recipe_of(), threshold=0.1)
    two = model_of(recipe_of("segmentation", name="two"), name="two.onnx")
    three = model_of(
        recipe_of("segmentation", (16, 16, 16), spacing_mm=(4.0, 4.0, 4.0), name="three"), name="three.onnx"
    )
    for model, path in ((one, flat), (two, flat), (three, series)):
        (result,) = infer(model, [path], tmp_path / "out", preview=True)
        with Picture.open(f"{result.output}/preview.png") as preview:
            assert preview.mode == "RGB" and max(preview.size) >= 512


def test_result_of_a_failure_has_no_numbers():
    result = Result(
        "a", None, "t", "segmentation", "0" * 64, "1" * 64, "cpu", 0.1, error="a: broken", hint="look"
    )
    document = result.document()
    assert document["mask"] is None and "label" not in document and document["hint"] == "look"
    assert result.line() == "failed  a: broken (look)"
    assert not any(isinstance(value, float) and math.isnan(value) for value in document.values())


def test_the_formats_page_names_every_field(model_of, recipe_of, tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text().partition("## Results")[2]
    for kind in ("classification", "segmentation"):
        model = model_of(recipe_of(kind), name=f"{kind}.onnx")
        (result,) = infer(model, [picture(tmp_path / "a.png")], tmp_path / kind)
        assert all(f"`{name}`" in page for name in result.document())
