"""Sums to tensors and back."""

from collections.abc import Callable

import numpy as np
import pytest

from fedmed_edge.config import PARTS
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import FeatureStatistics
from fedmed_edge.statistics.tensors import parts_of, restrict, tensor_rules, to_statistics, to_tensors


def test_tensors_fit_their_rules(make_contribution: Callable[..., Contribution]) -> None:
    contribution = make_contribution()
    rules = tensor_rules(contribution.header)
    names = {"F64": "float64", "I64": "int64"}
    tensors = to_tensors(contribution.statistics, contribution.header.parts)
    assert tensors.keys() == rules.keys()
    for name, tensor in tensors.items():
        rule = rules[name]
        assert str(tensor.dtype) == names[rule.dtype], name
        assert len(tensor.shape) == len(rule.shape)
        assert all(want in (None, got) for got, want in zip(tensor.shape, rule.shape, strict=True)), name


def test_sums_come_back_from_their_tensors(make_contribution: Callable[..., Contribution]) -> None:
    contribution = make_contribution()
    sums = contribution.statistics
    assert sums is not None
    back = to_statistics(contribution.header, to_tensors(sums, PARTS))
    assert back is not None
    assert set(back.blocks) == set(sums.blocks)
    for key, block in sums.blocks.items():
        np.testing.assert_array_equal(back.blocks[key], block)
    for name in ("unlabelled", "patients", "style_sum", "channel_moments", "calibration", "style_count"):
        np.testing.assert_array_equal(getattr(back, name), getattr(sums, name), err_msg=name)
    assert (back.folds, back.absent, back.classes) == (sums.folds, sums.absent, sums.classes)


@pytest.mark.parametrize("part", [part for part in PARTS if part != "weights"])
def test_restricted_sums_hold_that_part_alone(
    make_statistics: Callable[..., FeatureStatistics], part: str
) -> None:
    sums = restrict(make_statistics(), [part])  # type: ignore[list-item]
    assert parts_of(sums, None) == {part}


def test_weights_alone_have_no_sums() -> None:
    assert to_tensors(None, ["weights"]) == {}
    assert parts_of(None, {"w": np.ones(1)}) == {"weights"}
    assert parts_of(None, None) == set()
