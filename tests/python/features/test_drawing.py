from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.features import drawing
from fedmed_edge.features.drawing import Drawing
from fedmed_edge.images.preprocess import IGNORE


def test_classes_are_drawn_equally_and_every_image_in_turn(tmp_path: Path, make: SimpleNamespace) -> None:
    dataset = make.classification(tmp_path, make.recipe(), images=8)
    # six dark ones, two bright ones
    uneven = dataset.subset([0, 2, 4, 6, 1, 3])
    drawing = Drawing(uneven, seed=0)
    drawn = [drawing.next() for _ in range(16)]
    assert Counter(label for _, label, _ in drawn) == {0: 8, 1: 8}
    dark = [pixels.tobytes() for pixels, label, _ in drawn if label == 0]
    assert len(set(dark[:4])) == 4 and set(dark[:4]) == set(dark[4:])


def test_seed_decides_the_draws(tmp_path: Path, make: SimpleNamespace) -> None:
    dataset = make.segmentation(tmp_path, make.recipe("segmentation"))
    one, two, other = (Drawing(dataset, seed) for seed in (1, 1, 2))
    draws = [[source.next()[0].tobytes() for _ in range(6)] for source in (one, two, other)]
    assert draws[0] == draws[1] and draws[0] != draws[2] and set(draws[0]) == set(draws[2])


def test_unlabelled_items_are_passed_over(tmp_path: Path, make: SimpleNamespace) -> None:
    dataset = make.segmentation(tmp_path, make.recipe("segmentation"), images=4, masked=2)
    assert len(Drawing(dataset, 0).items) == 2
    with pytest.raises(InputError, match="has no labelled training image, expected at least one"):
        Drawing(dataset.subset([2, 3]), 0)


def test_half_of_the_windows_hold_foreground(tmp_path: Path, make: SimpleNamespace) -> None:
    recipe = make.recipe("segmentation", (8, 8, 8))
    dataset = make.volumes(tmp_path, recipe, [(40, 36, 32), (6, 20, 20)])
    drawing = Drawing(dataset, 0)
    draws = [drawing.next() for _ in range(60)]
    masks = np.array([mask for _, _, mask in draws])
    assert all(pixels.shape == (1, 8, 8, 8) for pixels, _, _ in draws) and masks.shape == (60, 8, 8, 8)
    assert np.mean([(mask == 1).any() for mask in masks]) > 0.5
    # the second volume is thinner than the window: its padding is marked
    assert (masks == IGNORE).any()


def test_images_beyond_the_cache_are_prepared_again(
    tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "CACHE_BYTES", 2 * 32 * 32 * 4)
    source = Drawing(make.classification(tmp_path, make.recipe(), images=4), 0)
    for _ in range(8):
        source.next()
    assert len(source._kept) == 2
