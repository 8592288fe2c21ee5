"""How far the images of two sites are apart, and whether an image is like those of the sites.

Every site's images are a Gaussian of pooled features, read from its image statistics. Source: method §4.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.generation import shrink
from fedmed_edge.model.solve import on_one_thread, root_psd
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import Array64, unpack

__all__ = [
    "ImageGaussian",
    "SiteMap",
    "bures_wasserstein",
    "image_gaussian",
    "known_threshold",
    "places",
    "site_map",
    "tree",
]

MANY_SITES = 8
"""Above this many sites distances are taken in a projection."""

PROJECTED = 64
"""Dimensions of that projection: the directions in which all sites' images together vary most."""


@dataclass(frozen=True, eq=False)
class ImageGaussian:
    """Images of one site.

    Attributes:
        mean: (F,).
        covariance: (F, F), shrunk by 0.1 of its mean diagonal.
    """

    site: str
    images: int
    mean: Array64 = field(repr=False)
    covariance: Array64 = field(repr=False)

    @cached_property
    def root(self) -> Array64:
        """(F, F) symmetric square root of the covariance."""
        return root_psd(self.covariance)


@dataclass(frozen=True, eq=False)
class SiteMap:
    """Distances between S sites, and two pictures of them, drawn when they are asked for.

    Attributes:
        sites: Names, in order.
        distances: (S, S) Bures–Wasserstein distances d, symmetric, 0 on the diagonal.
    """

    sites: tuple[str, ...]
    distances: Array64

    @cached_property
    def places(self) -> Array64:
        """(S, 2) positions on a map whose distances come as near as two dimensions allow."""
        return places(self.distances)

    @cached_property
    def merges(self) -> tuple[tuple[int, int, float], ...]:
        """The tree from its leaves up: (one, other, height); S + i is what merge i made."""
        return tree(self.distances)[0]

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Leaves of the tree from left to right, by number."""
        return tree(self.distances)[1]


def image_gaussian(contribution: Contribution) -> ImageGaussian:
    """Gaussian of the image features of one site.

    Raises:
        InputError: The contribution has no image statistics.
    """
    statistics, site = contribution.statistics, contribution.header.site
    if statistics is None or "images" not in contribution.header.parts or statistics.images < 1:
        raise InputError(f"distance: contribution of `{site}` has no image statistics")
    gram = unpack(statistics.image_gram) / statistics.image_gram[-1]
    mean = gram[:-1, -1]
    return ImageGaussian(site, statistics.images, mean, shrink(gram[:-1, :-1] - np.outer(mean, mean)))


def bures_wasserstein(one: ImageGaussian, other: ImageGaussian) -> float:
    """Bures–Wasserstein distance d between two Gaussians of one width; the covariances are taken as they are.

    d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁^½ Σ₂ Σ₁^½)^½), clipped at 0.

    Source: method §4; Gelbrich 1990.

    Example:
        >>> one = ImageGaussian("a", 1, np.zeros(1), np.eye(1))
        >>> bures_wasserstein(one, ImageGaussian("b", 1, np.array([3.0]), np.array([[25.0]])))
        5.0
    """
    inner = np.linalg.eigvalsh(one.root @ other.covariance @ one.root)
    overlap = np.sqrt(np.maximum(inner, 0.0)).sum()
    square = np.sum((one.mean - other.mean) ** 2) + np.trace(one.covariance) + np.trace(other.covariance)
    return float(np.sqrt(max(square - 2.0 * overlap, 0.0)))


@on_one_thread
def site_map(contributions: Collection[Contribution]) -> SiteMap:
    """Distances between all sites.

    More than `MANY_SITES` sites are compared in `PROJECTED` dimensions.

    Raises:
        InputError: A contribution has no image statistics, or features of another width.
    """
    ordered = sorted(contributions, key=lambda one: one.header.site)
    sites = [image_gaussian(one) for one in ordered]
    widths = {len(site.mean) for site in sites}
    if len(widths) > 1:
        raise InputError(f"distance: features have widths {sorted(widths)}, expected one")
    if len(sites) > MANY_SITES and widths.pop() > PROJECTED:
        sites = _projected(sites)
    distances = np.zeros((len(sites), len(sites)))
    for one, two in combinations(range(len(sites)), 2):
        distances[one, two] = distances[two, one] = bures_wasserstein(sites[one], sites[two])
    return SiteMap(tuple(site.site for site in sites), distances)


def _projected(sites: Sequence[ImageGaussian]) -> list[ImageGaussian]:
    centre = np.mean([site.mean for site in sites], axis=0)
    total = np.mean(
        [site.covariance + np.outer(site.mean - centre, site.mean - centre) for site in sites], axis=0
    )
    axes = np.linalg.eigh(total)[1][:, -PROJECTED:]
    return [
        ImageGaussian(site.site, site.images, site.mean @ axes, axes.T @ site.covariance @ axes)
        for site in sites
    ]


def places(distances: Array64) -> Array64:
    """Positions (S, 2) by classical multidimensional scaling; the largest entry of each axis is positive.

    Args:
        distances: (S, S) symmetric.

    Source: Torgerson 1952.

    Example:
        >>> places(np.array([[0.0, 2.0], [2.0, 0.0]])).round(6) + 0.0
        array([[ 1.,  0.],
               [-1.,  0.]])
    """
    size = len(distances)
    centring = np.eye(size) - 1.0 / size
    values, vectors = np.linalg.eigh(-0.5 * centring @ distances**2 @ centring)
    out = np.zeros((size, 2))
    for axis in range(min(2, size)):
        own: Array64 = vectors[:, -1 - axis] * np.sqrt(max(float(values[-1 - axis]), 0.0))
        # Of two entries that rounding alone sets apart the first decides, on every machine.
        largest = int(np.flatnonzero(np.abs(own) >= np.abs(own).max() * (1 - 1e-9))[0])
        out[:, axis] = own if own[largest] >= 0 else -own
    return out


def tree(distances: Array64) -> tuple[tuple[tuple[int, int, float], ...], tuple[int, ...]]:
    """Average-linkage tree of the sites (`SiteMap.merges`, `SiteMap.order`), in O(S³).

    Example:
        >>> tree(np.array([[0.0, 5.0, 1.0], [5.0, 0.0, 5.0], [1.0, 5.0, 0.0]]))
        (((0, 2, 1.0), (1, 3, 5.0)), (1, 0, 2))
    """
    groups: dict[int, tuple[int, ...]] = {number: (number,) for number in range(len(distances))}
    merges: list[tuple[int, int, float]] = []
    # sums of the distances between the leaves of two groups add up as groups merge; the newest group is last
    sums, sizes = distances.copy(), np.ones(len(distances))
    while len(groups) > 1:
        heights = sums / np.outer(sizes, sizes)
        heights[np.tri(len(sizes), dtype=bool)] = np.inf
        one, two = divmod(int(heights.argmin()), len(sizes))
        numbers = list(groups)
        merges.append((numbers[one], numbers[two], float(heights[one, two])))
        groups[len(distances) + len(merges) - 1] = groups.pop(numbers[one]) + groups.pop(numbers[two])
        joined = np.delete(sums[one] + sums[two], (one, two))
        sums = np.delete(np.delete(sums, (one, two), axis=0), (one, two), axis=1)
        sums = np.block([[sums, joined[:, None]], [joined, np.zeros((1, 1))]])
        sizes = np.append(np.delete(sizes, (one, two)), sizes[one] + sizes[two])
    return tuple(merges), next(iter(groups.values()), ())


def known_threshold(contributions: Collection[Contribution]) -> float | None:
    """Squared distance above which an image is unlike the sites': mean + 3 deviations of d² over all of them.

    None where no site has measured its distances to the reference.

    Source: method §4.
    """
    moments = [
        one.statistics.distance_moments
        for one in contributions
        if "images" in one.header.parts and one.statistics is not None
    ]
    count, first, second = np.sum(moments, axis=0) if moments else np.zeros(3)
    if count == 0:
        return None
    mean = first / count
    return float(mean + 3.0 * np.sqrt(max(second / count - mean**2, 0.0)))
