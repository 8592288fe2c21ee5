"""What the node says of itself where it does not do its work: on the page, and in the heartbeat."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pynetdicom import _config, dimse_messages

from fedmed_edge.heartbeat import running
from fedmed_edge.listener.dicomweb import SILENT_S
from fedmed_edge.listener.journal import Instance, Journal
from fedmed_edge.listener.node import Node
from fedmed_edge.listening import Dicomweb, Listen

SiteOf = Callable[..., Any]


@pytest.fixture
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node sets in pynetdicom is for a process of its own: here it goes with the node."""
    for name in ("LOG_HANDLER_LEVEL", "UNRESTRICTED_STORAGE_SERVICE", "STORE_RECV_CHUNKED_DATASET"):
        monkeypatch.setattr(_config, name, getattr(_config, name))
    monkeypatch.setattr(dimse_messages, "NamedTemporaryFile", dimse_messages.NamedTemporaryFile)


@pytest.fixture
def node(pacs: ModuleType, tmp_path: Path, own_settings: None) -> Iterator[Node]:
    """A node in this process, with a PACS and a DICOMweb server that are not there."""
    site = pacs.Site(tmp_path / "site")
    settings = Listen(
        port=0,
        metrics_port=0,
        model=site.folder / "model.onnx",
        folder=site.base,
        watermark_gb=0.001,
        send=True,
        destination=(f"PACS@127.0.0.1:{pacs.free_port()}",),
        dicomweb=Dicomweb(url=f"http://127.0.0.1:{pacs.free_port()}"),
    )
    made = Node(settings, site.folder, trust=site.trust, device="cpu")
    made.start()
    yield made
    made.stop()
    made.journal.close()


def with_a_result(journal: Journal, file: Path, to: str, age_s: float) -> None:
    file.write_bytes(b"object")
    journal.receive(Instance("1.1", "1", "1", "A-1", "P-1", "CT1", file, "ab", 6))
    journal._execute("UPDATE series SET fresh = 0")
    journal._execute("INSERT INTO jobs (job, series_uid, state, queued_at) VALUES (9, '1', 'running', 0)")
    journal._execute(
        "INSERT INTO deliveries (job, destination, sop_uid, path, state, due_at)"
        " VALUES (9, ?, '9.1', ?, 'pending', 4e9)",
        *(to, str(file)),
    )
    journal._execute("UPDATE jobs SET state = 'done', finished_at = ?", time.time() - age_s)


def test_a_part_that_does_not_do_its_work_is_a_fault(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert node.faults() == []
    (to,) = node.settings.destination
    with_a_result(node.journal, tmp_path / "sr.dcm", to, 600)
    assert node.faults() == []
    node.journal._execute("UPDATE jobs SET finished_at = finished_at - 600")
    assert node.faults() == ["results have not arrived at their destination for a long while"]
    node.journal._execute("DELETE FROM deliveries")
    polling = node._polling
    assert polling is not None
    monkeypatch.setattr(polling, "_asked", polling._asked - SILENT_S)
    assert node.faults() == ["the DICOMweb server has not answered for a long while"]
    monkeypatch.undo()
    server = node._scp._server
    assert server is not None
    server.shutdown()
    node._scp._server = None
    assert node._scp._thread is not None
    node._scp._thread.join(5)
    assert node.faults() == ["the DICOM port is closed: nothing more is received"]
    assert node.flags() == {
        "room_on_disk": True,
        "answering": True,
        "listening": False,
        "delivering": True,
        "fetching": True,
    }


def test_a_model_that_cannot_be_loaded_is_a_fault_until_it_can(pacs: ModuleType, site_of: SiteOf) -> None:
    site = site_of().start()
    assert site.get("/health")[0] == 200
    model = site.folder / "model.onnx"
    sound = model.read_bytes()
    model.write_bytes(b"no model")
    children = Path(f"/proc/{site.process.pid}/task").glob("*/children")
    (worker,) = (int(pid) for one in children for pid in one.read_text().split())
    os.kill(worker, signal.SIGKILL)
    assert pacs.until(lambda: site.get("/health")[0] == 503, 20)
    assert "the model or the journal cannot be used" in site.get("/health")[1]
    assert pacs.until(lambda: running(site.folder)["listen"].get("answering") is False, 20)
    model.write_bytes(sound)
    assert pacs.until(lambda: site.get("/health")[0] == 200, 30)
