"""Whether the Grams that would leave are narrow enough not to show who is in them."""

import logging
import math
from collections import Counter
from collections.abc import Iterator

from fedmed_edge.config import PATIENTS_A_COLUMN, Policy
from fedmed_edge.errors import Withheld
from fedmed_edge.statistics.feature_statistics import FeatureStatistics

__all__ = ["check_width"]

log = logging.getLogger(__name__)


def check_width(sums: FeatureStatistics, policy: Policy) -> None:
    """Method §8: a Gram of fewer rows than its width shows their span, and with it who was in it.

    With a few more than that it still tells; where the line stands was found by attack. A patient counts as
    one row, however many there are: those of one patient, the pixels of a segmentation above all, are alike.
    Every Gram counts by itself: those of a fold of a class, and of the images, have the fewest.

    Raises:
        Withheld: `width_rule` refuses.
    """
    wide = [one for one in _grams_told(sums, policy) if one[1] < PATIENTS_A_COLUMN * one[2]]
    if policy.width_rule == "off" or not wide:
        return
    label, count, width = min(wide, key=lambda one: one[1] / one[2])
    message = (
        f"width rule: {len(wide)} Grams show who is in them; the one of {label} has width {width}, "
        f"expected at most a third of its {count} patients"
    )
    hint = "noise (`epsilon`), a narrower generation, fewer `parts`, or `width_rule` in the policy"
    if policy.width_rule == "refuse":
        raise Withheld(message, hint=hint)
    log.warning("warning: %s; %s", message, hint)


def _grams_told(sums: FeatureStatistics, policy: Policy) -> Iterator[tuple[str, int, int]]:
    """What it is of, patients and width of every Gram that would leave.

    Folds have about as many patients of a class as each other. Of the others images count, of which there are
    no fewer than patients.
    """
    if "classes" in policy.parts:
        folds = Counter(index for _, index in sums.blocks)
        for (_, index), gram in sums.blocks.items():
            patients = math.ceil(int(sums.patients[index]) / folds[index])
            yield f"class `{sums.classes[index]}`", min(patients, int(gram[-1])), sums.row_dim
    if "unlabelled" in policy.parts and sums.unlabelled[-1]:
        yield "unlabelled images", min(sums.images, int(sums.unlabelled[-1])), sums.row_dim
    if "shifts" in policy.parts and sums.shift_gram[-1]:
        yield "differences to shifted views", min(sums.images, int(sums.shift_gram[-1])), sums.row_dim
    if "images" in policy.parts and sums.images:
        yield "all images", sums.images, sums.feature_dim + 1
