"""From the last slice to the result, whatever the model's process does."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest

from fedmed_edge.inference.models import activate, add_model
from fedmed_edge.listener.answering import Answering
from fedmed_edge.listener.incoming import Incoming
from fedmed_edge.listener.journal import Instance, Journal
from fedmed_edge.listener.worker_process import WorkerProcess
from fedmed_edge.listening import Listen

SiteOf = Callable[..., Any]


def worker_of(site: Any) -> int:
    """Process id of the model's process; 0 where there is none."""
    children = Path(f"/proc/{site.process.pid}/task/{site.process.pid}/children")
    threads = Path(f"/proc/{site.process.pid}/task").glob("*/children")
    found = [pid for one in {children, *threads} for pid in one.read_text().split()]
    return int(found[0]) if found else 0


def sockets_of(pid: int) -> set[str]:
    """Local ends of a process's TCP and UDP sockets, as the kernel writes them."""
    links = [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6", "udp", "udp6")]
    rows = [line.split() for one in tables if one.exists() for line in one.read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[9] in inodes}


def write_all_but_the_last(pacs: ModuleType, folder: Path) -> Path:
    """Eleven slices of a volume in a folder, and the twelfth beside it."""
    pacs.write_series(folder, 12, side=24)
    return (folder / "0011.dcm").rename(folder.with_name("late.dcm"))


def test_a_late_slice_is_a_new_result_and_the_same_again_is_none(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path
) -> None:
    site = site_of(dimensions=3).start()
    late = write_all_but_the_last(pacs, tmp_path / "ct")
    for sent, states in (
        (tmp_path / "ct", ["done"]),
        (late, ["done", "done"]),
        (tmp_path / "ct", ["done", "done"]),
    ):
        assert pacs.send(site.port, sent) == 0
        assert site.idle()
        assert site.states() == states
    segs = [pydicom.dcmread(path) for path in sorted((site.base / "results").rglob("seg.dcm"))]
    assert [len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) for seg in segs] == [11, 12]
    assert len({seg.SOPInstanceUID for seg in segs}) == 2
    # in shadow mode
    assert site.rows("SELECT count(*) FROM deliveries") == [(0,)]
    assert not (site.base / "running").exists()
    assert site.run("listen", "--report").stdout.split()[1:] == ["dark", "2", "known", "100%"]
    # restarted, nothing is answered again
    site.stop()
    site.start()
    assert site.idle()
    assert site.states() == ["done", "done"]


def test_a_late_slice_of_a_volume_that_is_no_longer_here_makes_no_result(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path
) -> None:
    site = site_of(dimensions=3).start()
    late = write_all_but_the_last(pacs, tmp_path / "ct")
    assert pacs.send(site.port, tmp_path / "ct") == 0
    assert site.idle()
    site.stop()
    for file in (site.base / "incoming").rglob("*.dcm"):
        file.unlink()
    site.start()
    for sent, states in (
        (late, ["done", "skipped"]),
        (tmp_path / "ct", ["done", "skipped", "done"]),
    ):
        assert pacs.send(site.port, sent) == 0
        assert site.idle()
        assert site.states() == states
    told = "11 of its images are no longer here: send the series again"
    assert site.rows("SELECT reason FROM jobs WHERE state = 'skipped'") == [(told,)]


def test_a_node_keeps_inner_empty_frames_where_told(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path
) -> None:
    site = site_of(dimensions=3, seg_keep_empty=True).start()
    pacs.write_series(tmp_path / "ct", 16, side=16, value=20)
    for number in (4, 9):
        path = tmp_path / "ct" / f"{number:04}.dcm"
        one = pydicom.dcmread(path)
        one.PixelData = b"\xfa\0" * 256
        one.save_as(path)
    assert pacs.send(site.port, tmp_path / "ct") == 0
    assert site.idle()
    (path,) = (site.base / "results").rglob("seg.dcm")
    seg = pydicom.dcmread(path)
    places = [one.PlanePositionSequence[0] for one in seg.PerFrameFunctionalGroupsSequence]
    assert sorted(float(place.ImagePositionPatient[2]) for place in places) == [4, 5, 6, 7, 8, 9]
    assert seg.pixel_array.any(axis=(1, 2)).tolist() == [True, False, False, False, False, True]


