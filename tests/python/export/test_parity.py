from types import SimpleNamespace

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.export.onnx_model import export_onnx
from fedmed_edge.export.parity import check_parity, coarse_images, reference_answers, sample_of
from fedmed_edge.model.manifest import parse_manifest, stretched
from fedmed_edge.runtime import open_session


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_an_export_agrees_with_the_reference(made: SimpleNamespace, kind: str) -> None:
    generation = made.generation(kind)
    model = made.model(generation)
    difference = check_parity(export_onnx(model, generation), reference_answers(model, generation))
    assert difference is not None and difference <= 1e-5


def test_another_head_is_noticed(made: SimpleNamespace) -> None:
    generation = made.generation()
    content = export_onnx(made.model(generation), generation)
    with pytest.raises(
        InputError, match=r"`probabilities` differ by .* from the reference, expected at most"
    ):
        check_parity(content, reference_answers(made.model(generation, scale=1.01), generation))


def test_another_reference_is_noticed(made: SimpleNamespace) -> None:
    generation = made.generation()
    content = export_onnx(made.model(generation), generation)
    moved = made.generation(reference_mean=generation.reference_mean + 0.1)
    with pytest.raises(InputError, match=r"`distance` has .*, expected the reference's"):
        check_parity(content, reference_answers(made.model(moved), moved))


def test_without_a_runtime_nothing_is_measured(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = made.generation()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    references = reference_answers(made.model(generation), generation)
    assert references == [] and check_parity(b"", references) is None and sample_of(references) is None


def test_made_up_images_are_smooth_and_always_the_same(made: SimpleNamespace) -> None:
    generation = made.generation(size=(8, 12, 16), channels=3)
    for coarse, again in zip(coarse_images(generation), coarse_images(generation), strict=True):
        np.testing.assert_array_equal(coarse, again)
        image = stretched(coarse, (8, 12, 16))
        assert image.shape == (3, 8, 12, 16) and image.dtype == np.float32
        assert 0 <= image.min() < image.max() <= 1
        corners = tuple(slice(None, None, side - 1) for side in coarse.shape[1:])
        np.testing.assert_allclose(image[:, ::7, ::11, ::15], coarse[:, *corners] / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("classification", (16, 24)), ("segmentation", (16, 24)), ("segmentation", (16, 8, 24))],
)
def test_the_embedded_sample_is_answered_as_it_says(
    made: SimpleNamespace, kind: str, size: tuple[int, ...]
) -> None:
    generation = made.generation(kind, size)
    content = export_onnx(made.model(generation), generation)
    session = open_session(content, device="cpu")
    sample = parse_manifest(session.metadata["fedmed"], "m").sample
    assert sample is not None and len(sample.probabilities) % 3 == 0
    probabilities, distance = session.run({"image": sample.image(size)[None]})
    off, relative = sample.difference(probabilities[0], float(distance[0]))
    assert off <= 1e-4 and relative <= 1e-3
    assert sample.difference(1 - probabilities[0], float(distance[0]) * 2)[0] > 0.1
