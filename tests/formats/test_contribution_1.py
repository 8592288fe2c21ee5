"""Every released contribution of format 1 must still open.

`contribution_1.safetensors` was made once, by running this file with the release that introduced the format;
it is never made anew or deleted.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import read_public_key, write_public_key
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.calibration import BINS, COLUMNS, TEMPERATURES
from fedmed_edge.statistics.contribution import (
    Contribution,
    Evidence,
    new_contribution,
    read_contribution,
    write_contribution,
)

CLASSES = ("benign", "malignant", "rare", "unseen")
GOLDEN = Path(__file__).with_name("contribution_1.safetensors")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def make_contribution() -> Contribution:
    """Classes with 5 folds, with 2, without, and absent; every part; whole numbers, so every sum is exact."""
    members = {index: [f"{index}-{i}" for i in range(count)] for index, count in enumerate((10, 4, 3, 1))}
    plan = plan_folds(members, 2, unlabelled=["u1", "u2"])
    sums = Accumulator(CLASSES, row_dim=4, feature_dim=2, plan=plan)
    for index, patients in members.items():
        for number, patient in enumerate(patients):
            if not sums.keeps([index]):
                continue
            rows = np.array([[number, index - 1, 2, 1], [-number, 3, index, 1]], np.float32)
            sums.add_rows(rows, np.full(2, index, np.int32), patient)
            sums.add_image(rows[0, :2], float(number))
            sums.add_channels([(16, np.array([1.0, number]), np.array([2.0, 4.0 * number**2]))])
            sums.add_style(np.full((1, 3, 3), float(number - index)))
    sums.add_unlabelled(np.array([[5, 6, 7, 1]], np.float32))
    calibration = np.zeros((len(TEMPERATURES), COLUMNS))
    # four rows, answered rightly with certainty
    calibration[:, [1, 2 + BINS - 1, 2 + 2 * BINS - 1]] = 4.0
    recipe = Recipe(name="golden", kind="classification", classes=CLASSES, size=(32, 32))
    contribution = new_contribution(
        replace(sums.result(), calibration=calibration),
        generation="0123456789abcdef" * 4,
        recipe=recipe,
        site="alpha",
        sequence=7,
        min_cohort=2,
        weights={"stem.weight": np.arange(6, dtype=np.float32).reshape(2, 3)},
        evidence=Evidence(
            images={"train": 17, "test": 4},
            patients={"benign": 10},
            metrics={"balanced_accuracy": 0.5},
            versions={"fedmed_edge": "0.1.0"},
            seed=0,
        ),
    )
    # a recipe of that day: a later recipe may have more fields, and so another digest
    header = contribution.header.model_copy(update={"recipe": "fedcba9876543210" * 4})
    return replace(contribution, header=header).sign(KEY)


def test_the_golden_file_still_opens_and_its_signature_holds() -> None:
    golden = read_contribution(GOLDEN, verify_key=read_public_key(GOLDEN.with_suffix(".pub")))
    assert golden.id == "1121a525424db85ebfed11cf700a60ea47be49a852474cd5fe5bd80b8492cecc"
    assert golden.signer == "SHA256:Vkdap1RjR0wChd9dvyvKtz2mUTWIOem3dIGy6rEHcIw"
    assert golden.header.absent == ("unseen",)
    assert golden.header.sequence == 7
    assert golden.statistics is not None
    assert golden.statistics.class_counts.tolist() == [20, 8, 6, 0]
    assert golden.weights is not None
    assert golden.weights["stem.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_same_sums_still_make_the_same_contribution() -> None:
    golden, made = read_contribution(GOLDEN), make_contribution()
    for name, tensor in golden.tensors().items():
        np.testing.assert_array_equal(made.tensors()[name], tensor, err_msg=name)
        assert made.tensors()[name].dtype == tensor.dtype
    assert made.id == golden.id
    assert made.signature == golden.signature


def test_what_is_written_today_is_the_golden_file(tmp_path: Path) -> None:
    file = tmp_path / "contribution"
    write_contribution(file, make_contribution())
    assert file.read_bytes() == GOLDEN.read_bytes()


if __name__ == "__main__":
    write_contribution(GOLDEN, make_contribution())
    write_public_key(GOLDEN.with_suffix(".pub"), KEY.public_key())
