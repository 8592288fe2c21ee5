"""The harness: rows of any task folder, kept and gone on with, honest about what failed."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as Picture

from fedmed_edge.commands.edge import edge
from fedmed_edge.errors import InputError, Unwritable
from fedmed_edge.features.training import build_network
from fedmed_edge.images.dataset import Dataset, Task, read_dataset, read_task
from fedmed_edge.recipe import TRAINING
from fedmed_edge.study import bench_method, notebook, questions, scores
from fedmed_edge.study.bench_method import Comparison, bench_methods, find_tasks
from fedmed_edge.study.method_report import tables
from fedmed_edge.study.methods.method import Case, Learned, Method, Option
from fedmed_edge.study.methods.registry import METHODS, methods_named
from fedmed_edge.study.methods.tuning import Choice
from fedmed_edge.study.near_duplicates import near_duplicates
from fedmed_edge.study.plan import METHOD_BUDGETS, POLICIES, Budget, MethodBudget
from fedmed_edge.study.questions import _SHIFT_PARTS, labels_and_images, settings_named, shifts, unlabelled
from fedmed_edge.study.scores import Answers, answers_of_network, answers_of_probabilities

BUDGET = MethodBudget(
    "tiny", dict.fromkeys(("classification", "segmentation"), Budget(4, 1, 1, 1, 1, 1, until_plateau=False))
)


@pytest.fixture
def folder(tmp_path: Path, write_task: Callable[[Path, str], Task]) -> Path:
    """A task folder that says what it is, as the command finds it."""
    task = write_task(tmp_path / "squares", "classification")
    (task.folder / "task.toml").write_text(
        'kind = "classification"\nclasses = ["dark", "light"]\nsize = [32, 32]\n'
    )
    return task.folder


def comparison(methods: str, settings: str = "join", **more: object) -> Comparison:
    made = Comparison(
        methods_named(methods.split(",")), settings_named(settings.split(",")), POLICIES["open"], BUDGET, 1,
        ("gamma",), "cpu",
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tests' rows share: it is named by content, so that one folder serves them all."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def _shared(tmp_path: Path, kept: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").symlink_to(kept)


def ask(folder: Path, out: Path, what: Comparison) -> bench_method.Result:
    return bench_methods(folder, what, out, watch=lambda step: None)


def test_rows_tables_and_plots_are_there_and_nothing_is_computed_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, out = comparison("own_sums,rebuilt,local", "join,unseen"), tmp_path / "out"
    result = ask(folder, out, what)
    assert [(row["setting"], row["method"]) for row in result.rows] == [
        (setting, name) for setting in ("join", "unseen") for name in ("own_sums", "rebuilt", "local")
    ]
    assert not result.failed and result.reason is None
    joined, apart = result.rows[1], result.rows[3]
    assert joined["task"] == "squares" and joined["site"] == "gamma" and joined["seed"] == 0
    assert 0 <= joined["score"] <= 1 and set(joined["recall"]["gamma"]) == {"dark", "light"}
    assert joined["others"] == pytest.approx(np.mean([joined["scores"]["alpha"], joined["scores"]["beta"]]))
    assert joined["bytes"] == sum(joined["sent"].values()) + sum(joined["received"].values())
    assert joined["sent"]["gamma"] > 0 and joined["received"]["gamma"] > 0 and joined["seconds"] > 0
    # A hospital that is not there has no sums of its own, and no figure.
    assert apart["score"] is None and apart["error"] is None and "gamma" not in apart["scores"]
    (kept,) = [path for path in (out / "rows").iterdir() if '"rebuilt"' in path.read_text()][:1]
    patients = json.loads(kept.read_text())["answers"]["gamma"]["patients"]
    assert patients == ["p10", "p11", "p12", "p13"]
    assert json.loads((out / "results.json").read_text()) == result.rows
    (gain,) = json.loads((out / "tables.json").read_text())[0]["gains"]
    alone = result.rows[0]["score"]
    assert (gain["method"], gain["against"]) == ("rebuilt", "own_sums")
    assert gain["value"] == pytest.approx(joined["score"] - alone)
    assert gain["interval"][0] <= gain["value"] <= gain["interval"][1]
    assert any(line.startswith("rebuilt - own_sums: ") for line in result.lines)
    recall = result.lines.index("recall: join, squares")
    assert result.lines[recall + 1].split() == ["dark", "light"]
    shown = joined["recall"]["gamma"]
    assert result.lines[recall + 3].split() == ["rebuilt", *(f"{shown[n]:.3f}" for n in ("dark", "light"))]
    assert {path.name for path in out.glob("*.svg")} == {"join-squares.svg", "unseen-squares.svg"}
    assert (
        (out / "tables.txt").read_text().startswith("join: squares: balanced accuracy, 1 seed, policy open")
    )

    def refuse(*arguments: object) -> None:
        raise AssertionError("learned again")

    monkeypatch.setattr(bench_method, "run", refuse)
    again = ask(folder, out, what)
    assert again.rows == result.rows and again.lines == result.lines
    shutil.rmtree(out / "rows")
    assert ask(folder, out, what).failed == len(result.rows)


def test_shifts_are_asked_with_and_without_each_part(folder: Path, tmp_path: Path) -> None:
    result = ask(folder, tmp_path / "out", comparison("fedavg", "unseen,shifts"))
    assert not result.failed, result.reason
    apart = {row["method"]: row for row in result.rows if row["setting"] == "unseen"}
    rows = {row["method"]: row for row in result.rows if row["setting"] == "shifts"}
    # A classification has none by default, and what else depends on them is not asked without any.
    assert set(rows) == {"fedavg", "fedavg +amplitude", "fedavg +maps", "fedavg +moments"}
    # As the recipe has it, it is the unseen hospital, which is not asked twice.
    assert all(rows[name]["file"] == apart[name]["file"] for name in apart)
    assert len({row["file"] for row in rows.values()}) == len(rows)
    assert {row["role"] for name, row in rows.items() if " " in name} == {"control"}
    assert any(line.startswith("fedavg +maps ") for line in result.lines)


def test_a_variant_changes_the_training_and_nothing_else(folder: Path) -> None:
    made = read_task(folder)
    recipe = made.recipe.model_copy(update={"training": TRAINING["segmentation"]})
    train = {site: read_dataset(path, recipe).train for site, path in made.sites.items()}
    plain, off, *others = shifts(train, "gamma", 0)
    assert (plain.recipe, off.recipe.training.shifts) == (recipe, False)
    # Without the only share there is no other shift: that is `off`.
    assert {question.variant[1:] for question in others} == set(_SHIFT_PARTS) - {"maps"}
    for question in (off, *others):
        part = question.variant[1:]
        changed = "" if question is off else getattr(question.recipe.training, part)
        assert bool(changed) == question.variant.startswith("+")
        assert question.recipe.model_copy(update={"training": recipe.training}) == recipe
        assert set(question.sites) == set(question.founders) == {"alpha", "beta"}
        assert all(data.recipe == question.recipe for data in question.sites.values())
        assert question.tuned_as == plain


def test_a_method_that_fails_is_a_row_that_says_so_and_is_tried_again(folder: Path, tmp_path: Path) -> None:
    def fails(case: Case, option: Option) -> Iterator[Learned]:
        raise InputError("broken: `luck` has none, expected some")
        yield

    what = comparison("rebuilt")
    what = replace(what, methods=[Method("broken", "peer", fails), *what.methods])
    result = ask(folder, tmp_path / "out", what)
    assert (result.failed, result.rows[0]["score"], result.rows[1]["error"]) == (1, None, None)
    assert result.reason == "broken: broken: `luck` has none, expected some"
    assert any(line == "failed: broken 1 time" for line in result.lines)
    (line, _) = tables(result.rows)["join", "squares", None]
    assert (line.failed, line.units, line.rank) == (1, 0, None)
    well = replace(what, methods=[replace(METHODS["threshold"], name="broken", fits=lambda r: True)])
    assert ask(folder, tmp_path / "out", well).rows[0]["error"] is not None  # of a segmentation alone


def test_a_policy_that_lets_nothing_leave_is_the_reason(folder: Path, tmp_path: Path) -> None:
    """Five patients of a class are fewer than a hospital's ten."""
    what = comparison("own_sums,rebuilt", policy=POLICIES["default"])
    result = ask(folder, tmp_path / "out", what)
    assert [row["error"] for row in result.rows] == [
        "policy `default`: none of 3 sites may hand over anything, too few training patients of a class for "
        "min_cohort 10; --policy open is for public data"
    ] * 2


