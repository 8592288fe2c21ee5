"""Ridge solutions against their plain definition and SciPy, their condition, held-out losses, refusals."""

import re

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.kernels import diagonal_positions, held_out_losses, ridge_solve, upper_triangle

Array64 = npt.NDArray[np.float64]


def ridge_solve_definition(gram: Array64, targets: Array64, ridge: float) -> Array64:
    return np.linalg.solve(gram + ridge * np.mean(np.diag(gram)) * np.eye(len(gram)), targets)


def packed(matrix: Array64) -> Array64:
    return matrix[np.triu_indices(len(matrix))]


def problem(width: int, columns: int, seed: int = 0) -> tuple[Array64, Array64]:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2 * width, width))
    return rows.T @ rows, rng.standard_normal((width, columns))


@given(width=st.integers(1, 150), columns=st.integers(1, 4), count=st.sampled_from([1, 2, 7, 8, 12]))
def test_ridge_solve_is_its_definition(width: int, columns: int, count: int) -> None:
    gram, targets = problem(width, columns, width)
    ridges = np.geomspace(1e-4, 10, count)
    solution = ridge_solve(packed(gram), targets, ridges.tolist())
    assert solution.heads.shape == (count, width, columns)
    for head, ridge in zip(solution.heads, ridges, strict=True):
        wanted = ridge_solve_definition(gram, targets, ridge)
        np.testing.assert_allclose(head, wanted, rtol=1e-9, atol=1e-11 * np.abs(wanted).max())


def test_many_ridges_and_one_agree() -> None:
    gram, targets = problem(130, 3)
    ridges = [10.0**power for power in range(-5, 5)]
    every = ridge_solve(packed(gram), targets, ridges)
    for index, ridge in enumerate(ridges):
        one = ridge_solve(packed(gram), targets, [ridge])
        np.testing.assert_allclose(every.heads[index], one.heads[0], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("width", [1, 2, 64, 65, 200])
@pytest.mark.parametrize("spread", [0, 3, 8])
def test_rcond_tells_the_order_of_the_condition(width: int, spread: int) -> None:
    rng = np.random.default_rng(width)
    turn, _ = np.linalg.qr(rng.standard_normal((width, width)))
    gram = (turn * np.geomspace(1, 10.0**-spread, width)) @ turn.T
    gram = (gram + gram.T) / 2
    one = ridge_solve(packed(gram), np.ones((width, 1)), [0.0])
    # from below the estimate may miss a little of the inverse; it never sees more of it than there is
    true = 1 / (np.abs(gram).sum(axis=0).max() * np.abs(np.linalg.inv(gram)).sum(axis=0).max())
    assert true * (1 - 1e-6) <= one.rcond[0] <= min(1.0, 3 * true)
    many = ridge_solve(packed(gram), np.ones((width, 1)), [0.0] * 8)
    np.testing.assert_allclose(many.rcond, 1 / np.linalg.cond(gram), rtol=1e-5)


def test_rcond_agrees_with_lapack() -> None:
    gram, targets = problem(100, 1)
    factor = scipy.linalg.cho_factor(gram)[0]
    wanted, info = scipy.linalg.lapack.dpocon(factor, np.abs(gram).sum(axis=0).max())
    assert info == 0
    assert ridge_solve(packed(gram), targets, [0.0]).rcond[0] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("ridges", [[], [0.0], [1.0] * 9])
def test_a_gram_of_zeros_gives_zeros(ridges: list[float]) -> None:
    solution = ridge_solve(np.zeros(6), np.ones((3, 2)), ridges)
    np.testing.assert_array_equal(solution.heads, np.zeros((len(ridges), 3, 2)))
    np.testing.assert_array_equal(solution.rcond, np.ones(len(ridges)))


@given(width=st.integers(1, 40), rows=st.integers(1, 60), heads=st.integers(1, 5))
def test_held_out_losses_are_the_losses_of_the_rows(width: int, rows: int, heads: int) -> None:
    rng = np.random.default_rng(width * rows)
    features, targets = rng.standard_normal((rows, width)), rng.standard_normal((rows, 3))
    tried = rng.standard_normal((heads, width, 3))
    wanted = [np.sum((features @ head - targets) ** 2) for head in tried]
    gram = np.triu(features.T @ features)
    got = held_out_losses(tried, gram, features.T @ targets, float(np.sum(targets**2)))
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-9)


