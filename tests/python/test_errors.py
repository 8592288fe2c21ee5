"""What a refusal may say."""

import pytest

from fedmed_edge.errors import FedmedError


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a.png: too small", "a.png: too small"),
        ("\x1b[2J\x07Ü\u202e", "?[2J?Ü?"),
        ("two\nlines\tand\u00a0more", "two lines and more"),
        ("\udcff", "?"),
        ("x" * 3000, "x" * 2000 + "…"),
    ],
)
def test_a_message_is_one_line_that_no_terminal_acts_on(said: str, shown: str) -> None:
    refusal = FedmedError(said, hint=said)
    assert str(refusal) == refusal.hint == shown
    assert str(refusal).isprintable()
