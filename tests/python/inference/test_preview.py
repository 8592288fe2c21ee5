import io
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from fedmed_edge.images.image import Image
from fedmed_edge.inference.predict import Prediction
from fedmed_edge.inference.preview import PALETTE, display_plane, draw_preview, overlay


def answer(image, mask=None, label=None, **changes):
    return Prediction(image, {"a": 0.25, "b": 0.75}, label, mask, 1.0, changes.pop("threshold", None), 0.1)


def drawn(prediction):
    with Picture.open(io.BytesIO(draw_preview(prediction))) as picture:
        return np.asarray(picture)


def test_outline_is_full_colour_and_inside_is_tinted():
    labels = np.zeros((7, 7), np.uint8)
    labels[1:6, 1:6] = 2
    picture = overlay(np.full((7, 7, 3), 100, np.uint8), labels)
    assert picture[1, 3].tolist() == list(PALETTE[1])
    assert picture[3, 3].tolist() == [round(100 * 0.65 + 0.35 * c) for c in PALETTE[1]]
    assert picture[0, 0].tolist() == [100, 100, 100]


def test_more_classes_than_colours_go_round():
    labels = np.full((3, 3), len(PALETTE) + 1, np.uint8)
    assert np.array_equal(
        overlay(np.zeros((3, 3, 3), np.uint8), labels),
        overlay(np.zeros((3, 3, 3), np.uint8), np.ones((3, 3), np.uint8)),
    )


def test_volume_shows_the_patients_right_on_the_left_and_front_on_top():
    """A bright corner at the patient's right front must come out top left, whatever the stored axes."""
    pixels = np.zeros((1, 8, 10, 4), np.float32)
    pixels[0, 4:, 5:, :] = 1.0
    for affine, stored in (
        (np.diag([2.0, 2.0, 5.0, 1.0]), pixels),
        (np.diag([-2.0, -2.0, 5.0, 1.0]), pixels[:, ::-1, ::-1]),
        (np.diag([2.0, 2.0, 5.0, 1.0])[:, [1, 0, 2, 3]], pixels.transpose(0, 2, 1, 3)),
    ):
        image = Image(stored, affine, (2.0, 2.0, 5.0), "MR", "nifti", Path("a"))
        picture = drawn(answer(image, np.zeros(stored.shape[1:], np.uint8)))
        height, width = picture.shape[:2]
        assert (width, height) == (round(512 * 0.8), 512), "8 by 10 voxels of 2 mm"
        assert picture[height // 8, width // 8, 0] == 255
        assert picture[-height // 8, width // 8, 0] == picture[height // 8, -width // 8, 0] == 0


def test_slice_with_most_foreground_is_shown():
    mask = np.zeros((8, 8, 6), np.uint8)
    mask[2:6, 2:6, 4] = 1
    image = Image(np.zeros((1, 8, 8, 6), np.float32), np.eye(4), (1.0, 1.0, 1.0), "", "nifti", Path("a"))
    assert (drawn(answer(image, mask)) > 0).any()


def test_caption_of_a_long_name_fits():
    image = Image(np.zeros((3, 40, 20), np.float32), None, None, "", "png", Path("a"))
    long = Prediction(image, {"n" * 64: 1.0}, "n" * 64, None, 9.0, 1.0, 0.1)
    picture = drawn(long)
    assert picture.shape[0] > 512 and (picture[515:] > 200).any()


def test_ct_is_shown_over_soft_tissue():
    pixels = np.full((1, 8, 8, 4), -1000, np.float32)
    pixels[0, :4], pixels[0, 4:6] = 40, 3000
    image = Image(pixels, np.eye(4), (1.0, 1.0, 1.0), "CT", "dicom", Path("a"))
    plane, labels, sides = display_plane(image)
    assert labels == () and sides == (1.0, 1.0)
    assert sorted(set(plane.ravel().tolist())) == [0, 128, 255]


def test_several_label_maps_are_shown_in_the_plane_of_the_first():
    image = Image(np.zeros((1, 6, 8, 5), np.float32), np.eye(4), (1.0, 1.0, 1.0), "", "nifti", Path("a"))
    truth, answer_ = np.zeros((2, 6, 8, 5), np.uint8)
    truth[1, 2, 3], answer_[:, :, 1], answer_[5, 7, 3] = 1, 1, 1
    plane, (first, second), _ = display_plane(image, truth, answer_)
    assert plane.shape == first.shape == (8, 6)
    assert first.sum() == 1 and first[7 - 2, 5 - 1] == 1
    assert second.sum() == 1 and second[0, 0] == 1
