"""The header: its one canonical form."""

from collections.abc import Callable

import pytest

from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.header import ContributionHeader, canonical_json


def test_canonical_form_leaves_out_defaults_and_reads_back(
    make_contribution: Callable[..., Contribution],
) -> None:
    header = make_contribution().header
    assert ContributionHeader.model_validate(header.values) == header
    assert '"mode"' not in header.canonical
    assert '"format_version":1' in header.canonical
    assert " " not in header.canonical


def test_a_number_that_is_none_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"metric": float("nan")})