def test_upper_triangle_and_diagonal_unpack() -> None:
    gram, _ = problem(37, 1)
    np.testing.assert_array_equal(upper_triangle(packed(gram)), np.triu(gram))
    np.testing.assert_array_equal(packed(gram)[diagonal_positions(37)], np.diag(gram))


# --- refusals --------------------------------------------------------------------------------------------

INDEFINITE = np.array([1.0, 2.0, 1.0])


@pytest.mark.parametrize("ridges", [[0.0], [5.0, 0.0], [0.0] * 8, [5.0] * 8 + [0.1]])
def test_an_indefinite_gram_is_refused_with_its_ridge(ridges: list[float]) -> None:
    message = f"ridge_solve: `gram` with ridge {ridges[-1]:g} is not positive definite"
    with pytest.raises(np.linalg.LinAlgError, match=f"^{re.escape(message)}$"):
        ridge_solve(INDEFINITE, np.ones((2, 1)), ridges)


def test_many_ridges_refuse_a_singular_gram() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="with ridge 0 is not positive definite"):
        ridge_solve(packed(np.ones((5, 5))), np.ones((5, 1)), [0.0] * 8)


@pytest.mark.parametrize(
    ("gram", "targets", "ridges", "message"),
    [
        (np.ones(4), np.ones((2, 1)), [1.0], "`gram` has shape (4,), expected (D (D + 1) / 2,)"),
        (np.ones((2, 2)), np.ones((2, 1)), [1.0], "`gram` has shape (2, 2), expected (D (D + 1) / 2,)"),
        (np.ones(3), np.ones(2), [1.0], "`targets` has shape (2,), expected (2, C) as `gram`"),
        (np.ones(3), np.ones((3, 1)), [1.0], "`targets` has shape (3, 1), expected (2, C) as `gram`"),
        (np.ones(3), np.ones((2, 1)), [1.0, -1.0], "`ridges` has [1.0, -1.0], expected values of at least 0"),
        (
            np.full(3, np.nan),
            np.ones((2, 1)),
            [1.0],
            "`gram` has values that are not finite, expected finite ones",
        ),
        (
            np.full(3, np.inf),
            np.ones((2, 1)),
            [1.0] * 9,
            "`gram` has values that are not finite, expected finite ones",
        ),
        (
            np.ones(3),
            np.full((2, 1), np.nan),
            [1.0],
            "`targets` has values that are not finite, expected finite ones",
        ),
        (np.ones(3, np.float32), np.ones((2, 1)), [1.0], "`gram` has dtype float32, expected float64"),
        (np.ones(3), np.ones((2, 1)), [float("inf")], "`ridges` has [inf], expected values of at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    gram: Array64, targets: Array64, ridges: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^ridge_solve: {re.escape(message)}$"):
        ridge_solve(gram, targets, ridges)


@pytest.mark.parametrize(
    ("heads", "gram", "cross"),
    [((1, 2, 3), (2, 2), (2, 1)), ((1, 2, 3), (3, 3), (2, 3)), ((2, 3), (2, 2), (2, 3))],
)
def test_losses_of_what_does_not_fit_are_refused(
    heads: tuple[int, ...], gram: tuple[int, ...], cross: tuple[int, ...]
) -> None:
    message = re.escape(f"have shapes {heads}, {gram} and {cross}, expected (R, D, C), (D, D) and (D, C)")
    with pytest.raises(ValueError, match=f"^held_out_losses: `heads`, `gram` and `cross` {message}$"):
        held_out_losses(np.ones(heads), np.ones(gram), np.ones(cross), 1.0)
