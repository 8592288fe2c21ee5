"""`results.csv`: one row for each input and task, kept through runs that share an output folder."""

import csv
import io
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from fedmed_edge.atomic import locked, write_atomic
from fedmed_edge.errors import InputError

TABLE = "results.csv"
COLUMNS = (
    *("input", "output", "task", "label", "mask", "probabilities", "known", "distance", "threshold"),
    *("model", "model_file_sha256", "device", "seconds", "warnings", "error"),
    *("study", "series", "volumes_ml", "areas_mm2", "generation", "hint"),
)
# Tables that earlier versions wrote end before these.
_FIRST_COLUMNS = 15
_LOCK = ".results.lock"

Row = dict[str, str]


def row_of(document: Mapping[str, Any]) -> Row:
    """A result's document as a row of texts."""
    values = {name: document.get(name) for name in COLUMNS}
    for name in ("probabilities", "volumes_ml", "areas_mm2"):
        values[name] = json.dumps(values[name]) if values[name] else None
    values["warnings"] = "; ".join(document["warnings"])
    values["known"] = {True: "yes", False: "no", None: None}[document["known"]]
    return {name: "" if value is None else str(value) for name, value in values.items()}


def check_table(folder: Path) -> None:
    """Say at once where nothing could be written at the end.

    Raises:
        InputError: The folder cannot be written, or holds a table of other columns.
    """
    with locked(folder / _LOCK):
        _read(folder / TABLE)


def merge_rows(folder: Path, added: Iterable[Row], gone: Collection[tuple[str, str]] = ()) -> None:
    """Write rows; one of the same input and task is replaced.

    Args:
        gone: Input and task of rows that are taken out, where they are there.

    Raises:
        InputError: The table cannot be read or written.
    """
    with locked(folder / _LOCK):
        rows = {(row["input"], row["task"]): row for row in [*_read(folder / TABLE), *added]}
        rows = {key: row for key, row in rows.items() if key not in gone}
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())
        write_atomic(folder / TABLE, text.getvalue().encode("utf-8", "backslashreplace"))


def _read(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns = tuple(reader.fieldnames or ())
            if len(columns) < _FIRST_COLUMNS or columns != COLUMNS[: len(columns)]:
                raise InputError(
                    f"{path}: has columns {','.join(columns)}, expected {','.join(COLUMNS)}",
                    hint="choose another output folder",
                )
            return [{name: row.get(name) or "" for name in COLUMNS} for row in reader]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="choose another output folder") from None
