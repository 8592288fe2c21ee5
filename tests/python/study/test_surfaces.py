"""Surface distances against every pair of surface elements."""

import numpy as np
import pytest
from monai.metrics.surface_distance import compute_average_surface_distance

from fedmed_edge.study.surfaces import surface_distance


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of a call within MONAI
def test_it_is_monais_for_masks_inside_the_image() -> None:
    import torch

    truth, answer = np.zeros((2, 40, 40), np.uint8), np.zeros((2, 40, 40), np.uint8)
    truth[0, 8:20, 10:22] = 1
    truth[1, 5:9, 25:33] = 2
    answer[0, 10:24, 9:19] = 1
    answer[1, 6:12, 20:33] = 2

    def one_hot(mask: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([mask == k for k in range(3)])[None].astype(np.float32))

    for index, number in ((0, 1), (1, 2)):
        wanted = compute_average_surface_distance(
            one_hot(answer[index])[:, [0, number]], one_hot(truth[index])[:, [0, number]], symmetric=True
        )
        found = surface_distance((answer[index] == number) * 1, (truth[index] == number) * 1, 2)
        assert found == pytest.approx(float(wanted), rel=1e-5)


def test_spacing_counts_and_a_class_that_is_in_one_of_them_is_as_far_as_can_be() -> None:
    truth, answer = np.zeros((5, 9), np.uint8), np.zeros((5, 9), np.uint8)
    truth[2, 2], answer[2, 6] = 1, 1
    assert surface_distance(answer, truth, 2, (1.0, 0.5)) == 2.0
    assert surface_distance(np.zeros_like(truth), truth, 2, (3.0, 4.0)) == pytest.approx(np.hypot(15, 36))
    assert surface_distance(answer, truth, 3) == 2.0  # the third class is in neither
    with pytest.raises(ValueError, match="surface distance: `prediction` has"):
        surface_distance(answer[:2], truth, 2)
