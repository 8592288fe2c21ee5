"""Whether the Grams that would leave are narrow enough not to show who is in them."""

import logging
from collections import Counter
from collections.abc import Iterator

from fedmed_edge.config import PATIENTS_A_COLUMN, Policy
from fedmed_edge.errors import Withheld
from fedmed_edge.generation import Generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.folds import FoldPlan
from fedmed_edge.words import counted

__all__ = ["check_width", "too_wide"]

log = logging.getLogger(__name__)


def check_width(plan: FoldPlan, generation: Generation, recipe: Recipe, policy: Policy) -> None:
    """Refuse Grams that are too wide for their patients, or warn of them, as `width_rule` says.

    Args:
        plan: As it came (`Accumulator.came`).

    Raises:
        Withheld: `width_rule` refuses.
    """
    fault = too_wide(plan, generation, recipe, policy)
    if fault is None:
        return
    if policy.width_rule == "refuse":
        raise fault
    log.warning("warning: %s; %s", fault, fault.hint)


def too_wide(plan: FoldPlan, generation: Generation, recipe: Recipe, policy: Policy) -> Withheld | None:
    """What the width rule has against a contribution, or None.

    Method §8: a Gram of fewer rows than its width shows their span, and with it who was in it. With a few
    more than that it still tells; where the line stands was found by attack. A patient counts as one row,
    however many there are: those of one patient, the pixels of a segmentation above all, are alike. Every
    Gram counts by itself: those of a fold of a class have the fewest.

    Args:
        plan: Of the site's training images.
    """
    grams = _grams_told(plan, generation, recipe, policy)
    wide = [one for one in grams if one[1] < PATIENTS_A_COLUMN * one[2]]
    if policy.width_rule == "off" or not wide:
        return None
    label, count, width = min(wide, key=lambda one: one[1] / one[2])
    return Withheld(
        f"width rule: {counted(len(wide), 'Gram shows who is in it', 'Grams show who is in them')}; "
        f"the one of {label} has width {width}, expected at most a third of its {counted(count, 'patient')}",
        hint="noise (`epsilon`), a narrower generation, fewer `parts`, or `width_rule` in the policy",
    )


def _grams_told(
    plan: FoldPlan, generation: Generation, recipe: Recipe, policy: Policy
) -> Iterator[tuple[str, int, int]]:
    """What it is of, patients and width of every Gram that would leave; under a draft rows have no class."""
    everyone = plan.unlabelled.union(*plan.patients.values())
    width, draft = generation.row_dim, generation.draft
    if "classes" in policy.parts and not draft:
        for index, patients in plan.patients.items():
            for count in Counter(plan.fold(one, index) for one in patients).values():
                yield f"class `{recipe.classes[index]}`", count, width
    pooled = everyone if draft else plan.unlabelled
    if "unlabelled" in policy.parts and pooled:
        yield "unlabelled images", len(pooled), width
    if "shifts" in policy.parts and not draft and everyone and recipe.training.compares_views:
        yield "differences to shifted views", len(everyone), width
    if "images" in policy.parts and everyone:
        yield "all images", len(everyone), generation.feature_dim + 1
