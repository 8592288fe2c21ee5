"""Sites made of plain rows, so that every sum has its obvious NumPy definition."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import Contribution, new_contribution
from fedmed_edge.statistics.feature_statistics import REST, FeatureStatistics, pack

GENERATION = "0" * 64


@dataclass
class Site:
    """Rows (N, D) ending in 1 and labels (N,); labels of −1 are unlabelled. folds: dealt in turn by class."""

    rows: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    folds: int = 5
    images: npt.NDArray[np.float64] | None = None
    distances: npt.NDArray[np.float64] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def fold_of_row(self) -> npt.NDArray[np.int64]:
        fold = np.full(len(self.labels), REST)
        for index in np.unique(self.labels):
            own = np.flatnonzero(self.labels == index)
            if self.folds and len(own) >= self.folds:
                fold[own] = np.arange(len(own)) % self.folds
        return fold


def gram(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return pack(rows.T @ rows)


def statistics_of(site: Site, classes: tuple[str, ...]) -> FeatureStatistics:
    width = site.rows.shape[1]
    fold = site.fold_of_row()
    blocks = {
        (int(f), int(k)): gram(site.rows[(site.labels == k) & (fold == f)])
        for f, k in sorted({(f, k) for f, k in zip(fold, site.labels, strict=True) if k >= 0})
    }
    images = site.images if site.images is not None else site.rows[:, : min(4, width - 1)]
    ones = np.ones((len(images), 1))
    values: dict[str, Any] = {"unlabelled": gram(site.rows[site.labels < 0])}
    if site.distances is not None:
        d2 = site.distances
        values["distance_moments"] = np.array([float(len(d2)), d2.sum(), (d2**2).sum()])
    return FeatureStatistics(
        classes=classes,
        row_dim=width,
        feature_dim=images.shape[1],
        folds=max((f + 1 for f, _ in blocks), default=0),
        blocks=blocks,
        absent=tuple(name for k, name in enumerate(classes) if not (site.labels == k).any()),
        patients=np.array([(site.labels == k).sum() for k in range(len(classes))], np.int64),
        image_gram=gram(np.hstack([images, ones])),
        **(values | site.more),
    )


def contribute(sites: Mapping[str, Site], recipe: Recipe, **header: Any) -> list[Contribution]:
    named: dict[str, Any] = {"generation": GENERATION, "recipe": recipe, "sequence": 1, "min_cohort": 1}
    return [
        new_contribution(statistics_of(site, recipe.classes), site=name, **(named | header))
        for name, site in sites.items()
    ]


def recipe_of(classes: int, **fields: Any) -> Recipe:
    names = tuple(f"c{k}" for k in range(classes))
    return Recipe(**({"name": "r", "kind": "classification", "classes": names} | fields))


def random_site(
    seed: int, rows: int = 60, width: int = 12, classes: int = 3, shift: float = 0.0, **fields: Any
) -> Site:
    """Rows whose class means lie apart; `shift` moves all of them along one direction."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    means = 1.5 * np.random.default_rng(1234).standard_normal((classes, width - 1))
    direction = np.random.default_rng(4321).standard_normal(width - 1)
    features = means[labels] + rng.standard_normal((rows, width - 1)) + shift * direction
    return Site(np.hstack([features, np.ones((rows, 1))]), labels, **fields)


def ridge_head(
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    classes: int,
    ridge: float,
    weight: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """The head fitted with all rows in one place, by its definition: augmented least squares."""
    a = np.ones(len(rows)) if weight is None else weight
    counts = np.array([a[labels == k].sum() for k in range(classes)])
    share = a * np.where(counts > 0, 1.0 / np.maximum(counts, 1e-300), 0.0)[labels]
    gram_ = (rows * share[:, None]).T @ rows
    level = ridge * np.trace(gram_) / len(gram_)
    root = np.sqrt(share)[:, None]
    left = np.vstack([root * rows, np.sqrt(level) * np.eye(rows.shape[1])])
    right = np.vstack([root * np.eye(classes)[labels], np.zeros((rows.shape[1], classes))])
    head: npt.NDArray[np.float64] = np.linalg.lstsq(left, right, rcond=None)[0]
    return head


def squared_error(
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    head: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
) -> float:
    """Of a head on rows, which count by the weight of their class, by its definition."""
    residual = rows @ head - np.eye(head.shape[1])[labels]
    return float(np.sum(weights[labels] * np.sum(residual**2, axis=1)))


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """The functions above: test modules cannot import a conftest."""
    return SimpleNamespace(
        Site=Site,
        contribute=contribute,
        recipe=recipe_of,
        random=random_site,
        head=ridge_head,
        error=squared_error,
        statistics=statistics_of,
    )
