from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.errors import InputError
from fedmed_edge.features.lift import Lift, grid_axes
from fedmed_edge.generation import Generation, GenerationHeader
from fedmed_edge.recipe import Backbone

Shapes = tuple[tuple[int, ...], ...]


def generation(widths: tuple[int, ...], lift: int, features: int | None, seed: int = 0) -> Generation:
    random = np.random.default_rng(seed)
    raw = sum(widths)
    wide = raw if features is None else features
    square = random.normal(size=(wide, wide))
    return Generation(
        header=GenerationHeader(
            kind="segmentation", channels=1, size=(8, 8), backbone=Backbone(), widths=widths, lift_dim=lift
        ),
        weights={},
        encoder=b"",
        mean=random.normal(3, 2, raw).astype(np.float32),
        deviation=random.uniform(0.1, 4, raw).astype(np.float32),
        projection=None if features is None else random.normal(size=(raw, features)).astype(np.float32),
        lift_weight=(random.normal(size=(wide, lift)) / np.sqrt(wide)).astype(np.float32),
        lift_bias=random.normal(size=lift).astype(np.float32),
        reference_mean=random.normal(size=wide),
        reference_covariance=square @ square.T + np.eye(wide),
    )


def defined(made: Generation, maps: list[np.ndarray], size: tuple[int, ...], stride: int) -> np.ndarray:
    """Method §1, word by word, in float64: upsample all, concatenate, standardise, project, lift."""
    mode = "bilinear" if len(size) == 2 else "trilinear"
    raised = [
        torch.nn.functional.interpolate(
            torch.from_numpy(scale[None].astype(np.float64)), size=size, mode=mode, align_corners=False
        )[0].numpy()
        for scale in maps
    ]
    places: Any = (slice(None), *np.ix_(*grid_axes(size, stride)))
    columns = np.concatenate(raised)[places]
    raw = columns.reshape(len(columns), -1).T
    return lifted(made, raw)


def lifted(made: Generation, raw: np.ndarray) -> np.ndarray:
    f = (raw - made.mean.astype(np.float64)) / made.deviation
    if made.projection is not None:
        f = f @ made.projection.astype(np.float64)
    hidden = np.maximum(f @ made.lift_weight.astype(np.float64) + made.lift_bias, 0)
    return np.concatenate([hidden, f, np.ones((len(f), 1))], axis=1)


def maps_of(widths: tuple[int, ...], shapes: Shapes) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [
        random.normal(3, 2, (width, *shape)).astype(np.float32)
        for width, shape in zip(widths, shapes, strict=True)
    ]


@pytest.mark.parametrize("features", [None, 6])
@pytest.mark.parametrize("lift", [0, 16])
@pytest.mark.parametrize("stride", [1, 3, 4])
@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        ((16, 16), ((16, 16), (8, 8), (4, 4), (8, 8))),
        ((21, 13), ((21, 13), (11, 7), (6, 4), (11, 7))),
        ((12, 9, 10), ((12, 9, 10), (6, 5, 5), (3, 3, 3), (6, 5, 5))),
    ],
)
def test_rows_equal_the_definition(
    size: tuple[int, ...], shapes: Shapes, stride: int, lift: int, features: int | None
) -> None:
    widths = (2, 3, 5, 4)
    made, maps = generation(widths, lift, features), maps_of(widths, shapes)
    rows, axes = Lift(made).pixel_rows(maps, stride, size)
    expected = defined(made, maps, size, stride)
    assert rows.dtype == np.float32 and rows.flags.c_contiguous
    assert rows.shape == (np.prod([len(axis) for axis in axes]), made.row_dim)
    assert np.abs(rows - expected).max() <= 1e-4 * np.abs(expected).max()
    assert (rows[:, -1] == 1).all()


