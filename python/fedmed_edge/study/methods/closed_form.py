"""Heads from sums: ours, and the peers that need statistics alone."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.features.extract import LinearHead, evaluate_heads
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import refine
from fedmed_edge.model.sums import SiteSums, read_sums
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import unpack
from fedmed_edge.study.methods.merging import averaged
from fedmed_edge.study.methods.method import Case
from fedmed_edge.study.methods.reference import Rows
from fedmed_edge.study.methods.work import Learned, Option, Predictor
from fedmed_edge.study.scores import Answers, answers_of_predictions, answers_of_probabilities
from fedmed_edge.study.story import told_by_store

Float64 = npt.NDArray[np.float64]
Sent = Callable[[Contribution], int]


@dataclass(frozen=True, eq=False)
class PlainHead:
    """A linear head: weight (D, C) and bias (C,)."""

    weight: Float64
    bias: Float64

    def linear(self) -> tuple[Float64, Float64]:
        """Both."""
        return self.weight, self.bias


def own_sums(case: Case, option: Option) -> Iterator[Learned]:
    """Every site for itself: its own sums, our head; nothing leaves it, so there is no noise in them."""
    made = contributions(case, "lifted", sent=lambda one: 0, noise=False)
    heads = {site: rebuild([one], case.recipe) for site, one in made.items() if site in case.labelled}
    yield Learned(at={site: head_predictor(case, "lifted", head) for site, head in heads.items()})


def rebuilt(case: Case, option: Option) -> Iterator[Learned]:
    """The head of all sites' sums."""
    yield _rebuilt(case, "lifted")


def untrained(case: Case, option: Option) -> Iterator[Learned]:
    """The same on a backbone of random weights."""
    yield _rebuilt(case, "untrained")


def refined(case: Case, option: Option) -> Iterator[Learned]:
    """The sums of all sites, those like the site weighing more; the rebuilt head for a site without sums.

    So it is for all where sums have noise, beside which nothing tells how sites differ.
    """
    made = contributions(case, "lifted")
    began = time.perf_counter()
    model = rebuild(list(made.values()), case.recipe)
    told = made if case.policy.epsilon is None else {}
    known = case.reference.generation("lifted").header.trained_by
    models = {site: refine(list(made.values()), site, case.recipe, trained_by=known) for site in told}
    case.meter.server_seconds += time.perf_counter() - began
    yield Learned(
        head_predictor(case, "lifted", model),
        {site: head_predictor(case, "lifted", own) for site, own in models.items()},
        {"kept": {site: {"kept": own.kept, "reason": own.reason} for site, own in models.items()}},
    )


def renewed(case: Case, option: Option) -> Iterator[Learned]:
    """Ours after one more stage: the mean of networks that every site tuned is the next backbone.

    Everybody who has labels trains and hands over weights, measures the standardisation, and hands over sums.
    """
    images = {site: len(data) for site, data in case.labelled.items()}
    for mixed in averaged(case, option):
        began = time.perf_counter()
        after = case.reference.renewed(mixed, case.labelled)
        seconds = time.perf_counter() - began
        for site, count in images.items():
            case.meter.compute(site, seconds * count / sum(images.values()))
        yield _rebuilt(replace(case, reference=after, proves=False), "lifted")


def mean_shift(case: Case, option: Option) -> Iterator[Learned]:
    """The rebuilt head; the rows of the site in question are moved so that their mean is the federation's."""
    made = contributions(case, "lifted")
    model = rebuild(list(made.values()), case.recipe)
    weight, bias = model.linear()
    everywhere = head_predictor(case, "lifted", model)
    if case.site not in made:
        raise InputError(f"mean_shift: `{case.site}` has handed over nothing to measure its mean by")
    means = {site: _mean_row(one) for site, one in made.items()}
    common = np.mean([means[site] for site in made if site != case.site and site in case.labelled], axis=0)
    moved = PlainHead(weight, bias + (common - means[case.site]) @ weight)
    yield Learned(everywhere, {case.site: head_predictor(case, "lifted", moved)})


def afl(case: Case, option: Option) -> Iterator[Learned]:
    """AFL, Fed3R: ridge regression on the last layer's features, every image weighing the same.

    Source: He et al., AFL (arXiv 2405.16240, CVPR 2025); Fanì et al., Fed3R (ICML 2024).
    """
    sums = _labelled_sums(case, contributions(case, "last_layer", sent=_matrix_and_sums))
    yield Learned(head_predictor(case, "last_layer", ridge_head(sums, option["ridge"])))


def gaussian_heads(case: Case, option: Option) -> Iterator[Learned]:
    """GH-OFL, linear discriminants: class means and one covariance, shrunk towards its mean diagonal.

    Source: GH-OFL, One-shot federated learning by Gaussian heads (ICLR 2026).
    """
    sums = _labelled_sums(case, contributions(case, "last_layer", sent=_matrix_and_sums))
    yield Learned(head_predictor(case, "last_layer", discriminant_head(sums, option["shrinkage"])))


def ridge_head(sums: Sequence[SiteSums], ridge: float) -> PlainHead:
    """Ridge regression of one-hot targets, by NumPy alone.

    Args:
        ridge: λ, relative to the mean diagonal of the Gram.
    """
    grams, counts = _by_class(sums)
    gram = grams.sum(axis=0)
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    targets = np.where(counts > 0, grams[:, :, -1].T, 0.0)
    return PlainHead(np.linalg.solve(gram, targets), _never(counts))


