"""Channel moments against their plain NumPy definition, and their refusals."""

import math
import re
from collections.abc import Callable

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from fedmed_edge.kernels import channel_moments

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

numbers = st.floats(-1e4, 1e4, width=32)


def channel_moments_definition(maps: Array) -> tuple[int, Array64, Array64]:
    values = maps.reshape(len(maps), -1).astype(np.float64)
    return values.shape[1], values.sum(axis=1), (values**2).sum(axis=1)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=4, max_side=7), elements=numbers))
def test_channel_moments_are_their_definition(maps: Array) -> None:
    count, sums, squares = channel_moments(maps)
    expected = channel_moments_definition(maps)
    assert count == expected[0]
    np.testing.assert_allclose(sums, expected[1], rtol=0, atol=1e-12 * np.abs(maps).sum())
    np.testing.assert_allclose(squares, expected[2], rtol=1e-12)


def test_channel_moments_keep_what_float32_sums_would_lose() -> None:
    maps = np.random.default_rng(0).normal(1000, 1, (2, 300, 400)).astype(np.float32)
    _, sums, squares = channel_moments(maps)
    for channel, values in enumerate(maps.reshape(2, -1).tolist()):
        assert sums[channel] == pytest.approx(math.fsum(values), rel=1e-13)
        assert squares[channel] == pytest.approx(math.fsum(v * v for v in values), rel=1e-13)


# --- refusals --------------------------------------------------------------------------------------------


def zeros(*shape: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
    return np.zeros(shape, dtype)


# A good call of each kernel; each refusal changes one argument of it.
GOOD: dict[Callable[..., object], dict[str, object]] = {
    channel_moments: {"maps": zeros(2, 3)},
}

REFUSALS: list[tuple[Callable[..., object], str, object, str]] = [
    (channel_moments, "maps", zeros(5), "has shape (5,), expected 2 or more axes"),
    (channel_moments, "maps", zeros(2, 3, dtype=np.float16), "has dtype float16, expected float32"),
    (channel_moments, "maps", zeros(2, 6)[:, ::2], "has strides, expected a C-contiguous array"),
]


@pytest.mark.parametrize(("kernel", "argument", "wrong", "message"), REFUSALS)
def test_what_does_not_fit_is_refused(
    kernel: Callable[..., object], argument: str, wrong: object, message: str
) -> None:
    kernel(**GOOD[kernel])
    with pytest.raises(ValueError, match=f"^{kernel.__name__}: `{argument}` {re.escape(message)}$"):
        kernel(**{**GOOD[kernel], argument: wrong})
