"""States and what a restart makes of them."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.listener.journal import Answer, Instance, Job, Journal, open_journal

Receive = Callable[..., bool]
JobOf = Callable[..., Job]


@pytest.fixture
def receive(journal: Journal) -> Receive:
    def receive(sop_uid: str, series_uid: str = "1.2", *, sha256: str = "ab") -> bool:
        path = Path(f"{sop_uid}.dcm")
        return journal.receive(Instance(sop_uid, series_uid, "1", "A-1", "P-1", "CT1", path, sha256, 10))

    return receive


@pytest.fixture
def job_of(journal: Journal, receive: Receive) -> JobOf:
    def job_of(sop_uid: str, series_uid: str = "1.2") -> Job:
        """What is to be answered once this instance came and its series settled."""
        assert receive(sop_uid, series_uid)
        journal.settle(series_uid)
        job = journal.take_job()
        assert job is not None
        return job

    return job_of


def states(journal: Journal) -> list[str]:
    return [state for (state,) in journal._rows("SELECT state FROM jobs ORDER BY job")]


def test_a_series_is_answered_once_it_has_settled_and_again_when_it_grew(
    journal: Journal, receive: Receive
) -> None:
    assert receive("1.2.1") and receive("1.2.2")
    assert not receive("1.2.2")
    assert journal.fresh() == {"1.2"}
    assert journal.take_job() is None
    journal.settle("1.2")
    journal.settle("1.2")
    assert (journal.fresh(), states(journal)) == (set(), ["queued"])
    first = journal.take_job()
    assert first is not None
    assert [path.name for path in first.files] == ["1.2.1.dcm", "1.2.2.dcm"]
    assert receive("1.2.3")
    journal.finish_job(first, "done", answers=[Answer("dark", True)])
    journal.settle("1.2")
    second = journal.take_job()
    assert second is not None
    assert len(second.files) == 3 and second.instances != first.instances
    assert states(journal) == ["done", "running"]


def test_a_series_that_grows_again_waits_and_is_answered_once(journal: Journal, receive: Receive) -> None:
    receive("1.2.1")
    journal.settle("1.2")
    receive("1.2.2")
    assert journal.take_job() is None
    journal.settle("1.2")
    job = journal.take_job()
    assert job is not None and len(job.files) == 2
    assert states(journal) == ["running"]


def test_the_oldest_goes_first(journal: Journal, receive: Receive) -> None:
    for series in ("1.3", "1.2"):
        receive(f"{series}.1", series)
        journal.settle(series)
    job = journal.take_job()
    assert job is not None and job.series_uid == "1.3"


def test_what_ran_when_the_node_ended_runs_again_three_times_at_most(
    journal: Journal, receive: Receive
) -> None:
    receive("1.2.1")
    journal.settle("1.2")
    for _ in range(3):
        assert journal.take_job() is not None
        journal.requeue()
    assert states(journal) == ["failed"]
    assert journal.take_job() is None
    # the same instance again has it answered again
    assert not receive("1.2.1")
    journal.settle("1.2")
    job = journal.take_job()
    assert job is not None
    journal.give_back(job)
    assert states(journal) == ["failed", "queued"]


def test_a_job_is_sent_once_nothing_of_it_waits(journal: Journal, job_of: JobOf) -> None:
    job = job_of("1.2.1")
    made = {Path("seg.dcm"): "9.1", Path("sr.dcm"): "9.2", Path("sc.dcm"): "9.3"}
    going = [("A", Path("seg.dcm"), Path("sc.dcm")), ("A", Path("sr.dcm"), None), ("B", Path("sr.dcm"), None)]
    journal.finish_job(job, "done", made=made, deliveries=going)
    assert all(journal.is_ours(uid) for uid in made.values()) and not journal.is_ours("1.2.1")
    assert journal.take_deliveries(["C"], 10) == []
    seg, sr = journal.take_deliveries(["A", "B"], 10)
    assert (seg.path, seg.fallback, seg.attempts, sr.fallback) == (Path("seg.dcm"), Path("sc.dcm"), 1, None)
    (other,) = journal.take_deliveries(["A", "B"], 10)
    assert other.destination == "B"
    # leased: nobody else takes them
    assert journal.take_deliveries(["A", "B"], 10) == []
    journal.end_delivery(seg, "sent")
    journal.end_delivery(sr, "refused", "its class is not taken there")
    journal.postpone(other, 0.0, "does not answer")
    assert states(journal) == ["done"]
    (again,) = journal.take_deliveries(["B"], 10)
    assert again.attempts == 2
    journal.end_delivery(again, "sent")
    assert states(journal) == ["sent"]


def test_an_object_goes_to_a_destination_once(journal: Journal, job_of: JobOf) -> None:
    for number in (1, 2):
        job = job_of(f"1.2.{number}")
        path = Path(f"{number}/sr.dcm")
        journal.finish_job(job, "done", made={path: "9.9"}, deliveries=[("A", path, None)])
    assert [one.path for one in journal.take_deliveries(["A"], 10)] == [Path("1/sr.dcm")]


def test_what_waits_for_a_destination_that_is_away_waits_together(journal: Journal, job_of: JobOf) -> None:
    for series in ("1.2", "1.3"):
        job = job_of(f"{series}.1", series)
        path = Path(f"{series}.dcm")
        journal.finish_job(job, "done", made={path: f"9.{series}"}, deliveries=[("A", path, None)])
    (first,) = journal.take_deliveries(["A"], 10)
    journal.postpone(first, 60, "does not answer")
    journal.postpone_all("A", 60)
    assert journal.take_deliveries(["A"], 10) == []
    assert journal.next_due(["A"]) is not None and journal.next_due(["B"]) is None
    journal.hurry()
    assert len(journal.take_deliveries(["A"], 10)) == 1


def test_a_journal_of_a_newer_release_or_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no journal\.sqlite"):
        open_journal(tmp_path)
    path = tmp_path / "journal.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(InputError, match=r"journal\.sqlite: `version` has 2, expected at most 1"):
        Journal(path)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"journal\.sqlite: cannot be opened: file is not a database"):
        Journal(path)


def test_what_waits_for_a_destination_that_is_no_longer_named_goes_to_the_others(
    journal: Journal, job_of: JobOf
) -> None:
    job = job_of("1.2.1")
    path = Path("sr.dcm")
    journal.finish_job(job, "done", made={path: "9.9"}, deliveries=[("typo", path, None), ("B", path, None)])
    assert journal.readdress(["B", "C"]) == 1
    for to in ("B", "C"):
        (one,) = journal.take_deliveries([to], 10)
        assert one.path == path
    assert not journal.take_deliveries(["typo"], 10) and journal.readdress(["B", "C"]) == 0


def test_a_job_that_partly_arrived_is_sent_once_the_rest_is_given_up(journal: Journal, job_of: JobOf) -> None:
    job = job_of("1.2.1")
    path = Path("sr.dcm")
    journal.finish_job(job, "done", made={path: "9.9"}, deliveries=[("A", path, None), ("B", path, None)])
    (one,) = journal.take_deliveries(["A"], 10)
    journal.end_delivery(one, "sent")
    assert states(journal) == ["done"]
    assert journal.expire(time.time() + 1) == 1
    assert states(journal) == ["sent"]
