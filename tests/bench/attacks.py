"""What an attacker learns from what leaves a hospital, with figures.

    .venv/bin/python tests/bench/attacks.py DATA GENERATION [--only sums,heads,differences,models,properties]
        [--draws N] [--quick] [--features FILE] [--json FILE]

DATA is a task folder of a classification, GENERATION a generation of its images. Images go through the
encoder once (kept in --features). What the attacker sees is made by the code that a hospital runs
(`attack_rows.py`).

sums         Is this image in the class Gram? The attacker holds the image and a hundred and fifty others.
private      The same of the recommended noise, over sixteen times as many draws.
heads        Is this image in the rebuilt head? LiRA: shadow rebuilds with and without every image.
differences  Which patient changed between two contributions?
models       … between two published models, one before and one after?
properties   Which scanner is it, and is there a rare class?
utility      Balanced accuracy at all sites, by ε; no attack, but what noise costs.
poison       What one of four sites does to the others' score, and what is left of it with `--quarantine`;
             the images are dealt to four sites at random.

Intervals are 95 % bootstraps over draws. TPR is the share of members found where 0.1 % of the others are
called members.

What other parts tell has a file of its own: `attack_pixels.py` (sums and shifts of a segmentation),
`attack_weights.py`, `attack_style.py`, `reconstruction.py` (images from features). All take `--quick`.
"""

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attack_rebuilt import attack_poison, utility
from attack_rows import (
    MIN_COHORT,
    Array,
    Images,
    Labels,
    Release,
    Width,
    exact,
    noisy,
    read_images,
    rows_of,
    whole,
)
from attack_scores import Outcome, Scores, lira, mean_of, shown
from harness import end_with

from fedmed_edge.errors import Withheld
from fedmed_edge.model.sums import class_weights
from fedmed_edge.statistics.feature_statistics import FeatureStatistics, unpack

RIDGE = 1e-2
REFERENCE = 150
WIDTHS = (Width(8, 0), Width(16, 0), Width(32, 0), Width(64, 0), Width(64, 128), Width(360, 512))


# --- telling members ---------------------------------------------------------------------------------------


def leverage_score(gram: Array, candidates: Array) -> Array:
    """−zᵀ(G + τ)⁻¹z, τ tiny: at least −1 for a member, far below where z is not in the span."""
    level = max(float(np.trace(gram)), 1e-300) / len(gram)
    values, vectors = np.linalg.eigh(gram)
    inside = candidates @ vectors
    return np.asarray(-((inside**2) / np.maximum(values, 1e-9 * level)).sum(axis=1))


def likelihood_score(gram: Array, candidates: Array, reference: Array) -> Array:
    """Likelihood ratio of a Gram with z against one without it, for many Gaussian rows.

    z̃ᵀ(G̃/n − I)z̃ in coordinates in which the reference rows have second moment I (Dwork et al., FOCS 2015,
    for means; here for products).
    """
    moment = reference.T @ reference / len(reference)
    moment += 0.01 * np.trace(moment) / len(moment) * np.eye(len(moment))
    whiten = np.linalg.inv(np.linalg.cholesky(moment)).T
    white = candidates @ whiten
    pooled = whiten.T @ gram @ whiten / max(float(gram[-1, -1]), 1.0)
    return np.asarray(((white @ pooled) * white).sum(axis=1) - (white**2).sum(axis=1))


# --- attack 1: sums ----------------------------------------------------------------------------------------


