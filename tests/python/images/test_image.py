"""What `read_image` and `read_mask` take, and how they say no."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image as Pillow

from fedmed_edge.errors import InputError
from fedmed_edge.images.image import (
    Image,
    check_finite,
    check_size,
    mask_classes,
    read_image,
    read_mask,
    sniff,
)


def flat(shape: tuple[int, int] = (4, 6)) -> Image:
    return Image(np.zeros((1, *shape), np.float32), None, None, "", "png", Path("a.png"))


def volume(shape: tuple[int, int, int], affine: np.ndarray) -> Image:
    return Image(np.zeros((1, *shape), np.float32), affine, (1, 1, 1), "", "nifti", Path("a.nii"))


def write_mask(path: Path, values: object) -> Path:
    Pillow.fromarray(np.array(values, np.uint8)).save(path)
    return path


@pytest.mark.parametrize(("name", "format"), [("a.png", "png"), ("a.jpg", "jpeg")])
def test_the_content_decides_not_the_name(tmp_path: Path, name: str, format: str) -> None:
    path = tmp_path / name
    Pillow.fromarray(np.full((4, 6), 7, np.uint8)).save(path)
    renamed = path.rename(tmp_path / "scan.dcm")
    image = read_image(renamed)
    assert (image.format, image.shape, image.channels, image.dimensions) == (format, (4, 6), 1, 2)
    assert (image.affine_ras, image.spacing_mm, image.modality) == (None, None, "")
    assert image.pixels.dtype == np.float32


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.png: no such file$"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GIF89a" + bytes(400), "not a PNG, JPEG, NIfTI or DICOM file"),
        (bytes(400), "not a PNG, JPEG, NIfTI or DICOM file"),
        (b"\x08\x00\x05\x00" + bytes(400), "not a PNG, JPEG, NIfTI or DICOM file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"a.png: {message}$"):
        read_image(path)


def test_dicom_without_its_header_gets_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\x08\x00\x05\x00" + bytes(400))
    with pytest.raises(InputError) as refusal:
        sniff(path)
    assert "dcmconv" in str(refusal.value.hint)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.png"
    path.parent.write_bytes(b"a file where a folder should be")
    with pytest.raises(InputError, match=r"a.png: cannot be read: "):
        read_image(path)


@pytest.mark.parametrize(
    ("shape", "frames", "message"),
    [
        ((1, 1), 1, "image has 1 pixel, expected at least 2 a side"),
        ((1, 5), 1, "image has 1x5 pixels, expected at least 2 a side"),
        ((0, 5), 1, "image has 0x5 pixels, expected at least 2 a side"),
        ((4, 4, 1), 1, "image has 4x4x1 voxels, expected at least 2 a side"),
        ((100_000, 100_000), 1, "image has 10000000000 pixels, expected at most 67108864"),
        ((2**31, 2**31, 2**31), 1, "voxels, expected at most 536870912"),
        ((8192, 8192), 9, "image has 603979776 voxels, expected at most 536870912"),
    ],
)
def test_sizes_that_are_refused(shape: tuple[int, ...], frames: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_size(Path("a"), shape, frames)


def test_pixels_that_are_no_numbers_are_counted() -> None:
    with pytest.raises(InputError, match="2 pixels are NaN or infinite, expected numbers"):
        check_finite(Path("a"), np.array([0, np.nan, np.inf], np.float32))


def test_a_png_mask_is_class_numbers(tmp_path: Path) -> None:
    values = np.arange(24).reshape(4, 6) % 3
    mask = read_mask(write_mask(tmp_path / "m.png", values), flat(), 3)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, values)
    assert mask_classes(tmp_path / "m.png", 3) == (0, 1, 2)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.png", np.zeros((6, 4)))
    with pytest.raises(InputError, match=r"m.png: mask has size 6x4, expected 4x6 as a.png"):
        read_mask(path, flat(), 2)


def test_a_class_out_of_range_is_refused(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.png", np.full((4, 6), 2))
    with pytest.raises(InputError, match=r"mask has class 2, expected 0 to 1$"):
        read_mask(path, flat(), 2)
    with pytest.raises(InputError, match=r"mask has class 2, expected 0 to 1$"):
        mask_classes(path, 2)


def test_a_mask_of_0_and_255_gets_a_hint(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.png", np.arange(24).reshape(4, 6) % 2 * 255)
    with pytest.raises(InputError, match="mask has class 255, expected 0 to 1") as refusal:
        read_mask(path, flat(), 2)
    assert refusal.value.hint == "write 1 instead of 255 for the foreground"


def test_masks_hold_at_most_255_classes(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.png", np.zeros((4, 6)))
    with pytest.raises(InputError, match="`classes` has 256, expected at most 255 for masks"):
        read_mask(path, flat(), 256)


def test_other_files_are_no_masks(tmp_path: Path) -> None:
    Pillow.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "m.jpg")
    with pytest.raises(InputError, match=r"m.jpg: mask is JPEG, which changes .* expected PNG, NIfTI or D"):
        read_mask(tmp_path / "m.jpg", flat(), 2)
    with pytest.raises(InputError, match="mask is a folder, expected PNG, NIfTI or DICOM SEG"):
        read_mask(tmp_path, flat(), 2)
    (tmp_path / "m.dcm").write_bytes(bytes(128) + b"DICM" + bytes(300))
    with pytest.raises(InputError, match=r"m.dcm: .*(holds no segmentation|broken or cut off)"):
        read_mask(tmp_path / "m.dcm", flat(), 2)


def test_a_mask_of_other_dimensions_is_refused(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.png", np.zeros((4, 6)))
    with pytest.raises(InputError, match=r"mask has 2 dimensions, expected a volume in NIfTI for a.nii"):
        read_mask(path, volume((4, 6, 2), np.eye(4)), 2)
    Nifti1Image(np.zeros((4, 6, 2), np.uint8), np.eye(4)).to_filename(tmp_path / "m.nii")
    with pytest.raises(InputError, match=r"mask has 3 dimensions, expected a PNG for a.png"):
        read_mask(tmp_path / "m.nii", flat(), 2)


def test_a_volume_mask_is_turned_onto_its_image(tmp_path: Path) -> None:
    # A viewer saves the mask with its own axis order: same grid, same place, other axes.
    labels = np.random.default_rng(0).integers(0, 3, (5, 4, 3)).astype(np.uint8)
    affine = np.array([[0, -2.0, 0, 7], [1, 0, 0, -3], [0, 0, 3, 5], [0, 0, 0, 1]])
    reordered = labels.transpose(2, 0, 1)[::-1]
    turn = np.zeros((4, 4))
    turn[[1, 2, 0, 3], [0, 1, 2, 3]] = 1
    # (i, j, k) of the image is (2 - k, i, j) of the mask.
    to_mask = turn.copy()
    to_mask[0] = [0, 0, -1, 2]
    Nifti1Image(reordered, affine @ np.linalg.inv(to_mask)).to_filename(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii.gz", volume((5, 4, 3), affine), 3), labels)


def test_a_volume_mask_elsewhere_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    Nifti1Image(np.zeros((4, 4, 4), np.uint8), affine).to_filename(tmp_path / "m.nii")
    affine[0, 3] = 0.5
    with pytest.raises(InputError, match=r"m.nii: mask lies elsewhere in the patient than a.nii"):
        read_mask(tmp_path / "m.nii", volume((4, 4, 4), affine), 2)
    affine[0, 3] = 0.01
    assert read_mask(tmp_path / "m.nii", volume((4, 4, 4), affine), 2).shape == (4, 4, 4)
    with pytest.raises(InputError, match="mask has size 4x4x4, expected 4x4x5"):
        read_mask(tmp_path / "m.nii", volume((4, 4, 5), affine), 2)


def test_a_mask_of_fractions_is_refused(tmp_path: Path) -> None:
    Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), np.eye(4)).to_filename(tmp_path / "m.nii")
    with pytest.raises(InputError, match="values that are no whole numbers, expected class numbers"):
        read_mask(tmp_path / "m.nii", volume((4, 4, 4), np.eye(4)), 2)
    Nifti1Image(np.full((4, 4, 4), -1, np.int16), np.eye(4)).to_filename(tmp_path / "m.nii")
    with pytest.raises(InputError, match="mask has class -1, expected 0 to 1"):
        read_mask(tmp_path / "m.nii", volume((4, 4, 4), np.eye(4)), 2)


def test_a_png_loads_neither_pydicom_nor_nibabel(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.zeros((4, 6)))
    program = (
        "import sys, pathlib; from fedmed_edge.images.image import read_image, read_mask\n"
        "path = pathlib.Path(sys.argv[1]); read_mask(path, read_image(path), 2)\n"
        "assert not {'pydicom', 'nibabel', 'torch', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.png")], check=True)
