"""The quick test for an indefinite Gram says what eigenvalues say."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.checks import INDEFINITE, check_tensors
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import FeatureStatistics, pack
from fedmed_edge.statistics.header import ContributionHeader

HEADER = {
    "generation": "ab" * 32,
    "recipe": "ab" * 32,
    "task": "t",
    "kind": "classification",
    "classes": ("a",),
    "site": "s",
    "sequence": 1,
    "parts": ("unlabelled",),
    "row_dim": 6,
    "feature_dim": 2,
}


@given(st.integers(0, 1000), st.floats(-4, 1))
def test_a_gram_is_refused_where_its_smallest_eigenvalue_is_below_the_bound(seed: int, power: float) -> None:
    rows = np.random.default_rng(seed).normal(size=(3, 6))
    rows[:, -1] = 1
    gram = rows.T @ rows
    # moved along a direction of eigenvalue 0 that leaves the count alone
    direction = np.linalg.svd(rows)[2][-1]
    direction[-1] = 0
    gram -= 10**power * INDEFINITE * np.trace(gram) * np.outer(direction, direction)
    smallest = np.linalg.eigvalsh(gram)[0] / np.trace(gram)
    assume(abs(smallest + INDEFINITE) > 0.01 * INDEFINITE)
    header = ContributionHeader.model_validate(HEADER)
    if smallest < -INDEFINITE:
        with pytest.raises(InputError, match="f: `unlabelled_gram` is indefinite: below -1e-09 of its trace"):
            check_tensors(header, {"unlabelled_gram": pack(gram)}, "f")
    else:
        check_tensors(header, {"unlabelled_gram": pack(gram)}, "f")


def test_grams_of_wide_rows_of_any_scale_pass(make_contribution: Callable[..., Contribution]) -> None:
    random = np.random.default_rng(0)
    rows = (random.normal(size=(40, 300)) * 10.0 ** random.uniform(-6, 6, 300)).astype(np.float32)
    rows[:, -1] = 1
    wide = rows.astype(np.float64)
    header = ContributionHeader.model_validate(HEADER | {"row_dim": 300})
    check_tensors(header, {"unlabelled_gram": pack(wide.T @ wide)}, "f")


def test_sums_of_sums_pass(
    make_contribution: Callable[..., Contribution], make_statistics: Callable[..., FeatureStatistics]
) -> None:
    made = make_contribution()
    check_tensors(made.header, made.tensors(), "f")
