"""Contribution files made by somebody who means harm: each is refused by name, with its own reason."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed_edge.errors import FedmedError, InputError, TrustError
from fedmed_edge.signing import generate_key, read_public_key
from fedmed_edge.statistics.contribution import parse_contribution, read_contribution
from fedmed_edge.statistics.reading import FILE_CAP, METADATA_KEY
from fedmed_edge.tensorfile import HEADER_CAP

GOLDEN = Path(__file__).parents[1] / "formats" / "contribution_1.safetensors"
CONTENT = GOLDEN.read_bytes()
DATA_START = 8 + int.from_bytes(CONTENT[:8], "little")
Table = dict[str, Any]


def table() -> Table:
    """The file's header as the attacker sees it."""
    loaded: Table = json.loads(CONTENT[8:DATA_START])
    return loaded


def file_of(header: Table | bytes, data: bytes = CONTENT[DATA_START:]) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_claims(change: Callable[[Table], object]) -> bytes:
    """The golden file with another header of ours, written as canonically as its writer would."""
    header = table()
    claims = json.loads(header["__metadata__"][METADATA_KEY])
    change(claims)
    text = json.dumps(claims, sort_keys=True, separators=(",", ":"))
    header["__metadata__"][METADATA_KEY] = text
    return file_of(header)


def with_tensor(name: str, change: Callable[[np.ndarray], None]) -> bytes:
    """The golden file with other numbers in one tensor."""
    entry = table()[name]
    begin, end = (DATA_START + place for place in entry["data_offsets"])
    dtype = {"F64": "<f8", "I64": "<i8", "F32": "<f4"}[entry["dtype"]]
    values = np.frombuffer(CONTENT[begin:end], dtype).reshape(entry["shape"]).copy()
    change(values)
    return CONTENT[:begin] + values.tobytes() + CONTENT[end:]


def with_entry(name: str, **fields: object) -> bytes:
    header = table()
    header[name] = {**header[name], **fields}
    return file_of(header)


def assert_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "hostile.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read_contribution(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert str(refusal.value).isprintable()


def test_the_unchanged_file_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "good"
    file.write_bytes(file_of(table()))
    assert read_contribution(file).header.site == "alpha"


# --- layout ------------------------------------------------------------------------------------------------

LAYOUT = {
    "empty": (b"", "cut off: has 0 bytes"),
    "a few bytes": (CONTENT[:7], "cut off: has 7 bytes"),
    "cut in the header": (CONTENT[:100], "cut off: header has 92 bytes, expected"),
    "cut in the tensors": (CONTENT[:-1], r"cut off: tensors have \d+ bytes, expected \d+"),
    "trailing bytes": (CONTENT + b"x", "has 1 bytes after its last tensor"),
    "giant header": (
        struct.pack("<Q", 1 << 62) + CONTENT[8:],
        "header has 4611686018427387904 bytes, expected 2 to 1048576",
    ),
    "header over its cap": (
        file_of(b" " * (HEADER_CAP + 1)),
        "header has 1048577 bytes, expected 2 to 1048576",
    ),
    "header of nothing": (struct.pack("<Q", 0), "header has 0 bytes"),
    "no JSON": (file_of(b"{]"), "header is no JSON"),
    "no text": (file_of(b'{"\xff": 1}'), "header is no JSON"),
    "nested deep": (file_of(b'{"a":' + b"[" * 400_000), "header is no JSON, or nested too deep"),
    "a giant number": (file_of(b'{"a":' + b"9" * 100_000 + b"}"), "header is no JSON"),
    "a list": (file_of(b"[]"), "header is no JSON object"),
    "duplicate tensor": (
        file_of(CONTENT[8:DATA_START].rstrip()[:-1] + b',"patients":{}}'),
        "header has the key `patients` twice",
    ),
    "a key that writes to the terminal": (
        file_of(b'{"\\u001b[2J": 1}'),
        "header has a key that is longer than 256 or not printable",
    ),
    "a key of 300 letters": (file_of({"a" * 300: 1}), "header has a key that is longer than 256"),
    "no metadata": (file_of({}), f"not a contribution file: `__metadata__` has no `{METADATA_KEY}` alone"),
    "other metadata": (
        file_of({"__metadata__": {METADATA_KEY: "{}", "note": "free text"}}),
        "not a contribution",
    ),
}


