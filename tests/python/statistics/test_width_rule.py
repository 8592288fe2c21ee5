import numpy as np
import pytest

from fedmed_edge.config import Policy
from fedmed_edge.errors import Withheld
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.width_rule import check_width


@pytest.mark.parametrize(("patients", "refused"), [(12, True), (90, False)])
def test_a_patient_counts_once_however_many_pixels_there_are(patients: int, refused: bool) -> None:
    """Rows of 6, five folds: 18 patients are asked for in each."""
    rng, names = np.random.default_rng(0), [f"p{number}" for number in range(patients)]
    plan = plan_folds({0: set(names), 1: set(names)}, min_cohort=2)
    sums = Accumulator(("background", "lesion"), row_dim=6, feature_dim=5, plan=plan)
    for name in names:
        rows = np.hstack([rng.normal(size=(400, 5)), np.ones((400, 1))]).astype(np.float32)
        sums.add_rows(rows, np.arange(400, dtype=np.int32) % 2, name)
    policy = Policy(width_rule="refuse", parts=("classes",))
    if not refused:
        check_width(sums.result(), policy)
        return
    with pytest.raises(Withheld, match=r"has width 6, expected at most a third of its 3 patients"):
        check_width(sums.result(), policy)
