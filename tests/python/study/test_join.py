"""The join experiment on a tiny task: its table, its exactness, and that it goes on where it stopped."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Task
from fedmed_edge.recipe import Recipe
from fedmed_edge.report.data import BUDGETED
from fedmed_edge.study.figures import document, table, task_figures
from fedmed_edge.study.join import COLUMNS, Join, run_join
from fedmed_edge.study.one_place import OnePlace
from fedmed_edge.study.plan import POLICIES, Budget
from fedmed_edge.study.runs import Runs, together
from fedmed_edge.study.scores import Answers, score

BUDGET = Budget(4, 1, 2, 2, 1, 2, until_plateau=False)
SITES = ("alpha", "beta", "gamma")
WriteTask = Callable[[Path, str], Task]


@pytest.fixture(scope="module", params=["classification", "segmentation"])
def join(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_task: WriteTask
) -> tuple[Task, Path, Join]:
    folder = tmp_path_factory.mktemp(request.param)
    task = write_task(folder / "task", request.param)
    out = folder / "out"
    return task, out, run_join(task, out=out, setting=POLICIES["open"], budget=BUDGET, device="cpu")


def test_document_has_every_column_at_every_site(join: tuple[Task, Path, Join]) -> None:
    task, _, result = join
    found = document(Runs((result,)), "report.html")
    assert found["joined"] == "gamma"
    assert found["kind"] == task.recipe.kind
    assert set(found["sites"]) == set(SITES)
    for row in (*found["sites"].values(), found["mean"]):
        assert set(row) == set(COLUMNS)
        filled = {name for name, value in row.items() if value is not None}
        assert filled == set(COLUMNS) - ({"threshold"} if found["kind"] == "classification" else set())
        assert all(0 <= row[name] <= 1 for name in filled)
    assert [point["labels"] for point in found["label_curve"]] == [5, 10]
    assert set(found["label_curve"][0]) == {
        *("labels", "own_sums", "rebuilt", "refined", "gain", "refined_gain")
    }
    assert found["join"]["bytes"] > 0
    assert found["join"]["others_bytes"] == 0


def test_rebuild_is_exact(join: tuple[Task, Path, Join]) -> None:
    exactness = document(Runs((join[2],)), "")["exactness"]
    assert exactness["rebuilt_vs_pooled"] <= 1e-9
    assert exactness["rebuild_identical"]
    assert exactness["withdraw_identical"]


def test_table_names_sites_columns_and_budget(join: tuple[Task, Path, Join]) -> None:
    text = "\n".join(table(Runs((join[2],))))
    assert "gamma+" in text
    for column in ("reference", "local", "fedavg", "pooled"):
        assert f" {column}* " in text
    assert "own_sums*" not in text and "rebuilt*" not in text
    assert f"* {BUDGETED} (--full: fedavg and pooled at their plateau)\n" in text


def test_table_with_plateaus_marks_the_networks_without(join: tuple[Task, Path, Join]) -> None:
    costs = {
        column: replace(cost, plateau=column in ("fedavg", "pooled"))
        for column, cost in join[2].costs.items()
    }
    text = "\n".join(table(Runs((replace(join[2], costs=costs),))))
    assert "reference*" in text and "local*" in text and "fedavg*" not in text and "pooled*" not in text
    assert f"* {BUDGETED}\n" in text


def test_table_shows_the_means(join: tuple[Task, Path, Join]) -> None:
    text = "\n".join(table(Runs((join[2],))))
    assert f"{Runs((join[2],)).means['rebuilt'].value:.3f}" in text


def test_second_run_trains_nothing(join: tuple[Task, Path, Join], monkeypatch: pytest.MonkeyPatch) -> None:
    task, out, first = join

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    for name in ("reference_network", "joint_network", "local_network"):
        monkeypatch.setattr(f"fedmed_edge.study.join.{name}", refuse)
    again = run_join(task, out=out, setting=POLICIES["open"], budget=BUDGET, device="cpu")
    assert again.answers == first.answers
    assert again.story.after.digest == first.story.after.digest


def test_plateau_is_looked_for_once_for_all_seeds(
    join: tuple[Task, Path, Join], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, asked = join[0], []

    def two(column: str, *args: object, **options: object) -> int:
        asked.append((column, options["seed"]))
        return 2

    monkeypatch.setattr("fedmed_edge.study.join.useful_cycles", two)
    budget = replace(BUDGET, until_plateau=True)
    settings = {"out": tmp_path, "setting": POLICIES["open"], "budget": budget, "device": "cpu"}
    runs = [run_join(task, seed=seed, **settings) for seed in (1, 2)]
    assert asked == [("fedavg", 0), ("pooled", 0)]
    for run in runs:
        assert run.costs["pooled"].steps == 2 * BUDGET.pooled_steps
        assert run.costs["fedavg"].rounds == 2 * BUDGET.peer_rounds
        assert run.costs["fedavg"].plateau


def test_figures_of_several_seeds_are_means_with_paired_gains(join: tuple[Task, Path, Join]) -> None:
    task, out, first = join
    settings = {"out": out, "setting": POLICIES["open"], "budget": BUDGET, "device": "cpu"}
    runs = Runs((first, run_join(task, seed=1, **settings)))
    found = document(runs, "")
    assert found["seeds"] == [0, 1]
    alone = [Runs((one,)).scores["rebuilt"]["gamma"].value for one in runs.joins]
    assert found["sites"]["gamma"]["rebuilt"] == pytest.approx(np.mean(alone), abs=1e-6)
    gain = runs.scores["rebuilt"]["gamma"] - runs.scores["own_sums"]["gamma"]
    assert gain.interval[0] <= gain.value <= gain.interval[1]
    # A figure against itself: drawn with the same patients and runs, so nothing is left.
    nothing = runs.scores["rebuilt"]["gamma"] - runs.scores["rebuilt"]["gamma"]
    assert nothing.interval == (0.0, 0.0)
    means = [np.mean([Runs((one,)).means["pooled"].value]) for one in runs.joins]
    assert runs.spread("pooled") == pytest.approx(np.std(means, ddof=1))
    assert "mean of 2 seeds" in table(runs)[0]


def test_few_labels_are_drawn_several_times_and_all_of_them_once(join: tuple[Task, Path, Join]) -> None:
    task, out, once = join
    settings = {"out": out, "setting": POLICIES["open"], "budget": BUDGET, "device": "cpu"}
    thrice = run_join(task, label_draws=3, **settings)
    assert [len(answers["rebuilt"]) for answers in thrice.curve.values()] == [3, 1]
    assert thrice.curve[5]["own_sums"][0] == once.curve[5]["own_sums"][0]
    alone = [score(task.recipe, one) for one in thrice.curve[5]["refined"]]
    assert Runs((thrice,)).curve[5]["refined"].value == pytest.approx(np.mean(alone))


def test_folder_of_another_experiment_is_refused(join: tuple[Task, Path, Join]) -> None:
    task, out, _ = join
    with pytest.raises(InputError, match="holds an experiment of other settings"):
        run_join(task, out=out, setting=POLICIES["open"], budget=replace(BUDGET, rounds=2), device="cpu")


def test_what_min_cohort_leaves_out_has_no_figure(join: tuple[Task, Path, Join]) -> None:
    task, out, _ = join
    # Ten training images; two classes share them, or every image shows both.
    least = 5 if task.recipe.kind == "classification" else 6
    setting = replace(POLICIES["default"], min_cohort=least)
    settings = {"out": out, "budget": BUDGET, "device": "cpu"}
    few, every = document(Runs((run_join(task, setting=setting, **settings),)), "")["label_curve"]
    assert few["own_sums"] is None
    assert few["rebuilt"] is not None
    assert every["own_sums"] is not None
    with pytest.raises(InputError, match="patients of every class for min_cohort 11: "):
        run_join(task, setting=replace(setting, min_cohort=11), **settings)


def test_with_noise_no_refined_model_is_made_and_own_sums_have_none(join: tuple[Task, Path, Join]) -> None:
    task, out, exact = join
    setting = replace(POLICIES["private"], min_cohort=1, epsilon=90.0, feature_dim=3)
    settings = {"out": out, "budget": BUDGET, "device": "cpu"}
    made = run_join(task, setting=setting, **settings)
    assert made.generation.row_dim == 4 < exact.generation.row_dim
    assert made.generation.weights.keys() == exact.generation.weights.keys()
    assert made.story.refined == {} and "refined" not in made.answers
    assert made.story.rebuild_identical and made.story.withdraw_identical
    found = document(Runs((made,)), "")
    assert found["setting"] == "private" and found["mean"]["refined"] is None
    assert found["mean"]["rebuilt"] is not None and found["mean"]["own_sums"] is not None
    text = "\n".join(table(Runs((made,))))
    assert "sums with noise, ε 90 each; all else without" in text
    assert task_figures(Runs((made,))).setting == "private (min_cohort 1, epsilon 90.0, feature_dim 3)"
    again = run_join(task, setting=replace(setting, epsilon=None), **settings)
    assert again.answers["own_sums"] == made.answers["own_sums"]


def test_too_few_patients_are_refused_before_anything_is_trained(
    join: tuple[Task, Path, Join], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, _, _ = join
    for name in ("reference_network", "joint_network", "local_network"):
        monkeypatch.setattr(f"fedmed_edge.study.join.{name}", lambda *a, **k: pytest.fail("trained"))
    options = {"out": tmp_path, "budget": BUDGET, "device": "cpu"}
    with pytest.raises(InputError, match="patients of every class for min_cohort 11 and noise: "):
        run_join(task, setting=replace(POLICIES["private"], min_cohort=11), **options)


def test_two_sites_are_too_few(join: tuple[Task, Path, Join], tmp_path: Path) -> None:
    task = join[0]
    few = replace(task, sites={site: task.sites[site] for site in SITES[:2]})
    with pytest.raises(InputError, match="alpha, beta with training images, expected at least three"):
        run_join(few, joining="beta", out=tmp_path, setting=POLICIES["open"], budget=BUDGET, device="cpu")


def _rewrite(folder: Path, change: Callable[[str], str]) -> None:
    head, *rows = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join([head, *map(change, rows)]))


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_sites_without_labels_or_test_images_take_part(
    kind: str, tmp_path: Path, write_task: WriteTask
) -> None:
    """Five sites: the last by name cannot join, and those that cannot be asked have no figure."""
    task = write_task(tmp_path / "task", kind)
    lacking = {"no-labels": lambda row: f"{row.split(',')[0]},,,{row.split(',', 3)[3]}"}
    lacking["zero-tests"] = lambda row: row.replace(",test", ",train")
    for site, change in lacking.items():
        shutil.copytree(task.folder / "beta", task.folder / site)
        _rewrite(task.folder / site, change)
    task = replace(task, sites=task.sites | {site: task.folder / site for site in lacking})
    settings = {"setting": POLICIES["open"], "budget": BUDGET, "device": "cpu"}
    made = run_join(task, out=tmp_path / "out", **settings)
    assert made.joining == "gamma"
    found = document(Runs((made,)), "")
    assert set(found["sites"]) == set(SITES)
    assert all(row["rebuilt"] is not None and row["local"] is not None for row in found["sites"].values())
    assert set(lacking) < set(made.story.after.sites)
    with pytest.raises(InputError, match="`no-labels` has no labels in training or in test"):
        run_join(task, joining="no-labels", out=tmp_path / "out", **settings)


def test_broken_images_are_all_told_before_anything_is_trained(
    tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = write_task(tmp_path / "task", "classification")
    broken = [task.folder / name for name in ("alpha/images/3.png", "gamma/images/11.png")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    for name in ("reference_network", "joint_network", "local_network"):
        monkeypatch.setattr(f"fedmed_edge.study.join.{name}", lambda *a, **k: pytest.fail("trained"))
    settings = {"out": tmp_path / "out", "setting": POLICIES["open"], "budget": BUDGET, "device": "cpu"}
    with pytest.raises(InputError, match=r"2 images cannot be used: .*alpha/images/3.png: .*gamma/images/11"):
        run_join(task, **settings)
    assert not (tmp_path / "out").exists(), "mended data would be another experiment there"


def test_one_place_head_is_the_weighted_least_squares_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmed_edge.study.one_place._BLOCK", 12)
    random = np.random.default_rng(0)
    rows, classes = random.normal(size=(40, 5)), np.repeat([0, 1], [30, 10]).astype(np.int32)
    place = OnePlace(2)
    for half in (slice(25), slice(25, None)):
        place.add(rows[half], classes[half])
    head = place.head(1e-3)
    weights = np.where(classes == 0, 1 / 30, 1 / 10)
    level = 1e-3 * np.trace((rows * weights[:, None]).T @ rows) / 5
    stacked = np.vstack([rows * np.sqrt(weights)[:, None], np.sqrt(level) * np.eye(5)])
    targets = np.vstack([np.eye(2)[classes] * np.sqrt(weights)[:, None], np.zeros((5, 2))])
    wanted = np.linalg.lstsq(stacked, targets, rcond=None)[0]
    assert np.allclose(head, wanted, rtol=1e-9)


def test_score_of_no_images_is_not_a_number() -> None:
    recipe = Recipe(name="r", kind="classification", classes=("a", "b"))
    assert np.isnan(score(recipe, Answers()))


def test_patients_of_two_sites_stay_two() -> None:
    one = Answers(["p"], truth=[0], label=[0], probabilities=[[1.0, 0.0]])
    assert together({"alpha": one, "beta": one}).patients == ["alpha/p", "beta/p"]