def attack_sums(images: Images, draws: int, random: np.random.Generator) -> Iterator[Outcome]:
    """Members of one class of n patients."""
    index = int(np.bincount(images.label).argmax())
    own = np.flatnonzero(images.label == index)
    releases: dict[str, Release] = {"folds": exact, "no folds": whole}
    releases |= {f"ε {epsilon:g}": noisy(epsilon) for epsilon in (16.0, 8.0, 4.0, 1.0)}
    for width in WIDTHS:
        rows = rows_of(images, width)
        for patients in (10, 20, 50, 100, 200):
            if REFERENCE + 1.1 * patients > len(own):
                continue  # nobody is left who is not in it
            for name, release in releases.items():
                if width.rows > 200 and name.startswith("ε"):
                    continue
                rounds = max(4, draws // 8) if width.rows > 200 else draws
                yield _membership(rows, own, images, width, patients, (name, release), rounds, random)


def _membership(
    rows: npt.NDArray[np.float32],
    own: Labels,
    images: Images,
    width: Width,
    patients: int,
    setting: tuple[str, Release],
    draws: int,
    random: np.random.Generator,
) -> Outcome:
    name, release = setting
    tests = {"span": Scores(), "likelihood": Scores()}
    withheld = 0
    for _ in range(draws):
        order = random.permutation(own)
        reference, inside, outside = np.split(order, [REFERENCE, REFERENCE + patients])
        try:
            made = release(rows[inside], images.label[inside], images, width)
        except Withheld:
            withheld += 1
            continue
        grams = [unpack(block) for block in made.blocks.values()]
        for test, scores in tests.items():
            scores.add(
                *(
                    _best(grams, rows[who].astype(np.float64), rows[reference], test)
                    for who in (inside, outside)
                )
            )
    note = f"withheld {withheld} of {draws}" if withheld else ""
    figures = {}
    if withheld < draws:
        found = {test: scores.figures(random) for test, scores in tests.items()}
        figures = {measure: max(one[measure] for one in found.values()) for measure in ("auc", "tpr")}
    return Outcome("sums", name, patients, width.rows, figures, note)


def _best(grams: list[Array], candidates: Array, reference: npt.NDArray[np.float32], test: str) -> Array:
    """The highest score over the Grams that a member could be in."""
    if test == "span":
        return np.asarray(np.max([leverage_score(gram, candidates) for gram in grams], axis=0))
    against = reference.astype(np.float64)
    return np.asarray(np.max([likelihood_score(gram, candidates, against) for gram in grams], axis=0))


def attack_private(images: Images, draws: int, random: np.random.Generator) -> Iterator[Outcome]:
    """The recommended setting: ε 8, δ = 1/n², rows of 33."""
    index = int(np.bincount(images.label).argmax())
    own, width = np.flatnonzero(images.label == index), Width(32, 0)
    rows = rows_of(images, width)
    for patients in (20, 50, 100, 200):
        yield _membership(rows, own, images, width, patients, ("ε 8", noisy(8.0)), 16 * draws, random)


# --- attack 2: heads ---------------------------------------------------------------------------------------


def head_of(made: list[FeatureStatistics]) -> Array:
    """(D, C) head that the server rebuilds from these sites' sums."""
    width, classes = made[0].row_dim, len(made[0].classes)
    grams = np.zeros((classes, width, width))
    for one in made:
        for (_, index), block in one.blocks.items():
            grams[index] += unpack(block)
    share = class_weights(grams[:, -1, -1])
    gram = np.einsum("k,kij->ij", share, grams)
    return np.linalg.solve(
        gram + RIDGE * np.trace(gram) / width * np.eye(width), (share[:, None] * grams[:, -1]).T
    )


def attack_heads(images: Images, draws: int, random: np.random.Generator) -> Iterator[Outcome]:
    """LiRA with one split as the target and all others as its shadows; every image in half of the splits."""
    splits = 16 * draws
    releases: dict[str, Release] = {"exact": exact, "ε 8": noisy(8.0), "ε 1": noisy(1.0)}
    for width in (Width(16, 0), Width(64, 0), Width(360, 512)):
        rows = rows_of(images, width)
        for name, release in releases.items():
            if width.rows > 200 and name != "exact":
                continue
            rounds = splits // 8 if width.rows > 200 else splits
            inside = random.random((rounds, len(rows))) < 0.5
            margins = np.stack([_margins(rows, images, width, release, one) for one in inside])
            scores = lira(margins, inside)
            told = Scores()
            for one, score in zip(inside, scores, strict=True):
                told.add(score[one], score[~one])
            yield Outcome(
                "heads", name, len(rows) // 2, width.rows, told.figures(random), f"{rounds} rebuilds"
            )


def _margins(
    rows: npt.NDArray[np.float32], images: Images, width: Width, release: Release, inside: Any
) -> Array:
    """(N,) score of every image's own class above the best other one, under the rebuilt head."""
    made = []
    for site in range(len(images.sites)):
        here = inside & (images.site == site)
        try:
            made.append(release(rows[here], images.label[here], images, width))
        except Withheld:
            continue
    if not made:
        return np.zeros(len(rows))
    scores = rows.astype(np.float64) @ head_of(made)
    own = scores[np.arange(len(rows)), images.label].copy()
    scores[np.arange(len(rows)), images.label] = -np.inf
    return np.asarray(own - scores.max(axis=1))


# --- attack 4: differences ---------------------------------------------------------------------------------


def attack_differences(images: Images, draws: int, random: np.random.Generator) -> Iterator[Outcome]:
    """One patient more, then `MIN_COHORT` more: which of a hundred images is it?"""
    index = int(np.bincount(images.label).argmax())
    own = np.flatnonzero(images.label == index)
    for width in (Width(16, 0), Width(64, 0)):
        rows = rows_of(images, width)
        for name, release in {"exact": whole, "ε 8": noisy(8.0), "ε 1": noisy(1.0)}.items():
            for changed in (1, MIN_COHORT):
                found = []
                for _ in range(draws):
                    order = random.permutation(own)
                    before, fresh = order[:100], order[100 : 100 + changed]
                    candidates = order[100:200]
                    after = np.concatenate([before, fresh])
                    try:
                        one, two = (
                            unpack(release(rows[who], images.label[who], images, width).class_gram(index))
                            for who in (before, after)
                        )
                    except Withheld:
                        found.append(changed / 100)
                        continue
                    guess = _named(two - one, rows[candidates].astype(np.float64), changed)
                    found.append(len(set(candidates[guess]) & set(fresh)) / changed)
                figure = mean_of(found, random)
                note = f"{changed} changed, chance {changed / 100:g}"
                yield Outcome("differences", name, 100, width.rows, {"named": figure}, note)


def _named(difference: Array, candidates: Array, count: int) -> Labels:
    """The candidates that lie best in what has been added."""
    values, vectors = np.linalg.eigh(difference)
    largest = np.argsort(np.abs(values))[::-1][:count]
    lengths = (candidates**2).sum(axis=1)
    inside = ((candidates @ vectors[:, largest]) ** 2).sum(axis=1) / lengths
    return np.argsort(inside)[::-1][:count]


def attack_models(images: Images, draws: int, random: np.random.Generator) -> Iterator[Outcome]:
    """The same of two published models: a hospital has them and its own images. Who came, or left?"""
    site = int(np.bincount(images.site).argmax())
    here, others = np.flatnonzero(images.site == site), np.flatnonzero(images.site != site)
    releases: dict[str, Release] = {"exact": whole, "ε 8": noisy(8.0), "ε 1": noisy(1.0)}
    for width in (Width(16, 0), Width(64, 0), Width(360, 512)):
        rows = rows_of(images, width)
        known = rows[others].astype(np.float64)
        moment = known.T @ known / len(known)
        moment += RIDGE * np.trace(moment) / len(moment) * np.eye(len(moment))
        for name, release in releases.items():
            if width.rows > 200 and name != "exact":
                continue
            beside = [
                release(rows[who], images.label[who], images, width)
                for who in (np.flatnonzero(images.site == one) for one in set(images.site.tolist()) - {site})
            ]
            for changed in (1, MIN_COHORT):
                found = []
                for _ in range(max(4, draws // 8) if width.rows > 200 else draws):
                    candidates, before = np.split(random.permutation(here), [100])
                    fresh = candidates[:changed]
                    one, two = (
                        head_of([*beside, release(rows[who], images.label[who], images, width)])
                        for who in (before, np.concatenate([before, fresh]))
                    )
                    guess = _moved_most(two - one, moment, rows[candidates].astype(np.float64), changed)
                    found.append(len(set(candidates[guess]) & set(fresh)) / changed)
                note = f"{changed} changed, chance {changed / 100:g}"
                figures = {"named": mean_of(found, random)}
                yield Outcome("models", name, len(here) - 100, width.rows, figures, note)


def _moved_most(difference: Array, moment: Array, candidates: Array, count: int) -> Labels:
    """A row z* that was added moves a ridge head along H⁻¹z*: ‖zᵀΔ‖ / (zᵀH⁻¹z)^½ is largest where z is z*."""
    moved = np.linalg.norm(candidates @ difference, axis=1)
    reach = np.einsum("ij,ij->i", candidates, np.linalg.solve(moment, candidates.T).T)
    return np.argsort(moved / np.sqrt(reach))[::-1][:count]


# --- attack 5: properties ----------------------------------------------------------------------------------


def attack_properties(images: Images, draws: int, random: np.random.Generator) -> Iterator[Outcome]:
    """Scanner from the class means; whether a rare class is among the images."""
    width = Width(16, 0)
    rows = rows_of(images, width)
    rare = int(np.bincount(images.label, minlength=len(images.classes)).argmin())
    for name, release in {"exact": exact, "ε 8": noisy(8.0), "ε 1": noisy(1.0)}.items():
        scanner, presence = [], []
        for _ in range(draws):
            site = int(random.integers(len(images.sites)))
            here = random.permutation(np.flatnonzero(images.site == site))
            known, taken = np.split(here, [len(here) // 2])
            others = [
                np.flatnonzero(images.site == s) if s != site else known for s in range(len(images.sites))
            ]
            try:
                made = release(rows[taken], images.label[taken], images, width)
            except Withheld:
                scanner.append(1 / len(images.sites))
                continue
            gram = made.gram()
            mean = unpack(gram)[-1, :-1] / gram[-1]
            centres = [rows[who, :-1].mean(axis=0) for who in others]
            scanner.append(float(np.argmin([np.linalg.norm(mean - centre) for centre in centres]) == site))
            told = images.classes[rare] not in made.absent
            presence.append(float(told == bool((images.label[taken] == rare).any())))
        for what, values, chance in (
            ("scanner", scanner, 1 / len(images.sites)),
            (f"presence of {images.classes[rare]}", presence, 0.5),
        ):
            if not values:
                continue
            figure = mean_of(values, random)
            yield Outcome("properties", name, len(rows), width.rows, {what: figure}, f"chance {chance:.2f}")


# --- all of them -------------------------------------------------------------------------------------------

ATTACKS = {
    "sums": attack_sums,
    "private": attack_private,
    "heads": attack_heads,
    "differences": attack_differences,
    "models": attack_models,
    "properties": attack_properties,
    "poison": attack_poison,
    "utility": utility,
}


def line(outcome: Outcome) -> str:
    """A row of the table."""
    figures = ", ".join(f"{name} {shown(figure)}" for name, figure in outcome.figures.items())
    head = f"| {outcome.attack} | {outcome.setting} | {outcome.patients} | {outcome.width} "
    return f"{head}| {figures or 'nothing leaves'} | {outcome.note} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("generation", type=Path)
    parser.add_argument("--only", default=",".join(ATTACKS))
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="four draws of each")
    parser.add_argument("--features", type=Path, help="file that keeps the images' features")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    for name in options.only.split(","):
        if name not in ATTACKS:
            parser.error(f"argument --only: has {name}, expected some of {','.join(ATTACKS)}")
    options.draws = 4 if options.quick else options.draws
    logging.disable(logging.WARNING)  # classes that are left out, thousands of times
    images = read_images(options.data, options.generation, options.features)
    outcomes = []
    print("| attack | setting | patients | width | figures | |\n|---|---|---|---|---|---|")
    for name in options.only.split(","):
        for outcome in ATTACKS[name](images, options.draws, np.random.default_rng(0)):
            outcomes.append(asdict(outcome))
            print(line(outcome), flush=True)
            if options.json:
                options.json.write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    end_with(main)
