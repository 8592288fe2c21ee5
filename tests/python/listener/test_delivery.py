"""Results on their way out: what a PACS takes, what it does not take, and when it is not there."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, AllStoragePresentationContexts, evt

from fedmed_edge.errors import InputError, Undelivered
from fedmed_edge.listener.delivery import send_files
from fedmed_edge.listener.destinations import destination_of
from fedmed_edge.listening import Listen

SiteOf = Callable[..., Any]


@contextlib.contextmanager
def peer(
    contexts: Sequence[tuple[str, Sequence[str]]], status: int = 0x0000, aet: str = "PEER"
) -> Iterator[tuple[str, list[Any]]]:
    """A node that takes some classes in some syntaxes; what came, as (class, syntax)."""
    came: list[Any] = []

    def keep(event: Any) -> int:
        came.append((event.request.AffectedSOPClassUID, event.context.transfer_syntax))
        return status

    entity = AE(ae_title=aet)
    entity.require_called_aet = True
    for sop_class, syntaxes in contexts:
        entity.add_supported_context(sop_class, list(syntaxes))
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    assert server is not None
    try:
        yield f"PEER@127.0.0.1:{server.server_address[1]}", came
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def made(pacs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The objects of one segmentation, made by a node in shadow mode."""
    folder = tmp_path_factory.mktemp("made")
    site = pacs.Site(folder / "site", dimensions=3, settle_s=0.1)
    pacs.write_series(folder / "ct", 8, side=24)
    with pacs.running(site):
        assert pacs.send(site.port, folder / "ct") == 0
        assert site.idle()
    found = {path.stem: path for path in site.base.rglob("results/*/*/*/*.dcm")}
    assert set(found) == {"seg", "sr", "sc"}
    return found


# --- one destination -------------------------------------------------------------------------------------


def test_a_class_that_is_not_taken_goes_as_a_picture(made: dict[str, Path]) -> None:
    taken = [(SecondaryCaptureImageStorage, [ImplicitVRLittleEndian])]
    with peer(taken) as (to, came):
        sent = destination_of(to, Listen()).store([(made["seg"], made["sc"]), (made["sr"], None)])
    assert came == [(SecondaryCaptureImageStorage, ImplicitVRLittleEndian)]
    assert [(one.stored, one.final) for one in sent] == [(True, False), (False, True)]
    assert sent[0].note == "its class is not taken there: sc.dcm went instead of seg.dcm"
    assert sent[1].note == "sr.dcm: its class is not taken there"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_syntax_is_one_that_the_association_accepted(made: dict[str, Path], syntax: str) -> None:
    with peer([(SegmentationStorage, [syntax])]) as (to, came):
        (sent,) = destination_of(to, Listen()).store([(made["seg"], None)])
    assert sent.stored
    assert came == [(SegmentationStorage, syntax)]


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, ExplicitVRLittleEndian])
def test_a_compressed_object_goes_as_it_is_or_is_unpacked(
    pacs: ModuleType, tmp_path: Path, syntax: str
) -> None:
    pacs.write_series(tmp_path, 1, side=64)
    dataset = pydicom.dcmread(tmp_path / "0000.dcm")
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    dataset.save_as(tmp_path / "packed.dcm")
    with peer([(CTImageStorage, [syntax])]) as (to, came):
        (sent,) = destination_of(to, Listen()).store([(tmp_path / "packed.dcm", None)])
    assert sent.stored
    assert came == [(CTImageStorage, syntax)]