def discriminant_head(sums: Sequence[SiteSums], shrinkage: float) -> PlainHead:
    """Linear discriminants Σ⁻¹μ_k with equal priors.

    Args:
        shrinkage: Share of its mean diagonal that Σ is shrunk by.
    """
    grams, counts = _by_class(sums)
    known = counts > 0
    means = grams[:, :-1, -1] / np.maximum(counts, 1)[:, None]
    inner = grams[:, :-1, :-1].sum(axis=0) - np.einsum("k,ki,kj->ij", counts, means, means)
    covariance = inner / max(counts.sum() - np.count_nonzero(known), 1.0)
    level = np.trace(covariance) / len(covariance)
    covariance = (1 - shrinkage) * covariance + shrinkage * max(level, 1e-12) * np.eye(len(covariance))
    weight = np.linalg.solve(covariance, means.T)
    bias = -0.5 * np.sum(means * weight.T, axis=1)
    # A row ends in 1: what stands there is the bias.
    return PlainHead(np.vstack([weight, bias]), _never(counts))


def contributions(
    case: Case, rows: Rows, *, sent: Sent | None = None, noise: bool = True
) -> dict[str, Contribution]:
    """Site → contribution, where there is one; what the sites that come to the reference do is counted.

    What the founders handed over is stored already, whoever comes: it costs them nothing again.

    Args:
        sent: Bytes that the method has a site send; default all that a contribution holds.
        noise: Where the policy asks for it; a site that keeps its sums draws none.
    """
    if rows != "untrained":
        case.referred()
    founders, made = case.reference.founders, {}
    unchanged = [site for site in case.sites if site in founders and founders[site] == case.sites[site]]
    # Where nothing happened since the founding, the founding is what is paid for.
    stored = unchanged if len(unchanged) < max(len(case.sites), len(founders)) else []
    for site in sorted(case.sites):
        one, seconds = case.reference.contribution(rows, site, case.sites[site], noise=noise)
        if one is None:
            continue
        made[site] = one
        if site not in stored:
            case.meter.compute(site, seconds)
            generation = case.reference.generation(rows)
            fetched = len(generation.encoder) + sum(value.nbytes for value in generation.weights.values())
            case.meter.transfer(site, sent=(sent or _all)(one), received=fetched)
    if not made:
        policy = case.policy
        raise InputError(
            f"policy `{policy.name}`: none of {len(case.sites)} sites may hand over anything, too few "
            f"training patients of a class for min_cohort {policy.min_cohort}"
            + (" and noise" if policy.epsilon else "")
            + ("; --policy open is for public data" if policy.min_cohort > 1 else "")
        )
    return made


def head_predictor(case: Case, rows: Rows, head: LinearHead) -> Predictor:
    """Answers of a head on these rows."""

    def classify(data: Dataset) -> Answers:
        weight, bias = head.linear()
        scores = case.reference.rows(rows, data).astype(np.float64) @ weight + bias
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return answers_of_probabilities(data, list(powers / powers.sum(axis=1, keepdims=True)))

    def segment(data: Dataset) -> Answers:
        generation = case.reference.generation(rows)
        (found,) = evaluate_heads(generation, data, [head], device=case.device)
        return answers_of_predictions(data, found, surface=True)

    return classify if case.recipe.kind == "classification" else segment


def _rebuilt(case: Case, rows: Rows) -> Learned:
    made = contributions(case, rows)
    began = time.perf_counter()
    model = rebuild(list(made.values()), case.recipe)
    case.meter.server_seconds += time.perf_counter() - began
    notes: dict[str, Any] = {"ridge": model.ridge}
    if case.proves:
        notes["exact"] = _by_events(case, rows, made).content == model.content
    return Learned(head_predictor(case, rows, model), notes=notes)


def _by_events(case: Case, rows: Rows, after: Mapping[str, Contribution]) -> GlobalModel:
    """The model by a store that the founders handed over to first, and that then saw what happened."""
    asked = {
        site: case.reference.contribution(rows, site, data) for site, data in case.reference.founders.items()
    }
    before = {site: one for site, (one, _) in asked.items() if one}
    with TemporaryDirectory() as folder:
        return told_by_store(Path(folder), case.reference.generation(rows), case.recipe, before, after)


def _all(contribution: Contribution) -> int:
    return sum(value.nbytes for value in contribution.tensors().values())


def _matrix_and_sums(contribution: Contribution) -> int:
    """One triangle of a Gram and the sum of every class, as AFL and GH-OFL send them."""
    assert contribution.statistics is not None
    width = contribution.statistics.row_dim
    return 8 * (width * (width + 1) // 2 + len(contribution.header.classes) * width)


def _labelled_sums(case: Case, made: Mapping[str, Contribution]) -> list[SiteSums]:
    return read_sums([made[site] for site in sorted(made) if site in case.labelled], case.recipe)


def _by_class(sums: Sequence[SiteSums]) -> tuple[Float64, Float64]:
    """Gram (C, D, D) and rows (C,) of every class, over the sites."""
    first = sums[0]
    grams = np.zeros((first.classes, first.width, first.width))
    for site in sums:
        for index, gram in zip(site.total.present, site.total.grams, strict=True):
            grams[index] += unpack(gram)
    return grams, grams[:, -1, -1]


def _never(counts: Float64) -> Float64:
    """Bias that keeps a class without rows from being answered."""
    return np.where(counts > 0, 0.0, -1e9)


def _mean_row(contribution: Contribution) -> Float64:
    """Mean row (D,) of a site's images, labelled or not."""
    assert contribution.statistics is not None
    last = unpack(contribution.statistics.gram())[-1]
    return np.asarray(last / last[-1])
