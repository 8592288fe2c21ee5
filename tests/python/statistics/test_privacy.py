"""The mechanism: who is clipped by how much, what the noise looks like, and what of it leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedmed_edge.errors import InputError, Withheld
from fedmed_edge.recipe import Kind, Recipe
from fedmed_edge.statistics.contribution import (
    Contribution,
    Evidence,
    Privacy,
    new_contribution,
    read_contribution,
    write_contribution,
)
from fedmed_edge.statistics.feature_statistics import REST, pack, unpack
from fedmed_edge.statistics.privacy import (
    ClippedAccumulator,
    gaussian_noise,
    private_statistics,
    row_scale,
    symmetric_noise,
)

CLASSES = ("a", "b", "c")
Array = npt.NDArray[np.float64]


def rows_of(seed: int, count: int, width: int = 6, size: float = 1.0) -> npt.NDArray[np.float32]:
    rows = size * np.random.default_rng(seed).standard_normal((count, width))
    rows[:, -1] = 1
    return rows.astype(np.float32)


def accumulated(
    patients: dict[str, int], clip: float, size: float = 1.0, kind: Kind = "classification"
) -> Array:
    sums = ClippedAccumulator(CLASSES, scale=np.ones(6), clip=clip, kind=kind)
    for name, seed in patients.items():
        classes = np.array([seed % 3, (seed + 1) % 3, seed % 3], np.int32)
        sums.add_rows(rows_of(seed, 3, size=size), classes, name)
    return sums.result()


def length(grams: Array) -> float:
    """Frobenius norm of all classes' Grams together."""
    return float(np.sqrt(sum((unpack(gram) ** 2).sum() for gram in grams)))


# --- clipping --------------------------------------------------------------------------------------------


KINDS: tuple[Kind, ...] = ("classification", "segmentation")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 30), st.floats(0.01, 50), st.sampled_from(KINDS))
def test_one_patient_moves_the_sums_by_at_most_the_clip(
    seed: int, clip: float, size: float, kind: Kind
) -> None:
    others = {f"p{k}": 7 * k + 1 for k in range(4)}
    without, with_one = (accumulated(who, clip, size, kind) for who in (others, {**others, "planted": seed}))
    assert length(with_one - without) <= clip * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_patient_below_the_clip_counts_once_in_every_class(kind: Kind) -> None:
    """Two rows of the first class, one of the second, none of the third."""
    rows = rows_of(3, 3)
    got = accumulated({"one": 3}, clip=1e3, kind=kind)
    for index in range(3):
        own = rows[np.array([0, 1, 0]) == index].astype(np.float64)
        np.testing.assert_allclose(unpack(got[index]), own.T @ own / max(1, len(own)), atol=1e-6)
    assert got[:, -1].tolist() == [1, 1, 0]


@pytest.mark.parametrize("share", [0.5, 0.05, 0.004])
def test_a_small_class_of_a_segmentation_counts_as_many_patients_as_the_large_one(share: float) -> None:
    """However few of a patient's pixels it has: noise would hide it else, whatever ε is."""
    scale, pixels = row_scale(32, 32, 0), 1024
    sums = ClippedAccumulator(
        ("background", "lesion"), scale=scale, clip=1.0, kind="segmentation", rows=pixels
    )
    random = np.random.default_rng(2)
    few = round(share * pixels)
    for number in range(100):
        rows = random.standard_normal((pixels, 33)).astype(np.float32)
        rows[:, -1] = 1
        rows[:few, 0] += 2
        sums.add_rows(rows, np.repeat(np.array([1, 0], np.int32), [few, pixels - few]), f"p{number}")
    made = private_statistics(sums, multiplier=0.5, min_cohort=10, feature_dim=32)
    counts = [made.class_gram(index)[-1] for index in range(2)]
    assert all(60 < count / pixels <= 110 for count in counts), counts  # beside exact sums of pixels
    assert made.patients.tolist() == [int(count / pixels) for count in counts]
    lesion = unpack(made.class_gram(1))
    assert lesion[0, -1] / lesion[-1, -1] == pytest.approx(2.0, abs=0.6)