def test_what_the_model_is_not_for_is_skipped_and_what_is_broken_fails_alone(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path
) -> None:
    site = site_of(dimensions=3).start()
    pacs.write_series(tmp_path / "ct" / "flat", 1, side=24)
    pacs.write_series(tmp_path / "ct" / "gap", 8, side=24)
    (tmp_path / "ct" / "gap" / "0003.dcm").unlink()
    pacs.write_series(tmp_path / "ct" / "good", 8, side=24)
    assert pacs.send(site.port, tmp_path / "ct") == 0
    assert site.idle()
    assert sorted(site.states()) == ["done", "failed", "skipped"]
    reasons = [reason for (reason,) in site.rows("SELECT reason FROM jobs WHERE state != 'done'")]
    assert all(str(tmp_path) not in reason for reason in reasons), reasons
    assert "Traceback" not in site.stderr


def test_a_model_that_crashes_costs_that_series_and_the_next_one_is_answered(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path
) -> None:
    site = site_of(settle_s=0.2).start()
    pacs.write_series(tmp_path / "a", 20, side=24)
    pacs.write_series(tmp_path / "b", 1, side=24)
    assert pacs.send(site.port, tmp_path / "a") == 0
    assert pacs.until(lambda: site.states() == ["running"])
    os.kill(worker_of(site), signal.SIGSEGV)
    assert pacs.until(lambda: site.states() == ["failed"])
    assert site.rows("SELECT reason FROM jobs") == [("the model's process was ended by SIGSEGV",)]
    assert pacs.send(site.port, tmp_path / "b") == 0
    assert site.idle()
    assert site.states() == ["failed", "done"]
    # sent again, it is answered again
    assert pacs.send(site.port, tmp_path / "a") == 0
    assert site.idle()
    assert site.states() == ["failed", "done", "done"]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_is_being_answered_when_the_node_ends_is_answered_after_the_next_start(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path, end: str
) -> None:
    site = site_of(settle_s=0.2).start()
    pacs.write_series(tmp_path / "a", 20, side=24)
    assert pacs.send(site.port, tmp_path / "a") == 0
    assert pacs.until(lambda: site.states() == ["running"], step=0)
    worker = worker_of(site)
    if end == "stop":
        assert site.stop() < 2
    else:
        site.kill()
    assert pacs.until(lambda: not Path(f"/proc/{worker}").exists(), 5)
    assert site.states() == ["queued" if end == "stop" else "running"]
    site.start()
    assert site.idle()
    assert site.rows("SELECT state, attempts FROM jobs") == [("done", 1 if end == "stop" else 2)]
    assert len(list(site.base.glob("results/1/*/*/*/result.json"))) == 20


def test_a_model_that_takes_too_long_or_too_much_costs_that_series(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path
) -> None:
    pacs.write_series(tmp_path / "a", 30, side=24)
    site = site_of(timeout_s=0.5, settle_s=0.2).start()
    assert pacs.send(site.port, tmp_path / "a") == 0
    assert pacs.until(lambda: site.states() == ["failed"])
    assert site.rows("SELECT reason FROM jobs") == [("the model's process took longer than 0.5 s",)]
    site.stop()
    site.configure(timeout_s=60, memory_gb=0.4)
    pacs.write_series(tmp_path / "huge", 2, side=8000)
    site.start()
    assert pacs.send(site.port, tmp_path / "huge") == 0
    assert site.idle()
    assert site.states()[1] == "failed"
    assert site.rows("SELECT reason FROM jobs")[1][0] is not None
    assert site.process.poll() is None


