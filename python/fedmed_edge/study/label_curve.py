"""The label curve: the joining site with few labelled images, the other sites as they are."""

from collections.abc import Callable, Sequence

import numpy as np

from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import refine
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.study.closed_form import Head, contribute, score_heads
from fedmed_edge.study.notebook import Notebook
from fedmed_edge.study.plan import StatedPolicy
from fedmed_edge.study.scores import Answers

LABEL_COUNTS = (5, 10, 20, 40, 80)

Curve = dict[int, dict[str, tuple[Answers, ...]]]
"""Labelled images → column → answers on the joining site's test images, one for each draw of labels."""


def label_curve(
    notebook: Notebook,
    generation: Generation,
    others: Sequence[Contribution],
    site: str,
    train: Dataset,
    test: Dataset,
    setting: StatedPolicy,
    *,
    draws: int,
    seed: int,
    device: str,
    watch: Callable[[str], None],
) -> Curve:
    """What the site's own sums, the rebuilt and the refined model answer with few labels, and with all.

    Labelled images are drawn at random; within one draw fewer are part of more. Where the setting lets
    nothing of the site leave, in any draw, the rebuilt model is made of the others alone, and the other
    columns have no answers. With noise there is no refined model; the site's own sums have none.

    Args:
        others: Contributions of the other sites.
        train, test: The joining site's images.
        draws: How often labels are drawn; all labels are one draw.
    """
    labels = train.labelled
    few = [count for count in LABEL_COUNTS if count < len(labels)]
    curve: Curve = {count: {} for count in (*few, len(labels))}

    def heads_of(count: int, order: Sequence[int]) -> dict[str, Head]:
        some = labels.subset(sorted(order[:count]))
        sent, _ = contribute(generation, some, site, setting, device=device, watch=watch)
        if sent is None:
            return {"rebuilt": Head(rebuild(others, train.recipe), (site,))}
        heads = {"rebuilt": Head(rebuild([*others, sent], train.recipe), (site,))}
        own: Contribution | None = sent
        if setting.epsilon is None:
            known = generation.header.trained_by
            heads["refined"] = Head(refine([*others, sent], site, train.recipe, trained_by=known), (site,))
        else:
            own, _ = contribute(generation, some, site, setting.without_noise, device=device, watch=watch)
        if own is not None:
            heads["own_sums"] = Head(rebuild([own], train.recipe), (site,))
        return heads

    def ask(draw: int) -> dict[str, Answers]:
        order = np.random.default_rng((seed, draw)).permutation(len(labels)).tolist()
        counts = few if draw else list(curve)
        heads = {
            f"{count} {column}": head for count in counts for column, head in heads_of(count, order).items()
        }
        found = score_heads(generation, {site: test}, heads, device=device, watch=watch)
        return {name: answers[site] for name, answers in found.items()}

    for draw in range(draws):
        found = notebook.answers(f"curve-{setting.name}-{draw}", lambda draw=draw: ask(draw))  # type: ignore[misc]
        for name, answers in found.items():
            count, _, column = name.partition(" ")
            curve[int(count)][column] = (*curve[int(count)].get(column, ()), answers)
    # A column that some draws lack cannot stand beside one that all have.
    return {
        count: {name: made for name, made in columns.items() if len(made) == len(columns["rebuilt"])}
        for count, columns in curve.items()
    }
