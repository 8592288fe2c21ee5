"""Counts by day, and agreement with radiologists."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.listener.comparison import against, by_day, compare
from fedmed_edge.listener.journal import Answer, Instance, Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite")
    answers = [("dark", True), ("bright", False), ("dark", None), ("bright", True)]
    for number, (label, known) in enumerate(answers):
        uid = f"1.{number}"
        made.receive(
            Instance(
                f"{uid}.1", uid, uid, f"A-{number}", f"P-{number}", "CT1", Path(f"{number}.dcm"), "ab", 1
            )
        )
        made.settle(uid)
        job = made.take_job()
        assert job is not None
        made.finish_job(job, "done", answers=[Answer(label, known)])
    made._execute("UPDATE answers SET day = '2026-01-01' WHERE accession = 'A-0'")
    made._execute("INSERT INTO jobs (state, queued_at, reason) VALUES ('skipped', 0, 'no volume')")
    yield made
    made.close()


def test_days_count_labels_and_what_is_known(journal: Journal) -> None:
    first, second = by_day(journal)
    assert (first.day, first.labels, first.known_share) == ("2026-01-01", {"dark": 1}, 1.0)
    assert (second.labels, second.known, second.unlike) == ({"bright": 2, "dark": 1}, 1, 1)


@pytest.mark.parametrize(
    ("by", "keys"), [("AccessionNumber", "A-"), ("PatientID", "P-"), ("StudyInstanceUID", "1.")]
)
def test_answers_are_compared_with_given_labels(journal: Journal, tmp_path: Path, by: str, keys: str) -> None:
    table = tmp_path / "labels.csv"
    rows = [("0", "dark"), ("1", "dark"), ("3", "bright"), ("9", "dark")]
    table.write_text(f"\ufeff{by},label\n" + "".join(f"{keys}{key},{label}\n" for key, label in rows))
    found = against(journal, table, by)
    assert found.pairs == {("dark", "dark"): 1, ("dark", "bright"): 1, ("bright", "bright"): 1}
    assert (found.agreeing, found.unmatched) == (2, 1)
    document, lines = compare(journal, table, by)
    assert document["agreement"]["agreeing"] == 2
    assert document["not_answered"] == {"skipped: no volume": 1}
    assert "2 of 3 answers agree with labels.csv" in lines
    assert "1 skipped: no volume" in lines


def test_a_series_that_failed_is_named_until_it_is_answered(journal: Journal) -> None:
    def job(state: str, reason: str | None) -> None:
        journal._execute("UPDATE series SET fresh = 1 WHERE series_uid = '1.2'")
        journal.settle("1.2")
        taken = journal.take_job()
        assert taken is not None
        journal.finish_job(taken, state, reason=reason)

    job("failed", "series: pixel data are broken")
    document, lines = compare(journal, None, "AccessionNumber")
    (failed,) = document["failed"]
    assert failed["StudyInstanceUID"] == "1.2" and failed["reason"] == "series: pixel data are broken"
    assert "failed: AccessionNumber A-2, series 1.2" in lines
    job("done", None)
    assert compare(journal, None, "AccessionNumber")[0]["failed"] == []


def test_a_table_without_its_columns_is_refused(journal: Journal, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("study,finding\n")
    with pytest.raises(
        InputError, match=r"labels\.csv: columns are .*, expected one named `AccessionNumber`"
    ):
        against(journal, table, "AccessionNumber")
    table.write_text("Accession Number;Label\nA0;\n")
    with pytest.raises(InputError, match=r"labels\.csv: no row has a `label`"):
        against(journal, table, "AccessionNumber")
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        against(journal, tmp_path / "none.csv", "AccessionNumber")
