"""Images made by somebody who means harm: each is refused by name, in bounded memory and time."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image as Pillow
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from fedmed_edge.images import dicom_files
from fedmed_edge.images.dataset import read_dataset
from fedmed_edge.images.dicom_headers import whole_header
from fedmed_edge.images.image import read_image
from fedmed_edge.recipe import Recipe

Refused = Callable[..., None]

# --- DICOM -------------------------------------------------------------------------------------------------

META_END = 132 + 12
ITEM, DELIMITER = struct.pack("<HHI", 0xFFFE, 0xE000, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


@pytest.fixture(scope="module")
def slice_bytes() -> tuple[bytes, bytes]:
    """A real file: preamble and file meta information; the dataset."""
    content = Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes()
    content = content[: content.index(struct.pack("<HH", 0xFFFC, 0xFFFC))]  # of padding behind the pixels
    end = META_END + int.from_bytes(content[140:144], "little")
    return content[:end], content[end:]


def element(group: int, number: int, vr: bytes, length: int, value: bytes = b"") -> bytes:
    """An element of explicit VR with a long length field, which may claim anything."""
    return struct.pack("<HH2sHI", group, number, vr, 0, length) + value


def sequence(body: bytes, length: int = 0xFFFFFFFF) -> bytes:
    """Items in front of the elements of an image."""
    return element(0x0008, 0x1111, b"SQ", length, body)


DEEP = (struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + sequence(b"")) * 100_000
HEADERS: dict[str, tuple[bytes, str]] = {
    "4 GiB of bytes": (element(0x0009, 0x0001, b"OB", 0xFFFFFFFE), "DICOM file "),
    "4 GiB of text": (element(0x0008, 0x0005, b"UT", 0xFFFFFFFE), "DICOM file "),
    "4 GiB of a sequence": (sequence(b"", 0xFFFFFFFE), "DICOM file "),
    "an item of 4 GiB": (sequence(struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFE)), "DICOM file "),
    "a sequence without an end": (sequence(ITEM * 5), "DICOM file "),
    "bytes without an end": (element(0x0009, 0x0001, b"OB", 0xFFFFFFFF, bytes(1000)), "DICOM file "),
    "sequences in sequences": (
        sequence(DEEP),
        r"DICOM file is broken or cut off \((RecursionError|OSError)\)",
    ),
    "hundreds of thousands of items": (sequence(ITEM * 600_000 + DELIMITER), "has more than 5000 elements"),
    "items of a length": (sequence(ITEM * 600_000, 8 * 600_000), "has more than 5000 elements"),
    "elements of an item": (
        sequence(
            ITEM[:4] + struct.pack("<I", 8 * 50_000) + struct.pack("<HH2sH", 9, 0x1001, b"LO", 0) * 50_000,
            8 * 50_001,
        ),
        "has more than 5000 elements",
    ),
    "an unknown VR": (element(0x0008, 0x0005, b"\xff\x00", 0xFFFFFFFE), "DICOM file "),
}


@pytest.mark.parametrize("read", [read_image, whole_header])
@pytest.mark.parametrize("case", HEADERS)
def test_a_dicom_element_that_claims_too_much(
    tmp_path: Path,
    slice_bytes: tuple[bytes, bytes],
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path], object],
    case: str,
) -> None:
    hostile, message = HEADERS[case]
    monkeypatch.setattr(dicom_files, "ELEMENTS_CAP", 5000)
    path = tmp_path / "a.dcm"
    path.write_bytes(slice_bytes[0] + hostile)  # whatever follows is inside of it
    if read is whole_header and message == "DICOM file ":
        message = "DICOM file |taken"  # of a header alone pixels are not missed
    if read is read_image and "of a" in case:
        message += "|holds no image"  # it is passed over unread
    refused(read, path, message)


def test_the_unchanged_file_is_taken(
    tmp_path: Path, slice_bytes: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_files, "ELEMENTS_CAP", 5000)
    (tmp_path / "a.dcm").write_bytes(b"".join(slice_bytes))
    assert read_image(tmp_path / "a.dcm").shape == (128, 128)


def test_pixel_data_that_claim_4_gib(
    tmp_path: Path, slice_bytes: tuple[bytes, bytes], refused: Refused
) -> None:
    start, dataset = slice_bytes
    place = dataset.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    claims = dataset[: place + 8] + struct.pack("<I", 0xFFFFFFFE) + dataset[place + 12 :]
    (tmp_path / "a.dcm").write_bytes(start + claims[:-1000])
    refused(read_image, tmp_path / "a.dcm", "DICOM file is broken or cut off|pixel data are missing, cut off")


def test_meta_information_that_claims_4_gib(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "a.dcm"
    for claim in (element(0x0002, 0x0001, b"OB", 0xFFFFFFFE), element(0x0002, 0x0102, b"UT", 0xFFFFFFFE)):
        path.write_bytes(bytes(128) + b"DICM" + claim)
        refused(read_image, path, "DICOM file is broken or cut off|DICOM file holds no image")


SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "giant sides": ({"Rows": 65535, "Columns": 65535}, "image has 4294836225 pixels, expected at most"),
    "giant frames": ({"NumberOfFrames": 2_147_483_647}, "image has [0-9]+ voxels, expected at most"),
    "no rows": ({"Rows": 0}, "expected at least 2 a side"),
    "negative frames": ({"NumberOfFrames": -5}, "`NumberOfFrames` has -5, expected at least 1"),
    "three samples of grey": ({"SamplesPerPixel": 3}, "image has 3 samples of MONOCHROME2, expected grey"),
    "more bits than there are": ({"BitsAllocated": 65528}, "pixel data are missing|DICOM file is broken"),
    "NaN slope": ({"RescaleSlope": "NaN"}, "NaN|DICOM file is broken"),
    "NaN spacing": ({"PixelSpacing": ["NaN", "NaN"]}, "`PixelSpacing`|NaN|DICOM file is broken|taken"),
}


@pytest.mark.parametrize("case", SIZES)
def test_a_dicom_header_that_cannot_be(
    tmp_path: Path, slice_bytes: tuple[bytes, bytes], refused: Refused, case: str
) -> None:
    values, message = SIZES[case]
    path = tmp_path / "a.dcm"
    path.write_bytes(b"".join(slice_bytes))
    held = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for name, value in values.items():
            setattr(held, name, value)
        held.save_as(path)
    refused(read_image, path, message)


def test_a_codestream_of_another_size_than_the_header_says(tmp_path: Path, refused: Refused) -> None:
    held = pydicom.dcmread(str(get_testdata_file("JPEG2000.dcm", download=False)))
    frame = bytearray(next(pydicom.encaps.generate_frames(held.PixelData, number_of_frames=1)))
    place = frame.index(b"\xff\x4f\xff\x51") + 8
    frame[place : place + 8] = struct.pack(">II", 60_000, 60_000)
    held.PixelData = encapsulate([bytes(frame)])
    held.file_meta.TransferSyntaxUID = JPEG2000Lossless
    held.save_as(tmp_path / "a.dcm")
    refused(read_image, tmp_path / "a.dcm", r"pixel data have size 60000x60000, expected")


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (bytes(1 << 26), "deflated file has more than 8388608 bytes inflated"),
        (sequence(ITEM * 300_000 + DELIMITER), "has more than 5000 elements"),
        (element(0x0009, 0x0001, b"OB", 0xFFFFFFFE, bytes(1000)), "DICOM file "),
    ],
)
def test_a_deflated_file(
    tmp_path: Path,
    slice_bytes: tuple[bytes, bytes],
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    inside: bytes,
    message: str,
) -> None:
    monkeypatch.setattr(dicom_files, "ELEMENTS_CAP", 5000)
    monkeypatch.setattr(dicom_files, "_INFLATED_CAP", 1 << 23)
    path = tmp_path / "a.dcm"
    path.write_bytes(b"".join(slice_bytes))
    held = pydicom.dcmread(path)
    held.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    held.save_as(path)
    start = path.read_bytes()
    start = start[: META_END + int.from_bytes(start[140:144], "little")]
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    (tmp_path / "a.dcm").write_bytes(start + packer.compress(inside) + packer.flush())
    refused(read_image, tmp_path / "a.dcm", message)


# --- NIfTI -------------------------------------------------------------------------------------------------


def nifti(**fields: Any) -> bytes:
    """A small volume whose header says something else."""
    made = Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    header = made.header
    raw = bytearray(made.to_bytes())
    for name, value in fields.items():
        dtype, offset = header.template_dtype.fields[name][:2]
        packed = np.asarray(value, dtype.base).tobytes()
        raw[offset : offset + len(packed)] = packed
    return bytes(raw)


NAN, INF = float("nan"), float("inf")
NIFTIS: dict[str, tuple[dict[str, Any], str]] = {
    "giant sides": ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, r"image has 35181\d+ voxels, expected"),
    "negative sides": ({"dim": [3, -4, 4, 4, 1, 1, 1, 1]}, "expected at least 2 a side|broken"),
    "many axes": ({"dim": [32767, 4, 4, 4, 4, 4, 4, 4]}, "NIfTI file is broken"),
    "no axes": ({"dim": [0] * 8}, "expected a 3-D volume"),
    "NaN in the affine": ({"srow_x": [NAN] * 4}, "affine that cannot be inverted"),
    "infinite affine": ({"srow_y": [INF] * 4}, "affine that cannot be inverted"),
    "NaN in the quaternion": (
        {"sform_code": 0, "qform_code": 1, "quatern_b": NAN},
        "affine that cannot be inverted|NIfTI file is broken",
    ),
    "NaN spacing": (
        {"sform_code": 0, "qform_code": 1, "pixdim": [NAN] * 8},
        "affine that cannot be inverted|NIfTI file is broken",
    ),
    "infinite slope": ({"scl_slope": 1.0, "scl_inter": INF}, "NaN or Inf|NIfTI file is broken"),
    "an offset of NaN": ({"vox_offset": NAN}, "`vox_offset` has nan, expected at most"),
    "an offset of gigabytes": ({"vox_offset": 3e38}, "`vox_offset` has 3.* expected at most"),
    "colours": ({"datatype": 128, "bitpix": 24}, "data type RGB, expected one real number"),
    "unknown numbers": ({"datatype": 9999}, "NIfTI file is broken"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", NIFTIS)
def test_a_nifti_header_that_cannot_be(tmp_path: Path, refused: Refused, case: str, packed: bool) -> None:
    fields, message = NIFTIS[case]
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    content = nifti(**fields)
    path.write_bytes(gzip.compress(content) if packed else content)
    refused(read_image, path, message)


def test_a_nifti_extension_that_claims_gigabytes(tmp_path: Path, refused: Refused) -> None:
    content = bytearray(nifti(vox_offset=352 + 64))
    content[348:352] = b"\1\0\0\0"
    content[352:360] = struct.pack("<ii", 0x7FFFFFF0, 4)
    (tmp_path / "a.nii").write_bytes(content)
    refused(read_image, tmp_path / "a.nii", "NIfTI file is broken or cut off|taken")


def test_a_gzip_bomb_is_read_no_further_than_its_header(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "a.nii.gz"
    zeros = bytes(1 << 24)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(nifti(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]))
        for _ in range(64):
            file.write(zeros)
    refused(read_image, path, "voxels, expected at most")


# --- PNG and JPEG ------------------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(1 << 28), 9)
SMALL = zlib.compress(bytes(9 * 8))
RASTERS: dict[str, tuple[bytes, str]] = {
    "giant sides": (png(0x7FFFFFFF, 0x7FFFFFFF), "image has 4611686014132420609 pixels, expected at most"),
    "a long row": (png(0x7FFFFFFF, 1), "expected at least 2 a side"),
    "no sides": (png(0, 0), "expected at least 2 a side|image is broken"),
    "more pixels than it says": (png(8, 8, data=BOMB), "image is broken or cut off|taken"),
    "text that unpacks": (
        png(8, 8, chunk(b"zTXt", b"a\0\0" + BOMB), data=SMALL),
        "image is broken or cut off: Decompressed data too large",
    ),
    "a profile that unpacks": (
        png(8, 8, chunk(b"iCCP", b"a\0\0" + BOMB), data=SMALL),
        "image is broken or cut off: Decompressed data too large|taken",
    ),
    "an unknown depth": (png(8, 8, bits=99, data=SMALL), "image is broken or cut off"),
    "an animation": (
        png(8, 8, chunk(b"acTL", struct.pack(">II", 0x7FFFFFFF, 0)), data=SMALL),
        "image has [0-9]+ frames, expected a single one|image is broken",
    ),
    "a chunk of 2 GiB": (
        png(8, 8)[:33] + struct.pack(">I", 0x7FFFFFFF) + b"tEXt" + bytes(100),
        "image is broken or cut off",
    ),
}


@pytest.mark.parametrize("case", RASTERS)
def test_a_png_that_unpacks_to_more(tmp_path: Path, refused: Refused, case: str) -> None:
    content, message = RASTERS[case]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refused(read_image, path, message)


def test_a_jpeg_that_claims_giant_sides(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "a.jpg"
    Pillow.new("L", (16, 16)).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 65500, 65500)
    path.write_bytes(content)
    refused(read_image, path, "image has 4290250000 pixels, expected at most")


# --- what is no file, and tables ---------------------------------------------------------------------------


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, refused: Refused) -> None:
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "zero.dcm").symlink_to("/dev/zero")
    (tmp_path / "loop.dcm").symlink_to("loop.dcm")
    for name, message in (
        ("pipe", "not a file"),
        ("zero", "not a file"),
        ("loop", "cannot be read|no such file"),
    ):
        refused(read_image, tmp_path / f"{name}.dcm", message)


RECIPE = Recipe(name="lesion", kind="classification", classes=("benign", "malignant"))
TABLES: dict[str, tuple[bytes, str]] = {
    "a path upwards": (
        b"image,label\n../../etc/passwd,benign\n",
        "`../../etc/passwd` lies outside the folder",
    ),
    "an absolute path": (b"image,label\n/etc/passwd,benign\n", "`/etc/passwd` lies outside the folder"),
    "a path of Windows": (b"image,label\nC:\\a.png,benign\n", "lies outside the folder"),
    "a path through itself": (b"image,label\na/../../b.png,benign\n", "lies outside the folder"),
    "a long name": (b"image,label\n" + b"a" * 5000 + b",benign\n", "does not exist"),
    "a field without an end": (b'image,label\n"' + b"a" * 300_000, "not a readable CSV file: field larger"),
    "a hundred thousand columns": (b"image" + b",x" * 100_000 + b"\na\n", "a column occurs twice among"),
    "what a terminal acts on": (b"\x1b[2J,label\na,b\n", r"columns are \?\[2J, label, expected"),
    "zeros": (bytes(100_000), "not a readable CSV file|columns are|line contains NUL"),
    "UTF-16": ("image,label\n".encode("utf-16"), "is in UTF-16, expected UTF-8"),
    "bytes that are no text": (b"image,label\n\xff\xfe\xff,x\n", "is not in UTF-8"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_of_images(tmp_path: Path, refused: Refused, case: str) -> None:
    content, message = TABLES[case]
    table = tmp_path / "labels.csv"
    table.write_bytes(content)
    refused(lambda path: read_dataset(path.parent, RECIPE), table, message)


def test_a_table_of_gigabytes_or_none_at_all(tmp_path: Path, refused: Refused) -> None:
    table = tmp_path / "labels.csv"
    with table.open("wb") as file:
        file.truncate(1 << 34)
    refused(lambda path: read_dataset(path.parent, RECIPE), table, "has 17179869184 bytes, expected at most")
