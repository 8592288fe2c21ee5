from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.features.encoder import Encoder, moments_of, pooled_of, require_fit
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset

Task = tuple[Any, Dataset, Generation]


def test_an_image_has_the_same_bits_in_any_company(pixels_task: Task) -> None:
    _, _, generation = pixels_task
    encoder = Encoder(generation, "cpu")
    images = np.random.default_rng(0).random((4, 1, 32, 32), np.float32)
    alone = [encoder.maps(image) for image in images]
    for index in (2, 0, 3, 1, 2):
        for one, other in zip(alone[index], encoder.maps(images[index]), strict=True):
            assert one.tobytes() == other.tobytes()


def test_scale_0_of_a_segmentation_is_the_image(pixels_task: Task) -> None:
    image = np.random.default_rng(0).random((1, 32, 32), np.float32)
    maps = Encoder(pixels_task[2], "cpu").maps(image)
    assert [scale.shape for scale in maps] == [(1, 32, 32), (8, 32, 32), (12, 16, 16), (8, 32, 32)]
    np.testing.assert_array_equal(maps[0], image)


def test_pooled_is_the_mean_of_every_channel() -> None:
    maps = [np.random.default_rng(0).random((3, 5, 4), np.float32), np.ones((2, 2, 2), np.float32)]
    expected = np.concatenate([scale.mean(axis=(1, 2)) for scale in maps])
    np.testing.assert_allclose(pooled_of(moments_of(maps)), expected, rtol=1e-6)
    count, sums, squares = moments_of([maps[0].swapaxes(1, 2)])[0]
    assert count == 20
    np.testing.assert_allclose(squares, np.square(maps[0]).sum(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(sums, maps[0].sum(axis=(1, 2)), rtol=1e-6)


def test_refusals(pixels_task: Task) -> None:
    recipe, _, generation = pixels_task
    with pytest.raises(InputError, match=r"`window` has shape \(1, 32, 30\), expected \(1, 32, 32\)"):
        Encoder(generation, "cpu").maps(np.zeros((1, 32, 30), np.float32))
    header = generation.header.model_copy(update={"channels": 3})
    with pytest.raises(InputError, match=r"`encoder` takes .*, expected .*3, 32, 32"):
        Encoder(replace(generation, header=header), "cpu")
    with pytest.raises(InputError, match="model: not a model that can be loaded"):
        Encoder(replace(generation, encoder=b"no model"), "cpu")
    with pytest.raises(DeviceError, match="`device` has tpu"):
        Encoder(generation, "tpu")
    other = recipe.model_copy(update={"size": (64, 64)})
    with pytest.raises(InputError, match=r"`size` has \(64, 64\), expected the generation's \(32, 32\)"):
        require_fit(generation, other)
