"""The quick test for an indefinite Gram says what eigenvalues say; no honest site is refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedmed_edge.config import PARTS
from fedmed_edge.errors import InputError
from fedmed_edge.kernels import channel_moments
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.calibration import bin_counts
from fedmed_edge.statistics.checks import INDEFINITE, check_tensors
from fedmed_edge.statistics.contribution import Contribution, Evidence, new_contribution
from fedmed_edge.statistics.feature_statistics import FeatureStatistics, pack
from fedmed_edge.statistics.header import ContributionHeader
from fedmed_edge.statistics.style import log_amplitude
from fedmed_edge.statistics.tensors import parts_of

RECIPE = Recipe(name="lesion", kind="classification", classes=("benign", "malignant", "rare"), size=(32, 32))

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


# --- sums over images ---------------------------------------------------------------------------------------


@st.composite
def honest_sites(draw: st.DrawFn) -> tuple[FeatureStatistics, Recipe]:
    """A site as extraction makes it: any scale, constant images, one image, one class, or no label at all."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    images = draw(st.integers(1, 30))
    classes, labelled = draw(st.integers(1, 3)), draw(st.booleans())
    constant, measured = draw(st.booleans()), draw(st.booleans())
    scale = np.float32(10.0 ** draw(st.integers(-18, 18)))
    labels = [number % classes if labelled else None for number in range(images)]
    members: dict[int, set[str]] = {}
    for number, label in enumerate(labels):
        if label is not None:
            members.setdefault(label, set()).add(f"p{number}")
    unlabelled = [] if labelled else [f"p{number}" for number in range(images)]
    sums = Accumulator(
        RECIPE.classes, row_dim=5, feature_dim=3, plan=plan_folds(members, 1, unlabelled=unlabelled)
    )
    still = random.normal(size=(3, 16)).astype(np.float32) * scale
    for number, label in enumerate(labels):
        maps = still if constant else random.normal(size=(3, 16)).astype(np.float32) * scale
        if draw(st.booleans()):
            maps = np.repeat(maps[:, :1], 16, axis=1)
        if not sums.keeps([] if label is None else [label]):
            continue
        feature = maps.mean(axis=1, dtype=np.float32)
        row = np.array([[*np.maximum(feature[:1], 0), *feature, 1]], np.float32)
        if label is None:
            sums.add_unlabelled(row)
        else:
            sums.add_rows(row, np.array([label], np.int32), f"p{number}")
        distance = float(np.sum(feature.astype(np.float64) ** 2)) if measured else None
        sums.add_image(feature, distance)
        sums.add_channels([(16, *channel_moments(maps)[1:])])
        sums.add_style(log_amplitude(maps.reshape(3, 4, 4)))
    if labelled and measured:
        scores = random.normal(size=(images, 3)) * 10.0 ** random.integers(-3, 3)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        counts = bin_counts(shares / shares.sum(axis=1, keepdims=True), np.array(labels))
        return replace(sums.result(), calibration=counts), RECIPE
    return sums.result(), RECIPE


@given(honest_sites(), st.sampled_from(["all", *PARTS]))
def test_what_an_honest_site_makes_is_taken(site: tuple[FeatureStatistics, Recipe], part: str) -> None:
    sums, recipe = site
    assume(part == "all" or part in parts_of(sums, None))
    made = new_contribution(
        sums,
        generation="ab" * 32,
        recipe=recipe,
        site="alpha",
        sequence=1,
        min_cohort=1,
        parts=PARTS if part == "all" else (part,),  # type: ignore[arg-type]
        evidence=Evidence(images={"train": 30}),
    )
    check_tensors(made.header, made.tensors(), "f")


def test_the_sum_of_two_honest_sites_is_taken(make_statistics: Callable[..., FeatureStatistics]) -> None:
    both = make_statistics(0) + make_statistics(1)
    made = new_contribution(both, generation="ab" * 32, recipe=RECIPE, site="alpha", sequence=1, min_cohort=3)
    check_tensors(made.header, made.tensors(), "f")


def test_a_large_site_of_one_constant_image_is_taken() -> None:
    """Sums of the same number a hundred thousand times: rounding alone must refuse nothing."""
    count, value = 100_000, np.float64(np.float32(0.1))
    total, square, mean = 0.0, 0.0, np.log(value)
    amplitudes = np.zeros(2)
    for _ in range(count):
        total, square = total + value, square + value * value
        amplitudes += (mean, mean * mean)
    tensors = {
        "image_gram": np.array([square, total, float(count)]),
        "distance_moments": np.array([float(count), total, square]),
        "channel_moments": np.array([[float(count)], [total], [square]]),
        "style_count": np.array([float(count)]),
        "style_sum": np.full((1, 1, 1), amplitudes[0]),
        "style_square": np.full((1, 1, 1), amplitudes[1]),
    }
    header = HEADER | {"parts": ("images", "channels", "style"), "feature_dim": 1}
    check_tensors(ContributionHeader.model_validate(header), tensors, "f")
