"""Series are fetched from a real archive, once each, when they are complete."""

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless

from fedmed_edge.listener.dicomweb import Polling
from fedmed_edge.listener.incoming import Incoming, Outcome
from fedmed_edge.listener.journal import Journal
from fedmed_edge.listening import Dicomweb, Listen

SiteOf = Callable[..., Any]


def test_what_is_new_in_the_archive_is_fetched_answered_and_sent_back(
    pacs: ModuleType, site_of: SiteOf, orthanc_of: Callable[..., Any], tmp_path: Path
) -> None:
    archive = orthanc_of()
    pacs.write_series(tmp_path / "packed", 3, side=64)
    for path in (tmp_path / "packed").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        dataset.save_as(path)
    pacs.write_series(tmp_path / "old", 1, StudyDate="19991231")
    pacs.write_series(tmp_path / "other", 1, Modality="MR")
    for name in ("packed", "old", "other"):
        options = ["-xv"] if name == "packed" else []
        assert pacs.send(archive.port, tmp_path / name, to="ORTHANC", options=options) == 0
    before = archive.instances()
    web = {"url": archive.dicomweb, "poll_s": 0.3, "query": {"Modality": "CT"}}
    site = site_of(send=True, destination=archive.dicomweb, dicomweb=web).start()
    assert pacs.until(lambda: site.states() == ["sent"]), site.stderr
    assert site.rows("SELECT count(*) FROM instances") == [(3,)]
    kept = [path for (path,) in site.rows("SELECT path FROM instances")]
    assert all(pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEG2000Lossless for path in kept)
    # its own results, which the archive has now, are none of its business
    assert len(archive.instances() - before) == 3
    time.sleep(1)
    assert site.states() == ["sent"]
    # one more instance: the series is answered again
    first = pydicom.dcmread(tmp_path / "packed" / "0000.dcm")
    first.SOPInstanceUID = first.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    first.save_as(tmp_path / "late.dcm")
    assert pacs.send(archive.port, tmp_path / "late.dcm", to="ORTHANC", options=["-xv"]) == 0
    assert pacs.until(lambda: site.states() == ["sent", "sent"])
    assert "Traceback" not in site.stderr


def test_an_archive_that_is_away_is_asked_again(
    pacs: ModuleType, site_of: SiteOf, orthanc_of: Callable[..., Any], tmp_path: Path
) -> None:
    archive = orthanc_of()
    archive.stop()
    site = site_of(dicomweb={"url": archive.dicomweb, "poll_s": 0.3}).start()
    assert pacs.until(lambda: "the DICOMweb server cannot be asked: ConnectionError" in site.stderr)
    archive.start()
    pacs.write_series(tmp_path / "ct", 1)
    assert pacs.send(archive.port, tmp_path / "ct", to="ORTHANC") == 0
    assert pacs.until(lambda: site.states() == ["done"])
    # once each, however often it was asked
    said = [line for line in site.stderr.splitlines() if "the DICOMweb server" in line]
    assert ["again" in said[0], "answers again" in said[1], len(said)] == [True, True, 2], said


@pytest.mark.parametrize("kept", ["ours", "in another series", "purged"])
def test_what_is_not_kept_is_fetched_once_and_again_only_when_it_grows(
    pacs: ModuleType, orthanc_of: Callable[..., Any], tmp_path: Path, kept: str
) -> None:
    archive = orthanc_of()
    pacs.write_series(tmp_path / "ct", 2, **({"Manufacturer": "FedMed Edge"} if kept == "ours" else {}))
    assert pacs.send(archive.port, tmp_path / "ct", to="ORTHANC") == 0
    journal = Journal(tmp_path / "journal.sqlite")
    incoming = Incoming(tmp_path / "incoming", journal, 0)
    if kept == "in another series":
        other = pydicom.dcmread(tmp_path / "ct" / "0000.dcm")
        other.SeriesInstanceUID = pydicom.uid.generate_uid()
        other.save_as(incoming.receiving / "other")
        assert incoming.take(incoming.receiving / "other", "CT1")[0] is Outcome.STORED
    came: list[Outcome] = []
    settings = Listen(dicomweb=Dicomweb(url=archive.dicomweb))

    def polling() -> Polling:
        return Polling(settings, journal, incoming, lambda outcome, _: came.append(outcome))

    first = polling()
    for _ in range(2):
        first.poll()
    assert len(came) == 2
    if kept == "purged":
        journal._execute("DELETE FROM instances")
    for one in (first, polling()):  # and by a node that was started anew
        for _ in range(3):
            one.poll()
    assert len(came) == 2
    pacs.write_series(tmp_path / "more", 1)
    grown = pydicom.dcmread(tmp_path / "more" / "0000.dcm")
    old = pydicom.dcmread(tmp_path / "ct" / "0000.dcm")
    grown.StudyInstanceUID, grown.SeriesInstanceUID = old.StudyInstanceUID, old.SeriesInstanceUID
    grown.save_as(tmp_path / "more" / "0000.dcm")
    assert pacs.send(archive.port, tmp_path / "more", to="ORTHANC") == 0
    for _ in range(2):
        first.poll()
    assert len(came) == 5
    journal.close()
