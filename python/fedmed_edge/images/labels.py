"""What a dataset folder lists: the table `labels.csv` or class folders, and the split of the patients."""

import csv
import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmed_edge.atomic import open_regular
from fedmed_edge.errors import InputError
from fedmed_edge.words import counted

BYTES_CAP = 1 << 28
ROWS_CAP = 1_000_000
TEST_SHARE = 0.3
COLUMNS = ("image", "label", "mask", "patient", "split")

# Files that lie beside images in a class folder and are none.
_BYSTANDERS = {".txt", ".csv", ".json", ".xml", ".md", ".ini", ".db", ".log", ".toml"}

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}
_AS_UTF_8 = "save it as CSV in UTF-8; in Excel: Save as, `CSV UTF-8 (Comma delimited)`"
_WITH_COMMAS = (
    "Excel writes the list separator of the system's region: set that to a comma and save again, or "
    "save it from LibreOffice with the comma as field separator"
)

Split = Literal["train", "test"]
_SPLITS: dict[str, Split] = {"train": "train", "test": "test"}


@dataclass(frozen=True)
class Row:
    """One row as it stands, blanks around its cells removed; a missing column is empty."""

    line: int
    image: str
    label: str
    mask: str
    patient: str
    split: str


def read_table(table: Path) -> list[Row]:
    """Read a table of images.

    Raises:
        InputError: The file is no CSV in UTF-8 with commas, has no column `image`, a column that looks
            misspelt, a row of another length, no row at all or more than a million.
    """
    try:
        _check_encoding(table)
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            _check_columns(table, columns)
            rows: list[Row] = []
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(columns):
                    wide = counted(len(cells), "column")
                    raise InputError(f"{table}: row {reader.line_num} has {wide}, expected {len(columns)}")
                if len(rows) == ROWS_CAP:
                    raise InputError(f"{table}: table has more than {ROWS_CAP} rows")
                named = dict(zip(columns, cells, strict=True))
                rows.append(Row(reader.line_num, *(named.get(column, "").strip() for column in COLUMNS)))
    except OSError as error:
        raise InputError(f"{table}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{table}: is not in UTF-8", hint=_AS_UTF_8) from None
    except csv.Error as error:
        raise InputError(f"{table}: not a readable CSV file: {error}") from None
    if not rows:
        raise InputError(f"{table}: table has no rows")
    return rows


def _check_encoding(table: Path) -> None:
    """What spreadsheets save when they are not asked for CSV in UTF-8."""
    with open_regular(table, BYTES_CAP) as (file, _):
        start = file.read(4)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{table}: is in UTF-16, expected UTF-8", hint=_AS_UTF_8)
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InputError(f"{table}: is a spreadsheet, expected a CSV file in UTF-8", hint=_AS_UTF_8)


def _check_columns(table: Path, columns: list[str]) -> None:
    for mark, said in _OTHER_SEPARATORS.items():
        if len(columns) == 1 and mark in columns[0]:
            raise InputError(f"{table}: columns are separated by {said}, expected commas", hint=_WITH_COMMAS)
    for name in columns:
        nearest = difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.75)
        if nearest and name not in COLUMNS:
            raise InputError(f"{table}: unknown column `{name}`", hint=f"did you mean `{nearest[0]}`?")
    if "image" not in columns:
        raise InputError(f"{table}: columns are {', '.join(columns) or 'none'}, expected one named `image`")
    if len(set(columns)) != len(columns):
        raise InputError(f"{table}: a column occurs twice among {', '.join(columns)}")


def split_rows(table: Path, rows: list[Row]) -> list[tuple[str, Split]]:
    """Patient and split of every row.

    A row without a patient id is its own patient, named by its image. Rows with an empty split follow the
    other rows of their patient, else a hash of the patient id holds out 30 % of the patients.

    Raises:
        InputError: A split is none of train, test and empty, or a patient is on both sides.
    """
    sides: dict[str, tuple[Split, int]] = {}
    patients = [row.patient or row.image for row in rows]
    for row, patient in zip(rows, patients, strict=True):
        if not row.split:
            continue
        if row.split not in _SPLITS:
            raise InputError(
                f"{table}: row {row.line}: `split` has `{row.split}`, expected train, test or empty"
            )
        side, first = sides.setdefault(patient, (_SPLITS[row.split], row.line))
        if side != row.split:
            # The row numbers say enough: a patient id does not belong in a message.
            raise InputError(
                f"{table}: patient of row {row.line} is in `{row.split}`, in row {first} in `{side}`"
            )
    return [(patient, sides[patient][0] if patient in sides else split_of(patient)) for patient in patients]


def split_of(patient: str) -> Split:
    """The side that the hash of a patient id falls on: the same at every reading and in every folder.

    Example:
        >>> split_of("a"), split_of("b")
        ('train', 'test')
    """
    fraction = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) / 2**64
    return "test" if fraction < TEST_SHARE else "train"


def listed_file(table: Path, line: int, column: str, name: str) -> Path:
    """The file or folder that a row names, relative to the folder of its table.

    Raises:
        InputError: The cell is empty, leads outside the folder or names nothing that is there.
    """
    if not name:
        raise InputError(f"{table}: row {line} has no `{column}`")
    relative = os.path.normpath(name.replace("\\", "/"))
    # By name alone: a link that the hospital itself laid to its archive may lead elsewhere.
    if relative == ".." or relative.startswith(("../", "/")) or relative[1:2] == ":" or "\0" in relative:
        raise InputError(f"{table}: row {line}: {column} `{name[:200]}` lies outside the folder")
    path = table.parent / relative
    try:
        there = path.exists()
    except OSError:
        there = False
    if not there:
        raise InputError(f"{table}: row {line}: {column} `{name[:200]}` does not exist")
    return path


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Folders that hold images directly, by name: their files and DICOM series folders, sorted.

    Whether a file is an image is told by its name alone; reading it tells for certain.
    """
    found = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            files = [path for path in sorted(child.iterdir()) if _may_be_image(path)]
            if files:
                found[child.name] = files
    return found


def _may_be_image(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(inner.is_file() for inner in path.iterdir())
    return path.suffix.lower() not in _BYSTANDERS