def test_all_images_of_a_patient_are_clipped_together() -> None:
    sums = ClippedAccumulator(CLASSES, scale=np.ones(6), clip=1.0)
    for seed in range(5):
        sums.add_rows(rows_of(seed, 1), np.array([0], np.int32), "one")
    together = sums.result().copy()
    assert length(together) == pytest.approx(1.0) and sums.patients == 1  # five rows, one patient
    whole = rows_of(0, 1).astype(np.float64)
    for seed in range(1, 5):
        whole = np.vstack([whole, rows_of(seed, 1)])
    gram = whole.T @ whole
    np.testing.assert_allclose(unpack(together[0]), gram / np.linalg.norm(gram), atol=1e-6)
    by_gram = ClippedAccumulator(CLASSES, scale=np.ones(6), clip=1.0)
    by_gram.add_gram(pack(gram), 0, "one")
    np.testing.assert_allclose(by_gram.result(), together, atol=1e-6)


def test_a_patient_who_comes_again_is_a_fault() -> None:
    sums = ClippedAccumulator(CLASSES, scale=np.ones(6), clip=1.0)
    for name in ("one", "two"):
        sums.add_rows(rows_of(0, 1), np.array([0], np.int32), name)
    with pytest.raises(ValueError, match="must come together"):
        sums.add_rows(rows_of(0, 1), np.array([0], np.int32), "one")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_count_for_nothing_and_stop_nothing(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Who makes one patient's rows so by a generation would learn past the noise whether they are there."""
    sums = ClippedAccumulator(CLASSES, scale=np.ones(6), clip=1.0)
    sums.add_rows(rows_of(0, 2), np.array([0, 1], np.int32), "one")
    without = sums.result().copy()
    broken = rows_of(1, 2)
    broken[1, 2] = value
    sums.add_rows(broken, np.array([0, 1], np.int32), "two")
    sums.add_gram(np.where(np.arange(21) == 3, value, 1.0), 2, "three")
    np.testing.assert_array_equal(sums.result(), without)
    assert sums.patients == 3 and "have NaN or Inf under this generation" in caplog.text


def test_a_typical_row_is_scaled_to_a_length_of_about_root_two() -> None:
    """Standardised features, projected on their principal axes and lifted as a generation lifts."""
    random = np.random.default_rng(5)
    raw, features, lift = 60, 60, 40
    standard = random.standard_normal((4000, raw))
    weight, bias = random.standard_normal((features, lift)) / np.sqrt(features), random.standard_normal(lift)
    lifted = np.maximum(standard @ weight + bias, 0)
    rows = np.hstack([lifted, standard, np.ones((4000, 1))]) * row_scale(raw, features, lift)
    assert (rows**2).sum(axis=1).mean() == pytest.approx(2.0, rel=0.1)


# --- noise -----------------------------------------------------------------------------------------------


def test_the_noise_is_gaussian_and_independent() -> None:
    drawn = gaussian_noise(200_001)
    assert drawn.shape == (200_001,)
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    halves = drawn[:200_000].reshape(2, -1)  # the cosines and the sines of one draw
    assert abs(np.corrcoef(halves)[0, 1]) < 0.012
    assert abs(np.corrcoef(halves**2)[0, 1]) < 0.012
    assert stats.kurtosis(drawn) == pytest.approx(0, abs=0.06)
    assert not np.array_equal(drawn, gaussian_noise(200_001))


def test_the_noise_on_a_gram_is_symmetric_and_isotropic_in_its_norm() -> None:
    drawn = np.stack([symmetric_noise(5) for _ in range(4000)])
    np.testing.assert_array_equal(drawn, drawn.transpose(0, 2, 1))
    diagonal = drawn[:, range(5), range(5)].ravel()
    beside = drawn[:, *np.triu_indices(5, 1)].ravel() * np.sqrt(2)
    for values in (diagonal, beside):
        assert stats.kstest(values, "norm").pvalue > 1e-4
    # whatever direction one patient lies in, the noise along it is the same
    for seed in range(3):
        row = np.random.default_rng(seed).standard_normal(5)
        direction = np.outer(row, row) / (row @ row)
        assert stats.kstest((drawn * direction).sum(axis=(1, 2)), "norm").pvalue > 1e-4


@pytest.mark.parametrize(("kind", "rows"), [("classification", 1), ("segmentation", 256)])
def test_what_is_released_is_the_sum_with_noise_of_the_stated_size(kind: Kind, rows: int) -> None:
    """Through the whole mechanism, far from where it clips at zero."""
    scale, clip, multiplier = np.array([0.5, 0.5, 1.0]), 1.0, 1e-3
    counts, corners = [], []
    for _ in range(400):
        sums = clipped(30, scale, clip, kind=kind, rows=rows)
        exact = unpack(sums.result()[0])
        out = private_statistics(sums, multiplier=multiplier, min_cohort=10, feature_dim=2)
        difference = unpack(out.blocks[REST, 0]) * np.outer(scale, scale) / sums.typical / rows - exact
        counts.append(difference[-1, -1])
        corners.append(difference[0, 1] * np.sqrt(2))
    for values in (counts, corners):
        assert stats.kstest(np.array(values) / multiplier, "norm").pvalue > 1e-4


def clipped(patients: int, scale: Array, clip: float, **more: Any) -> ClippedAccumulator:
    sums = ClippedAccumulator(("a",), scale=scale, clip=clip, **more)
    random = np.random.default_rng(1)
    for number in range(patients):
        row = np.append(random.standard_normal(2) * 2, 1).astype(np.float32)
        sums.add_rows(row[None], np.array([0], np.int32), f"p{number}")
    return sums


# --- release ---------------------------------------------------------------------------------------------


def released(patients: int = 60, multiplier: float = 2.0, **more: Any) -> Any:
    scale = row_scale(5, 5, 0)
    sums = ClippedAccumulator(CLASSES, scale=scale, clip=1.0)
    for number in range(patients):
        sums.add_rows(rows_of(number, 1), np.array([number % 2], np.int32), f"p{number}")
    return private_statistics(sums, multiplier=multiplier, min_cohort=10, feature_dim=5, **more)


def contribution(recipe_classes: tuple[str, ...] = CLASSES, **more: Any) -> Contribution:
    values: dict[str, Any] = {
        "generation": "ab" * 32,
        "recipe": Recipe(name="r", kind="classification", classes=recipe_classes),
        "site": "alpha",
        "sequence": 1,
        "privacy": Privacy(epsilon=1, delta=1e-4, clip=1, noise=2),
    }
    return new_contribution(released(), **(values | more))


def test_every_gram_is_positive_and_a_class_in_the_noise_is_left_out() -> None:
    made = released()
    assert set(made.blocks) <= {(REST, 0), (REST, 1)} and "c" in made.absent
    for gram in made.blocks.values():
        assert np.linalg.eigvalsh(unpack(gram)).min() > -1e-9 * np.trace(unpack(gram))
    assert all(10 <= gram[-1] < 60 for gram in made.blocks.values())


def test_too_few_patients_or_too_much_noise_release_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Withheld, match="9 labelled training patients, expected at least min_cohort 10"):
        released(9)
    # of drawn noise one class in forty stands out
    monkeypatch.setattr("fedmed_edge.statistics.privacy.symmetric_noise", lambda size: -np.eye(size))
    with pytest.raises(Withheld, match="no class stands out of the noise"):
        released(20, multiplier=100.0)


