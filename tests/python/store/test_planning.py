"""Planning: bytes as they are, seconds that add up; `tests/bench/load.py` compares them with a real store."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.contribution import new_contribution, write_contribution
from fedmed_edge.store.planning import Federation, Rates, measure, plan

RATES = Rates(64, 5, 1e-9, 1e-4, 1e-2, 1e-5, 0.1, 2e-5, 0.5, 1e-3, 3.0)


@pytest.mark.parametrize(("row_dim", "classes", "folds"), [(64, 3, 5), (200, 2, 2)])
def test_bytes_are_those_of_a_real_file(tmp_path: Path, row_dim: int, classes: int, folds: int) -> None:
    recipe = Recipe(name="r", kind="classification", classes=tuple(map(str, range(classes))))
    members = {index: [f"{index}-{patient}" for patient in range(2 * folds)] for index in range(classes)}
    sums = Accumulator(recipe.classes, row_dim=row_dim, feature_dim=40, plan=plan_folds(members, 2))
    for index, patients in members.items():
        for patient in patients:
            rows = np.ones((1, row_dim), np.float32)
            sums.add_rows(rows, np.array([index], np.int32), patient)
            sums.add_image(rows[0, :40])
    made = new_contribution(
        sums.result(), generation="0" * 64, recipe=recipe, site="a", sequence=1, min_cohort=2
    )
    assert made.header.folds == folds
    write_contribution(tmp_path / "c", made)
    counted = Federation(1, row_dim, classes, folds, feature_dim=40).contribution_bytes
    assert 0 <= counted - (tmp_path / "c").stat().st_size <= 64 << 10


def test_twice_the_sites_are_twice_the_work_but_for_solving_and_pairs() -> None:
    one = Federation(sites=100, row_dim=64, classes=7)
    once, twice = plan(one, RATES), plan(replace(one, sites=200), RATES)
    for name in ("round_bytes", "year_bytes", "memory_bytes", "receive_s", "check_s"):
        assert getattr(twice, name) == pytest.approx(2 * getattr(once, name))
    assert twice.rebuild_s - RATES.rebuild == pytest.approx(2 * (once.rebuild_s - RATES.rebuild))
    assert once.refine_s == pytest.approx(0.5 + 3500 * 2e-5 + 4950e-3)
    assert plan(replace(one, updates_per_year=8), RATES).year_bytes == 2 * once.year_bytes


def test_rates_are_measured_and_leave_nothing(tmp_path: Path) -> None:
    rates = measure(16, 2, folder=tmp_path)
    assert all(value >= 0 for value in asdict(rates).values())
    assert rates.receive_byte > 0 and rates.check_gram > 0 and rates.check > 0
    assert rates.refine_gram > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sites", 0, "plan: `sites` has 0, expected 1 to 1000000"),
        ("row_dim", 1, "plan: `row_dim` has 1, expected 2 to 8192"),
        ("classes", 1001, "plan: `classes` has 1001, expected 2 to 1000"),
    ],
)
def test_numbers_out_of_range_are_refused(field: str, value: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Federation(10, 64, 2), **{field: value})  # type: ignore[arg-type]