@pytest.mark.parametrize("features", [None, 6])
@pytest.mark.parametrize("lift", [0, 16])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize(
    ("size", "shapes"),
    [((21, 13), ((21, 13), (11, 7), (6, 4))), ((12, 9, 10), ((12, 9, 10), (6, 5, 5), (3, 3, 3)))],
)
def test_pixel_grams_are_those_of_pixel_rows(
    size: tuple[int, ...], shapes: Shapes, stride: int, lift: int, features: int | None
) -> None:
    made, maps = generation((2, 3, 5), lift, features), maps_of((2, 3, 5), shapes)
    expected = Lift(made).pixel_rows(maps, stride, size)[0]
    classes = np.random.default_rng(3).integers(-1, 2, len(expected)).astype(np.int32)
    grams, rows = Lift(made).pixel_grams(
        maps, stride, size, classes, count=2, picked=np.arange(len(expected))
    )
    assert np.abs(rows - expected).max() <= 1e-5 * np.abs(expected).max()
    for index, gram in enumerate(grams):
        own = rows[classes == index].astype(np.float64)
        wanted = (own.T @ own)[np.triu_indices(made.row_dim)]
        np.testing.assert_allclose(gram, wanted, atol=1e-9 * max(1, np.abs(wanted).max()))


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 24), st.integers(1, 24), st.integers(1, 7))
def test_any_map_on_any_grid(height: int, width: int, rows: int, columns: int, stride: int) -> None:
    size, shape = (max(height, rows), max(width, columns)), (rows, columns)
    made, maps = generation((2,), 3, None), maps_of((2,), (shape,))
    got, _ = Lift(made).pixel_rows(maps, stride, size)
    np.testing.assert_allclose(got, defined(made, maps, size, stride), rtol=1e-3, atol=1e-3)


def test_slabs_are_the_rows_in_pieces() -> None:
    widths, shapes = (2, 3), ((15, 10), (8, 5))
    levels = Lift(generation(widths, 8, None)).levels(maps_of(widths, shapes), (15, 10), 1)
    whole = levels.rows(0, 15)
    slabs = list(levels.slabs(4 * 10 * whole.shape[1]))
    assert [start for start, _ in slabs] == [0, 4, 8, 12]
    np.testing.assert_allclose(np.concatenate([rows for _, rows in slabs]), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", [None, 4])
def test_image_rows(features: int | None) -> None:
    made = generation((3, 5), 16, features)
    lift, pooled = Lift(made), np.random.default_rng(2).normal(3, 2, 8).astype(np.float32)
    row = lift.image_row(pooled)
    np.testing.assert_allclose(row, lifted(made, pooled[None]), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(row[0, 16:-1], lift.standardise(pooled))


def test_an_image_is_the_mean_of_its_pixels_where_nothing_is_cut_off() -> None:
    widths = (2, 3)
    made, maps = generation(widths, 0, None), maps_of(widths, ((8, 8), (8, 8)))
    lift = Lift(made)
    rows, _ = lift.pixel_rows(maps, 1, (8, 8))
    pooled = np.concatenate([scale.mean(axis=(1, 2)) for scale in maps])
    np.testing.assert_allclose(rows.mean(axis=0), lift.image_row(pooled)[0], rtol=1e-4, atol=1e-4)


def test_distance_is_mahalanobis() -> None:
    made = generation((3, 5), 0, None)
    feature: Any = np.random.default_rng(2).normal(size=8)
    assert made.reference_mean is not None and made.reference_covariance is not None
    away = feature - made.reference_mean
    expected = away @ np.linalg.inv(made.reference_covariance) @ away
    assert Lift(made).distance_squared(feature) == pytest.approx(expected)


def test_strided_grid() -> None:
    assert [axis.tolist() for axis in grid_axes((8, 3), 8)] == [[4], [1]]
    assert [len(axis) for axis in grid_axes((128, 127), 4)] == [32, 32]


def test_refusals() -> None:
    lift = Lift(generation((2, 3), 4, None))
    with pytest.raises(InputError, match=r"`maps` has widths \(2,\), expected \(2, 3\)"):
        lift.pixel_rows(maps_of((2,), ((4, 4),)), 1, (4, 4))
    with pytest.raises(InputError, match=r"`maps` has widths \(2,\), expected \(2, 3\)"):
        lift.pixel_grams(maps_of((2,), ((4, 4),)), 1, (4, 4), np.zeros(16, np.int32), count=1)
    with pytest.raises(InputError, match=r"`pooled` has shape \(4,\), expected \(5,\)"):
        lift.image_row(np.zeros(4))
