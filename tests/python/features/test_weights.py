from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save

from fedmed_edge.errors import InputError
from fedmed_edge.features.weights import average_weights, image_weights, read_backbone, write_backbone


@given(
    arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)),
    st.lists(st.integers(0, 500), min_size=3, max_size=3).filter(any),
)
def test_average_is_the_weighted_mean(values: np.ndarray, counts: list[int]) -> None:
    states = [{"w": row, "steps": np.int64(7)} for row in values]
    average = average_weights(states, counts)
    np.testing.assert_allclose(
        np.asarray(average["w"], float), np.average(values, axis=0, weights=counts), rtol=1e-6, atol=1e-5
    )
    assert average["w"].dtype == np.float32 and average["steps"] == 7


@given(st.lists(st.integers(0, 1 << 53), min_size=1, max_size=12))
def test_a_site_weighs_what_it_says_but_never_more_than_two_medians(images: list[int]) -> None:
    weights = image_weights(images)
    lower = sorted(weights)[(len(weights) - 1) // 2]
    assert min(weights) >= 1 and max(weights) <= 2 * lower < 1 << 22
    told = sorted(said for said in images if said)
    typical = told[(len(told) - 1) // 2] if told else 1  # of who does not say
    assert all(
        weight in (said or typical, 1 << 20, 2 * lower) for weight, said in zip(weights, images, strict=True)
    )
    assert image_weights([30, 40, 50]) == [30, 40, 50]


@given(st.lists(st.integers(0, 5000), min_size=3, max_size=9), st.integers(0, 1 << 53))
def test_of_four_sites_none_weighs_more_than_all_others(honest: list[int], claimed: int) -> None:
    *others, weight = image_weights([*honest, claimed])
    assert weight <= sum(others)


def test_average_refuses_what_does_not_fit() -> None:
    one = {"w": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match=r"`counts` has \[0\], expected 1 numbers with a positive sum"):
        average_weights([one], [0])
    with pytest.raises(ValueError, match="tensors have other names"):
        average_weights([one, {"v": one["w"]}], [1, 1])


def test_backbone_file_round_trip(tmp_path: Path, make: SimpleNamespace) -> None:
    recipe, path = make.recipe(), tmp_path / "a.backbone"
    weights = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 2), np.float32)}
    write_backbone(path, weights, recipe, trained_by=("b", "a", "b"), images=12)
    assert path.stat().st_mode & 0o777 == 0o600
    first = path.read_bytes()
    back = read_backbone(path)
    assert (back.header.trained_by, back.header.images) == (("a", "b"), 12)
    assert (back.header.recipe, back.header.backbone) == (recipe.digest, recipe.backbone)
    assert all(np.array_equal(back.weights[name], value) for name, value in weights.items())
    write_backbone(path, dict(reversed(weights.items())), recipe, trained_by=("a", "b"), images=12)
    assert path.read_bytes() == first


def test_backbone_file_refusals(tmp_path: Path, make: SimpleNamespace) -> None:
    path = tmp_path / "a.backbone"
    with pytest.raises(InputError, match=r"a\.backbone: no such file"):
        read_backbone(path)
    write_backbone(path, {"w": np.ones(500, np.float32)}, make.recipe())
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:40], b"", save({"w": np.ones(2)})):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.backbone: (cut off: |not a backbone file: )"):
            read_backbone(path)
    write_backbone(path, {"w": np.array([1, np.nan], np.float32)}, make.recipe())
    with pytest.raises(InputError, match="`w` has NaN or Inf, expected finite values"):
        read_backbone(path)
