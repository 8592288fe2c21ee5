"""One poisoned site of four: it is named, and without it the others' score is what it was."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedmed_edge.model.evaluate import evaluate
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.sums import read_sums
from fedmed_edge.model.suspects import look_at, stand_out
from fedmed_edge.recipe import Recipe, Training
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import REST, FeatureStatistics, pack
from fedmed_edge.statistics.header import Privacy
from fedmed_edge.statistics.privacy import ClippedAccumulator, private_statistics

POISONED = "b"
Array = npt.NDArray[np.float64]


def federation(made: SimpleNamespace) -> tuple[dict[str, object], list[Contribution]]:
    """Four sites with scanners of their own."""
    sites = {name: made.random(seed, rows=150, shift=0.3 * seed) for seed, name in enumerate("abcd")}
    return sites, made.contribute(sites, made.recipe(3))


def flipped(statistics: FeatureStatistics, share: float) -> FeatureStatistics:
    blocks: dict[tuple[int, int], Array] = {}
    for (fold, index), gram in statistics.blocks.items():
        for to, part in ((index, 1 - share), ((index + 1) % 3, share)):
            if part:
                blocks[fold, to] = blocks.get((fold, to), 0) + part * gram
    return replace(statistics, blocks=blocks)


def scaled(statistics: FeatureStatistics, factor: float) -> FeatureStatistics:
    return replace(statistics, blocks={key: factor * gram for key, gram in statistics.blocks.items()})


def with_rows(statistics: FeatureStatistics, length: float, count: float) -> FeatureStatistics:
    """Rows of one length along a direction that no image has, said to be of the first class."""
    direction = np.random.default_rng(9).standard_normal(statistics.row_dim)
    row = length * direction / np.linalg.norm(direction)
    row[-1] = 1
    key = min(statistics.blocks)
    return replace(
        statistics,
        blocks={**statistics.blocks, key: statistics.blocks[key] + count * pack(np.outer(row, row))},
    )


ATTACKS: dict[str, Callable[[FeatureStatistics, float], FeatureStatistics]] = {
    "labels flipped": lambda sums, strength: flipped(sums, min(1.0, strength)),
    "labels flipped and scaled": lambda sums, strength: scaled(flipped(sums, 1.0), strength),
    "scaled": scaled,
    "one giant row": lambda sums, strength: with_rows(sums, strength, 1),
    "backdoor direction": lambda sums, strength: with_rows(sums, strength, 20),
}


def with_attack(clean: list[Contribution], attack: str, strength: float) -> list[Contribution]:
    return [
        replace(one, statistics=ATTACKS[attack](one.statistics, strength))
        if one.header.site == POISONED and one.statistics is not None
        else one
        for one in clean
    ]


def score(contributions: list[Contribution], made: SimpleNamespace, recipe: Recipe | None = None) -> float:
    """Balanced accuracy on fresh images of the other sites."""
    model, right = rebuild(contributions, recipe or made.recipe(3)), []
    for seed, name in enumerate("abcd"):
        if name != POISONED:
            site = made.random(seed + 40, rows=300, shift=0.3 * seed)
            answers = model.probabilities(site.rows).argmax(axis=1)
            right += [(answers[site.labels == k] == k).mean() for k in range(3)]
    return float(np.mean(right))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0, 3.0, 10.0, 100.0, 1e6])
def test_at_any_strength_the_others_lose_at_most_three_hundredths(
    made: SimpleNamespace, attack: str, strength: float
) -> None:
    _, clean = federation(made)
    recipe, poisoned = made.recipe(3), with_attack(clean, attack, strength)
    named = stand_out(read_sums(poisoned, recipe))
    assert set(named) <= {POISONED}
    kept = [one for one in poisoned if one.header.site not in named]
    assert abs(score(kept, made) - score(clean, made)) <= 0.03
    if strength >= 100:
        assert set(named) == {POISONED}
        assert evaluate(poisoned, recipe).stands_out == named


def test_the_words_tell_how_a_site_stands_out(made: SimpleNamespace) -> None:
    _, clean = federation(made)
    words = {}
    for attack in ("labels flipped", "scaled", "one giant row"):
        poisoned = read_sums(with_attack(clean, attack, 100.0), made.recipe(3))
        words[attack] = stand_out(poisoned)[POISONED].partition(":")[0]
    assert words == {"labels flipped": "classes", "scaled": "size", "one giant row": "spread"}


def test_honest_sites_do_not_stand_out_and_fewer_than_half_are_named(made: SimpleNamespace) -> None:
    _, clean = federation(made)
    assert stand_out(read_sums(clean, made.recipe(3))) == {}
    assert stand_out(read_sums(clean[:2], made.recipe(3))) == {}
    worse = [
        one if one.statistics is None else replace(one, statistics=scaled(one.statistics, 1000.0**place))
        for place, one in enumerate(clean)
    ]
    assert set(stand_out(read_sums(worse, made.recipe(3)))) == {"d"}
    assert evaluate(clean, made.recipe(3)).stands_out == {}


def with_noise(site: Any, one: Contribution, recipe: Recipe, multiplier: float) -> Contribution:
    """What the site hands over where its policy asks for noise: made by the product's own mechanism."""
    features = float((site.rows[:, :-1] ** 2).sum(axis=1).mean())
    scale = np.append(np.full(site.rows.shape[1] - 1, features**-0.5), 1.0)
    sums = ClippedAccumulator(recipe.classes, scale=scale, clip=1.0)
    for number, (row, label) in enumerate(zip(site.rows, site.labels, strict=True)):
        sums.add_rows(row[None].astype(np.float32), np.array([label], np.int32), f"p{number}")
    statistics = private_statistics(sums, multiplier=multiplier, min_cohort=10, feature_dim=4)
    return claiming_noise(replace(one, statistics=statistics), multiplier)


