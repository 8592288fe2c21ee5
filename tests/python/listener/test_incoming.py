"""Files as they arrive: kept whole, once, where their UIDs say and nowhere else."""

import io
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pydicom
import pytest
from kits import load
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fedmed_edge.listener.incoming import Incoming, Outcome, linked, read_header
from fedmed_edge.listener.journal import Journal

Arrive = Callable[..., tuple[Outcome, str]]


@pytest.fixture(scope="module")
def kit() -> ModuleType:
    return load("end_to_end/pacs.py")


@pytest.fixture
def incoming(journal: Journal, tmp_path: Path) -> Incoming:
    return Incoming(tmp_path / "incoming", journal, 0)


@pytest.fixture
def arrive(incoming: Incoming) -> Arrive:
    def arrive(path: Path, sop_uid: str | None = None) -> tuple[Outcome, str]:
        copy = incoming.receiving / "tmp"
        shutil.copy(path, copy)
        try:
            return incoming.take(copy, "CT1", sop_uid=sop_uid)
        finally:
            copy.unlink()

    return arrive


def kept(incoming: Incoming) -> list[Path]:
    return sorted(incoming.folder.glob("[!.]*/*/*.dcm"))


def test_a_file_lies_where_its_uids_say(
    kit: ModuleType, incoming: Incoming, journal: Journal, arrive: Arrive, tmp_path: Path
) -> None:
    series = kit.write_series(tmp_path / "ct", 1)
    path = tmp_path / "ct" / "0000.dcm"
    assert arrive(path) == (Outcome.STORED, series)
    assert arrive(path) == (Outcome.DUPLICATE, series)
    dataset = pydicom.dcmread(path)
    (file,) = kept(incoming)
    assert file == incoming.folder / dataset.StudyInstanceUID / series / f"{dataset.SOPInstanceUID}.dcm"
    assert file.read_bytes() == path.read_bytes()
    assert incoming.folder.stat().st_mode & 0o077 == 0 or incoming.receiving.stat().st_mode & 0o077 == 0
    assert journal._rows("SELECT accession, patient, sender FROM series") == [("A-1", "P-17", "CT1")]


def test_another_content_takes_its_place_only_in_a_series_that_failed(
    kit: ModuleType, incoming: Incoming, journal: Journal, arrive: Arrive, tmp_path: Path
) -> None:
    series = kit.write_series(tmp_path / "ct", 1)
    path = tmp_path / "ct" / "0000.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert arrive(path) == (Outcome.STORED, series)
    journal.settle(series)
    path.write_bytes(whole)
    assert arrive(path) == (Outcome.CONFLICT, series)
    first = journal.take_job()
    assert first is not None
    journal.finish_job(first, "failed", reason="series: pixel data are cut off")
    assert arrive(path) == (Outcome.STORED, series)
    assert kept(incoming)[0].read_bytes() == whole and not list(incoming.receiving.iterdir())
    assert journal._rows("SELECT bytes FROM instances") == [(len(whole),)]
    journal.settle(series)
    again = journal.take_job()
    assert again is not None and again.instances != first.instances
    journal.finish_job(again, "done")
    path.write_bytes(whole[:-40])
    assert arrive(path) == (Outcome.CONFLICT, series)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("uid", ["../../../etc", "/etc/passwd", "..", "1/2", "1.2\x00", "a" * 64])
def test_a_uid_that_is_none_leads_nowhere(
    kit: ModuleType, incoming: Incoming, arrive: Arrive, tmp_path: Path, uid: str
) -> None:
    kit.write_series(tmp_path / "ct", 1, StudyInstanceUID=uid, SeriesInstanceUID=uid)
    outcome, _ = arrive(tmp_path / "ct" / "0000.dcm")
    assert outcome is Outcome.STORED
    assert len(kept(incoming)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"ct", "incoming"} | {
        path.name for path in tmp_path.glob("journal.sqlite*")
    }


