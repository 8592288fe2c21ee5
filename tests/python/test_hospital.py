"""What a hospital computes, within its policy."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Raster

from fedmed_edge.config import Policy, SiteConfig
from fedmed_edge.errors import InputError, TrustError, Withheld
from fedmed_edge.features.extract import RowSample, extract, extract_with_sample
from fedmed_edge.features.generations import from_backbone
from fedmed_edge.features.patients import Patients, PrivateTraining
from fedmed_edge.features.publish import complete_generation
from fedmed_edge.features.weights import read_backbone, write_backbone
from fedmed_edge.generation import Generation
from fedmed_edge.hospital import (
    calibration_counts,
    expected,
    make_contribution,
    plan_training,
    prepare,
    prepare_weights,
)
from fedmed_edge.images.dataset import Dataset, read_dataset
from fedmed_edge.images.fingerprint import content_digest
from fedmed_edge.local_training import train_backbone
from fedmed_edge.recipe import Backbone, Intensity, Lift, Recipe, Training
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.calibration import TEMPERATURES
from fedmed_edge.statistics.contribution import read_contribution, tensors_digest, write_contribution

RECIPE = Recipe(
    name="tiny",
    kind="classification",
    classes=("dark", "bright"),
    size=(32, 32),
    intensity=Intensity(rule="range", low=0, high=255),
    backbone=Backbone(network="residual_encoder", widths=(8, 12)),
    lift=Lift(lift_dim=4, feature_dim=8),
)
PATIENTS = 20

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten dark and ten bright images to train on, and four that are held out."""
    folder = tmp_path_factory.mktemp("images")
    random, lines = np.random.default_rng(0), ["image,label,mask,patient,split"]
    for index in range(PATIENTS + 4):
        pixels = np.clip(random.normal(60 + 110 * (index % 2), 40, (34, 32)), 0, 255).astype(np.uint8)
        Raster.fromarray(pixels).save(folder / f"{index}.png")
        split = "train" if index < PATIENTS else "test"
        lines.append(f"{index}.png,{RECIPE.classes[index % 2]},,p{index},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_dataset(folder, RECIPE)


@pytest.fixture(scope="module")
def draft() -> Generation:
    return from_backbone(None, RECIPE)


@pytest.fixture(scope="module")
def generation(draft: Generation, dataset: Dataset) -> Generation:
    return complete_generation(draft, RECIPE, {"founder": extract(draft, dataset.train, min_cohort=1)})


def config(**policy: Any) -> SiteConfig:
    return SiteConfig(site="alpha", device="cpu", policy=Policy(**({"min_cohort": 2} | policy)))


# --- training --------------------------------------------------------------------------------------------


def test_training_starts_from_the_generation_and_is_written_whole(
    dataset: Dataset, draft: Generation, tmp_path: Path
) -> None:
    steps: list[str] = []
    trained = train_backbone(
        dataset.train, draft, epochs=0.1, site="alpha", device="cpu", progress=steps.append
    )
    assert trained.images == PATIENTS and np.isfinite(trained.loss) and trained.seconds > 0 and steps
    assert set(trained.weights) == set(draft.weights)
    moved = [np.abs(trained.weights[name] - draft.weights[name]).max() for name in draft.weights]
    assert 0 < max(moved) < 0.5
    trained.write(tmp_path / "a.backbone")
    read = read_backbone(tmp_path / "a.backbone")
    assert (read.header.trained_by, read.header.images) == (("alpha",), PATIENTS)
    for name, value in read.weights.items():
        np.testing.assert_array_equal(value, trained.weights[name])
    with pytest.raises(InputError, match="cannot be written"):
        trained.write(tmp_path / "none" / "a.backbone")


def test_what_a_training_draws_is_drawn_at_the_site(dataset: Dataset, draft: Generation) -> None:
    """Who could draw it again could make a first step again from an image that may be in it."""

    def trained(**seed: int) -> bytes:
        weights = train_backbone(dataset.train, draft, epochs=0.1, site="alpha", device="cpu", **seed).weights
        return tensors_digest(weights)

    assert len({trained(), trained(), trained(seed=0), trained(seed=0), trained(seed=1)}) == 4


def test_training_takes_the_generations_backbone_whatever_the_recipe_asks_for(
    dataset: Dataset, tmp_path: Path
) -> None:
    other = RECIPE.model_copy(update={"backbone": Backbone(network="residual_encoder", widths=(8, 16))})
    start = from_backbone(None, other)
    trained = train_backbone(dataset.train, start, epochs=0.1, site="alpha", device="cpu")
    trained.write(tmp_path / "a.backbone")
    header = read_backbone(tmp_path / "a.backbone").header
    assert header.backbone == start.header.backbone != RECIPE.backbone
    assert header.recipe == RECIPE.digest and header.trained_by == ("alpha",)
    wide = from_backbone(None, RECIPE.model_copy(update={"size": (64, 64)}))
    with pytest.raises(InputError, match=r"`size` has \(32, 32\), expected the generation's \(64, 64\)"):
        train_backbone(dataset.train, wide, epochs=0.1, site="alpha", device="cpu")


def test_norm_layers_stay_where_the_recipe_says_so(
    dataset: Dataset, draft: Generation, tmp_path: Path
) -> None:
    path, how = tmp_path / "norms.backbone", Training(local_norms=True)
    options: Any = {"epochs": 0.1, "site": "alpha", "device": "cpu", "norms": path, "rounds_of": "one"}
    train_backbone(dataset.train, draft, **options)
    assert not path.exists()
    first = train_backbone(dataset.train, draft, how=how, **options)
    own = read_backbone(path).weights
    assert own and all(np.array_equal(value, first.weights[name]) for name, value in own.items())
    threes = {name: np.full_like(value, 3) for name, value in own.items()}
    write_backbone(path, threes, RECIPE, start="one")
    again = train_backbone(dataset.train, draft, how=how, **options)
    for name, value in again.weights.items():
        assert np.abs(value - (3 if name in own else draft.weights[name])).max() < 0.5
    assert all(
        np.array_equal(value, again.weights[name]) for name, value in read_backbone(path).weights.items()
    )
    write_backbone(path, threes, RECIPE, start="one")
    fresh = train_backbone(dataset.train, None, how=how, **options).weights
    assert all(np.abs(fresh[name] - 3).min() > 1 for name in own)  # they mean nothing to random weights
    # nor to another training, whatever it begins with, but to later rounds of the same one
    other = replace(draft, weights={name: value * 2 for name, value in draft.weights.items()})
    later = train_backbone(dataset.train, other, how=how, **options).weights
    assert all(np.abs(later[name] - 3).max() < 0.5 for name in own)
    write_backbone(path, threes, RECIPE, start="one")
    unlike = train_backbone(dataset.train, draft, how=how, **options | {"rounds_of": "another"}).weights
    assert all(np.abs(unlike[name] - draft.weights[name]).max() < 0.5 for name in own)


def test_a_test_image_that_cannot_be_read_costs_no_training(
    dataset: Dataset, generation: Generation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = dataset.test.labelled.items
    broken = replace(first, image=tmp_path / "broken.png")
    broken.image.write_bytes(b"no image")
    held_out = replace(dataset.test, items=(broken, *others))
    options = {"epochs": 0.1, "site": "alpha", "device": "cpu"}
    trained = train_backbone(dataset.train, generation, held_out=held_out, **options)  # type: ignore[arg-type]
    assert trained.errors == {} and "was not measured: " in caplog.text
    whole = train_backbone(dataset.train, generation, held_out=dataset.test, **options)  # type: ignore[arg-type]
    assert set(whole.errors) == {"tuned_error", "head_error"}


def test_training_without_a_labelled_image_is_refused(dataset: Dataset, draft: Generation) -> None:
    blank = replace(dataset, items=tuple(replace(item, label=None) for item in dataset.train))
    with pytest.raises(InputError, match="label"):
        train_backbone(blank, draft, epochs=0.1, site="alpha", device="cpu")


# --- contributions ---------------------------------------------------------------------------------------


def test_a_contribution_holds_the_sums_of_the_training_images_alone(
    dataset: Dataset, generation: Generation
) -> None:
    made = make_contribution(dataset, generation, config(), sequence=3)
    sums = extract(generation, dataset.train, min_cohort=2)
    assert made.statistics is not None and made.signature is None and made.weights is None
    np.testing.assert_array_equal(made.statistics.class_grams, sums.class_grams)
    np.testing.assert_array_equal(made.statistics.image_gram, sums.image_gram)
    header = made.header
    assert (header.site, header.sequence, header.generation) == ("alpha", 3, generation.digest)
    assert header.recipe == RECIPE.digest and header.min_cohort == 2 and header.mode == "exact"
    assert header.evidence.images == {"train": PATIENTS}
    assert header.evidence.patients == {"dark": 10, "bright": 10}
    assert set(header.evidence.versions) == {"fedmed_edge", "python", "numpy"}
    assert str(dataset.folder) not in header.canonical


def test_only_what_the_policy_allows_is_in_it(dataset: Dataset, generation: Generation) -> None:
    made = make_contribution(dataset, generation, config(parts=("images", "style")), sequence=1)
    assert made.header.parts == ("images", "style") and made.header.evidence.patients == {}
    assert {name.split("_")[0] for name in made.tensors()} <= {"image", "style", "distance"}
    with pytest.raises(InputError, match="none of the parts weights holds anything"):
        make_contribution(dataset, generation, config(parts=("weights",)), sequence=1)


def test_shifted_views_are_made_only_where_their_sums_may_leave(
    dataset: Dataset, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"training": Training(maps=1.0, invariance=0.1)})
    asked, seen = replace(dataset, recipe=recipe), list[Array]()
    monkeypatch.setattr(
        "fedmed_edge.features.extract.shifted_view", lambda pixels, how: seen.append(pixels) or pixels
    )
    assert "shifts" in make_contribution(asked, generation, config()).header.parts
    assert len(seen) == PATIENTS
    made = make_contribution(asked, generation, config(parts=("classes", "calibration")))
    assert made.header.parts == ("classes", "calibration") and len(seen) == PATIENTS


def test_a_class_below_min_cohort_stays(dataset: Dataset, generation: Generation) -> None:
    few = replace(dataset, items=tuple(i for i in dataset if i.label == 0 or i.patient in ("p1", "p3", "p5")))
    made = make_contribution(few, generation, config(min_cohort=4), sequence=1)
    assert made.header.absent == ("bright",) and made.header.evidence.patients == {"dark": 10}


def test_no_count_tells_how_many_patients_a_class_below_min_cohort_has(
    dataset: Dataset, generation: Generation, tmp_path: Path
) -> None:
    few = replace(dataset, items=tuple(i for i in dataset if i.label == 0 or i.patient in ("p1", "p3", "p5")))
    path = tmp_path / "a.backbone"
    write_backbone(path, generation.weights, RECIPE, trained_by=("alpha",))
    sums = make_contribution(few, generation, config(min_cohort=4))
    weights = prepare_weights(few, generation, config(min_cohort=4), path).contribution()
    for made in (sums, weights):
        assert made.header.evidence.images == {"train": 10}
    # where no class counts alone, weights of all together say no number, and weigh as the median
    none = prepare_weights(few, generation, config(min_cohort=11), path).contribution()
    assert none.header.evidence.images == {}


def test_under_a_draft_neither_classes_nor_calibration_are_measured(
    dataset: Dataset, draft: Generation
) -> None:
    made = make_contribution(dataset, draft, config(), sequence=1)
    assert {"unlabelled", "images"} <= set(made.header.parts)
    assert not {"classes", "calibration"} & set(made.header.parts)


def test_the_width_rule_holds_for_drafts_whose_rows_are_the_widest(
    dataset: Dataset, draft: Generation
) -> None:
    with pytest.raises(Withheld, match=r"2 Grams .* unlabelled images has width 21, .* of its 20 patients"):
        make_contribution(dataset, draft, config(width_rule="refuse"))
    make_contribution(dataset, draft, config(width_rule="refuse", parts=("channels", "style")))


def test_the_width_rule(dataset: Dataset, generation: Generation, caplog: pytest.LogCaptureFixture) -> None:
    """Rows of 13, features of 9 with their 1; ten images of each class, in five folds of two."""
    assert (generation.row_dim, generation.feature_dim) == (13, 8)
    with pytest.raises(Withheld, match="width rule: 11 Grams show who is in them; the one of") as told:
        make_contribution(dataset, generation, config(width_rule="refuse"))
    assert "has width 13, expected at most a third of its 2 patients" in str(told.value)
    assert "epsilon" in (told.value.hint or "")
    images = config(width_rule="refuse", parts=("images", "style"))
    with pytest.raises(Withheld, match="all images has width 9, expected at most a third of its 20 patients"):
        make_contribution(dataset, generation, images)
    several = replace(dataset, items=tuple(replace(i, patient=f"{i.label}-{i.split}") for i in dataset))
    images = images.model_copy(update={"policy": images.policy.model_copy(update={"min_cohort": 1})})
    with pytest.raises(Withheld, match="all images has width 9, expected at most a third of its 2 patients"):
        make_contribution(several, generation, images)
    with caplog.at_level(logging.WARNING, "fedmed_edge.statistics.width_rule"):
        make_contribution(dataset, generation, config(width_rule="off"))
        make_contribution(dataset, generation, config(width_rule="refuse", parts=("style",)))
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        make_contribution(dataset, generation, config(width_rule="warn"))
    assert "width rule: 11 Grams" in caplog.text


def test_weights_of_too_few_patients_stay(dataset: Dataset, generation: Generation, tmp_path: Path) -> None:
    path = tmp_path / "own.backbone"
    write_backbone(path, generation.weights, RECIPE)
    message = f"weights of {PATIENTS} labelled training patients, expected at least min_cohort {PATIENTS + 1}"
    with pytest.raises(InputError, match=message):
        prepare_weights(dataset, generation, config(min_cohort=PATIENTS + 1), path)


def test_weights_go_alone_as_their_difference_to_the_generation(
    dataset: Dataset, generation: Generation, tmp_path: Path
) -> None:
    moved = {name: np.asarray(value, np.float32) + 0.25 for name, value in generation.weights.items()}
    path = tmp_path / "a.backbone"
    write_backbone(path, moved, RECIPE, trained_by=("alpha",))
    made = prepare_weights(dataset, generation, config(), path).contribution()
    assert made.statistics is None and made.header.parts == ("weights",)
    assert made.weights is not None and set(made.weights) == set(generation.weights)
    for value in made.weights.values():
        np.testing.assert_allclose(value, 0.25, atol=1e-6)
    assert made.header.evidence.images == {"train": PATIENTS}
    write_contribution(tmp_path / "a.contribution", made)
    assert read_contribution(tmp_path / "a.contribution").id == made.id
    sums_only = config(parts=("classes", "images"))
    with pytest.raises(InputError, match="none of the parts classes, images holds anything"):
        prepare_weights(dataset, generation, sums_only, path)


def test_weights_that_another_site_trained_are_not_handed_over_as_ones_own(
    dataset: Dataset, generation: Generation, tmp_path: Path
) -> None:
    write_backbone(tmp_path / "b.backbone", generation.weights, RECIPE, trained_by=("beta",))
    with pytest.raises(InputError, match=r"b\.backbone: was trained by beta, expected alpha"):
        prepare_weights(dataset, generation, config(), tmp_path / "b.backbone")


def test_weights_of_another_backbone_are_not_trusted(
    dataset: Dataset, generation: Generation, tmp_path: Path
) -> None:
    some = dict(list(generation.weights.items())[:-1])
    write_backbone(tmp_path / "a.backbone", some, RECIPE)
    message = f"a.backbone: has another backbone than generation {generation.digest[:12]}"
    with pytest.raises(TrustError, match=message):
        prepare_weights(dataset, generation, config(), tmp_path / "a.backbone")


def test_a_recipe_that_does_not_fit_the_generation_is_refused(
    dataset: Dataset, generation: Generation
) -> None:
    other = replace(dataset, recipe=RECIPE.model_copy(update={"size": (64, 64)}))
    with pytest.raises(InputError, match=r"`size` has \(64, 64\), expected the generation's \(32, 32\)"):
        make_contribution(other, generation, config(), sequence=1)


# --- calibration -----------------------------------------------------------------------------------------


def test_calibration_counts_the_answers_on_the_folds_held_out() -> None:
    """One row a patient, of two classes that overlap."""
    names = [f"p{number}" for number in range(PATIENTS)]
    plan = plan_folds({0: set(names[::2]), 1: set(names[1::2])}, min_cohort=2)
    truth = np.arange(PATIENTS, dtype=np.int32) % 2
    short = np.random.default_rng(1).normal(size=(PATIENTS, 5)) + np.outer(truth, [2.5, 1.0, 0, 0, 0])
    rows = np.hstack([short, np.ones((PATIENTS, 1))]).astype(np.float32)
    accumulator = Accumulator(RECIPE.classes, row_dim=6, feature_dim=5, plan=plan)
    for row, name, number in zip(rows, names, truth, strict=True):
        accumulator.add_rows(row[None], np.array([number], np.int32), name)
    sums = accumulator.result()
    folds = np.array([plan.fold(name, number) for name, number in zip(names, truth, strict=True)], np.int32)
    counts = calibration_counts(sums, RowSample(rows, truth, folds, accumulator.came), RECIPE)
    assert sums.folds == 5 and counts is not None
    rows = rows.astype(np.float64)
    answers = np.zeros((PATIENTS, 2))
    for fold in range(5):
        rest = folds != fold
        answers[~rest] = answered(rows[~rest], rows[rest], truth[rest], folds[rest])
    assert 0.6 < np.mean(answers.argmax(axis=1) == truth) < 1  # some are wrong
    for temperature, got in zip(TEMPERATURES, counts, strict=True):
        scaled = answers ** (1 / temperature)
        scaled /= scaled.sum(axis=1, keepdims=True)
        loss = -np.log(scaled[np.arange(PATIENTS), truth]).sum()
        sure, right = scaled.max(axis=1), scaled.argmax(axis=1) == truth
        bins = np.minimum(np.floor(sure * 15), 14).astype(int)
        confidence = [sure[bins == number].sum() for number in range(15)]
        correct = [right[bins == number].sum() for number in range(15)]
        np.testing.assert_allclose(got, [loss, PATIENTS, *confidence, *correct], rtol=1e-4, atol=1e-5)


def ridge_head(rows: Array, truth: Labels, ridge: float) -> Array:
    """Class-balanced ridge regression of one-hot targets, on the rows themselves."""
    weights = 1 / np.bincount(truth)[truth]
    gram = (rows * weights[:, None]).T @ rows
    gram += ridge * np.diag(gram).mean() * np.eye(len(gram))
    return np.linalg.solve(gram, (rows * weights[:, None]).T @ np.eye(2)[truth])


def answered(asked: Array, rows: Array, truth: Labels, folds: Labels) -> Array:
    """Probabilities of `asked` under the head and posterior of two classes that the rows give (method §3, 4).

    λ: the least held-out error.
    """
    own, ridges = np.eye(2), np.array([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])

    def held_out(ridge: float) -> Array:
        scores = np.zeros((len(rows), 2))
        for fold in np.unique(folds):
            inside = folds == fold
            scores[inside] = rows[inside] @ ridge_head(rows[~inside], truth[~inside], ridge)
        return scores

    errors = [((held_out(ridge) - own[truth]) ** 2).sum() for ridge in ridges]
    ridge = ridges[int(np.argmin(errors))]
    scores = held_out(ridge)
    means = np.stack([scores[truth == number].mean(axis=0) for number in (0, 1)])
    covariance = sum(np.cov(scores[truth == number].T, bias=True) for number in (0, 1)) / 2
    across = np.array([1.0, -1.0])
    slope = max((across @ (means[0] - means[1])) / 2, 0.1)
    variance = max(across @ covariance @ across / 2, 1e-6)
    direction = slope / variance * across / 2
    threshold = PATIENTS / (PATIENTS + 20) * (means.mean(axis=0) @ direction)
    logits = 2 * (asked @ ridge_head(rows, truth, ridge) @ direction - threshold)
    second = 1 / (1 + np.exp(logits))
    return np.stack([1 - second, second], axis=1)


def test_without_folds_there_is_no_calibration(dataset: Dataset, generation: Generation) -> None:
    sums, sample = extract_with_sample(generation, dataset.train, min_cohort=10)
    assert sums.folds == 0 and calibration_counts(sums, sample, RECIPE) is None
    made = make_contribution(dataset, generation, config(min_cohort=10), sequence=1)
    assert "calibration" not in made.header.parts


# --- differential privacy --------------------------------------------------------------------------------


def noisy(**policy: Any) -> SiteConfig:
    return config(**({"epsilon": 90.0, "delta": 1e-3, "min_cohort": 5} | policy))


def test_with_noise_nothing_exact_leaves(
    dataset: Dataset, generation: Generation, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_contribution(dataset, generation, noisy())
    again = make_contribution(dataset, generation, noisy())
    assert made.id != again.id and list(made.tensors()) == ["rest_grams"]
    header = made.header
    assert header.privacy is not None and header.privacy.epsilon == 90.0
    assert (header.parts, header.folds, header.share_style) == (("classes",), 0, False)
    assert set(header.values["evidence"]) == {"versions"}
    assert made.statistics is not None
    exact = extract(generation, dataset.train, min_cohort=2)
    for index in range(2):  # ten patients each; a row of another length than the typical counts otherwise
        got, wanted = made.statistics.class_gram(index), exact.class_gram(index)
        assert got[-1] == pytest.approx(10, abs=5)
        share = np.linalg.norm(got / got[-1] - wanted / wanted[-1]) / np.linalg.norm(wanted / wanted[-1])
        assert 0 < share < 0.6
    with caplog.at_level(logging.WARNING, "fedmed_edge.hospital"):
        make_contribution(dataset, generation, noisy(delta=0.05))
    assert "`delta` has 0.05, wise is at most 1/n²" in caplog.text


def test_with_noise_neither_weights_nor_drafts_leave(
    dataset: Dataset, generation: Generation, draft: Generation, tmp_path: Path
) -> None:
    write_backbone(tmp_path / "a.backbone", generation.weights, RECIPE)
    with pytest.raises(
        Withheld, match="the weights were trained without noise, and `epsilon` in the"
    ) as told:
        prepare_weights(dataset, generation, noisy(), tmp_path / "a.backbone")
    assert "`fedmed-edge train --private`" in (told.value.hint or "")
    with pytest.raises(InputError, match="is a draft, whose rows are too wide for noise"):
        make_contribution(dataset, draft, noisy())
    with pytest.raises(
        Withheld, match=f"{PATIENTS} labelled training patients, expected at least min_cohort"
    ):
        make_contribution(dataset, generation, noisy(min_cohort=PATIENTS + 1))
    with pytest.raises(InputError, match="none of the parts"):
        make_contribution(dataset, generation, noisy(parts=("images",)))
    with pytest.raises(InputError, match="none of the parts style leaves with noise"):
        make_contribution(dataset, generation, noisy(parts=("style",)))
    both = prepare(dataset, generation, noisy(parts=("classes", "style", "channels")))
    assert both.leaving.parts == both.contribution().header.parts == ("classes",)


def test_weights_that_were_trained_with_noise_leave_and_nothing_exact_beside_them(
    dataset: Dataset, generation: Generation, tmp_path: Path
) -> None:
    spent: list[str] = []
    noise = plan_training(dataset, noisy(sampling=0.5).policy, 2)
    assert (noise.steps, noise.sampling, noise.clip, noise.epsilon) == (4, 0.5, 1.0, 90.0)
    private = PrivateTraining("ab" * 16, noise, lambda: spent.append("all"))
    norms = tmp_path / "norms.backbone"
    norms.write_bytes(b"of a training without noise")
    trained = train_backbone(
        dataset.train,
        generation,
        epochs=2,
        site="alpha",
        how=Training(local_norms=True),
        held_out=dataset.test,
        norms=norms,
        private=private,
        device="cpu",
    )
    assert spent == ["all"] and norms.read_bytes() == b"of a training without noise"
    trained.write(tmp_path / "a.backbone")
    file = read_backbone(tmp_path / "a.backbone").header
    assert (file.training, file.privacy) == (private.id, noise) and set(file.errors) > {"tuned_error"}
    prepared = prepare_weights(dataset, generation, noisy(), tmp_path / "a.backbone")
    assert prepared.leaving.training == private.id and prepared.leaving.parts == ("weights",)
    write_contribution(tmp_path / "a.contribution", prepared.contribution())
    header = read_contribution(tmp_path / "a.contribution").header
    assert header.privacy == noise and header.parts == ("weights",)
    assert set(header.values["evidence"]) == {"versions"}
    # without noise in the policy they are weights like any other
    plain = prepare_weights(dataset, generation, config(), tmp_path / "a.backbone").contribution().header
    assert plain.privacy is None and plain.evidence.images == {"train": PATIENTS}


def test_how_long_a_training_with_noise_is_follows_from_no_patient(dataset: Dataset) -> None:
    half = replace(dataset, items=dataset.items[: PATIENTS // 2])
    policy = noisy(epsilon=3.0, sampling=0.2).policy
    assert plan_training(dataset, policy, 6) == plan_training(half, policy, 6)
    assert plan_training(dataset, policy, 0.1).steps == 1


def test_the_policy_may_say_how_long_every_training_with_noise_is(dataset: Dataset) -> None:
    policy = noisy(epsilon=3.0, sampling=0.2, epochs=4).policy
    plans = {plan_training(dataset, policy, epochs) for epochs in (0.1, 4, 30)}
    assert [plan.steps for plan in plans] == [20]


def test_a_training_with_noise_that_the_policy_does_not_ask_for_is_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="training: the policy asks for no noise"):
        plan_training(dataset, config().policy, 1)
    with pytest.raises(InputError, match="training: `parts` in the policy has no weights"):
        plan_training(dataset, noisy(parts=("classes",)).policy, 1)
    with pytest.raises(Withheld, match=f"training with noise on {PATIENTS} labelled training patients"):
        plan_training(dataset, noisy(min_cohort=PATIENTS + 1).policy, 1)


def test_with_noise_refusals_come_before_the_images_are_read(
    dataset: Dataset, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "load", lambda self, item: pytest.fail("was read"))
    with pytest.raises(Withheld, match=f"noise over {PATIENTS} labelled training patients"):
        prepare(dataset, generation, noisy(min_cohort=PATIENTS + 1))
    with pytest.raises(Withheld, match=f"noise over {PATIENTS} labelled training patients"):
        expected(dataset, generation, noisy(min_cohort=PATIENTS + 1).policy)
    told = expected(dataset, generation, noisy().policy)
    assert told.noise is not None and (told.parts, told.cohort, told.width) == (("classes",), (), 13)


def test_noise_is_drawn_anew_for_every_contribution(dataset: Dataset, generation: Generation) -> None:
    prepared = prepare(dataset, generation, noisy())
    assert prepared.leaving.noise is not None and prepared.leaving.cohort == ()
    one, other = (prepared.contribution(sequence) for sequence in (3, 4))
    assert one.id != other.id and (one.header.sequence, other.header.sequence) == (3, 4)
    assert one.header.privacy is not None and one.header.privacy.noise == prepared.leaving.noise


# --- patients --------------------------------------------------------------------------------------------


def cohort(dataset: Dataset, min_cohort: int = 2) -> frozenset[str]:
    return frozenset(Patients(dataset, min_cohort).cohort(("classes", "images")))


def test_a_cohort_tells_patients_apart_by_what_their_images_hold(dataset: Dataset, tmp_path: Path) -> None:
    whole = cohort(dataset)
    assert len(whole) == PATIENTS and {one.split()[1] for one in whole} == set(RECIPE.classes)
    moved = read_dataset(Path(shutil.copytree(dataset.folder, tmp_path / "elsewhere")), RECIPE)
    assert cohort(moved) == whole
    renamed = replace(dataset, items=tuple(replace(i, patient=f"other {i.patient}") for i in dataset))
    assert cohort(renamed) == whole
    relabelled = replace(dataset, items=(replace(dataset.items[0], label=1), *dataset.items[1:]))
    assert len(cohort(relabelled) - whole) == len(whole - cohort(relabelled)) == 1
    Raster.fromarray(np.zeros((34, 32), np.uint8)).save(tmp_path / "elsewhere" / "0.png")
    assert len(cohort(moved) - whole) == 1
    (tmp_path / "elsewhere" / "0.png").unlink()
    with pytest.raises(InputError, match=r"0.png: cannot be read"):
        cohort(moved)


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: not a file"):
        content_digest(tmp_path / "a.png")


def test_neither_names_nor_order_of_the_files_of_a_series_count(tmp_path: Path) -> None:
    for folder, names in (("one", "abc"), ("other", "cab")):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            (tmp_path / folder / name).write_text(f"slice {number}")
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "other")
    (tmp_path / "other" / "b").write_text("slice 2 once more")
    assert content_digest(tmp_path / "one") != content_digest(tmp_path / "other")


def hidden(dataset: Dataset, count: int, *, patient: str | None = None) -> Dataset:
    """The first images without their labels, of the patient named."""
    changed = [
        replace(item, label=None, patient=patient or item.patient) if index < count else item
        for index, item in enumerate(dataset.items)
    ]
    return replace(dataset, items=tuple(changed))


def test_a_cohort_holds_who_is_in_the_contribution_and_nobody_else(dataset: Dataset) -> None:
    labelled = cohort(hidden(dataset, 0), min_cohort=5)
    few, enough = (cohort(hidden(dataset, count), min_cohort=5) for count in (3, 6))
    assert few < labelled and len(few) == PATIENTS - 3  # three without labels are too few to leave
    assert len([one for one in enough if one.endswith(" ")]) == 6
    told = Patients(hidden(dataset, 6), 5)
    assert all(not one.endswith(" ") for one in told.cohort(("classes", "calibration")))
    # an image without label of a patient who has labels: the classes stay, and it is told where it counts
    own = Patients(hidden(dataset, 6, patient="p19"), 1).cohort(("classes", "images"))
    assert len([one for one in own if one.endswith(" ")]) == 1
    assert {one for one in labelled if one in own} == {one for one in own if not one.endswith(" ")}
    # whose rows did not come is not in it either
    counted = {0: frozenset({"p6"}), 1: frozenset({"p7", "p9"})}
    assert len(told.cohort(("classes",), counted)) == 3


def test_what_is_prepared_knows_its_patients_and_refuses_files_that_changed(
    dataset: Dataset, generation: Generation, draft: Generation, tmp_path: Path
) -> None:
    moved = read_dataset(Path(shutil.copytree(dataset.folder, tmp_path / "elsewhere")), RECIPE)
    patients = Patients(moved, 2)
    made = prepare(moved, generation, config(), patients=patients).leaving
    before = expected(moved, generation, config().policy, patients)
    assert set(made.cohort) == cohort(dataset) == set(before.cohort)
    assert (made.generation, made.task, made.width, made.noise) == (generation.digest, "tiny", 13, None)
    drafted = prepare(moved, draft, config(), patients=patients).leaving
    assert (drafted.cohort, drafted.backbone) == (made.cohort, made.backbone)
    assert drafted.generation != made.generation
    Raster.fromarray(np.zeros((34, 32), np.uint8)).save(tmp_path / "elsewhere" / "0.png")
    with pytest.raises(InputError, match=r"0\.png: changed while the contribution was made"):
        prepare(moved, generation, config(), patients=patients)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_how_wide_rows_are_is_told_of_images_and_of_pixels(
    dataset: Dataset, generation: Generation, kind: str
) -> None:
    """The guard of updates asks for patients by it, as the width rule does of both."""
    told = replace(dataset, recipe=RECIPE.model_copy(update={"kind": kind}))
    assert expected(told, generation, config().policy).width == generation.row_dim


def test_sums_under_a_draft_and_its_generation_are_of_the_same_images(
    dataset: Dataset, generation: Generation, draft: Generation
) -> None:
    """A class that is left out is left out of both, or their difference would show it."""
    three = ("dark", "bright", "rare")
    rare = replace(
        dataset,
        recipe=RECIPE.model_copy(update={"classes": three}),
        items=tuple(replace(item, label=2) if index < 3 else item for index, item in enumerate(dataset)),
    )
    pooled, sums = (extract(one, rare.train, min_cohort=5) for one in (draft, generation))
    assert sums.absent == ("rare",) and pooled.absent == three
    assert pooled.unlabelled[-1] == sums.gram()[-1] == PATIENTS - 3
    assert pooled.images == sums.images == PATIENTS - 3