@pytest.mark.parametrize(
    ("status", "stored", "note"),
    [
        (0xB000, True, None),
        (0xA700, False, "seg.dcm: status 0xA700"),
        (0xC123, False, "seg.dcm: status 0xC123"),
    ],
)
def test_what_the_peer_answers_counts(
    made: dict[str, Path], status: int, stored: bool, note: str | None
) -> None:
    with peer([(SegmentationStorage, [ExplicitVRLittleEndian])], status) as (to, _):
        (sent,) = destination_of(to, Listen()).store([(made["seg"], made["sc"])])
    assert (sent.stored, sent.note, sent.final) == (stored, note, False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom's own socket
def test_a_peer_that_is_not_there_or_refuses_is_named(pacs: ModuleType, made: dict[str, Path]) -> None:
    port = pacs.free_port()
    with pytest.raises(Undelivered, match=rf"^PEER@127\.0\.0\.1:{port}: does not answer$"):
        destination_of(f"PEER@127.0.0.1:{port}", Listen()).store([(made["seg"], None)])
    with (
        peer([(SegmentationStorage, [ExplicitVRLittleEndian])], aet="OTHER") as (to, _),
        pytest.raises(Undelivered, match="refused the association"),
    ):
        destination_of(to, Listen()).store([(made["seg"], None)])
    with pytest.raises(Undelivered, match=rf"^http://127\.0\.0\.1:{port}/web: ConnectionError$"):
        destination_of(f"http://127.0.0.1:{port}/web", Listen()).store([(made["seg"], None)])


def test_what_a_web_server_refuses_by_its_class_goes_as_a_picture(made: dict[str, Path]) -> None:
    came: list[int] = []
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0x0122]}}]}}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(int(self.headers["Content-Length"] or 0))
            self.rfile.read(came[-1])
            content = json.dumps(failed if len(came) == 1 else {}).encode()
            self.send_response(409 if len(came) == 1 else 200)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        sent = destination_of(url, Listen()).store([(made["seg"], made["sc"])])
        server.shutdown()
    assert len(came) == 2
    assert sent[0].stored and sent[0].note is not None and "sc.dcm went instead of seg.dcm" in sent[0].note


def test_what_is_no_dicom_object_is_not_sent(tmp_path: Path) -> None:
    allowed = Listen(send=True, destination="PEER@127.0.0.1:104")
    (tmp_path / "text").write_text("no DICOM")
    with pytest.raises(InputError, match=r"text: not a DICOM file with its class and transfer syntax"):
        send_files([tmp_path / "text"], allowed)
    with pytest.raises(InputError, match=r"none: cannot be read: no such file"):
        send_files([tmp_path / "none"], allowed)


