"""What the node would have said, by day and label, and against radiologists' labels where they are given.

For the time before `send = true`: the results lie on the disk, nobody has seen them, and this table tells
whether they may be shown.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed_edge.errors import InputError
from fedmed_edge.images.spreadsheet import read_labels
from fedmed_edge.listener.journal import Journal, open_journal
from fedmed_edge.listening import LabelKey
from fedmed_edge.words import counted


@dataclass(frozen=True)
class Day:
    """One day of results: label → how many, and how many images were like those of the sites."""

    day: str
    labels: dict[str, int]
    known: int
    unlike: int

    @property
    def known_share(self) -> float | None:
        """Known among those where the model can tell."""
        told = self.known + self.unlike
        return self.known / told if told else None


@dataclass(frozen=True)
class Agreement:
    """Answers against given labels.

    Attributes:
        pairs: (given label, answered label) → how many.
        unmatched: Rows of the file without an answer.
    """

    pairs: dict[tuple[str, str], int]
    unmatched: int

    @property
    def agreeing(self) -> int:
        """How many answers are the given label."""
        return sum(count for (given, answered), count in self.pairs.items() if given == answered)


def by_day(journal: Journal) -> list[Day]:
    """Counts of every day, the earliest first; also of days whose studies are purged."""
    days: dict[str, list[tuple[str, int | None, int]]] = {}
    for day, label, known, count in journal.answers_by_day():
        days.setdefault(day, []).append((label, known, count))
    return [
        Day(
            day,
            dict(sum((Counter({label: count}) for label, _, count in rows), Counter())),
            sum(count for _, known, count in rows if known == 1),
            sum(count for _, known, count in rows if known == 0),
        )
        for day, rows in days.items()
    ]


def against(journal: Journal, labels: Path, by: LabelKey) -> Agreement:
    """Compare with a table that has the column `by` and one called `label`.

    A study with several answers counts with each of them.

    Raises:
        InputError: The file is no such table.
    """
    given = {row.key: row.label for row in read_labels(labels, by=by, label="label") if row.label}
    if not given:
        raise InputError(f"{labels}: no row has a `label`")
    answers = journal.answers_by(by)
    pairs = Counter((given[key], label) for key, label in answers if key in given)
    answered = {key for key, _ in answers}
    return Agreement(dict(pairs), sum(key not in answered for key in given))


def compare_folder(folder: Path, labels: Path | None, by: LabelKey) -> tuple[dict[str, Any], list[str]]:
    """The whole report over a node's folder, as JSON values and as lines for people.

    Raises:
        InputError: There is no journal, or the table of labels is none.
    """
    journal = open_journal(folder)
    try:
        return compare(journal, labels, by)
    finally:
        journal.close()


def compare(journal: Journal, labels: Path | None, by: LabelKey) -> tuple[dict[str, Any], list[str]]:
    """The same of a journal that is open."""
    days, lost = by_day(journal), journal.not_answered()
    document: dict[str, Any] = {
        "days": [
            {"day": one.day, "labels": one.labels, "known": one.known, "unlike": one.unlike} for one in days
        ],
        "not_answered": lost,
        "failed": journal.failed(),
    }
    lines = [
        f"{one.day}  "
        + ", ".join(f"{label or 'answered'} {count}" for label, count in one.labels.items())
        + ("" if one.known_share is None else f"  known {one.known_share:.0%}")
        for one in days
    ] or ["no series was answered yet"]
    lines += [f"{count} {reason}" for reason, count in lost.items()]
    lines += [
        f"failed: AccessionNumber {one['AccessionNumber'] or 'none'}, series {one['SeriesInstanceUID']}"
        for one in document["failed"]
    ]
    if labels is not None:
        found = against(journal, labels, by)
        total = sum(found.pairs.values())
        document["agreement"] = {
            "compared": total,
            "agreeing": found.agreeing,
            "pairs": [
                {"given": given, "answered": answered, "count": count}
                for (given, answered), count in sorted(found.pairs.items())
            ],
            "unmatched": found.unmatched,
        }
        lines.append(f"{found.agreeing} of {counted(total, 'answer')} agree with {labels.name}")
        lines += [f"  {given} answered as {said}: {n}" for (given, said), n in sorted(found.pairs.items())]
        lines += [f"  rows without an answer: {found.unmatched}"]
    return document, lines
