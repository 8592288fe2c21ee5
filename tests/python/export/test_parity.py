from types import SimpleNamespace

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.export.onnx_model import export_onnx
from fedmed_edge.export.parity import check_parity, sample_images


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_an_export_agrees_with_the_reference(made: SimpleNamespace, kind: str) -> None:
    generation = made.generation(kind)
    model = made.model(generation)
    difference = check_parity(export_onnx(model, generation), model, generation)
    assert difference is not None and difference <= 1e-5


def test_another_head_is_noticed(made: SimpleNamespace) -> None:
    generation = made.generation()
    content = export_onnx(made.model(generation), generation)
    with pytest.raises(
        InputError, match=r"`probabilities` differ by .* from the reference, expected at most"
    ):
        check_parity(content, made.model(generation, scale=1.01), generation)


def test_another_reference_is_noticed(made: SimpleNamespace) -> None:
    generation = made.generation()
    content = export_onnx(made.model(generation), generation)
    moved = made.generation(reference_mean=generation.reference_mean + 0.1)
    with pytest.raises(InputError, match=r"`distance` has .*, expected the reference's"):
        check_parity(content, made.model(moved), moved)


def test_without_a_runtime_nothing_is_measured(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = made.generation()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert check_parity(b"", made.model(generation), generation) is None


def test_sample_images_are_smooth_and_always_the_same(made: SimpleNamespace) -> None:
    generation = made.generation(size=(8, 12, 16), channels=3)
    images = sample_images(generation)
    for image, again in zip(images, sample_images(generation), strict=True):
        assert image.shape == (3, 8, 12, 16) and image.dtype == np.float32
        assert 0 <= image.min() < image.max() <= 1
        np.testing.assert_array_equal(image, again)
