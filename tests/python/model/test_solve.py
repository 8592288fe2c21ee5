import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.errors import InputError
from fedmed_edge.kernels import upper_triangle
from fedmed_edge.model.solve import quadratic, root_psd, solve_ridge
from fedmed_edge.statistics.feature_statistics import pack


@given(width=st.integers(1, 150), columns=st.integers(1, 4), ridge=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_solve_ridge_equals_scipy(width: int, columns: int, ridge: float) -> None:
    rng = np.random.default_rng(width)
    rows = rng.standard_normal((2 * width, width))
    gram, targets = rows.T @ rows, rng.standard_normal((width, columns))
    wanted = scipy.linalg.solve(
        gram + ridge * np.mean(np.diag(gram)) * np.eye(width), targets, assume_a="pos"
    )
    np.testing.assert_allclose(solve_ridge(pack(gram), targets, ridge), wanted, rtol=1e-9, atol=1e-12)


def test_solve_ridge_of_fewer_rows_than_columns() -> None:
    rng = np.random.default_rng(0)
    rows, targets = rng.standard_normal((20, 200)), rng.standard_normal((200, 3))
    gram = rows.T @ rows
    level = 1e-4 * np.mean(np.diag(gram))
    wanted = scipy.linalg.solve(gram + level * np.eye(200), targets, assume_a="pos")
    got = solve_ridge(pack(gram), targets, 1e-4)
    assert np.linalg.norm(got - wanted) <= 1e-9 * np.linalg.norm(wanted)


def test_solve_ridge_of_nothing_is_zero() -> None:
    np.testing.assert_array_equal(solve_ridge(np.zeros(6), np.ones((3, 2)), 1e-2), np.zeros((3, 2)))


def test_solve_ridge_refuses_an_indefinite_gram() -> None:
    with pytest.raises(InputError, match=r"sum of the Grams with ridge 0 is not positive definite"):
        solve_ridge(np.array([1.0, 2.0, 1.0]), np.ones((2, 1)), 0.0)


def test_quadratic_equals_the_product() -> None:
    rng = np.random.default_rng(1)
    rows, head = rng.standard_normal((50, 30)), rng.standard_normal((30, 4))
    gram = rows.T @ rows
    np.testing.assert_allclose(quadratic(pack(gram), head), head.T @ gram @ head, rtol=1e-12)
    np.testing.assert_array_equal(upper_triangle(pack(gram)), np.triu(gram))


def test_root_equals_scipy_and_clips() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((40, 8))
    np.testing.assert_allclose(
        root_psd(rows.T @ rows), scipy.linalg.sqrtm(rows.T @ rows), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(root_psd(np.diag([4.0, -1.0])), np.diag([2.0, 0.0]), atol=1e-15)