def claiming_noise(one: Contribution, multiplier: float) -> Contribution:
    assert one.statistics is not None
    total: dict[tuple[int, int], Array] = {}
    for (_, index), gram in one.statistics.blocks.items():
        total[REST, index] = total.get((REST, index), 0) + gram
    privacy = Privacy(epsilon=8.0, delta=1e-3, clip=1.0, noise=multiplier)
    header = one.header.model_copy(update={"privacy": privacy, "folds": 0})
    return replace(one, header=header, statistics=replace(one.statistics, blocks=total, folds=0))


@pytest.mark.parametrize("noisy", ["b", "bd"])
def test_a_site_with_honest_noise_is_not_named_for_it(made: SimpleNamespace, noisy: str) -> None:
    sites, clean = federation(made)
    recipe = made.recipe(3)
    mixed = [
        with_noise(sites[one.header.site], one, recipe, 0.5) if one.header.site in noisy else one
        for one in clean
    ]
    sums = read_sums(mixed, recipe)
    assert [site.noise for site in sums] == [1.0 if site.site in noisy else 0.0 for site in sums]
    looks = look_at(sums)
    assert all(look.agreement is not None and look.agreement > 0.7 for look in looks.values())
    assert stand_out(sums) == {}


def test_among_noisy_sites_alone_nobody_is_looked_at_by_class(made: SimpleNamespace) -> None:
    sites, clean = federation(made)
    noisy = [with_noise(sites[one.header.site], one, made.recipe(3), 0.5) for one in clean]
    looks = look_at(read_sums(noisy, made.recipe(3))).values()
    assert all(look.agreement is None and not look.hidden for look in looks)


@pytest.mark.parametrize("claimed", [0.1, 3.0, 10.0, 30.0, 300.0])
@pytest.mark.parametrize("size", [0.5, 1.0, 2.0, 5.0, 8.0, 100.0])
def test_noise_that_a_site_claims_hides_no_labels_that_cost_the_others(
    made: SimpleNamespace, claimed: float, size: float
) -> None:
    """With little of it the labels are seen to be wrong; with much of it the site may not weigh much."""
    _, clean = federation(made)
    recipe, poisoned = made.recipe(3), with_attack(clean, "labels flipped and scaled", size)
    poisoned = [claiming_noise(one, claimed) if one.header.site == POISONED else one for one in poisoned]
    named = stand_out(read_sums(poisoned, recipe))
    assert set(named) <= {POISONED}
    kept = [one for one in poisoned if one.header.site not in named]
    assert abs(score(kept, made) - score(clean, made)) <= 0.03
    assert named or size <= 1.0


@pytest.mark.parametrize("size", [0.0, 10.0, 1e6])
def test_a_site_that_says_its_rows_move_under_changes_of_the_images_is_named(
    made: SimpleNamespace, size: float
) -> None:
    """What moves is not used: of all that tells classes apart nothing would be left."""
    recipe = made.recipe(3, training=Training(invariance=1.0))
    sites = {name: made.random(seed, rows=150, shift=0.3 * seed) for seed, name in enumerate("abcd")}
    for seed, (name, site) in enumerate(sites.items()):
        moves = 0.1 * np.random.default_rng(seed).standard_normal(site.rows.shape)
        if name == POISONED:
            means = np.stack([site.rows[site.labels == k].mean(axis=0) for k in range(3)])
            moves += size * (means - means.mean(axis=0))[np.arange(len(moves)) % 3]
        moves[:, -1] = 1.0
        site.more["shift_gram"] = pack(moves.T @ moves)
    contributions = made.contribute(sites, recipe)
    named = stand_out(read_sums(contributions, recipe))
    assert {site: how.partition(":")[0] for site, how in named.items()} == (
        {POISONED: "shifts"} if size else {}
    )
    rest = [one for one in contributions if one.header.site not in named]
    assert score(rest, made, recipe) > 0.95
    assert not size or score(contributions, made, recipe) < 0.6
