"""What goes after its days, or before the disk is full, and what never goes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kits import load

from fedmed_edge.listener.comparison import by_day
from fedmed_edge.listener.incoming import Incoming, Outcome
from fedmed_edge.listener.journal import Answer, Instance, Journal
from fedmed_edge.listener.retention import Retention
from fedmed_edge.listening import Listen


class World:
    """A journal with series in all states, and the files that belong to them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.journal = folder, Journal(folder / "journal.sqlite")
        self.incoming = Incoming(folder / "incoming", self.journal, 0)
        self.retention = Retention(Listen(retain_days=7), self.journal, self.incoming)

    def add(self, series_uid: str, state: str, days: float) -> Path:
        path = self.incoming.folder / "1" / series_uid / "1.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"pixels")
        self.journal.receive(Instance(f"{series_uid}.1", series_uid, "1", "A-1", "P-1", "CT1", path, "ab", 6))
        if state != "fresh":
            self.journal.settle(series_uid)
        if state not in ("fresh", "queued"):
            job = self.journal.take_job()
            assert job is not None and job.series_uid == series_uid
            out = self.folder / "results" / str(job.job)
            out.mkdir(parents=True)
            (out / "result.json").write_text("{}")
            going = [("A", out / "sr.dcm", None)] if state in ("sent", "pending") else []
            if state != "running":
                self.journal.finish_job(
                    job,
                    "failed" if state == "failed" else "done",
                    folder=out,
                    answers=[Answer("dark", True)],
                    made={out / "sr.dcm": f"9.{series_uid}"},
                    deliveries=going,
                )
        if state == "sent":
            (one,) = self.journal.take_deliveries(["A"], 0)
            self.journal.end_delivery(one, "sent")
        age = days * 86400
        self.journal._execute(
            "UPDATE series SET received_at = received_at - ? WHERE series_uid = ?", age, series_uid
        )
        self.journal._execute(
            "UPDATE jobs SET finished_at = finished_at - ? WHERE series_uid = ?", age, series_uid
        )
        return path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.journal.close()


@pytest.mark.parametrize("state", ["sent", "done", "failed", "pending"])
def test_what_is_over_its_days_goes_and_its_count_stays(world: World, state: str) -> None:
    old, young = world.add("1.2", state, 8), world.add("1.3", state, 6)
    assert world.retention.purge() == 1
    assert not old.parent.exists() and young.exists()
    assert [path.name for path in (world.folder / "results").iterdir()] == ["2"]
    assert world.journal._rows("SELECT series_uid FROM series") == [("1.3",)]
    assert (
        world.journal._rows("SELECT study_uid, accession, patient FROM answers ORDER BY job")[0]
        == (None,) * 3
    )
    assert by_day(world.journal)[0].labels == {"dark": 2}
    assert world.journal._rows("SELECT count(*) FROM deliveries WHERE state = 'expired'") == [(0,)]


@pytest.mark.parametrize("state", ["fresh", "queued", "running"])
def test_what_is_not_answered_yet_stays(world: World, state: str) -> None:
    path = world.add("1.2", state, 80)
    assert world.retention.purge() == 0
    assert path.exists()


def test_a_full_disk_takes_images_at_rest_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ["sent", "done", "pending", "queued", "fresh"]
    paths = {state: world.add(f"1.{number}", state, 1) for number, state in enumerate(states)}
    monkeypatch.setattr(world.incoming, "watermark", 1 << 60)
    assert world.retention.purge() == 3
    assert {state for state, path in paths.items() if path.exists()} == {"pending", "queued", "fresh"}
    # of results, those that have arrived
    assert [path.name for path in sorted((world.folder / "results").iterdir())] == ["2", "3"]
    assert world.retention.purge() == 0
    assert world.journal._rows("SELECT count(*) FROM instances") == [(3,)]


def test_leftovers_of_broken_associations_go_after_an_hour(world: World) -> None:
    import os

    for name, age in (("old", 4000), ("new", 10)):
        file = world.incoming.receiving / name
        file.write_bytes(b"half")
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    world.retention.purge()
    assert [path.name for path in world.incoming.receiving.iterdir()] == ["new"]


def late(world: World, series_uid: str, number: int) -> Instance:
    """Another instance of a series, its file in place."""
    path = world.incoming.folder / "1" / series_uid / f"{number}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"pixels")
    return Instance(f"{series_uid}.{number}", series_uid, "1", "A-1", "P-1", "CT1", path, "cd", 6)


@pytest.mark.parametrize("watermark", [0, 1 << 60])
def test_a_series_that_grows_while_others_are_deleted_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, watermark: int
) -> None:
    old, grown = world.add("1.2", "done", 8), world.add("1.3", "done", 8)
    asked = world.journal.at_rest

    def at_rest(before: float) -> list[str]:
        found = asked(before)
        if "1.3" in found:  # deleting the first takes its time, and is not over when an instance comes
            world.journal.receive(late(world, "1.3", 2))
        return found

    monkeypatch.setattr(world.journal, "at_rest", at_rest)
    monkeypatch.setattr(world.incoming, "watermark", watermark)
    assert world.retention.purge() == 1
    assert not old.exists() and grown.exists() and grown.with_name("2.dcm").exists()
    assert world.journal.fresh() == {"1.3"} and world.journal.instances_of("1.3") == 2


def test_an_instance_that_comes_again_while_its_series_goes_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kit = load("end_to_end/pacs.py")
    series = kit.write_series(tmp_path / "ct", 1)
    path = tmp_path / "ct" / "0000.dcm"
    assert world.incoming.take(path, "CT1")[0] is Outcome.STORED
    world.journal.settle(series)
    job = world.journal.take_job()
    assert job is not None
    world.journal.finish_job(job, "done")
    noted, gone = world.journal.receive, []

    def receive(one: Instance) -> bool:
        # compared with what is there, but not noted yet
        monkeypatch.setattr(world.incoming, "watermark", 1 << 60)
        gone.append(world.retention.purge())
        return noted(one)

    monkeypatch.setattr(world.journal, "receive", receive)
    assert world.incoming.take(path, "CT1")[0] is Outcome.STORED
    (file,) = world.journal.paths_of(series)
    assert gone == [1] and file.read_bytes() == path.read_bytes()
    assert world.journal.fresh() == {series}


def test_what_came_before_and_is_gone_is_counted_until_it_comes_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("1.2", "done", 1)
    monkeypatch.setattr(world.incoming, "watermark", 1 << 60)
    assert world.retention.purge() == 1
    world.journal.receive(late(world, "1.2", 2))
    world.journal.settle("1.2")
    job = world.journal.take_job()
    assert job is not None and (len(job.files), job.missing) == (1, 1)
    world.journal.receive(late(world, "1.2", 1))
    world.journal.finish_job(job, "skipped")
    world.journal.settle("1.2")
    job = world.journal.take_job()
    assert job is not None and (len(job.files), job.missing) == (2, 0)
