"""Zip archives and DICOMDIRs made by somebody who means harm: nothing leads out, nothing fills the disk."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from PIL import Image as Pillow
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from fedmed_edge.errors import InputError
from fedmed_edge.images import dicom_files, sources
from fedmed_edge.images.sources import find_sources

Refused = Callable[..., None]


def picture() -> bytes:
    file = io.BytesIO()
    Pillow.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def behind(path: Path) -> None:
    """What `find_sources` says of a file that it cannot use, as a refusal."""
    with find_sources([path]) as found:
        reason = found.files[0].reason
    if reason:
        raise InputError(reason)


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(
    "name",
    [
        *("../../evil.png", "/etc/evil.png", "..\\..\\evil.png", "a/../../evil.png", "C:\\evil.png"),
        *("\x1b[2J.png", "a" * 60_000 + ".png", "a\nb.png", "//server/share/evil.png"),
    ],
)
def test_a_name_in_a_zip_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "t" / "t").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t" / "t"))
    path = archive(tmp_path / "a.zip", **{name: picture()})
    before = everything(tmp_path)
    with find_sources([path]) as found:
        assert len(found.files) == (name[:3] != "..\\")  # a hidden file, where \\ is no separator
        for source in found.files:
            assert source.kind == "png" and source.name.isprintable() and ".." not in source.name
        made = everything(tmp_path) - before
        assert found.unpacked is not None
        assert all(one == found.unpacked or found.unpacked in one.parents for one in made)
    assert everything(tmp_path) == before


def test_a_link_in_a_zip_is_passed_over(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(link, "/etc/passwd")
        made.writestr("a.png", picture())
    with find_sources([tmp_path / "a.zip"]) as found:
        assert [source.name.rpartition("/")[2] for source in found.files] == ["a.png"]


def test_a_zip_in_a_zip_is_no_image_and_not_unpacked(tmp_path: Path) -> None:
    inner = archive(
        tmp_path / "inner.zip", **{f"{number}.png": picture() for number in range(3)}
    ).read_bytes()
    path = archive(tmp_path / "a.zip", **{"inner.zip": inner, "inner.png": inner})
    with find_sources([path]) as found:
        assert [(source.kind, source.lost) for source in found.files] == [(None, True), (None, False)]


BOMB = bytes(1 << 28)


def test_a_zip_that_unpacks_to_more_than_is_taken(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_FREE_RATIO", 1 << 24)
    path = archive(tmp_path / "a.zip", bomb=BOMB)
    assert path.stat().st_size < 1 << 19
    refused(behind, path, "zip unpacks to more than is taken: at most 200 times its size")


def test_members_that_share_their_bytes_count_each(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand entries of the directory name the same compressed bytes."""
    monkeypatch.setattr(sources, "_FREE_RATIO", 1 << 20)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", bytes(1 << 16))
        for number in range(1000):
            twin = zipfile.ZipInfo(f"{number:04}.png")
            first = made.filelist[0]
            for field in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(twin, field, getattr(first, field))
            made.filelist.append(twin)
            made.NameToInfo[twin.filename] = twin
        made._didModify = True  # type: ignore[attr-defined]
    refused(behind, path, "zip unpacks to more than is taken|zip is broken or cut off")


def test_a_size_in_a_zip_that_is_not_its_own(tmp_path: Path, refused: Refused) -> None:
    path = archive(tmp_path / "a.zip", **{"a.png": picture()})
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    for claim in (0, 0xFFFFFFFE, 0x7FFFFFFF):
        content[entry + 20 : entry + 28] = struct.pack("<II", claim, claim)
        path.write_bytes(content)
        refused(behind, path, r"zip is broken or cut off|is empty|taken")


def test_a_directory_of_a_zip_with_more_than_is_taken(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "ZIP_FILES_CAP", 100)
    path = archive(tmp_path / "a.zip", **{str(number): b"" for number in range(101)})
    refused(behind, path, "zip has 101 files, expected at most 100")


# --- DICOMDIR ----------------------------------------------------------------------------------------------


def directory(path: Path, *names: list[str]) -> Path:
    """A DICOMDIR whose records name these files."""
    made = pydicom.dcmread(str(get_testdata_file("DICOMDIR", download=False)))
    records = []
    with pydicom.config.disable_value_validation():
        for name in names:
            record = Dataset()
            record.ReferencedFileID = name
            records.append(record)
        made.DirectoryRecordSequence = Sequence(records)
        made.save_as(path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        *(
            ["..", "secret"],
            ["/etc", "passwd"],
            ["A", "..", "..", "secret"],
            ["a/../../secret"],
            [".", "secret"],
        ),
        *(["..\\secret"], ["sec\0ret"], ["", "secret"], ["x" * 5000]),
    ],
)
def test_a_dicomdir_names_nothing_outside_its_folder(tmp_path: Path, name: list[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "secret").write_bytes(picture())
    (disk / "secret").write_bytes(picture())
    with find_sources([directory(disk / "DICOMDIR", name)]) as found:
        assert [source.kind for source in found.files] in ([None], [])


def test_a_dicomdir_that_names_itself_is_read_once(tmp_path: Path) -> None:
    with find_sources([directory(tmp_path / "DICOMDIR", *[["DICOMDIR"]] * 50)]) as found:
        assert len(found.files) == 1


def test_a_dicomdir_of_too_many_records(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_files, "ELEMENTS_CAP", 1000)
    path = directory(tmp_path / "DICOMDIR", *[["A"]] * 2000)
    refused(behind, path, "DICOM file has more than 1000 elements")
