"""The universal encoder's rows: patients of the pool apart, every task a client, kept and gone on with."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Dataset, Task, read_dataset
from fedmed_edge.recipe import Intensity
from fedmed_edge.study import universal
from fedmed_edge.study.bench_method import Comparison, bench_methods
from fedmed_edge.study.method_report import tables
from fedmed_edge.study.plan import METHOD_BUDGETS, POLICIES
from fedmed_edge.study.universal import UNIVERSAL_BUDGETS, _labelled, clients_of, universal_rows

TINY = UNIVERSAL_BUDGETS["tiny"]
SHORT = replace(TINY, stages=2, first=2, stage=2, local=1, probe=1, tuned=1, batch=4)


@pytest.fixture(scope="module")
def tasks(
    write_task: Callable[[Path, str], Task], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Dataset]]:
    """One task of either kind."""
    made = {}
    for kind in ("classification", "segmentation"):
        task = write_task(tmp_path_factory.mktemp("tasks") / kind, kind)
        made[kind] = {site: read_dataset(folder, task.recipe) for site, folder in task.sites.items()}
    return made


def test_the_pool_shares_no_patient_with_training_or_test(tasks: dict[str, dict[str, Dataset]]) -> None:
    clients = clients_of(tasks, TINY, seed=0)
    assert [one.name for one in clients] == ["classification", "segmentation"]
    for one in clients:
        sides = [{item.patient for item in part} for part in (one.pool, one.train, one.test)]
        assert all(sides) and not any(a & b for a in sides for b in sides if a is not b)
        assert len(sides[0]) == round(0.3 * (len(sides[0]) + len(sides[1])))
        assert all(item.label is None and item.mask is None for item in one.pool)
        assert one.train.recipe.size == (32, 32) and one.train.recipe.backbone.widths == TINY.widths
    assert {item.image for one in clients for item in one.pool} != {
        item.image for one in clients_of(tasks, TINY, seed=1) for item in one.pool
    }


def test_a_share_of_the_labels_keeps_whole_patients_and_every_class(
    tasks: dict[str, dict[str, Dataset]],
) -> None:
    (client, _) = clients_of(tasks, TINY, seed=0)
    few = _labelled(client.train, 0.1, seed=0)
    assert 2 <= len(few) < 0.3 * len(client.train)
    assert {item.label for item in few} == {item.label for item in client.train}
    kept = {item.patient for item in few}
    assert len(few) == sum(item.patient in kept for item in client.train)
    assert _labelled(client.train, 1.0, seed=0) is client.train


def test_what_an_encoder_took_counts_what_went_before_it_once(
    tasks: dict[str, dict[str, Dataset]], tmp_path: Path
) -> None:
    clients = clients_of(tasks, SHORT, seed=0)
    learning = universal._Learning(clients, SHORT, 1.0, 0, "cpu", tmp_path, lambda _: None)
    began = time.perf_counter()
    last = learning.seconds(learning.last)
    assert last <= time.perf_counter() - began
    shares = [learning.seconds(name) for name in ("stage0", "stage1", learning.last)]
    assert 0 < shares[0] < shares[1] < shares[2] == last


def test_rows_of_every_encoder_and_protocol_and_a_run_that_goes_on(
    tasks: dict[str, dict[str, Dataset]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(universal.UNIVERSAL_BUDGETS, "tiny", SHORT)
    asked = {"budget": "tiny", "seeds": 1, "policy": "default", "device": "cpu", "watch": lambda _: None}
    rows = list(universal_rows(tasks, out=tmp_path, **asked))  # type: ignore[arg-type]
    assert [row["error"] for row in rows if row["error"]] == []
    encoders = ["scratch", "mim", "stage0", "stage1", "stage2", "rebuilt"]
    settings = [f"universal_{percent}_{protocol}" for percent in (10, 100) for protocol in ("probe", "tuned")]
    assert {(row["setting"], row["task"], row["method"]) for row in rows} == {
        (setting, task, encoder) for setting in settings for task in tasks for encoder in encoders
    }
    assert all(0 <= row["score"] <= 1 for row in rows)
    # the baseline has computed about as long as all stages and clients together
    spent = {(row["setting"], row["method"]): row["server_seconds"] for row in rows}
    for setting in settings:
        seconds = [spent[setting, encoder] for encoder in encoders[2:5]]
        assert sorted(seconds) == seconds and spent[setting, "scratch"] == 0
        assert spent[setting, "mim"] > seconds[0]
    stored = json.loads((tmp_path / rows[0]["file"]).read_text())
    assert set(stored["answers"]) == {rows[0]["task"]}
    made = tables(rows)
    assert {group[0] for group in made} == set(settings)
    # nothing is computed twice
    for name in ("train", "learn", "extract"):
        monkeypatch.setattr(universal, name, None)
    assert list(universal_rows(tasks, out=tmp_path, **asked)) == rows  # type: ignore[arg-type]


def test_a_row_that_fails_says_so_and_the_others_go_on(
    tasks: dict[str, dict[str, Dataset]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise InputError("stage: `loss` has nan")

    monkeypatch.setattr(universal, "learn", broken)
    asked = {"budget": "tiny", "seeds": 1, "policy": "default", "device": "cpu", "watch": lambda _: None}
    rows = list(universal_rows(tasks, out=tmp_path, **asked))  # type: ignore[arg-type]
    assert {row["error"] for row in rows} == {None, "stage: `loss` has nan"}
    assert all((row["score"] is None) == (row["method"] != "scratch") for row in rows)


def test_one_task_alone_has_nothing_to_share(tasks: dict[str, dict[str, Dataset]]) -> None:
    with pytest.raises(InputError, match=r"universal: 1 task of 2-D images .* expected at least 2"):
        clients_of({"classification": tasks["classification"]}, TINY, seed=0)


def test_the_harness_asks_it_of_all_tasks_together(
    write_task: Callable[[Path, str], Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("classification", "segmentation"):
        task = write_task(tmp_path / "data" / kind, kind)
        names = ", ".join(f'"{name}"' for name in task.recipe.classes)
        stated = f'kind = "{kind}"\nclasses = [{names}]\nsize = [32, 32]\n'
        (task.folder / "task.toml").write_text(stated)
    monkeypatch.setitem(universal.UNIVERSAL_BUDGETS, "tiny", replace(SHORT, stages=1))
    asked = Comparison.named(
        ["rebuilt"], ["universal"], POLICIES["default"], METHOD_BUDGETS["tiny"], 1, [], "cpu"
    )
    result = bench_methods(tmp_path / "data", asked, tmp_path / "out", watch=lambda _: None)
    assert result.failed == 0 and len(result.rows) == 2 * 2 * (2 * 4 + 2)
    assert any(line.startswith("universal_100_tuned: all tasks") for line in result.lines)
    assert np.isfinite([row["score"] for row in result.rows]).all()


def test_another_recipe_of_any_task_is_another_row(
    tasks: dict[str, dict[str, Dataset]], tmp_path: Path
) -> None:
    """What a table stores would else be shown for a task that has since been stated otherwise."""
    identities = set()
    for high in (100, 200):
        second = {
            site: replace(data, recipe=data.recipe.model_copy(update={"intensity": _range(high)}))
            for site, data in tasks["segmentation"].items()
        }
        clients = clients_of(tasks | {"segmentation": second}, SHORT, 0)
        made = universal._Learning(clients, SHORT, 1.0, 0, "cpu", tmp_path, lambda _: None)
        identities.add(made.identity)
    assert len(identities) == 2


def _range(high: float) -> Intensity:
    return Intensity(rule="range", low=0, high=high)
