"""The attacks of tests/bench reach what they should where nothing protects, and not where noise does."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from attack_pixels import Patients, exact_scores
from attack_scores import auc, sum_likelihood
from attack_style import log_amplitudes
from attack_weights import compared, descent, inverted, noisy_descent
from reconstruction import prior_of
from scipy.ndimage import gaussian_filter

from fedmed_edge.features.training import Network, build_network
from fedmed_edge.recipe import Backbone, Recipe
from fedmed_edge.statistics.feature_statistics import pack
from fedmed_edge.statistics.style import log_amplitude

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Images (40, 1, 32, 32) that are mixed of six smooth ones."""
    random = np.random.default_rng(0)
    fields = gaussian_filter(random.standard_normal((6, 32, 32)), (0, 3, 3))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    return 0.5 + 0.06 * np.einsum("nk,kij->nij", random.standard_normal((40, 6)), fields)[:, None]


@pytest.fixture(scope="module")
def network() -> Network:
    backbone = Backbone(widths=(8, 16, 32), arguments={"norm": "group"})
    recipe = Recipe(name="cell", kind="classification", classes=("a", "b"), size=(32, 32), backbone=backbone)
    return build_network(recipe).eval()


def test_one_step_on_one_image_shows_it_and_with_noise_does_not(images: np.ndarray, network: Network) -> None:
    truth, others = images[2:3], np.delete(images, 2, axis=0)
    given = torch.tensor(truth, dtype=torch.float32), torch.tensor([1])

    def nearer(moved: torch.Tensor) -> float:
        """Than the mean image, in dB."""
        found = compared(inverted(network, moved, given[1], prior_of(others), 100, starts=2), truth, others)
        return found["optimised"][0][0] - found["mean of the others"][0][0]

    # one draw of the noise may bring it 5 dB nearer by luck, and most bring it further away
    noisy = [nearer(noisy_descent(network, *given, 8.0)) for _ in range(4)]
    assert nearer(descent(network, *given)) > 6 and np.mean(noisy) < 3


def test_a_style_is_told_with_gradients_as_it_leaves() -> None:
    image = RANDOM.random((3, 40, 48)).astype(np.float32)
    np.testing.assert_allclose(log_amplitudes(torch.tensor(image)).numpy(), log_amplitude(image), atol=1e-4)


def test_members_of_a_sum_are_told_from_others_by_values_that_many_have_not() -> None:
    values = RANDOM.standard_normal((200, 100))
    inside, outside, rest = values[:10], values[10:20], values[20:]
    total = inside.sum(axis=0)
    sure, blurred = (
        auc(*(sum_likelihood(sums, 10, rest, who) for who in (inside, outside)))
        for sums in (total, total + 300 * RANDOM.standard_normal(100))
    )
    assert sure > 0.95 and 0.2 < blurred < 0.8


def test_a_gram_has_more_than_its_members_in_no_direction() -> None:
    rows = RANDOM.standard_normal((60, 3, 4, 9))
    rows[..., -1] = 1.0
    grams = np.array([[pack(part.T @ part) for part in patient] for patient in rows])
    patients = Patients(grams, np.ones(9), ("a", "b"))
    members, others, rest = np.arange(20), np.arange(20, 40), np.arange(40, 60)
    asked = np.concatenate([members, others])
    for part, test, scores in exact_scores(patients, members, asked, rest):
        # twenty patients are two folds of each class, and a fold that is not one's own has less of one
        assert test != "span" or (scores[:20] >= -1 - 1e-6).all()
        assert auc(scores[:20], scores[20:]) > 0.5, (part, test)
