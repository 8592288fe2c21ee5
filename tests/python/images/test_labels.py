"""`labels.csv`, row by row."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fedmed_edge.errors import InputError
from fedmed_edge.images.labels import Row, listed_file, read_table, split_of, split_rows


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_are_read_with_their_line(tmp_path: Path) -> None:
    path = table(tmp_path, '\ufeffimage,label,site note\r\n a.png , benign,x\r\n\r\n"b,1.png",,\r\n')
    assert read_table(path) == [
        Row(2, "a.png", "benign", "", "", ""),
        Row(4, "b,1.png", "", "", "", ""),
    ]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "labels.csv: columns are none, expected one named `image`", None),
        ("image,label\n", "labels.csv: table has no rows", None),
        ("file,label\na,b\n", "columns are file, label, expected one named `image`", None),
        (
            "image;label\na;b\n",
            "labels.csv: columns are separated by semicolons, expected commas",
            "set that to a comma",
        ),
        ("image\tlabel\na\tb\n", "columns are separated by tabs, expected commas", "LibreOffice"),
        ("bild;befund\na;b\n", "columns are separated by semicolons, expected commas", None),
        ("image,lable\na,b\n", "labels.csv: unknown column `lable`", "did you mean `label`"),
        ("Image,label\na,b\n", "labels.csv: unknown column `Image`", "did you mean `image`"),
        ("image,label,label\na,b,c\n", "a column occurs twice among image, label, label", None),
        ("image,label\na,b\nc\n", "labels.csv: row 3 has 1 column, expected 2", None),
        ("image,label\na,b,c\n", "labels.csv: row 2 has 3 columns, expected 2", None),
        ('image,label\n"a,b\n', "labels.csv: not a readable CSV file: unexpected end of data", None),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str, hint: str | None) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        read_table(table(tmp_path, text))
    assert hint is None or hint in str(refusal.value.hint)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("latin-1", "labels.csv: is not in UTF-8$"),
        ("utf-16", "labels.csv: is in UTF-16, expected UTF-8$"),
        ("utf-16-be", "labels.csv: is in UTF-16, expected UTF-8$"),
    ],
)
def test_another_encoding_is_refused(tmp_path: Path, encoding: str, message: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    with pytest.raises(InputError, match=message) as refusal:
        read_table(table(tmp_path, f"{mark}image\nbefund_\u00fc.png\n", encoding))
    assert "`CSV UTF-8 (Comma delimited)`" in str(refusal.value.hint)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_a_spreadsheet_is_refused(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "labels.csv").write_bytes(start + bytes(100))
    with pytest.raises(InputError, match=r"labels.csv: is a spreadsheet, expected a CSV file in UTF-8"):
        read_table(tmp_path / "labels.csv")


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.csv: no such file"):
        read_table(tmp_path / "gone.csv")


def test_too_many_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmed_edge.images.labels.ROWS_CAP", 2)
    with pytest.raises(InputError, match=r"labels.csv: table has more than 2 rows"):
        read_table(table(tmp_path, "image\na\nb\nc\n"))


def rows(*cells: tuple[str, str]) -> list[Row]:
    return [
        Row(number, f"{number}.png", "", "", patient, split)
        for number, (patient, split) in enumerate(cells, 2)
    ]


def test_a_stated_split_holds_for_all_images_of_its_patient() -> None:
    found = split_rows(Path("t"), rows(("p", ""), ("p", "test"), ("q", "train"), ("q", ""), ("", "test")))
    assert found == [("p", "test"), ("p", "test"), ("q", "train"), ("q", "train"), ("6.png", "test")]


def test_a_patient_on_both_sides_is_refused_without_naming_them() -> None:
    with pytest.raises(InputError, match=r"^t: patient of row 4 is in `test`, in row 2 in `train`$"):
        split_rows(Path("t"), rows(("Smith", "train"), ("q", "test"), ("Smith", "test")))


def test_another_split_is_refused() -> None:
    with pytest.raises(InputError, match=r"^t: row 2: `split` has `val`, expected train, test or empty$"):
        split_rows(Path("t"), rows(("p", "val")))


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30))
def test_an_empty_split_is_the_patients_own_whatever_the_order(patients: list[str]) -> None:
    forward = split_rows(Path("t"), rows(*((patient, "") for patient in patients)))
    backward = split_rows(Path("t"), rows(*((patient, "") for patient in reversed(patients))))
    assert dict(forward) == dict(backward) == {patient: split_of(patient) for patient in patients}


def test_three_in_ten_patients_are_held_out() -> None:
    held_out = sum(split_of(f"patient {number}") == "test" for number in range(4000))
    assert 0.27 < held_out / 4000 < 0.33


def test_a_file_is_found_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "..a.png").touch()
    for name in ("images/..a.png", "images\\..a.png", "./images/x/../..a.png"):
        assert listed_file(tmp_path / "labels.csv", 2, "image", name) == tmp_path / "images" / "..a.png"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "row 7 has no `mask`"),
        ("gone.png", "row 7: mask `gone.png` does not exist"),
        ("../a.png", r"row 7: mask `../a.png` lies outside the folder"),
        ("x/../../a.png", "lies outside the folder"),
        ("..", "lies outside the folder"),
        ("/etc/passwd", "row 7: mask `/etc/passwd` lies outside the folder"),
        ("..\\a.png", "lies outside the folder"),
        ("C:\\a.png", "lies outside the folder"),
        ("a\0.png", "lies outside the folder"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        listed_file(tmp_path / "labels.csv", 7, "mask", name)