def test_an_unknown_site_is_told_before_any_image_is_read(folder: Path, tmp_path: Path) -> None:
    (folder / "beta" / "images" / "5.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match="no site `delta`, expected of alpha, beta, gamma"):
        ask(folder, tmp_path / "out", comparison("rebuilt", sites=("delta",)))


def test_of_what_was_interrupted_there_are_tables(folder: Path, tmp_path: Path) -> None:
    def stop(row: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        bench_methods(folder, comparison("own_sums,rebuilt"), out, watch=lambda step: None, answer=stop)
    assert [row["method"] for row in json.loads((out / "results.json").read_text())] == ["own_sums"]
    assert (out / "tables.txt").read_text().endswith("interrupted: of the rows that were there")


def test_a_broken_image_is_told_before_any_row(folder: Path, tmp_path: Path) -> None:
    (folder / "beta" / "images" / "5.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match=r"beta/images/5.png: .*"):
        ask(folder, tmp_path / "out", comparison("rebuilt"))
    assert not (tmp_path / "out" / "rows").exists()


def test_a_method_that_sees_no_difference_is_asked_once(folder: Path, tmp_path: Path) -> None:
    rows = ask(folder, tmp_path / "out", comparison("rebuilt,mean_shift", "unseen,unlabelled")).rows
    assert [(row["setting"], row["method"]) for row in rows] == [
        ("unseen", "rebuilt"),
        ("unlabelled", "rebuilt"),
        ("unlabelled", "mean_shift"),
    ]
    assert rows[0]["scores"] == rows[1]["scores"]
    assert len(list((tmp_path / "out" / "rows").iterdir())) == 2


def test_a_split_with_a_patient_on_both_sides_is_refused(folder: Path, tmp_path: Path) -> None:
    table = folder / "beta" / "labels.csv"
    table.write_text(table.read_text().replace("p12,test", "p3,test"))
    with pytest.raises(InputError, match="patient of row 14 is in `test`, in row 5 in `train`"):
        ask(folder, tmp_path / "out", comparison("rebuilt"))
    assert not list(tmp_path.glob("out/rows/*"))


def test_events_leave_the_bytes_of_a_store_that_saw_them(folder: Path, tmp_path: Path) -> None:
    joined, updated, left = ask(folder, tmp_path / "out", comparison("rebuilt", "join,update,withdraw")).rows
    assert all(row["notes"]["exact"] for row in (joined, updated, left))
    assert set(joined["sent"]) == set(updated["sent"]) == {"gamma"}
    assert left["sent"] == {} and left["score"] is not None and left["before"]["rounds"] == 1


def test_a_join_proves_itself_also_after_a_label_curve(folder: Path, tmp_path: Path) -> None:
    (task,), _ = find_tasks(folder)
    checked = bench_method.check(task, tmp_path / "out", lambda step: None)
    bench = bench_method._Bench(checked, comparison("rebuilt"), tmp_path / "out", 0, lambda step: None)
    *_, every = questions.labels(checked.train, "beta", 0)
    (joined,) = questions.join(checked.train, "beta", 0)
    keys = {
        name: [bench._key(question, METHODS[name], Choice({})) for question in (every, joined)]
        for name in ("rebuilt", "local")
    }
    assert joined.proves and not every.proves and len(every.sites["beta"]) == len(joined.sites["beta"])
    assert keys["rebuilt"][0] != keys["rebuilt"][1], "the row says how exact it was"
    assert keys["local"][0] == keys["local"][1], "it is asked once"


def test_a_corrected_mask_is_another_question(
    tmp_path: Path, write_task: Callable[[Path, str], Task]
) -> None:
    task = write_task(tmp_path / "outlines", "segmentation")
    (task.folder / "task.toml").write_text(
        'kind = "segmentation"\nclasses = ["background", "square"]\nsize = [32, 32]\n'
    )
    what = comparison("threshold")
    (before,) = ask(task.folder, tmp_path / "out", what).rows
    (same,) = ask(task.folder, tmp_path / "out", what).rows
    assert same == before
    mask = task.folder / "gamma" / "images" / "11-mask.png"
    Picture.fromarray(255 - np.asarray(Picture.open(mask)) - 254).save(mask)
    (after,) = ask(task.folder, tmp_path / "out", what).rows
    assert after["file"] != before["file"] and after["score"] != before["score"]


def test_near_duplicates_over_the_split_are_reported(folder: Path, tmp_path: Path) -> None:
    (task,), _ = find_tasks(folder)
    data = {site: read_dataset(place, task.recipe) for site, place in task.sites.items()}
    assert near_duplicates(data) == []
    pixels = np.asarray(Picture.open(folder / "alpha" / "images" / "2.png"), np.float32)
    brighter = (0.8 * pixels + 20 + np.random.default_rng(0).normal(0, 1, pixels.shape)).astype(np.uint8)
    Picture.fromarray(brighter).resize((64, 64)).save(folder / "gamma" / "images" / "11.png")
    (pair,) = near_duplicates(data)
    assert (pair.train, pair.test) == (("alpha", "images/2.png"), ("gamma", "images/11.png"))
    assert pair.correlation > 0.99
    ask(folder, tmp_path / "out", comparison("untrained"))
    found = json.loads((tmp_path / "out" / "near-duplicates.json").read_text())
    assert found["squares"][0]["test"] == ["gamma", "images/11.png"]


def test_a_folder_of_task_folders_is_taken_task_by_task(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, folder.parent / "more" / "squares")
    shutil.copytree(folder, folder.parent / "more" / "alone")
    for site in ("alpha", "beta"):
        shutil.rmtree(folder.parent / "more" / "alone" / site)
    (folder.parent / "more" / "papers").mkdir()
    tasks, skipped = find_tasks(folder.parent / "more")
    assert [task.name for task in tasks] == ["alone", "squares"]
    assert skipped == {"papers": "holds no dataset folder"}
    result = ask(folder.parent / "more", tmp_path / "out", comparison("untrained"))
    assert {row["task"] for row in result.rows} == {"squares"}
    with pytest.raises(InputError, match="`gamma` cannot be in question, expected one of two or more sites"):
        ask(folder.parent / "more" / "alone", tmp_path / "out", comparison("untrained"))
    with pytest.raises(InputError, match="no such folder"):
        find_tasks(tmp_path / "nowhere")


def test_a_hospital_in_question_need_not_be_in_every_task(folder: Path, tmp_path: Path) -> None:
    def fails(case: Case, option: Option) -> Iterator[Learned]:
        raise InputError("quick: that is all")
        yield

    data = folder.parent / "more"
    for name in ("pair", "squares"):
        shutil.copytree(folder, data / name)
    shutil.rmtree(data / "pair" / "gamma")
    what = replace(comparison("rebuilt"), methods=[Method("quick", "peer", fails)])
    assert [row["task"] for row in ask(data, tmp_path / "out", what).rows] == ["squares"]
    either = replace(what, sites=("gamma", "beta"))
    asked = [(row["task"], row["site"]) for row in ask(data, tmp_path / "out", either).rows]
    assert asked == [("pair", "beta"), ("squares", "gamma"), ("squares", "beta")]
    with pytest.raises(InputError, match="more: there is no site `delta`, expected of alpha, beta, gamma"):
        ask(data, tmp_path / "out", replace(what, sites=("gamma", "delta")))


def test_settings_hide_what_they_should(folder: Path) -> None:
    (task,), _ = find_tasks(folder)
    train = {site: read_dataset(place, task.recipe).train for site, place in task.sites.items()}
    (question,) = unlabelled(train, "beta", 0)
    assert len(question.sites["beta"]) == 10 and not len(question.sites["beta"].labelled)
    assert set(question.founders) == {"alpha", "gamma"}
    few, whole = labels_and_images(train, "beta", 3)
    assert (few.labels, whole.labels) == (5, 10)
    assert (len(few.sites["beta"]), len(few.sites["beta"].labelled)) == (10, 5)
    again, _ = labels_and_images(train, "beta", 3)
    assert again.sites["beta"].items == few.sites["beta"].items
    first, _ = labels_and_images(train, "beta", 0)
    assert first.tuned_as is None and few.tuned_as is not None, "tuned once, with as many labels as it has"
    assert few.tuned_as == first and len(first.sites["beta"].labelled) == 5
    with pytest.raises(InputError, match="settings: has `jion`, expected some of join, unseen"):
        settings_named(["join", "jion"])
    with pytest.raises(InputError, match="methods: has `fedag`, expected some of own_sums, rebuilt"):
        methods_named(["fedag"])
    assert len(methods_named(["all"])) == len(METHODS)


def test_every_budget_gives_every_kind_of_task_the_same_trials() -> None:
    for budget in METHOD_BUDGETS.values():
        assert set(budget.training) == {"classification", "segmentation"}
    assert METHOD_BUDGETS["full"].training["segmentation"].until_plateau


def test_the_command_prints_a_row_a_line_and_says_what_failed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["bench-method", str(folder), "--methods", "own_sums,untrained", "--settings", "unseen"]
    given += ["--budget", "tiny", "--policy", "open", "--site", "beta", "--device", "cpu"]
    given += ["--out", str(tmp_path / "out"), "--quiet"]
    done = CliRunner().invoke(edge, [*given, "--json"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["setting"], row["task"], row["site"], row["method"], row["seed"]) for row in rows] == [
        ("unseen", "squares", "beta", name, 0) for name in ("own_sums", "untrained")
    ]
    assert all({"score", "bytes", "seconds"} <= set(row) for row in rows)
    assert rows[1]["score"] is not None
    told = CliRunner().invoke(edge, given)
    assert told.exit_code == 0 and "unseen: squares: balanced accuracy, 1 seed" in told.stdout
    wrong = CliRunner().invoke(edge, [*given, "--settings", "jion"])
    assert wrong.exit_code == 2 and "settings: has `jion`, expected some of join" in wrong.stderr

    def fails(case: Case, option: Option) -> Iterator[Learned]:
        raise InputError("broken: `luck` has none, expected some")
        yield

    monkeypatch.setitem(METHODS, "untrained", replace(METHODS["untrained"], learn=fails, name="unlucky"))
    failed = CliRunner().invoke(edge, given)
    assert failed.exit_code == 3
    assert "error: bench-method: 1 of 2 rows failed\nhint: unlucky: broken: `luck`" in failed.stderr


def _instant(scores: dict[str, float | None], name: str = "instant") -> Method:
    """Answers a share of each site's images rightly, at once; nothing at a site of None."""

    def learn(case: Case, option: Option) -> Iterator[Learned]:
        def at(share: float) -> Callable[[Dataset], Answers]:
            def predict(data: Dataset) -> Answers:
                right = np.eye(2)[[item.label for item in data]]
                wrong = np.arange(len(data)) >= share * len(data)
                return answers_of_probabilities(data, list(np.where(wrong[:, None], 1 - right, right)))

            return predict

        yield Learned(at={site: at(share) for site, share in scores.items() if share is not None})

    return Method(name, "peer", learn)


def test_a_mean_without_some_sites_stands_beside_none_with_all(folder: Path, tmp_path: Path) -> None:
    """Who is silent where it is hard would have the best mean."""
    silent = _instant({"alpha": 1.0, "beta": None, "gamma": 1.0}, "silent")
    unasked = _instant({"alpha": 1.0, "beta": 0.5, "gamma": None}, "unasked")
    whole = _instant({"alpha": 1.0, "beta": 0.5, "gamma": 1.0}, "whole")
    what = replace(comparison("rebuilt"), methods=[silent, unasked, whole])
    rows = ask(folder, tmp_path / "out", what).rows
    assert [(row["score"], row["others"], row["all"]) for row in rows] == [
        (1.0, None, None),
        (None, 0.75, None),
        (1.0, 0.75, pytest.approx(5 / 6)),
    ]
    lines = {line.method: line for line in tables(rows)["join", "squares", None]}
    assert (lines["silent"].others, lines["silent"].all, lines["whole"].others) == (None, None, 0.75)
    failed = [row | {"seed": 1, "error": "", "others": None, "all": None} for row in rows]
    lines = {line.method: line for line in tables([*rows, *failed])["join", "squares", None]}
    assert lines["whole"].others == 0.75, "of those that did not fail, which is told"


def test_answers_that_are_no_numbers_are_a_failure_and_no_class(
    folder: Path, tmp_path: Path, write_task: Callable[[Path, str], Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs_away(case: Case, option: Option) -> Iterator[Learned]:
        yield Learned(lambda data: answers_of_probabilities(data, [np.full(2, np.nan)] * len(data)))

    what = replace(comparison("rebuilt"), methods=[Method("runaway", "peer", runs_away)])
    (row,) = ask(folder, tmp_path / "out", what).rows
    assert row["score"] is None and "answers are not finite" in row["error"]
    outlines = write_task(tmp_path / "outlines", "segmentation")
    data = outlines.datasets()["alpha"].test
    grids = [np.full((2, 32, 32), np.nan, np.float32)] * len(data)
    monkeypatch.setattr(scores, "predict", lambda *given, **more: grids)
    with pytest.raises(InputError, match="alpha: answers are not finite"):
        answers_of_network(build_network(outlines.recipe), data, device="cpu")


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"score": 1.0}', b"\xff\xfe"])
def test_a_damaged_row_is_made_again_and_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    what = replace(comparison("rebuilt"), methods=[_instant({"gamma": 1.0})])
    before = ask(folder, tmp_path / "out", what)
    (path,) = (tmp_path / "out" / "rows").iterdir()
    path.write_bytes(content)
    again = ask(folder, tmp_path / "out", what)
    assert again.failed == 0 and again.rows[0]["score"] == before.rows[0]["score"] == 1.0
    assert f"{path}: is damaged and is made again" in caplog.text
    assert json.loads(path.read_text())["answers"]


def test_a_full_disk_ends_it_at_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every method would be computed for hours, and nothing of it kept."""
    ask(folder, tmp_path / "out", replace(comparison("rebuilt"), methods=[]))
    asked: list[str] = []

    def full(path: Path, content: bytes) -> None:
        asked.append(path.name)
        raise Unwritable(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(notebook, "write_atomic", full)
    two = [_instant({"gamma": 1.0}, name) for name in ("one", "two")]
    with pytest.raises(Unwritable, match="No space left"):
        ask(folder, tmp_path / "out", replace(comparison("rebuilt"), methods=two))
    assert len(asked) == 1


def test_a_hospital_named_twice_is_asked_once(folder: Path, tmp_path: Path) -> None:
    what = replace(comparison("rebuilt"), methods=[_instant({"gamma": 1.0})], sites=("gamma", "gamma"))
    assert len(ask(folder, tmp_path / "out", what).rows) == 1


def test_task_folders_of_one_name_are_refused(folder: Path) -> None:
    """Their rows would be those of one task, site by site."""
    shutil.copytree(folder, folder.parent / "more" / "a b")
    shutil.copytree(folder, folder.parent / "more" / "a-b")
    with pytest.raises(InputError, match=r"more/a-b: task is called `a-b` as that of .*more/a b"):
        find_tasks(folder.parent / "more")


def test_what_was_passed_over_stands_below_the_tables(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, folder.parent / "more" / "good")
    shutil.copytree(folder, folder.parent / "more" / "wrong")
    (folder.parent / "more" / "wrong" / "task.toml").write_text("kind = 3")
    what = replace(comparison("rebuilt"), methods=[_instant({"gamma": 1.0})])
    result = ask(folder.parent / "more", tmp_path / "out", what)
    (line,) = [line for line in result.lines if line.startswith("passed over: wrong: ")]
    assert line in (tmp_path / "out" / "tables.txt").read_text()


def test_another_task_file_is_looked_at_again(folder: Path, tmp_path: Path) -> None:
    what = replace(comparison("rebuilt"), methods=[_instant({"gamma": 1.0})])
    ask(folder, tmp_path / "out", what)
    stated = folder / "task.toml"
    stated.write_text(stated.read_text().replace("size = [32, 32]", "dimensions = 3\nsize = [16, 16, 16]"))
    with pytest.raises(InputError, match="42 images cannot be used"):
        ask(folder, tmp_path / "out", what)


def test_a_hospital_whose_test_images_are_of_one_class_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = folder / "beta" / "labels.csv"
    lines = [
        line.replace(",dark,", ",light,") if ",test" in line else line for line in table.read_text().split()
    ]
    table.write_text("\n".join(lines))
    ask(folder, tmp_path / "out", replace(comparison("rebuilt"), methods=[_instant({"gamma": 1.0})]))
    assert "all test images of beta are `light`: whoever always says so scores 1 there" in caplog.text
    assert "alpha" not in caplog.text


def test_a_gain_says_over_how_many_sites_it_is(folder: Path, tmp_path: Path) -> None:
    whole = replace(_instant(dict.fromkeys(("alpha", "beta", "gamma"), 1.0), "whole"), role="ours")
    silent = replace(_instant({"alpha": 0.5, "beta": 0.5}, "own_sums"), role="control")
    what = replace(comparison("rebuilt"), methods=[whole, silent], sites=())
    result = ask(folder, tmp_path / "out", what)
    (line,) = [line for line in result.lines if line.startswith("whole - own_sums: ")]
    assert line.endswith("paired by patient, over 2 of 3 sites alone")
    assert "no score at 1 of 3 sites: own_sums" in result.lines
    assert json.loads((tmp_path / "out" / "tables.json").read_text())[0]["gains"][0]["sites"] == 2
