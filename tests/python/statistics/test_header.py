"""The header: canonical, and with the same parts as the site's policy names."""

from collections.abc import Callable
from typing import get_args

import pytest

from fedmed_edge.config import PartName
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.header import ContributionHeader, Part, canonical_json


def test_the_policy_names_the_parts_of_a_contribution() -> None:
    assert get_args(PartName) == get_args(Part)


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