def test_what_is_broken_or_another_one_than_announced_is_not_kept(
    kit: ModuleType, incoming: Incoming, arrive: Arrive, tmp_path: Path
) -> None:
    kit.write_series(tmp_path / "ct", 1)
    path = tmp_path / "ct" / "0000.dcm"
    assert arrive(path, sop_uid="1.2.3") == (Outcome.UNREADABLE, "")
    (tmp_path / "text").write_text("no DICOM")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:300])
    for name in ("text", "cut"):
        assert arrive(tmp_path / name) == (Outcome.UNREADABLE, "")
    assert kept(incoming) == []


def test_a_deflated_file_is_inflated_no_further_than_its_series(
    kit: ModuleType, incoming: Incoming, arrive: Arrive, tmp_path: Path
) -> None:
    series = kit.write_series(tmp_path / "ct", 1)
    path = tmp_path / "ct" / "0000.dcm"
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    meta = pydicom.filereader.read_file_meta_info(path)
    start = 144 + int(meta.FileMetaInformationGroupLength)
    content = path.read_bytes()
    inflated = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # a quarter of a gigabyte of nothing behind it
    packed = squeeze.compress(inflated) + b"".join(squeeze.compress(bytes(1 << 24)) for _ in range(16))
    path.write_bytes(content[:start] + packed + squeeze.flush())
    assert read_header(path).SeriesInstanceUID == series
    assert arrive(path) == (Outcome.STORED, series)


def test_below_the_watermark_nothing_is_taken(
    kit: ModuleType, incoming: Incoming, arrive: Arrive, tmp_path: Path
) -> None:
    kit.write_series(tmp_path / "ct", 1)
    incoming.watermark = 1 << 60
    assert incoming.full
    assert arrive(tmp_path / "ct" / "0000.dcm") == (Outcome.FULL, "")


def test_a_disk_that_refuses_is_full(
    kit: ModuleType, incoming: Incoming, arrive: Arrive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.write_series(tmp_path / "ct", 1)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.link", refuse)
    assert arrive(tmp_path / "ct" / "0000.dcm")[0] is Outcome.FULL


def test_a_part_for_which_there_is_no_room_is_full_and_leaves_nothing(
    incoming: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, content: object) -> int:
            if self.tell() > 8:
                raise OSError(28, "No space left on device")
            return super().write(content)

    monkeypatch.setattr("fedmed_edge.listener.incoming.FileIO", Full)
    part = incoming.part()
    assert [part.write(bytes(6)) for _ in range(3)] == [6, 6, 6]
    assert incoming.take(Path(part.name), "CT1") == (Outcome.FULL, "")
    incoming.watermark = 1 << 60
    refused = incoming.part()
    assert refused.write(bytes(6)) == 6
    assert not Path(refused.name).exists()
    # as when an association breaks off
    del part
    assert not list(incoming.receiving.iterdir())


def test_recovery_names_what_was_kept_but_not_noted_and_forgets_what_is_gone(
    kit: ModuleType, incoming: Incoming, journal: Journal, arrive: Arrive, tmp_path: Path
) -> None:
    series = kit.write_series(tmp_path / "ct", 3)
    for path in (tmp_path / "ct").iterdir():
        arrive(path)
    journal._execute("DELETE FROM series")
    (incoming.receiving / "tmpabc.dcm").write_bytes(b"half")
    assert len(kept(incoming)) == 3
    incoming.recover()
    assert journal._rows("SELECT count(*) FROM instances") == [(3,)]
    assert journal.fresh() == {series}
    assert not list(incoming.receiving.iterdir())
    kept(incoming)[0].unlink()
    incoming.recover()
    assert journal._rows("SELECT count(*) FROM instances") == [(2,)]


def test_links_hold_what_was_there_and_go_afterwards(tmp_path: Path) -> None:
    files = tuple(tmp_path / name for name in ("b", "a"))
    for file in files:
        file.write_text(file.name)
    with linked(files, tmp_path / "running") as folder:
        assert [path.read_text() for path in sorted(folder.iterdir())] == ["b", "a"]
    assert not (tmp_path / "running").exists()
    assert all(file.exists() for file in files)
