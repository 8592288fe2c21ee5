"""Which site's sums are unlike all others': by mistake or on purpose, they should not steer the model unseen.

Four looks, each at one site against all others together; all but `size` are free of how many rows anybody
claims:

- spread: the longest its rows are in any direction, by the others' second moment. One giant row, or rows
  along a direction that no image has, give thousands of times what another scanner does.
- classes: the cosine between its class means and the others', each around its own centre. Labels that were
  swapped turn it; another scanner, which moves all classes together, does not. Noise turns it too: others
  are looked at by exact sums alone, and of a noisy site three deviations of the noise that it says it added
  are taken for honest. One whose noise hides its classes may say whatever it likes, and says so itself: it
  stands out where it has more rows than the others have in the mean.
- size: its rows over those of all others together, which scaled sums raise.
- shifts: how far scores of a head on the others' rows move under changes of its images. What moves far the
  model does not use, so that whoever says so of what tells classes apart takes it from all.

A site may stand out and be honest: the only one with another scanner. Whoever runs the server decides.

Source: method §4; the thresholds stand where attacks begin to cost 0.03 of the others' score
(`tests/bench/attacks.py --only poison`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fedmed_edge.generation import shrink
from fedmed_edge.model.solve import on_one_thread
from fedmed_edge.model.sums import SiteSums
from fedmed_edge.statistics.feature_statistics import Array64, unpack

__all__ = ["Look", "look_at", "stand_out"]

LEAST_SITES: Final = 3
SPREAD: Final = 10.0
"""Times the largest spread among the others."""

AGREEMENT: Final = 0.5
"""Times the smallest agreement among the others."""

SIZE: Final = 3.0
"""Times the rows of all others together."""

_FLOOR = 0.01
_TINY = 1e-100
_DEVIATIONS = 3.0
_BLUR = 0.2
"""Cosine that noise may add before class means count as hidden: with more, half of them could be swapped."""


@dataclass(frozen=True)
class Look:
    """One site against the others together.

    Attributes:
        agreement: None where the others hand over nothing exact, or no two classes are shared, or `hidden`.
        hidden: Its noise is such that its classes may lie anywhere.
    """

    spread: float
    agreement: float | None
    size: float
    hidden: bool = False


@on_one_thread
def stand_out(sites: Sequence[SiteSums]) -> dict[str, str]:
    """Sites that stand out, and in words how.

    The one that stands out most is taken out before the next is looked for. Fewer than half of the sites are
    named, and none of fewer than three: then nobody can tell who is odd.

    Args:
        sites: Labelled sums; sites without labels are passed over.

    Example:
        >>> from fedmed_edge.statistics.feature_statistics import pack
        >>> def site(name, size=1.0):
        ...     grams = {(-1, k): size * pack(np.array([[10.0, 5 - 9 * k], [5 - 9 * k, 10]])) for k in (0, 1)}
        ...     return SiteSums(name, 2, 2, grams, np.array([10, 10]))
        >>> stand_out([site("a"), site("b"), site("c", 100.0)])
        {'c': 'size: 50 times the rows of all others together'}
    """
    named: dict[str, str] = {}
    labelled = [site for site in sites if site.blocks]
    shifted = [site for site in labelled if site.shifts is not None]
    for told, find in ((shifted, _most_shifted), (labelled, _oddest)):
        left = [site for site in told if site.site not in named]
        while len(told) - len(left) < (len(told) - 1) // 2 and len(left) >= LEAST_SITES:
            found = find(left)
            if found is None:
                break
            name, how = found
            named[name] = how
            left = [site for site in left if site.site != name]
    return named


def look_at(sites: Sequence[SiteSums]) -> dict[str, Look]:
    """Each of at least two labelled sites against the others together."""
    return {site.site: _look(site, [one for one in sites if one is not site]) for site in sites}


def _most_shifted(sites: Sequence[SiteSums]) -> tuple[str, str] | None:
    """The site at which the others' scores move the furthest, where that is past the threshold."""
    moved = {site.site: _moved(site, [one for one in sites if one is not site]) for site in sites}
    name = max(moved, key=lambda one: (moved[one], one))
    times = moved[name] / max(max(far for other, far in moved.items() if other != name), _TINY)
    if times <= SPREAD:
        return None
    return (
        name,
        f"shifts: scores move {times:.0f} times as far under changes of the images as at any other site",
    )


def _moved(site: SiteSums, others: Sequence[SiteSums]) -> float:
    """Mean square by which scores of a head on the others' rows move at a site."""
    assert site.shifts is not None  # who calls has looked
    rest = _by_class(others)
    moment = np.mean(list(rest.values()), axis=0)
    head = np.linalg.solve(moment + _floor(moment), np.stack([gram[-1] for gram in rest.values()]).T)[:-1]
    return float((head * (unpack(site.shifts)[:-1, :-1] @ head)).sum() / site.shifts[-1])


