"""A server that knows one image makes a generation for it: what the policy keeps from it, and what not."""

from dataclasses import replace

import numpy as np
import pytest
from attack_scores import auc
from PIL import Image as Raster
from scipy.stats import norm

from fedmed_edge.config import Policy, SiteConfig
from fedmed_edge.features.encoder import Encoder, moments_of, pooled_of
from fedmed_edge.features.extract import extract
from fedmed_edge.features.generations import from_backbone
from fedmed_edge.features.publish import complete_generation
from fedmed_edge.generation import Generation
from fedmed_edge.hospital import prepare
from fedmed_edge.images.dataset import Dataset, read_dataset
from fedmed_edge.images.preprocess import prepare as prepare_image
from fedmed_edge.recipe import Backbone, Intensity, Recipe
from fedmed_edge.statistics.accounting import noise_multiplier
from fedmed_edge.statistics.feature_statistics import unpack

RECIPE = Recipe(
    name="tiny",
    kind="classification",
    classes=("dark", "bright"),
    size=(16, 16),
    intensity=Intensity(rule="range", low=0, high=255),
    backbone=Backbone(network="residual_encoder", widths=(8, 12)),
)
TARGET, DRAWS = "p0", 300


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("images")
    random, lines = np.random.default_rng(0), ["image,label,mask,patient,split"]
    for index in range(24):
        pixels = np.clip(random.normal(60 + 110 * (index % 2), 40, (16, 16)), 0, 255).astype(np.uint8)
        Raster.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(f"{index}.png,{RECIPE.classes[index % 2]},,p{index},train")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_dataset(folder, RECIPE)


@pytest.fixture(scope="module")
def hostile(dataset: Dataset) -> Generation:
    """Rows (relu, feature, 1) whose relu is above 0 for one image alone, and then far above."""
    draft = from_backbone(None, RECIPE)
    honest = complete_generation(draft, RECIPE, {"own": extract(draft, dataset, min_cohort=1)})
    encoder = Encoder(honest, "cpu")
    images = [prepare_image(dataset.load(item), RECIPE).pixels for item in dataset]
    pooled = np.array([pooled_of(moments_of(encoder.maps(image))) for image in images])
    features = (pooled - honest.mean) / honest.deviation
    (target,) = (place for place, item in enumerate(dataset) if item.patient == TARGET)
    others = np.delete(features, target, axis=0)
    spread = np.cov(others.T) + 0.1 * np.eye(features.shape[1])
    away = np.linalg.solve(spread, features[target] - others.mean(axis=0))
    away /= np.abs(features @ away).max()
    between = (float(features[target] @ away) + float((others @ away).max())) / 2
    assert between > float((others @ away).max())
    return replace(
        honest,
        header=honest.header.model_copy(update={"lift_dim": 1}),
        projection=away[:, None].astype(np.float32),
        lift_weight=np.full((1, 1), 1e4, np.float32),
        lift_bias=np.full(1, -1e4 * between, np.float32),
        reference_mean=np.zeros(1),
        reference_covariance=np.eye(1),
    )


def told(dataset: Dataset, generation: Generation, **policy: object) -> np.ndarray:
    """What a draw says of the relu in the target's class: its sum of squares."""
    config = SiteConfig(site="a", device="cpu", policy=Policy(parts=("classes",), **policy))  # type: ignore[arg-type]
    prepared = prepare(dataset, generation, config)
    found = []
    for _ in range(DRAWS if "epsilon" in policy else 1):
        statistics = prepared.contribution().statistics
        assert statistics is not None
        found.append(unpack(statistics.class_gram(0))[0, 0])
    return np.array(found)


def without(dataset: Dataset) -> Dataset:
    return replace(dataset, items=tuple(item for item in dataset if item.patient != TARGET))


def test_the_width_rule_keeps_nothing_from_a_generation_that_is_made_for_one_patient(
    dataset: Dataset, hostile: Generation
) -> None:
    there, gone = (told(one, hostile, width_rule="refuse") for one in (dataset, without(dataset)))
    assert hostile.row_dim == 3 and there > 0 and gone == 0


@pytest.mark.parametrize("epsilon", [16.0, 8.0])
def test_noise_keeps_what_epsilon_says_and_no_more(
    dataset: Dataset, hostile: Generation, epsilon: float
) -> None:
    """Nothing else in a contribution could tell better: this is what ε and δ bound."""
    policy = {"epsilon": epsilon, "min_cohort": 2}
    there, gone = (told(one, hostile, **policy) for one in (dataset, without(dataset)))
    most = norm.cdf(1.0 / noise_multiplier(epsilon, 1e-5) / np.sqrt(2.0))
    assert most - 0.12 < auc(there, gone) < most + 0.06