@pytest.mark.parametrize("case", LAYOUT)
def test_a_file_of_another_layout_is_refused(tmp_path: Path, case: str) -> None:
    assert_refused(tmp_path, *LAYOUT[case])


def test_a_file_over_the_cap_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as sparse:
        sparse.truncate(FILE_CAP + 1)
    with pytest.raises(InputError, match=f"has {FILE_CAP + 1} bytes, expected at most {FILE_CAP}"):
        read_contribution(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing: no such file"):
        read_contribution(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_contribution(tmp_path)
    with pytest.raises(InputError, match="not a file"):
        read_contribution(Path("/dev/zero"))


# --- tensors: names, dtypes, shapes, offsets ---------------------------------------------------------------


def swapped() -> bytes:
    header = table()
    header["class_counts"]["data_offsets"] = header["patients"]["data_offsets"]
    return file_of(header)


def shifted() -> bytes:
    header = table()
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"] = [place + 8 for place in entry["data_offsets"]]
    return file_of(header, b"\0" * 8 + CONTENT[DATA_START:])


def without(name: str) -> bytes:
    header = table()
    del header[name]
    return file_of(header)


def renamed(name: str, other: str) -> bytes:
    header = table()
    header[other] = header.pop(name)
    return file_of(header)


ENTRIES = {
    "wrong dtype": (
        with_entry("class_grams", dtype="F32"),
        "`class_grams` has dtype F32, expected F64",
    ),
    "floating counts": (
        with_entry("class_counts", dtype="F64"),
        "`class_counts` has dtype F64, expected I64",
    ),
    "dtype that writes to the terminal": (with_entry("patients", dtype="\x1b[2J"), "`patients` has no dtype"),
    "wrong shape": (
        with_entry("class_sums", shape=[2, 8]),
        r"`class_sums` has shape \[2, 8\], expected \[4, 4\]",
    ),
    "an axis more": (
        with_entry("channel_moments", shape=[3, 2, 1]),
        r"`channel_moments` has shape \[3, 2, 1\], expected \[3, any\]",
    ),
    "negative side": (with_entry("class_sums", shape=[-4, -4]), "`class_sums` has a shape that is none"),
    "a side that is true": (
        with_entry("class_sums", shape=[True, 4]),
        "`class_sums` has a shape that is none",
    ),
    "a side of 2^70": (
        with_entry("style_sum", shape=[1 << 70, 0, 0]),
        "`style_sum` has a shape that is none",
    ),
    "forty axes": (with_entry("weights/stem.weight", shape=[1] * 40), "has a shape that is none"),
    "shape and bytes": (
        with_entry("style_sum", shape=[1, 3, 5]),
        "`style_sum` has 72 bytes, expected 120",
    ),
    "negative offsets": (
        with_entry("patients", data_offsets=[-32, 0]),
        "`patients` has offsets that are none",
    ),
    "reversed offsets": (
        with_entry("patients", data_offsets=[64, 32]),
        "`patients` has -32 bytes, expected 32",
    ),
    "overlapping offsets": (
        swapped(),
        "`class_counts` begins at byte 32, expected 0|`patients` begins at byte",
    ),
    "a gap": (shifted(), "begins at byte 8, expected 0"),
    "fields more": (with_entry("patients", note="text"), "`patients` expected dtype, shape and data_offsets"),
    "missing tensor": (without("patients"), "has no tensor `patients`"),
    "missing weights": (without("weights/stem.weight"), "has no tensor `weights/…`"),
    "unknown tensor": (renamed("patients", "pixels"), "unknown tensor `pixels`"),
    "a path as a name": (
        renamed("weights/stem.weight", "weights/../../etc"),
        "unknown tensor `weights/../../etc`",
    ),
    "too many tensors": (
        file_of({**table(), **{f"weights/{n}": {} for n in range(5000)}}),
        "has 5014 tensors, expected at most 4096",
    ),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_a_tensor_that_is_not_as_it_must_be_is_refused(tmp_path: Path, case: str) -> None:
    assert_refused(tmp_path, *ENTRIES[case])


def test_a_part_that_the_header_does_not_list_is_refused(tmp_path: Path) -> None:
    def hide(claims: Table) -> None:
        claims["header"]["parts"].remove("weights")

    assert_refused(tmp_path, with_claims(hide), "unknown tensor `weights/stem.weight`, or of a part that")


# --- header fields -----------------------------------------------------------------------------------------

FIELDS: dict[str, tuple[str, object, str]] = {
    "another version": ("format_version", 2, "`format_version` has 2, expected 1"),
    "a version that writes to the terminal": ("format_version", "\x1b[2J", r"has '\\x1b\[2J', expected 1"),
    "unknown field": ("comment", "free text", "unknown key `comment`"),
    "a digest that is a path": (
        "generation",
        "../../etc/passwd",
        "`generation` has ../../etc/passwd, expected text like",
    ),
    "a site that is a path": ("site", "../alpha", "`site` has ../alpha, expected 1 to 64"),
    "a task that is text": ("task", "a b", "`task` has a b, expected 1 to 64"),
    "sequence zero": ("sequence", 0, "`sequence` has 0, expected at least 1"),
    "negative sequence": ("sequence", -1, "`sequence` has -1, expected at least 1"),
    "a sequence that is text": ("sequence", "7", "header is not in canonical form"),
    "a giant sequence": ("sequence", 1 << 60, "`sequence` has 1152921504606846976, expected at most"),
    "unknown part": ("parts", ["classes", "pixels"], "`parts.1`"),
    "parts out of order": ("parts", ["style", "classes"], "`parts` has .* expected an order as in"),
    "no parts": ("parts", [], "`parts`"),
    "three folds": ("folds", 3, "`folds`"),
    "other folds": ("folds", 2, r"`class_grams` has shape \[5, 4, 10\], expected \[2, 4, 10\]"),
    "a mode of its own": ("mode", "approximate", "`mode`"),
    "no classes": ("classes", [], "`classes`"),
    "1001 classes": ("classes", [str(n) for n in range(1001)], "`classes`"),
    "a class twice": ("classes", ["a", "a", "b", "c"], "`classes`: has a name twice"),
    "a class of 65 letters": ("classes", ["a" * 65, "b", "c", "d"], "`classes`: expected names of 1 to 64"),
    "a class that writes to the terminal": ("classes", ["\x1b", "b", "c", "d"], "`classes`: expected names"),
    "absent but unknown": ("absent", ["other"], "`absent` has a name that is not in `classes`"),
    "absent with rows": (
        "absent",
        ["malignant", "unseen"],
        "class `malignant` has rows, expected none of an",
    ),
    "a width of 8193": ("row_dim", 8193, "`row_dim`"),
    "another width": ("row_dim", 5, "expected"),
    "no width": ("row_dim", 0, "`row_dim` and `feature_dim` are expected with sums"),
    "a larger cohort than it kept": (
        "min_cohort",
        5,
        "class `malignant` has 4 patients, expected at least 5",
    ),
    "privacy of its own": ("privacy", {"epsilon": -1}, "`privacy.epsilon`"),
    "evidence of its own": ("evidence", {"note": "free text"}, "unknown key `evidence.note`"),
    "evidence that is text": (
        "evidence",
        {"versions": {"python": "see http://x"}},
        "`evidence.versions.python`",
    ),
    "metric named by text": ("evidence", {"metrics": {"a b": 1.0}}, "`evidence.metrics.a b"),
    "evidence of an absent class": (
        "evidence",
        {"patients": {"unseen": 1}},
        "class that is absent or unknown",
    ),
    "evidence that disagrees": (
        "evidence",
        {"patients": {"benign": 11}},
        "`evidence.patients` of class `benign` has 11, expected 10",
    ),
    "defaults written out": ("privacy", None, "header is not in canonical form"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_header_field_that_is_not_as_it_must_be_is_refused(tmp_path: Path, case: str) -> None:
    name, value, message = FIELDS[case]

    def change(claims: Table) -> None:
        claims["header"][name] = value

    assert_refused(tmp_path, with_claims(change), message)


def test_a_class_without_rows_that_is_not_told_to_be_absent_is_refused(tmp_path: Path) -> None:
    content = with_claims(lambda claims: claims["header"].pop("absent"))
    assert_refused(tmp_path, content, "class `unseen` has no rows, expected it in `absent`")


def test_a_metric_that_is_no_number_is_refused(tmp_path: Path) -> None:
    def change(claims: Table) -> None:
        claims["header"]["evidence"] = {"metrics": {"auc": float("nan")}}

    assert_refused(tmp_path, with_claims(change), r"`evidence.metrics.auc` has nan, expected a finite number")


def test_a_header_key_twice_is_refused(tmp_path: Path) -> None:
    header = table()
    text = header["__metadata__"][METADATA_KEY]
    header["__metadata__"][METADATA_KEY] = text.replace('"site":"alpha"', '"site":"alpha","site":"beta"')
    assert_refused(tmp_path, file_of(header), "header has the key `site` twice")


def test_another_spelling_of_the_same_header_is_refused(tmp_path: Path) -> None:
    header = table()
    text = header["__metadata__"][METADATA_KEY]
    header["__metadata__"][METADATA_KEY] = text.replace('"site":"alpha"', '"site": "alpha"')
    assert_refused(tmp_path, file_of(header), "header is not in canonical form")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("signature", "no base64", "`signature` has 0 bytes, expected 64"),
        ("signature", "AAAA", "`signature` has 3 bytes, expected 64"),
        ("signature", 7, "`signature` has 0 bytes, expected 64"),
        ("signer", "somebody", "`signer` is no fingerprint"),
        ("note", "free text", "expected `header`, `signature` and `signer`"),
        ("header", "text", "expected `header`, `signature` and `signer`"),
    ],
)
def test_claims_that_are_none_are_refused(tmp_path: Path, name: str, value: object, message: str) -> None:
    assert_refused(tmp_path, with_claims(lambda claims: claims.update({name: value})), message)


# --- numbers -----------------------------------------------------------------------------------------------


def put(place: Any, value: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[place] = value

    return change


def indefinite(array: np.ndarray) -> None:
    # 1e-8 of the trace below zero, counts and sums untouched
    gram = array[0, 0]
    gram[1] = np.sqrt(gram[0] * gram[4]) * 1.01


def a_block_of_nobody(array: np.ndarray) -> None:
    array[0, 3, 0] = 1.0


NUMBERS: dict[str, tuple[str, Callable[[np.ndarray], None], str]] = {
    "NaN": ("class_grams", put((0, 0, 0), np.nan), "`class_grams` has NaN or Inf, expected finite values"),
    "Inf in the weights": (
        "weights/stem.weight",
        put((0, 0), np.inf),
        "`weights/stem.weight` has NaN or Inf",
    ),
    "indefinite": (
        "class_grams",
        indefinite,
        "`class_grams` fold 0 class `benign` is indefinite: below -1e-09 of its trace",
    ),
    "negative diagonal": ("image_gram", put(0, -1.0), "`image_gram` is indefinite"),
    "overflow": (
        "image_gram",
        put((0,), 1.7e308),
        "`image_gram` has values too large for sums of float32 rows",
    ),
    "negative count": (
        "class_counts",
        put(0, -20),
        "`class_counts` of class `benign` is negative: -20",
    ),
    "negative patients": ("patients", put(1, -4), "`patients` of class `malignant` is negative: -4"),
    "negative count in a Gram": (
        "rest_grams",
        put((2, 9), -6),
        "count of `rest_grams` class `rare` is negative: -6",
    ),
    "half a row": (
        "unlabelled_gram",
        put(9, 1.5),
        "count of `unlabelled_gram` has 1.5, expected a whole number",
    ),
    "Gram and counts": (
        "class_counts",
        put(0, 21),
        "`class_counts` of class `benign` has 21, its grams have 20",
    ),
    "Gram and sums": (
        "class_sums",
        put((0, 0), 0.5),
        "`class_sums` of class `benign` disagree with the last column of its grams",
    ),
    "values of nobody": (
        "class_grams",
        a_block_of_nobody,
        "`class_grams` fold 0 class `unseen` has values, expected zeros for a count of 0",
    ),
    "one patient": ("patients", put(1, 1), "class `malignant` has 1 patients, expected at least 2"),
    "more patients than rows": ("patients", put(1, 9), "class `malignant` has 9 patients and 8 rows"),
    "no patients": ("patients", put(1, 0), "class `malignant` has 0 patients and 8 rows"),
    "patients of nobody": ("patients", put(3, 3), "class `unseen` has 3 patients and 0 rows"),
    "distances": ("distance_moments", put(2, 0.0), "`distance_moments` has a sum of squares too small"),
    "negative squares": (
        "channel_moments",
        put((2, 0), -1),
        "`channel_moments` has a sum of squares too small",
    ),
    "channel count": ("channel_moments", put((0, 0), 1.5), "count of `channel_moments` has 1.5"),
    "style": ("style_square", put((0, 0, 0), 0.0), "`style_square` has a sum of squares too small"),
    "negative style count": ("style_count", put(0, -1), "count of `style_square` is negative: -1"),
    "calibration": ("calibration", put((0, 5), -1), "`calibration` has counts that are negative or differ"),
    "calibration counts": (
        "calibration",
        put((3, 1), 9),
        "`calibration` has counts that are negative or differ",
    ),
    "half a count": ("calibration", put((slice(None), 1), 1.5), "count of `calibration` has 1.5"),
    "more validation rows than rows": (
        "calibration",
        put((slice(None), 1), 35),
        "`calibration` counts 35 rows, expected at most the 34 of `class_counts`",
    ),
    "half a right answer": (
        "calibration",
        put((3, 31), 3.5),
        "`calibration` has right answers that are no whole number",
    ),
    "more right answers than rows": (
        "calibration",
        put((3, 20), 1),
        "`calibration` has sums too large for the rows it counts",
    ),
    "more than certain": (
        "calibration",
        put((3, 16), 4.5),
        "`calibration` has sums too large for the rows it counts",
    ),
    "a loss that would overflow": (
        "calibration",
        put((3, 0), 1.7e308),
        "`calibration` has sums too large for the rows it counts",
    ),
    "an off-diagonal that would overflow": (
        "image_gram",
        put(1, -1.7e308),
        "`image_gram` has values too large for sums of float32 rows",
    ),
    "a trace of nothing": ("image_gram", put(3, -1e6), "`image_gram` is indefinite"),
    "no image": ("image_gram", put(slice(None), 0), "`image_gram` has no image, expected at least 1"),
    "fewer images than patients": (
        "image_gram",
        put(5, 16),
        "`image_gram` has 16 images of at least 17 patients",
    ),
    "more images than it has": (
        "image_gram",
        put(5, 18),
        "`image_gram` has 18 images, `evidence.images` only 17",
    ),
    "distances of other images": (
        "distance_moments",
        put(0, 18),
        "`distance_moments` has 18 images, expected 17 as `image_gram`",
    ),
    "negative distances": (
        "distance_moments",
        put(1, -1),
        "`distance_moments` has sums that no squared distances have",
    ),
    "squares beyond the distances": (
        "distance_moments",
        put(2, 1e30),
        "`distance_moments` has sums that no squared distances have",
    ),
    "distances that would overflow": (
        "distance_moments",
        put(2, 1.7e308),
        "`distance_moments` has sums too large for what they count",
    ),
    "channels that would overflow": (
        "channel_moments",
        put((1, 0), -1.7e308),
        "`channel_moments` has sums too large for what they count",
    ),
    "channels of fewer values than images": (
        "channel_moments",
        put((0, 1), 16),
        "`channel_moments` counts 16 values, expected at least 17, one an image",
    ),
    "style of other images": ("style_count", put(0, 18), "`style_count` has 18 images, expected 17"),
    "style that would overflow": (
        "style_square",
        put((0, 0, 0), 1.7e308),
        "`style_square` has sums too large for what they count",
    ),
    "weights that would overflow": (
        "weights/stem.weight",
        put((0, 0), 3e38),
        r"`weights/stem.weight` has a value of 3e\+38, expected at most 1e\+15",
    ),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, case: str) -> None:
    name, change, message = NUMBERS[case]
    assert_refused(tmp_path, with_tensor(name, change), message)


def test_squares_of_another_shape_than_their_sums_are_refused(tmp_path: Path) -> None:
    content = with_entry("style_square", shape=[1, 9, 1])
    assert_refused(tmp_path, content, r"`style_square` has shape \(1, 9, 1\), expected \(1, 3, 3\)")


def test_rounding_within_the_bound_is_taken(tmp_path: Path) -> None:
    def change(array: np.ndarray) -> None:
        array[0, 0, 0] -= 1e-10 * array[0, 0, [0, 4, 7, 9]].sum()

    file = tmp_path / "rounded"
    file.write_bytes(with_tensor("class_grams", change))
    assert read_contribution(file).header.site == "alpha"


# --- signature ---------------------------------------------------------------------------------------------


def test_every_change_that_passes_the_checks_breaks_the_signature(tmp_path: Path) -> None:
    key = read_public_key(GOLDEN.with_suffix(".pub"))
    changes = [
        with_claims(lambda claims: claims["header"].update({"site": "beta"})),
        with_claims(lambda claims: claims["header"].update({"sequence": 8})),
        with_claims(lambda claims: claims["header"].update({"evidence": {"seed": 1}})),
        with_tensor("weights/stem.weight", put((0, 0), 1.0)),
    ]
    for number, content in enumerate(changes):
        file = tmp_path / str(number)
        file.write_bytes(content)
        assert read_contribution(file) is not None
        with pytest.raises(
            TrustError, match="wrong signature: changed after it was signed, or not signed by"
        ):
            read_contribution(file, verify_key=key)


def test_a_signature_of_somebody_else_is_not_trusted() -> None:
    with pytest.raises(TrustError, match=r"signed by SHA256:\S+, expected SHA256:") as refusal:
        read_contribution(GOLDEN, verify_key=generate_key().public_key())
    assert refusal.value.exit_code == 5


def test_a_file_without_signature_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "unsigned"
    file.write_bytes(with_claims(lambda claims: [claims.pop(name) for name in ("signature", "signer")]))
    with pytest.raises(TrustError, match="unsigned: has no signature"):
        read_contribution(file, verify_key=read_public_key(GOLDEN.with_suffix(".pub")))


# --- anything ----------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.integers(0, len(CONTENT) - 1), st.binary(min_size=1, max_size=16))
def test_any_damage_is_read_or_refused_and_never_crashes(place: int, patch: bytes) -> None:
    content = CONTENT[:place] + patch + CONTENT[place + len(patch) :]
    try:
        parse_contribution(content, "damaged", verify_key=read_public_key(GOLDEN.with_suffix(".pub")))
    except FedmedError as refusal:
        assert str(refusal).startswith("damaged: ")
    else:
        assert content == CONTENT


@given(st.binary(max_size=300))
def test_any_header_is_refused_and_never_crashes(text: bytes) -> None:
    with pytest.raises(InputError, match=r"^x: "):
        parse_contribution(file_of(text), "x")
