"""The contribution file: round trip, id, signature, and writing whole or not at all."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmed_edge.config import PARTS, Part
from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import fingerprint, generate_key
from fedmed_edge.statistics import contribution as contribution_module
from fedmed_edge.statistics.contribution import (
    Contribution,
    new_contribution,
    parse_contribution,
    read_contribution,
    write_contribution,
)
from fedmed_edge.statistics.feature_statistics import FeatureStatistics

Make = Callable[..., Contribution]


def test_what_was_written_is_read(tmp_path: Path, make_contribution: Make) -> None:
    key = generate_key()
    made = make_contribution().sign(key)
    file = tmp_path / "alpha.safetensors"
    write_contribution(file, made)
    read = read_contribution(file, verify_key=key.public_key())
    assert read.header == made.header
    assert read.id == made.id
    assert read.signer == fingerprint(key.public_key())
    assert read.statistics is not None
    assert made.statistics is not None
    assert read.tensors().keys() == made.tensors().keys()
    for name, tensor in made.tensors().items():
        np.testing.assert_array_equal(read.tensors()[name], tensor, err_msg=name)
    assert read.statistics.folds == made.statistics.folds == 5
    assert set(read.statistics.blocks) == set(made.statistics.blocks)
    assert read.statistics.absent == made.statistics.absent
    np.testing.assert_array_equal(read.statistics.gram(), made.statistics.gram())
    assert [path.name for path in tmp_path.iterdir()] == ["alpha.safetensors"]


def test_a_contribution_that_was_read_writes_the_same_bytes(tmp_path: Path, make_contribution: Make) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_contribution(one, make_contribution().sign(generate_key()))
    write_contribution(other, read_contribution(one))
    assert one.read_bytes() == other.read_bytes()


def test_a_signature_made_after_reading_holds(tmp_path: Path, make_contribution: Make) -> None:
    write_contribution(tmp_path / "a", make_contribution())
    key = generate_key()
    write_contribution(tmp_path / "b", read_contribution(tmp_path / "a").sign(key))
    assert read_contribution(tmp_path / "b", verify_key=key.public_key()).id == make_contribution().id


def test_the_id_knows_content_and_not_circumstance(make_contribution: Make, recipe: Recipe) -> None:
    wanted = make_contribution().id
    assert make_contribution().sign(generate_key()).id == wanted
    assert make_contribution(sequence=9).id == wanted
    assert make_contribution(evidence=None).id == wanted
    others = [
        make_contribution(seed=1),
        make_contribution(site="beta"),
        make_contribution(generation="cd" * 32),
        make_contribution(recipe=recipe.model_copy(update={"name": "other"})),
        make_contribution(weights=None),
        make_contribution(parts=("classes",)),
    ]
    assert len({wanted, *(other.id for other in others)}) == 7


def test_the_id_knows_which_class_a_row_of_a_tensor_is(make_contribution: Make) -> None:
    made = make_contribution()
    renamed = replace(made, header=made.header.model_copy(update={"classes": ("a", "b", "c")}))
    assert renamed.id != made.id


@pytest.mark.parametrize("part", PARTS)
def test_any_part_goes_alone(tmp_path: Path, make_contribution: Make, part: Part) -> None:
    made = make_contribution(parts=(part,))
    assert made.header.parts == (part,)
    assert bool(made.header.evidence.patients) == (part == "classes")
    write_contribution(tmp_path / "part", made)
    read = read_contribution(tmp_path / "part")
    assert read.id == made.id
    assert (read.statistics is None) == (part == "weights")
    assert (read.weights is None) == (part != "weights")
    if read.statistics is not None:
        assert bool(read.statistics.blocks) == (part == "classes")
        assert (read.statistics.images > 0) == (part == "images")
        assert (read.statistics.unlabelled[-1] > 0) == (part == "unlabelled")
        assert (read.statistics.calibration is not None) == (part == "calibration")


def test_what_the_policy_keeps_back_is_not_in_memory_either(make_contribution: Make) -> None:
    made = make_contribution(parts=("classes", "style"))
    assert made.weights is None
    assert made.statistics is not None
    assert made.statistics.images == 0
    assert made.statistics.channel_moments.size == 0
    assert not made.statistics.unlabelled.any()
    assert set(made.tensors()) == {
        *("class_counts", "class_sums", "class_grams", "rest_grams", "patients"),
        *("style_count", "style_sum", "style_square"),
    }


def test_a_list_of_fewer_classes_is_taken(recipe: Recipe, tmp_path: Path) -> None:
    sums = FeatureStatistics(
        ("malignant",),
        2,
        1,
        blocks={(-1, 0): np.array([4.0, 2.0, 10.0])},
        patients=np.array([10]),
    )
    made = new_contribution(sums, generation="ab" * 32, recipe=recipe, site="s", sequence=1)
    write_contribution(tmp_path / "c", made)
    assert read_contribution(tmp_path / "c").header.classes == ("malignant",)


def test_contributions_that_cannot_be_are_refused(make_contribution: Make, recipe: Recipe) -> None:
    with pytest.raises(InputError, match=r"none of the parts style holds anything"):
        new_contribution(
            FeatureStatistics(recipe.classes, 2, 1),
            generation="ab" * 32,
            recipe=recipe,
            site="s",
            sequence=1,
            parts=("style",),
        )
    with pytest.raises(InputError, match=r"`classes` has \('other',\), expected \('benign',"):
        new_contribution(
            FeatureStatistics(("other",), 2, 1, image_gram=np.array([1.0, 1, 1])),
            generation="ab" * 32,
            recipe=recipe,
            site="s",
            sequence=1,
        )
    with pytest.raises(InputError, match=r"contribution: `site` has \.\./s, expected 1 to 64"):
        make_contribution(site="../s")
    with pytest.raises(InputError, match="contribution: `sequence` has 0, expected at least 1"):
        make_contribution(sequence=0)
    with pytest.raises(InputError, match="contribution: `generation` has AB, expected text like"):
        make_contribution(generation="AB")


def test_a_contribution_over_the_cap_is_not_written(
    tmp_path: Path, make_contribution: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contribution_module, "FILE_CAP", 2 << 20)
    with pytest.raises(InputError, match=r"c: contribution has \d+ bytes, expected at most 1 GiB") as error:
        write_contribution(tmp_path / "c", make_contribution())
    assert error.value.hint == "a narrower lift"


@pytest.mark.parametrize("change", ["header", "tensor", "key", "none"])
def test_verify_names_what_is_wrong(make_contribution: Make, change: str) -> None:
    key = generate_key()
    signed = make_contribution().sign(key)
    signed.verify(key.public_key())
    with pytest.raises(TrustError) as refusal:
        match change:
            case "header":
                header = signed.header.model_copy(update={"sequence": 2})
                replace(signed, header=header).verify(key.public_key(), "file")
            case "tensor":
                weights = {"stem.weight": np.zeros((2, 1, 3, 3), np.float32)}
                replace(signed, weights=weights).verify(key.public_key(), "file")
            case "key":
                signed.verify(generate_key().public_key(), "file")
            case _:
                make_contribution().verify(key.public_key(), "file")
    wanted = {
        "key": f"file: signed by {signed.signer}, expected SHA256:",
        "none": "file: has no signature",
    }.get(change, "file: wrong signature: changed after it was signed, or not signed by SHA256:")
    assert str(refusal.value).startswith(wanted)
    assert refusal.value.exit_code == 5


def test_a_second_look_may_leave_out_the_numbers(tmp_path: Path, make_contribution: Make) -> None:
    made = make_contribution()
    assert made.statistics is not None
    broken = replace(made, statistics=replace(made.statistics, image_gram=np.full(10, np.nan)))
    write_contribution(tmp_path / "c", broken)
    content = (tmp_path / "c").read_bytes()
    with pytest.raises(InputError, match="c: `image_gram` has NaN"):
        parse_contribution(content, "c")
    assert parse_contribution(content, "c", thorough=False).id == broken.id


# --- writing -----------------------------------------------------------------------------------------------

FULL_DISK = """
import sys
from pathlib import Path
from fedmed_edge.errors import FedmedError
from fedmed_edge.statistics.contribution import read_contribution, write_contribution

source, target = map(Path, sys.argv[1:])
try:
    write_contribution(target, read_contribution(source))
except FedmedError as error:
    print(error, error.hint, sep="\\n")
"""


def test_a_full_disk_leaves_nothing_and_the_old_file_whole(tmp_path: Path, make_contribution: Make) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    source, target = tmp_path / "source", folder / "target"
    write_contribution(source, make_contribution())
    target.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(source), str(target)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.splitlines() == [
        f"{target}: cannot be written: File too large",
        "check that the folder exists, is writable and has room, then run it again",
    ]
    assert target.read_bytes() == b"old"
    assert list(folder.iterdir()) == [target]


def test_a_missing_folder_is_named(tmp_path: Path, make_contribution: Make) -> None:
    with pytest.raises(InputError, match="missing/c: cannot be written: No such file or directory"):
        write_contribution(tmp_path / "missing" / "c", make_contribution())
