"""What contributions do to the score of a model that is rebuilt from them: for `attacks.py`.

`utility` says what noise costs, `attack_poison` what a site does that means harm.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
from attack_rows import Array, Images, Labels, Release, Width, exact, noisy, rows_of
from attack_scores import Outcome, mean_of

from fedmed_edge.errors import Withheld
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.rebuild import fit
from fedmed_edge.model.sums import SiteSums, site_sums
from fedmed_edge.model.suspects import stand_out
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.feature_statistics import pack, width_of


def _score(sites: list[SiteSums], rows: npt.NDArray[np.float32], labels: Labels, recipe: Recipe) -> float:
    made = fit(sites, {one.site: 1.0 for one in sites}, recipe)
    model = GlobalModel(recipe, "", made.head, made.choice.ridge, made.posterior)
    answers = model.probabilities(rows).argmax(axis=1)
    return float(np.mean([(answers[labels == k] == k).mean() for k in np.unique(labels)]))


def utility(images: Images, draws: int, random: np.random.Generator) -> Iterator[Outcome]:
    """All sites contribute under the same policy; three tenths of the images are held out, anew each time."""
    recipe = Recipe(name="utility", kind="classification", classes=images.classes)
    releases: dict[str, Release] = {"exact": exact}
    releases |= {f"ε {epsilon:g}": noisy(epsilon) for epsilon in (16.0, 8.0, 4.0, 2.0, 1.0)}
    for width in (Width(16, 0), Width(32, 0), Width(64, 0), Width(360, 512)):
        rows = rows_of(images, width)
        for name, release in releases.items():
            if width.rows > 200 and name != "exact":
                continue
            found = []
            for _ in range(max(2, draws // (16 if width.rows > 200 else 4))):
                held = random.random(len(rows)) < 0.3
                sums = []
                for site, site_name in enumerate(images.sites):
                    mine = (images.site == site) & ~held
                    with contextlib.suppress(Withheld):
                        made = release(rows[mine], images.label[mine], images, width)
                        sums.append(site_sums(site_name, made, recipe))
                asked = [held & (images.site == site) for site in range(len(images.sites))]
                scores = [_score(sums, rows[one], images.label[one], recipe) for one in asked]
                found.append(float(np.mean(scores)))
            yield Outcome("utility", name, len(rows) * 7 // 10, width.rows, {"score": mean_of(found, random)})


# --- poisoned sums ------------------------------------------------------------------------------------------

STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0, 3.0, 10.0, 30.0, 100.0, 1e4, 1e6)


def attack_poison(images: Images, draws: int, random: np.random.Generator) -> Iterator[Outcome]:
    """Loss of balanced accuracy at the other sites, against the clean federation: most over the strengths."""
    width = Width(64, 0)
    rows = rows_of(images, width)
    recipe = Recipe(name="poison", kind="classification", classes=images.classes)
    losses: dict[tuple[str, float], list[tuple[float, float, float]]] = {}
    for _ in range(max(2, draws // 8)):
        site, held = random.integers(0, 4, len(rows)), random.random(len(rows)) < 0.3
        sums = [
            site_sums(str(s), exact(rows[mine], images.label[mine], images, width), recipe)
            for s in range(4)
            for mine in [(site == s) & ~held]
        ]
        asked = held & (site != 0)
        clean = _score(sums, rows[asked], images.label[asked], recipe)
        for (name, poison), strength in itertools.product(POISONS.items(), STRENGTHS):
            bad = [replace(sums[0], blocks=poison(sums[0].blocks, strength, random)), *sums[1:]]
            named = stand_out(bad)
            kept = [one for one in bad if one.site not in named]
            figures = [_score(some, rows[asked], images.label[asked], recipe) for some in (bad, kept)]
            losses.setdefault((name, strength), []).append(
                (clean - figures[0], clean - figures[1], float(set(named) == {"0"}))
            )
    for (name, strength), found in losses.items():
        plain, quarantined, named_share = (list(column) for column in zip(*found, strict=True))
        told = {
            "loss": mean_of(plain, random),
            "with quarantine": mean_of(quarantined, random),
            "named": mean_of(named_share, random),
        }
        yield Outcome("poison", name, len(rows) // 4, width.rows, told, f"strength {strength:g}")


Blocks = Mapping[tuple[int, int], Array]


def _flipped(blocks: Blocks, strength: float, random: np.random.Generator) -> Blocks:
    """A share of every class said to be the next one; above 1, all of it, and scaled."""
    classes = sorted({index for _, index in blocks})
    after = dict(zip(classes, classes[1:] + classes[:1], strict=True))
    share, size = min(1.0, strength), max(1.0, strength)
    out: dict[tuple[int, int], Array] = {}
    for (fold, index), gram in blocks.items():
        for to, part in ((index, 1 - share), (after[index], share)):
            out[fold, to] = out.get((fold, to), np.zeros_like(gram)) + size * part * gram
    return {key: gram for key, gram in out.items() if gram[-1] > 0}


def _scaled(blocks: Blocks, strength: float, random: np.random.Generator) -> Blocks:
    return {key: strength * gram for key, gram in blocks.items()}


def _rows_along(blocks: Blocks, strength: float, random: np.random.Generator, count: int) -> Blocks:
    width = width_of(len(next(iter(blocks.values()))))
    row = strength * random.standard_normal(width)
    row[-1] = 1
    return {**blocks, min(blocks): blocks[min(blocks)] + count * pack(np.outer(row, row))}


POISONS: dict[str, Callable[[Blocks, float, np.random.Generator], Blocks]] = {
    "labels flipped": _flipped,
    "scaled": _scaled,
    "one giant row": partial(_rows_along, count=1),
    "20 rows along a direction": partial(_rows_along, count=20),
}