def test_an_object_that_cannot_be_read_holds_up_no_other(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.dcm").write_bytes(b"none")
    sent = destination_of(str(tmp_path / "out"), Listen()).store(
        [(tmp_path / "broken.dcm", None), (made["sr"], None)]
    )
    assert [one.stored for one in sent] == [False, True] and "broken.dcm" in str(sent[0].note)


def test_a_folder_gets_files(made: dict[str, Path], tmp_path: Path) -> None:
    sent = destination_of(str(tmp_path / "out"), Listen()).store(
        [(made["seg"], made["sc"]), (made["sr"], None)]
    )
    assert all(one.stored for one in sent)
    assert sorted(path.read_bytes() for path in tmp_path.rglob("*.dcm")) == sorted(
        made[kind].read_bytes() for kind in ("seg", "sr")
    )


# --- a real PACS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mover(pacs: ModuleType) -> int:
    """Port of the node that the PACS moves to."""
    return int(pacs.free_port())


@pytest.fixture(scope="module")
def archive(orthanc_of: Callable[..., Any], mover: int) -> Any:
    return orthanc_of(peers={"MOVESCU": mover})


def test_a_study_comes_back_from_the_archive_by_find_move_and_wado(
    pacs: ModuleType, site_of: SiteOf, archive: Any, mover: int, tmp_path: Path
) -> None:
    site = site_of(dimensions=3, send=True, destination=[archive.destination]).start()
    series = pacs.write_series(tmp_path / "ct", 12, side=24)
    assert pacs.send(site.port, tmp_path / "ct") == 0
    assert site.idle()
    assert site.states() == ["sent"]
    study = str(pydicom.dcmread(tmp_path / "ct" / "0000.dcm").StudyInstanceUID)

    keys = ["-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={study}", "-k", "Modality"]
    where = ["-aet", "MOVESCU", "-aec", "ORTHANC", "127.0.0.1", archive.port]
    found = pacs.dcmtk("findscu", "-S", "-v", *keys, "-k", "SeriesDescription", *where)
    said = (found.stdout + found.stderr).replace("\0", "")
    assert "RESEARCH USE ONLY: toy SEG" in said and "RESEARCH USE ONLY: toy SR" in said

    moved: list[Any] = []
    entity = AE(ae_title="MOVESCU")
    entity.supported_contexts = AllStoragePresentationContexts
    handlers = [(evt.EVT_C_STORE, lambda event: moved.append(event.dataset) or 0x0000)]
    server = entity.start_server(("127.0.0.1", mover), block=False, evt_handlers=handlers)
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    assert pacs.dcmtk("movescu", "-S", "-aem", "MOVESCU", *keys, *where).returncode == 0
    server.shutdown()
    assert sorted(one.Modality for one in moved) == ["SEG", "SR"]
    (seg,) = (one for one in moved if one.Modality == "SEG")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series
    assert seg.PatientID == "P-17"

    client = DICOMwebClient(archive.dicomweb)
    fetched = client.retrieve_study(study, media_types=(("application/dicom", "*"),))
    assert {one.SOPInstanceUID for one in fetched} == {one.SOPInstanceUID for one in moved}

    # an archive that passes on what it gets does not start a loop
    before = archive.instances()
    for path in site.base.rglob("results/*/*/*/*.dcm"):
        assert pacs.send(site.port, path, options=["-R"]) == 0
    assert site.metric('fedmed_instances_total{outcome="ours"}') == 3
    assert site.idle()
    assert archive.instances() == before


def test_results_go_by_dicomweb(pacs: ModuleType, site_of: SiteOf, archive: Any, tmp_path: Path) -> None:
    site = site_of(send=True, destination=archive.dicomweb).start()
    pacs.write_series(tmp_path / "ct", 1)
    before = archive.instances()
    assert pacs.send(site.port, tmp_path / "ct") == 0
    assert site.idle()
    assert site.states() == ["sent"]
    assert len(archive.instances() - before) == 1


def test_a_result_waits_for_an_archive_that_is_away_and_send_hurries_it(
    pacs: ModuleType, site_of: SiteOf, archive: Any, tmp_path: Path
) -> None:
    archive.stop()
    site = site_of(send=True, destination=[archive.destination]).start()
    try:
        pacs.write_series(tmp_path / "ct", 1)
        assert pacs.send(site.port, tmp_path / "ct") == 0
        assert pacs.until(lambda: site.rows("SELECT reason FROM deliveries") not in ([], [(None,)]))
        assert site.rows("SELECT state, reason FROM deliveries") == [
            ("pending", f"{archive.destination}: does not answer")
        ]
        assert site.states() == ["done"]
        said = site.run("send")
        assert said.returncode == 7
        assert "sent 0, waiting 1" in said.stdout and "error: 1 not delivered" in said.stderr
        site.kill()
    finally:
        archive.start()
    site.start()
    assert site.run("send").stdout in ("sent 1, waiting 0\n", "sent 0, waiting 0\n")
    assert site.idle()
    assert site.states() == ["sent"]


def test_send_takes_files_and_says_where_they_did_not_arrive(
    pacs: ModuleType, site_of: SiteOf, archive: Any, made: dict[str, Path]
) -> None:
    site = site_of(send=True, destination=[archive.destination])
    site.configure()
    said = site.run("send", made["seg"], made["sr"], "--json")
    assert (said.returncode, said.stdout) == (0, '{"sent": 2, "waiting": 0}\n')
    site.configure(destination=[f"PEER@127.0.0.1:{pacs.free_port()}"])
    said = site.run("send", made["seg"])
    assert said.returncode == 7
    assert "error: 1 not delivered: PEER@127.0.0.1:" in said.stderr


def test_nothing_goes_out_before_it_is_allowed(made: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="nothing leaves yet, as `send` is false") as refusal:
        send_files([made["seg"]], Listen(destination="PEER@127.0.0.1:104"))
    assert refusal.value.hint is not None and "send = true" in refusal.value.hint


def test_the_time_from_the_last_slice_to_the_archive_is_that_of_the_answer(
    pacs: ModuleType, site_of: SiteOf, archive: Any, tmp_path: Path
) -> None:
    site = site_of(dimensions=3, kind="classification", send=True, destination=[archive.destination]).start()
    latencies = []
    for number in range(4):
        pacs.write_series(tmp_path / f"{number}", 8, side=24)
        count = len(archive.instances())
        assert pacs.send(site.port, tmp_path / f"{number}") == 0
        sent = time.monotonic()
        assert pacs.until(lambda count=count: len(archive.instances()) > count, 20, 0.01)
        seconds = site.rows("SELECT seconds FROM jobs ORDER BY job DESC LIMIT 1")[0][0]
        latencies.append(time.monotonic() - sent - site.listen["settle_s"] - seconds)
    assert sorted(latencies)[1] < 0.5, latencies
