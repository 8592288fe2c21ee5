"""Files, folders, DICOMDIR and zip → files by content."""

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from PIL import Image as Picture

from fedmed_edge.images import sources
from fedmed_edge.images.sources import find_sources

DICOMDIR = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests" / "DICOMDIR"


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.zeros((4, 4), np.uint8)).save(path, "PNG")
    return path


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_folder_by_content_in_order_without_the_hidden(tmp_path: Path) -> None:
    b, a = png(tmp_path / "b.png"), png(tmp_path / "a.without_ending")
    png(tmp_path / ".hidden" / "d.png")
    png(tmp_path / ".e.png")
    (tmp_path / "fake.png").write_text("no picture")
    found = find_sources([tmp_path]).files
    assert [(file.path, file.kind) for file in found] == [
        (a, "png"),
        (b, "png"),
        (tmp_path / "fake.png", None),
    ]
    assert "not a PNG, JPEG, NIfTI or DICOM file" in found[2].reason


def test_each_file_once_and_no_walk_without_end(tmp_path: Path) -> None:
    image = png(tmp_path / "deep" / "a.png")
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "link.png").symlink_to(image)
    os.mkfifo(tmp_path / "pipe")
    assert len(find_sources([tmp_path, image, tmp_path / "deep"]).files) == 1


def test_results_are_passed_over(tmp_path: Path) -> None:
    image = png(tmp_path / "a.png")
    mask = png(tmp_path / "out" / "mask.png")
    assert [file.path for file in find_sources([tmp_path], skip=tmp_path / "out").files] == [image]
    assert [file.path for file in find_sources([tmp_path / "out"], skip=tmp_path / "out").files] == [mask]


def test_a_dicomdir_names_its_files(tmp_path: Path) -> None:
    found = find_sources([DICOMDIR]).files
    assert len(found) == 31 and {file.kind for file in found} == {"dicom"}
    beside = find_sources([DICOMDIR.parent]).files
    assert not [file for file in beside if file.path.name == "DICOMDIR"], (
        "in a folder its files lie beside it"
    )
    alone = tmp_path / "DICOMDIR"
    alone.write_bytes(DICOMDIR.read_bytes())
    lost = find_sources([alone]).files
    assert all(file.kind is None and "which is not there" in file.reason for file in lost)


def test_a_dicomdir_leads_nowhere_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    directory = tmp_path / "disk" / "DICOMDIR"
    directory.parent.mkdir()
    ds = pydicom.dcmread(DICOMDIR)
    records = [record for record in ds.DirectoryRecordSequence if "ReferencedFileID" in record]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        records[0].ReferencedFileID = ["..", "secret"]
        ds.save_as(directory)
    assert not [file for file in find_sources([directory]).files if file.path.resolve() == secret]


def lost(path: Path) -> str:
    with find_sources([path]) as found:
        (source,) = found.files
    assert source.kind is None and source.lost and source.given
    return source.reason


def test_a_zip_is_unpacked_under_names_of_our_own_and_deleted(tmp_path: Path) -> None:
    content = png(tmp_path / "a.png").read_bytes()
    members = {"b/../../../evil.png": content, "/abs.png": content, "C:\\x.png": content, "n.txt": b"note"}
    path = zipped(tmp_path / "s.zip", members | {"__MACOSX/._b.png": content, ".hidden": content})
    with find_sources([path]) as found:
        assert sorted(file.name for file in found.files) == sorted(
            [f"{path}/b/evil.png", f"{path}/abs.png", f"{path}/C:/x.png", f"{path}/n.txt"]
        )
        assert all(found.unpacked in file.path.parents for file in found.files)
        assert [file.kind for file in found.files].count("png") == 3
    assert found.unpacked is not None and not found.unpacked.exists()
    assert not (tmp_path.parent / "evil.png").exists()


def test_a_zip_bomb_is_refused_while_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_FREE_RATIO", 1 << 20)
    path = zipped(tmp_path / "s.zip", {"a": bytes(1 << 24), "b": b"x"})
    assert lost(path).startswith(f"{path}: zip unpacks to more than is taken: at most 200 times")
    assert not list(tmp_path.glob("fedmed-*"))


def test_too_many_files_in_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ZIP_FILES_CAP", 2)
    path = zipped(tmp_path / "s.zip", {name: b"" for name in "abc"})
    assert lost(path) == f"{path}: zip has 3 files, expected at most 2"


def test_broken_and_encrypted_zips(tmp_path: Path) -> None:
    path = zipped(tmp_path / "s.zip", {"a.png": png(tmp_path / "a.png").read_bytes() * 50})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert lost(path) == f"{path}: zip is broken or cut off (BadZipFile)"
    with find_sources([path, tmp_path / "a.png"]) as found:
        assert [file.kind for file in found.files] == [None, "png"], "one broken zip stops no other"
    locked = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[content.index(signature) + offset] |= 1
    path.write_bytes(locked)
    assert lost(path) == f"{path}: zip is encrypted (unpack it first)"


def test_a_directory_that_names_nothing(tmp_path: Path) -> None:
    path = tmp_path / "DICOMDIR"
    path.write_bytes(DICOMDIR.read_bytes()[:700])
    assert lost(path) == f"{path}: DICOMDIR names no file, or is cut off (name its folder instead)"


def test_what_is_locked_in_a_folder_is_lost_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    png(tmp_path / "a.png")
    (tmp_path / "b").mkdir()
    listed = os.scandir

    def scandir(path: str) -> Any:  # root may look into everything
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    taken, locked = find_sources([tmp_path]).files
    assert taken.kind == "png" and not taken.lost
    assert locked.lost and locked.reason == f"{tmp_path / 'b'}: cannot be read: Permission denied"


def test_pictures_load_no_pydicom(tmp_path: Path) -> None:
    import subprocess
    import sys

    png(tmp_path / "a.png")
    code = (
        "import sys, pathlib\nfrom fedmed_edge.inference.inputs import find_inputs\n"
        "from fedmed_edge.recipe import Recipe\n"
        "recipe = Recipe(name='a', kind='classification', classes=('a', 'b'))\n"
        f"found = find_inputs([pathlib.Path({str(tmp_path)!r})], recipe)\n"
        "assert len(found.inputs) == 1 and 'pydicom' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
