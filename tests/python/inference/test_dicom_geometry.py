"""A mask drawn at a place in the patient comes back at that place, however the scanner stored its slices."""

import json

import highdicom
import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmed_edge.inference.options import Options
from fedmed_edge.inference.study import answer_study

RADIUS_MM = 6.0


def directions(order, flips, angles):
    """Row, column and slice direction (LPS), a right-handed set: permuted, flipped, turned."""
    turn = np.eye(3)[:, order] * flips
    for axis, angle in enumerate(angles):
        cos, sin = np.cos(angle), np.sin(angle)
        one, two = [other for other in range(3) if other != axis]
        plane = np.eye(3)
        plane[[one, one, two, two], [one, two, one, two]] = cos, -sin, sin, cos
        turn = plane @ turn
    return turn


def phantom(shape, spacing, turn, corner, centre):
    """(slices, rows, columns) uint16 with a ball; the world position (LPS) of each slice's first pixel."""
    k, j, i = np.meshgrid(*(np.arange(side) for side in shape), indexing="ij")
    places = (
        corner
        + (i * spacing[2])[..., None] * turn[:, 0]
        + (j * spacing[1])[..., None] * turn[:, 1]
        + (k * spacing[0])[..., None] * turn[:, 2]
    )
    ball = np.linalg.norm(places - centre, axis=-1) <= RADIUS_MM
    return np.where(ball, 255, 0).astype(np.uint16), places[:, 0, 0]


def middle(found, affine):
    """Centre of mass of a mask in the world of its affine."""
    index = np.argwhere(found).mean(axis=0)
    return affine[:3, :3] @ index + affine[:3, 3]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_place_of_a_mask_is_the_same_in_seg_and_nifti(
    data, model_of, recipe_of, write_series, tmp_path_factory
):
    order = data.draw(st.permutations(range(3)))
    flips = np.array(data.draw(st.tuples(*[st.sampled_from([-1, 1])] * 3)), float)
    angles = data.draw(st.tuples(*[st.floats(-0.6, 0.6)] * 3))
    spacing = data.draw(st.tuples(st.floats(1.2, 2.5), st.floats(0.8, 1.5), st.floats(0.8, 1.5)))
    turn = directions(order, flips, angles)
    shape = (18, 34, 26)
    offset = np.array(data.draw(st.tuples(*[st.floats(0.4, 0.6)] * 3))) * (np.array(shape) - 1) * spacing
    corner = np.array([-40.0, 12.5, 130.0])
    centre = corner + turn @ offset[::-1]
    values, positions = phantom(shape, spacing, turn, corner, centre)
    # Files are named in another order than slices lie in.
    shuffled = np.random.default_rng(0).permutation(len(values))
    folder = write_series(
        values[shuffled],
        positions[shuffled],
        tuple(turn[:, :2].T.ravel()),
        PixelSpacing=[f"{spacing[1]:.6f}", f"{spacing[2]:.6f}"],
        FrameOfReferenceUID="1.2.3.9",
        Modality="CT",
    )
    out = tmp_path_factory.mktemp("out")
    model = model_of(
        recipe_of("segmentation", (16, 16, 16), classes=("rest", "ball"), spacing_mm=(1.1, 1.1, 1.1))
    )
    (result,) = answer_study(model, [folder], out, Options(formats=frozenset({"json", "seg", "nifti"})))
    assert result.error is None and not result.not_written, (result.error, result.not_written)

    stored = nibabel.load(result.mask)
    in_ras = middle(np.asarray(stored.dataobj) == 1, stored.affine)
    assert np.linalg.norm(in_ras * [-1, -1, 1] - centre) < 0.5

    seg = highdicom.seg.segread(result.objects[0].path)
    volume = seg.get_volume(combine_segments=True, skip_overlap_checks=True)
    assert np.linalg.norm(middle(volume.array == 1, volume.affine) - centre) < 0.5
    # Frame by frame the very mask that NIfTI has.
    for frame in seg.PerFrameFunctionalGroupsSequence:
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        index = np.linalg.inv(stored.affine) @ [*(place * [-1, -1, 1]), 1]
        assert np.allclose(index[:2], 0, atol=1e-2) and abs(index[2] - round(index[2])) < 1e-2
    truth = (np.pi * 4 / 3) * RADIUS_MM**3 / 1000
    assert json.loads((out / result.study / result.series / "result.json").read_text())["volumes_ml"] == {
        "ball": pytest.approx(truth, rel=0.2)
    }
