"""Every tensor is told, and tells what it is."""

from collections.abc import Callable
from pathlib import Path

from fedmed_edge.statistics.contribution import Contribution, write_contribution
from fedmed_edge.statistics.description import describe


def test_every_tensor_has_a_row(make_contribution: Callable[..., Contribution], tmp_path: Path) -> None:
    contribution = make_contribution()
    rows = describe(contribution)
    assert {row.name for row in rows} == set(contribution.tensors())
    assert all(row.meaning for row in rows)
    assert [row.part for row in rows] == sorted(
        (row.part for row in rows), key=contribution.header.parts.index
    )
    grams = next(row for row in rows if row.name == "class_grams")
    assert (grams.dtype, grams.shape, grams.bytes) == ("float64", (5, 3, 21), 5 * 3 * 21 * 8)
    weights = rows[-1]
    assert (weights.name, weights.part, weights.dtype) == ("weights/stem.weight", "weights", "float32")
    write_contribution(tmp_path / "c", contribution)
    assert sum(row.bytes for row in rows) < (tmp_path / "c").stat().st_size