def test_the_file_holds_the_noisy_grams_and_nothing_exact(tmp_path: Path) -> None:
    made = contribution(evidence=Evidence(versions={"numpy": "2"}))
    assert list(made.tensors()) == ["rest_grams"]
    header = made.header
    assert (header.parts, header.folds, header.evidence.images) == (("classes",), 0, {})
    write_contribution(tmp_path / "a.contribution", made)
    read = read_contribution(tmp_path / "a.contribution")
    assert read.id == made.id and read.statistics is not None and made.statistics is not None
    np.testing.assert_array_equal(read.statistics.rest_grams, made.statistics.rest_grams)
    np.testing.assert_array_equal(read.statistics.patients, made.statistics.patients)


@pytest.mark.parametrize(
    "exact",
    [
        {"evidence": Evidence(images={"train": 60})},
        {"evidence": Evidence(metrics={"accuracy": 0.5})},
        {"evidence": Evidence(patients={"a": 30})},
    ],
)
def test_exact_figures_beside_noise_are_refused(exact: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="`privacy` goes with `classes` or `weights` alone"):
        contribution(**exact)


def test_a_reader_refuses_noisy_grams_that_contradict_their_header(tmp_path: Path) -> None:
    made = contribution()
    file = tmp_path / "a.contribution"
    for absent, message in ((("b", "c"), "`absent` says otherwise"), (("a", "c"), "`absent` says otherwise")):
        header = made.header.model_copy(update={"absent": absent})
        write_contribution(file, Contribution(header, made.statistics))
        with pytest.raises(InputError, match=message):
            read_contribution(file)
    assert made.header.privacy is not None
    rows = made.header.privacy.model_copy(update={"rows": 1000})
    write_contribution(file, Contribution(made.header.model_copy(update={"privacy": rows}), made.statistics))
    with pytest.raises(InputError, match="rows, expected at least 10000"):
        read_contribution(file)
    header = made.header.model_copy(update={"min_cohort": 500})
    write_contribution(file, Contribution(header, made.statistics))
    with pytest.raises(InputError, match="rows, expected at least 500"):
        read_contribution(file)