def _oddest(sites: Sequence[SiteSums]) -> tuple[str, str] | None:
    """The site that is furthest past a threshold, spread before classes before size."""
    looks = look_at(sites)
    found: list[tuple[int, float, str, str]] = []
    for name, look in looks.items():
        others = [one for other, one in looks.items() if other != name]
        spread = look.spread / max(one.spread for one in others)
        if spread > SPREAD:
            words = f"spread: rows {spread:.0f} times as spread in one direction as at any other site"
            found.append((0, spread, name, words))
        agreements = [one.agreement for one in others if one.agreement is not None]
        if look.agreement is not None and agreements:
            least = min(agreements)
            if look.agreement < AGREEMENT * least:
                words = (
                    f"classes: lie otherwise than at the others, cosine {look.agreement:.2f} for {least:.2f}"
                )
                found.append((1, -look.agreement, name, words))
        if look.hidden and look.size * len(others) > 1.0:
            words = "noise: hides where its classes lie, in more rows than the others have in the mean"
            found.append((2, look.size, name, words))
        if look.size > SIZE:
            words = f"size: {look.size:.0f} times the rows of all others together"
            found.append((2, look.size, name, words))
    if not found:
        return None
    _, _, name, words = min(found, key=lambda one: (one[0], -one[1], one[2]))
    return name, words


def _look(site: SiteSums, others: Sequence[SiteSums]) -> Look:
    own, rest = _by_class([site]), _by_class(others)
    exact = _by_class([one for one in others if not one.noise])
    moment, seen = (np.mean(list(one.values()), axis=0) for one in (rest, own))
    noise = {index: site.noise / float(site.counts[index]) for index in own}
    agreement = _agreement(own, exact, noise)
    return Look(
        spread=_spread(seen, moment),
        agreement=agreement,
        size=float(site.counts.sum()) / sum(float(one.counts.sum()) for one in others),
        hidden=bool(site.noise) and agreement is None and len(set(own) & set(exact)) > 1,
    )


def _spread(own: Array64, rest: Array64) -> float:
    """The longest that rows of one second moment are in any direction, by another."""
    root = np.linalg.inv(np.linalg.cholesky(rest + _floor(rest)))
    return float(np.linalg.eigvalsh(root @ own @ root.T)[-1])


def _floor(moment: Array64) -> Array64:
    return np.asarray(_FLOOR * np.trace(moment) / len(moment) * np.eye(len(moment)))


def _agreement(
    own: Mapping[int, Array64], rest: Mapping[int, Array64], noise: Mapping[int, float]
) -> float | None:
    """Cosine of the class means of both, centred, in coordinates in which the others' rows spread evenly.

    Args:
        noise: Deviation on a class's mean Gram of scaled rows. The mean has √½ of it, and scaled features are
            about as long as 1. What is said is the most that the cosine may be without it; None where that
            may be anything.
    """
    shared = sorted(set(own) & set(rest))
    if len(shared) < 2:
        return None
    moment = np.mean(list(rest.values()), axis=0)
    centre = moment[-1, :-1]
    root = np.linalg.inv(np.linalg.cholesky(shrink(moment[:-1, :-1] - np.outer(centre, centre))))
    one, two = (_centred(np.stack([grams[k][-1, :-1] for k in shared])) @ root.T for grams in (own, rest))
    added = np.array([noise[k] for k in shared]) * np.sqrt(0.5 * np.trace(moment[:-1, :-1]))
    blur = _DEVIATIONS * float(np.linalg.norm(added[:, None] * (two @ root)))
    lengthened = float((added**2).sum() * (root**2).sum()) * (1.0 - 1.0 / len(shared))
    length = max(float((one**2).sum()) - lengthened, 0.0) ** 0.5 * float(np.linalg.norm(two))
    if length <= blur / _BLUR:
        return None
    return float(min(1.0, ((one * two).sum() + blur) / length))


def _centred(means: Array64) -> Array64:
    return np.asarray(means - means.mean(axis=0))


def _by_class(sites: Sequence[SiteSums]) -> dict[int, Array64]:
    """Second moment (D, D) of every class, its mean over these sites: claiming more rows weighs no more."""
    found: dict[int, list[Array64]] = {}
    for site in sites:
        for index, gram in zip(site.total.present.tolist(), site.total.grams, strict=True):
            found.setdefault(index, []).append(unpack(gram / gram[-1]))
    return {index: np.asarray(np.mean(moments, axis=0)) for index, moments in found.items()}
