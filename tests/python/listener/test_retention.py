"""What goes after its days, or before the disk is full, and what never goes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmed_edge.listener.comparison import by_day
from fedmed_edge.listener.incoming import Incoming
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
