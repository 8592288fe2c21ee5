import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import build_backbone
from fedmed_edge.recipe import Backbone
from fedmed_edge.universal.distillation import LinearMaps, rows_of_maps, watched
from fedmed_edge.universal.mim import scales_of


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 1000), ridge=st.sampled_from([1e-6, 1e-3, 1.0]))
def test_maps_are_the_ridge_regression_of_the_rows(seed: int, ridge: float) -> None:
    rows, targets = drawn(seed, 60, 5), {"a": drawn(seed + 1, 60, 3), "b": drawn(seed + 2, 60, 7)}
    maps = LinearMaps(ridge=ridge, memory=1.0)
    for start in (0, 20, 40):
        part = slice(start, start + 20)
        maps.add(rows[part], {name: wanted[part] for name, wanted in targets.items()})
    maps.solve()
    own = np.hstack([rows.double().numpy(), np.ones((60, 1))])
    level = ridge * np.diag(own.T @ own).mean()
    for name, wanted in targets.items():
        # ridge as least squares of rows with √level · I below them
        longer = np.vstack([own, np.sqrt(level) * np.eye(6)])
        padded = np.vstack([wanted.double().numpy(), np.zeros((6, wanted.shape[1]))])
        solved = np.linalg.lstsq(longer, padded, rcond=None)[0]
        np.testing.assert_allclose(maps.of(name, rows).numpy(), own @ solved, atol=2e-5)


def test_without_a_ridge_a_linear_teacher_is_told_wholly() -> None:
    rows, weight = drawn(0, 200, 6), drawn(1, 6, 4)
    maps = LinearMaps(ridge=0.0)
    maps.add(rows, {"a": rows @ weight + 3.0})
    maps.solve()
    np.testing.assert_allclose(maps.of("a", rows).numpy(), (rows @ weight + 3.0).numpy(), atol=1e-4)


def test_older_rows_fade() -> None:
    old, new = drawn(0, 40, 3), drawn(1, 40, 3)
    maps, weighed = LinearMaps(ridge=1e-9, memory=0.5), LinearMaps(ridge=1e-9, memory=1.0)
    maps.add(old, {"a": old[:, :1]})
    maps.add(new, {"a": -new[:, :1]})
    weighed.add(old * 0.5**0.5, {"a": old[:, :1] * 0.5**0.5})
    own = np.hstack([old.numpy(), np.ones((40, 1))]).astype(np.float64)
    other = np.hstack([new.numpy(), np.ones((40, 1))]).astype(np.float64)
    solved = np.linalg.solve(
        0.5 * own.T @ own + other.T @ other,
        0.5 * own.T @ old.double().numpy()[:, :1] - other.T @ new.double().numpy()[:, :1],
    )
    maps.solve()
    np.testing.assert_allclose(maps.of("a", new).numpy(), other @ solved, atol=1e-5)


def test_maps_go_on_from_their_state() -> None:
    maps = LinearMaps()
    maps.add(drawn(0, 30, 4), {"a": drawn(1, 30, 2)})
    maps.solve()
    again = LinearMaps()
    again.restore(maps.state(), torch.device("cpu"))
    for one in (maps, again):
        one.add(drawn(2, 30, 4), {"a": drawn(3, 30, 2)})
        one.solve()
    assert torch.equal(maps.of("a", drawn(4, 9, 4)), again.of("a", drawn(4, 9, 4)))


def test_rows_are_means_over_the_image_and_over_its_parts() -> None:
    fine, coarse = drawn(0, 2, 3, 16, 8), drawn(1, 2, 5, 4, 4)
    whole, parts = (one.numpy() for one in rows_of_maps([fine, coarse]))
    pooled = np.concatenate([one.mean(dim=(2, 3)).numpy() for one in (fine, coarse)], axis=1)
    np.testing.assert_allclose(whole, pooled, atol=1e-6)
    rows = parts.reshape(2, 4, 4, 8)
    np.testing.assert_allclose(rows[1, 2, 3, :3], fine[1, :, 8:12, 6:8].mean(dim=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(rows[0, 1, 0, 3:], coarse[0, :, 1, 0], rtol=1e-6)
    assert [one.shape for one in rows_of_maps([drawn(2, 2, 3, 8, 8, 8)])] == [(2, 3), (2 * 2**3, 3)]


def test_a_teachers_rows_have_mean_0_and_deviation_1() -> None:
    network = build_backbone(
        Backbone(widths=(8, 12)), kind="classification", channels=1, size=(32, 32)
    ).eval()
    batches = [torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    teacher = watched("a", network, batches)
    for grid, (mean, _) in enumerate(teacher.moments):
        with torch.no_grad():
            plain = torch.cat([rows_of_maps(scales_of(network, one))[grid] for one in batches]).numpy()
        np.testing.assert_allclose(mean.numpy(), plain.mean(axis=0), atol=1e-5)
        told = torch.cat([teacher.rows(one)[grid] for one in batches]).numpy()
        moving = plain.std(axis=0) > 1e-4
        np.testing.assert_allclose(told.std(axis=0)[moving], 1, atol=2e-3)
        np.testing.assert_allclose(told.mean(axis=0)[moving], 0, atol=2e-3)
        assert moving.sum() > 8


def test_a_teacher_without_finite_values_is_refused() -> None:
    network = build_backbone(Backbone(widths=(8, 12)), kind="classification", channels=1, size=(32, 32))
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="local model of `b/cells` gives values that are not finite") as told:
        watched("b/cells", network, [torch.rand(2, 1, 32, 32)])
    assert "--without" in (told.value.hint or "")
