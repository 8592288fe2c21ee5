"""Generation files made by somebody who means harm: each is refused by name, with its own reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from fedmed_edge.errors import InputError
from fedmed_edge.features import backbones
from fedmed_edge.generation import (
    METADATA_KEY,
    NETWORKS,
    Generation,
    parse_generation,
    read_generation,
)
from fedmed_edge.tensorfile import tensor_file

Values = dict[str, Any]


def encoder(size: tuple[int, ...], widths: tuple[int, ...]) -> bytes:
    def port(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width, *size])

    names = [f"scale{index}" for index in range(len(widths))]
    nodes = [
        helper.make_node("Concat", ["image"] * width, [name], axis=1)
        for name, width in zip(names, widths, strict=True)
    ]
    outputs = [port(name, width) for name, width in zip(names, widths, strict=True)]
    model = helper.make_model(helper.make_graph(nodes, "g", [port("image", 1)], outputs))
    content: bytes = model.SerializeToString()
    return content


def header() -> Values:
    return {
        "format_version": 1,
        "kind": "segmentation",
        "channels": 1,
        "size": [8, 8],
        "backbone": {"network": "unet", "widths": [2, 4], "arguments": {}},
        "widths": [1, 3],
        "lift_dim": 2,
        "seed": 7,
        "trained_by": ["a", "b"],
    }


def tensors() -> dict[str, np.ndarray]:
    """F0 = 4, F = 3, L = 2."""
    random = np.random.default_rng(0)
    return {
        "weights/stem": np.ones((2, 2), np.float32),
        "encoder": np.frombuffer(encoder((8, 8), (1, 3)), np.uint8),
        "mean": np.zeros(4, np.float32),
        "deviation": np.ones(4, np.float32),
        "projection": random.normal(size=(4, 3)).astype(np.float32),
        "lift_weight": random.normal(size=(3, 2)).astype(np.float32),
        "lift_bias": np.zeros(2, np.float32),
        "reference_mean": np.zeros(3),
        "reference_covariance": np.eye(3),
    }


def file_of(said: object, held: dict[str, np.ndarray]) -> bytes:
    return tensor_file(held, METADATA_KEY, said if isinstance(said, str) else json.dumps(said))


def assert_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "hostile.generation"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read_generation(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert str(refusal.value).isprintable()


def test_the_unchanged_file_is_taken() -> None:
    content = file_of(header(), tensors())
    read = parse_generation(content, "g")
    assert (read.row_dim, read.feature_dim, read.draft) == (6, 3, False)
    assert isinstance(read, Generation) and read.content == content
    np.testing.assert_array_equal(read.weights["stem"], np.ones((2, 2)))


# --- header ------------------------------------------------------------------------------------------------

FIELDS: dict[str, tuple[str, object, str]] = {
    "another version": ("format_version", 2, "`format_version`"),
    "unknown field": ("comment", "free text", "unknown key `comment`"),
    "unknown kind": ("kind", "detection", "`kind`"),
    "no channel": ("channels", 0, "`channels`"),
    "two channels": ("channels", 2, "`channels`"),
    "one side": ("size", [8], "`size` has a length of 1, expected a length of at least 2"),
    "a side of nothing": ("size", [8, 0], "`size.1` has 0, expected at least 1"),
    "a giant side": ("size", [8, 1 << 40], "`size.1` has 1099511627776, expected at most 1024"),
    "a giant volume": ("size", [1024, 1024, 1024], "`size` has 1073741824 elements, expected at most"),
    "no scale": ("widths", [], "`widths` has a length of 0, expected a length of at least 1"),
    "an empty scale": ("widths", [1, 0], "`widths.1` has 0, expected at least 1"),
    "a wide scale": ("widths", [1, 1 << 20], "`widths.1` has 1048576, expected at most 8191"),
    "wide scales": ("widths", [8000, 192], "widths: have 8192 channels, expected at most 8191"),
    "negative lift": ("lift_dim", -1, "`lift_dim`"),
    "wide lift": ("lift_dim", 1024, "`lift_dim` has 1024, expected less than 1024"),
    "negative seed": ("seed", -1, "`seed`"),
    "giant seed": ("seed", 1 << 60, "`seed`"),
    "a site that is a path": ("trained_by", ["../a"], "`trained_by.0` has ../a, expected 1 to 64"),
    "a site twice": ("trained_by", ["a", "a"], "`trained_by` has a name twice"),
    "unknown network": (
        "backbone",
        {"network": "os.system", "widths": [2], "arguments": {}},
        "`backbone` has an unknown network 'os.system'",
    ),
    "a network that writes to the terminal": (
        "backbone",
        {"network": "\x1b[2J", "widths": [2], "arguments": {}},
        r"`backbone` has an unknown network '\\x1b\[2J'",
    ),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_header_field_that_is_not_as_it_must_be_is_refused(tmp_path: Path, case: str) -> None:
    name, value, message = FIELDS[case]
    assert_refused(tmp_path, file_of(header() | {name: value}, tensors()), message)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("[]", "header is no JSON object"),
        ("{", "header is no JSON, or nested too deep"),
        ('{"seed":' + "[" * 100_000, "header is no JSON, or nested too deep"),
        (json.dumps(header())[:-1] + ',"seed":8}', "header has the key `seed` twice"),
        ('{"\x1b[2J":1}', "header is no JSON|not printable"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, said: str, message: str) -> None:
    assert_refused(tmp_path, file_of(said, tensors()), message)


def test_the_known_networks_are_those_that_can_be_built() -> None:
    known = [*backbones._OWN, *backbones._FAMILIES, "resnet10", "resnet200", "DenseNet264"]
    assert all(NETWORKS.fullmatch(name) for name in known)
    for name in ("resnet1", "resnet", "SwinUNETR", "UNetx", "", "DenseNet1"):
        assert not NETWORKS.fullmatch(name)
        with pytest.raises(InputError, match="network"):
            backbones._monai_builder(name)


# --- tensors -----------------------------------------------------------------------------------------------


def put(name: str, value: object) -> Callable[[dict[str, np.ndarray]], None]:
    """The tensor with another first value."""

    def change(held: dict[str, np.ndarray]) -> None:
        held[name] = held[name].copy()
        held[name].flat[0] = value

    return change


def swap(name: str, value: np.ndarray | None) -> Callable[[dict[str, np.ndarray]], None]:
    """Another tensor in its place, or none."""

    def change(held: dict[str, np.ndarray]) -> None:
        held.pop(name, None)
        if value is not None:
            held[name] = value

    return change


def lopsided(held: dict[str, np.ndarray]) -> None:
    held["reference_covariance"] = np.array([[2.0, 1, 0], [0, 2, 0], [0, 0, 2]])


TENSORS: dict[str, tuple[Callable[[dict[str, np.ndarray]], None], str]] = {
    **{
        f"NaN in {name}": (put(name, np.nan), f"`{name}` has NaN or Inf, expected finite values")
        for name in tensors()
        if name != "encoder"
    },
    **{
        f"giant {name}": (
            put(name, 3e38),
            f"`{name}` has a value of 3e\\+38, expected at most 1e\\+{30 if 'covariance' in name else 15}",
        )
        for name in tensors()
        if name != "encoder"
    },
    **{
        f"no {name}": (swap(name, None), f"has no tensor `{name}`")
        for name in ("encoder", "mean", "deviation", "lift_weight", "lift_bias")
    },
    "half a reference": (swap("reference_mean", None), "has half a reference Gaussian"),
    "unknown tensor": (swap("pixels", np.zeros(3)), "unknown tensor `pixels`"),
    "no deviation": (put("deviation", 0), "`deviation` has 0, expected at least 1e-15"),
    "negative deviation": (put("deviation", -1), "`deviation` has -1, expected at least 1e-15"),
    "tiny deviation": (put("deviation", 1e-30), "`deviation` has 1e-30, expected at least 1e-15"),
    "another dtype": (swap("mean", np.zeros(4)), "`mean` has float64 values, expected float32"),
    "more axes": (swap("mean", np.zeros((4, 1), np.float32)), "`mean` has 2 axes, expected 1"),
    "a flat projection": (swap("projection", np.zeros(4, np.float32)), "`projection` has 1 axes, expected 2"),
    "another projection": (
        swap("projection", np.zeros((5, 3), np.float32)),
        r"`projection` has shape \(5, 3\), expected \(4, 3\)",
    ),
    "another lift": (
        swap("lift_weight", np.zeros((3, 5), np.float32)),
        r"`lift_weight` has shape \(3, 5\), expected \(3, 2\)",
    ),
    "lopsided reference": (lopsided, "`reference_covariance` is not symmetric"),
    "indefinite reference": (put("reference_covariance", -1), "`reference_covariance` is not positive"),
    "flat reference": (put("reference_covariance", 0), "`reference_covariance` is not positive definite"),
    "an encoder of numbers": (swap("encoder", np.zeros(4)), "`encoder` has float64 values, expected"),
    "an encoder that is none": (swap("encoder", np.zeros(9, np.uint8)), "`encoder` is no ONNX model"),
    "another encoder": (
        swap("encoder", np.frombuffer(encoder((8, 9), (1, 3)), np.uint8)),
        r"`encoder` takes image \(1, 1, 8, 9\), expected image \(1, 1, 8, 8\) float32",
    ),
    "an encoder of other maps": (
        swap("encoder", np.frombuffer(encoder((8, 8), (1, 2)), np.uint8)),
        r"`encoder` gives .*, expected 2 maps",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_a_tensor_that_is_not_as_it_must_be_is_refused(tmp_path: Path, case: str) -> None:
    change, message = TENSORS[case]
    held = tensors()
    change(held)
    assert_refused(tmp_path, file_of(header(), held), message)


def test_rows_that_are_too_wide_are_refused(tmp_path: Path) -> None:
    wide = 1022
    held = tensors() | {
        "encoder": np.frombuffer(encoder((8, 8), (1, wide - 1)), np.uint8),
        "mean": np.zeros(wide, np.float32),
        "deviation": np.ones(wide, np.float32),
        "lift_weight": np.zeros((wide, 2), np.float32),
        "reference_mean": np.zeros(wide),
        "reference_covariance": np.eye(wide),
    }
    del held["projection"]
    said = header() | {"widths": [1, wide - 1]}
    assert_refused(tmp_path, file_of(said, held), "rows have width 1025, expected at most 1024")


# --- anything ----------------------------------------------------------------------------------------------

CONTENT = file_of(header(), tensors())


@settings(max_examples=300)
@given(st.integers(0, len(CONTENT) - 1), st.binary(min_size=1, max_size=16))
def test_any_damage_is_read_or_refused_and_never_crashes(place: int, patch: bytes) -> None:
    try:
        parse_generation(CONTENT[:place] + patch + CONTENT[place + len(patch) :], "damaged")
    except InputError as refusal:
        assert str(refusal).startswith("damaged: ")


@pytest.mark.parametrize("kept", [0, 7, 40, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, kept: int) -> None:
    assert_refused(tmp_path, CONTENT[:kept], "cut off: ")