def test_the_active_model_answers_and_one_that_takes_its_place_answers_next(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path
) -> None:
    site = site_of(settle_s=0.2)
    del site.listen["model"]
    for number in "34":
        add_model(site.folder, site.write_model(f"{number}.onnx", number * 64), trust=site.trust)
        activate(site.folder, None, trust=site.trust)
        if site.process is None:
            site.start()
        pacs.write_series(tmp_path / number, 1, side=24)
        assert pacs.send(site.port, tmp_path / number) == 0
        assert site.idle()
    assert site.rows("SELECT model FROM jobs ORDER BY job") == [("3" * 64,), ("4" * 64,)]


def test_a_model_that_cannot_be_loaded_again_costs_no_series(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path
) -> None:
    site = site_of(settle_s=0.2).start()
    model = site.folder / "model.onnx"
    for name in "ab":
        pacs.write_series(tmp_path / name, 1, side=24)
    # in the process that holds another one, then in one that has to be started
    for number, name in enumerate("ab"):
        sound = model.read_bytes()
        model.unlink()
        model.write_bytes(b"no model")
        if name == "b":
            os.kill(worker_of(site), signal.SIGKILL)
        assert pacs.send(site.port, tmp_path / name) == 0
        told = "listen: the model cannot be used, results wait"
        assert pacs.until(lambda: site.stderr.count(told) == number + 1), site.stderr  # noqa: B023
        assert pacs.until(lambda: site.states() == ["done"] * number + ["queued"])  # noqa: B023
        model.write_bytes(sound)
        assert site.idle()
        assert site.states() == ["done"] * (number + 1)


@pytest.mark.parametrize(
    "said",
    [
        b"no json",
        b'{"state": "done", "objects": [{"seg": {}}]}',
        b'{"state": "done", "answers": [{"label": {}, "known": true}]}',
    ],
)
def test_an_answer_that_is_not_understood_is_a_failed_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    program = tmp_path / "program"
    program.write_text(
        f"#!/bin/sh\nread settings; echo '{{\"ready\": {{}}}}'\nread one; echo '{said.decode()}'\ncat"
    )
    program.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(program))
    journal = Journal(tmp_path / "journal.sqlite")
    incoming, worker = Incoming(tmp_path / "incoming", journal, 0), WorkerProcess({}, None)
    file = tmp_path / "1.dcm"
    file.write_bytes(b"pixels")
    journal.receive(Instance("1.1", "1", "1", "", "", "CT1", file, "ab", 6))
    answering = Answering(
        Listen(folder=tmp_path, settle_s=0.01, watermark_gb=0.001), journal, incoming, worker, lambda _: None
    )
    answering.start()
    try:
        deadline = time.monotonic() + 10
        while journal._rows("SELECT state FROM jobs") != [("failed",)]:
            assert time.monotonic() < deadline, journal._rows("SELECT state, reason FROM jobs")
            time.sleep(0.02)
    finally:
        answering.stop()
        journal.close()


def test_a_node_that_cannot_answer_does_not_start(site_of: SiteOf) -> None:
    site = site_of()
    (site.folder / "model.onnx.sig").unlink()
    assert site.refused() == 5
    del site.listen["model"]
    assert site.refused() == 1
    assert "models: none is active, expected one" in site.stderr


def test_the_node_loads_no_runtime_listens_where_it_says_and_is_alone_in_its_folder(site_of: SiteOf) -> None:
    site = site_of().start()
    maps = Path(f"/proc/{site.process.pid}/maps").read_text()
    assert "onnxruntime" not in maps and "torch" not in maps
    worker = Path(f"/proc/{worker_of(site)}/maps").read_text()
    assert "onnxruntime" in worker and "torch" not in worker
    # at the loopback address, and the model's process nowhere
    local = {f"0100007F:{site.port:04X}", f"0100007F:{site.said['metrics_port']:04X}"}
    assert sockets_of(site.process.pid) == local
    assert sockets_of(worker_of(site)) == set()
    said = site.run("listen")
    assert said.returncode == 1
    assert "another `listen` works here" in said.stderr
