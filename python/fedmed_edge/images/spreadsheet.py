"""A hospital's table of labels: CSV as spreadsheets save it, whatever the separator and encoding."""

import csv
import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmed_edge.atomic import read_regular
from fedmed_edge.errors import InputError
from fedmed_edge.images.labels import BYTES_CAP, ROWS_CAP
from fedmed_edge.words import counted

_SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class LabelRow:
    """One row.

    Attributes:
        line: In the file, from 1.
        key: What names the study or patient.
        label: Class name; empty where there is none.
        split: `train`, `test` or empty.
    """

    line: int
    key: str
    label: str
    split: str


def read_labels(path: Path, *, by: str, label: str) -> list[LabelRow]:
    r"""Read a table of labels.

    Commas, semicolons, tabs and bars separate; UTF-8, UTF-16 and Windows-1252 are told apart. Names of
    columns count without blanks, underscores and case: `Accession Number` is AccessionNumber.

    Args:
        by: Name of the column that names the study or patient.
        label: Name of the column with the class; `label` may be missing.

    Raises:
        InputError: The file is no such table, lacks the column `by` or another `label`, has a row of
            another length, a key twice with different labels, a split that is none, or no row.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = path.write_text("Accession Number;Finding\nA1;benign\n")
        >>> read_labels(path, by="AccessionNumber", label="finding")[0].label
        'benign'
    """
    text = _decoded(path)
    first = text.partition("\n")[0]
    if not first.strip():
        raise InputError(f"{path}: table has no line of column names")
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(_SEPARATORS, key=first.count), strict=True
    )
    rows: list[LabelRow] = []
    try:
        columns = [name.strip() for name in next(reader)]
        places = _places(path, columns, by, label)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                wide = counted(len(cells), "column")
                raise InputError(f"{path}: row {reader.line_num} has {wide}, expected {len(columns)}")
            if len(rows) == ROWS_CAP:
                raise InputError(f"{path}: table has more than {ROWS_CAP} rows")
            key, own, split = (cells[at].strip() if at is not None else "" for at in places)
            rows.append(_row(path, reader.line_num, key, own, split))
    except csv.Error as error:
        raise InputError(f"{path}: not a readable CSV file: {error}") from None
    if not rows:
        raise InputError(f"{path}: table has no rows")
    return _distinct(path, rows)


def _row(path: Path, line: int, key: str, label: str, split: str) -> LabelRow:
    if not key:
        raise InputError(f"{path}: row {line} names no study or patient")
    if split.lower() not in ("", "train", "test"):
        raise InputError(f"{path}: row {line}: `split` has `{split}`, expected train, test or empty")
    return LabelRow(line, key, label, split.lower())


def _decoded(path: Path) -> str:
    content = read_regular(path, BYTES_CAP)
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InputError(f"{path}: is a spreadsheet, expected a CSV file", hint="save it as CSV")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # What spreadsheets in western Europe and America save; every byte but five is a letter of it.
        text = content.decode("cp1252", "replace")
    if "\0" in text:
        raise InputError(f"{path}: is no text, expected a CSV file")
    return text


def _places(path: Path, columns: Sequence[str], by: str, label: str) -> tuple[int, int | None, int | None]:
    plain = [_plain(name) for name in columns]
    if len(set(plain)) != len(plain):
        raise InputError(f"{path}: a column occurs twice among {', '.join(columns)}")
    found = []
    for wanted in (by, label, "split"):
        found.append(plain.index(_plain(wanted)) if _plain(wanted) in plain else None)
    key, own, split = found
    if key is None:
        near = difflib.get_close_matches(_plain(by), plain, n=1)
        hint = (
            f"did you mean `{columns[plain.index(near[0])]}`? Rename it, or use another --by"
            if near
            else None
        )
        raise InputError(f"{path}: columns are {', '.join(columns)}, expected one named `{by}`", hint=hint)
    if own is None and _plain(label) != "label":
        raise InputError(f"{path}: columns are {', '.join(columns)}, expected one named `{label}`")
    return key, own, split


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _distinct(path: Path, rows: list[LabelRow]) -> list[LabelRow]:
    """Each key once; the same row twice is one."""
    first: dict[str, LabelRow] = {}
    for row in rows:
        earlier = first.setdefault(row.key, row)
        if (earlier.label, earlier.split) != (row.label, row.split):
            # The row numbers say enough: an id does not belong in a message.
            raise InputError(
                f"{path}: rows {earlier.line} and {row.line} have the same key and different labels"
            )
    return list(first.values())
