"""Numbers with their nouns."""

import pytest

from fedmed_edge.words import counted


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 copies"), (1, "1 copy"), (1.0, "1 copy"), (0.5, "0.5 copies"), (1_048_576, "1048576 copies")],
)
def test_one_is_one_and_all_else_is_many(number: float, told: str) -> None:
    assert counted(number, "copy", "copies") == told
    assert counted(number, "site") == told.replace("copy", "site").replace("copies", "sites")
