"""How much better ours is than something else, on the same patients and runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed_edge.recipe import Recipe
from fedmed_edge.study.runs import Figure, figure_of, mean_of
from fedmed_edge.study.scores import Answers

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Gain:
    """A difference, and over how many of the sites in question it is the mean."""

    figure: Figure
    sites: int
    of: int


def paired_gains(
    rows: Sequence[Row], others: Sequence[str], recipe: Recipe, out: Path
) -> dict[tuple[str, str], Gain]:
    """Each of ours minus each of some others, at the site in question: mean over the sites that have both.

    Args:
        rows: Of one setting, task and number of labels.
        others: Names of methods.
        out: The folder of results, whose files hold the answers.

    Returns:
        (ours, other) → difference; its interval is a bootstrap of patients, and of seeds where there are
        several.
    """
    ours = list(dict.fromkeys(row["method"] for row in rows if row["role"] == "ours"))
    sites = sorted({row["site"] for row in rows})
    figures: dict[str, dict[str, Figure]] = {}
    for method in dict.fromkeys([*ours, *others]):
        figures[method] = {}
        for number, site in enumerate(sites):
            found = [_answers(row, out) for row in rows if (row["method"], row["site"]) == (method, site)]
            if found and all(found):
                figures[method][site] = figure_of(recipe, [[one] for one in found if one], number)
    gains = {}
    for one in ours:
        for other in others:
            shared = [site for site in figures[one] if site in figures[other]]
            if shared and one != other:
                mean = mean_of([figures[one][site] - figures[other][site] for site in shared])
                gains[one, other] = Gain(mean, len(shared), len(sites))
    return gains


def _answers(row: Row, out: Path) -> Answers | None:
    """What was answered at the site in question, where anything was."""
    if row["file"] is None or row["score"] is None:
        return None
    answers = json.loads((out / row["file"]).read_text())["answers"]
    return Answers(**answers[row["site"]])
