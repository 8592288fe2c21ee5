"""An image as the hospital has it: pixel values, and where they lie in the patient."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.images.geometry import carry_axes
from fedmed_edge.words import counted

# A file can declare any size in a few bytes: what is over these is refused before anything is allocated.
PIXEL_CAP = 1 << 26
VOXEL_CAP = 1 << 29

MASK_CLASSES_CAP = 255

Format = Literal["png", "jpeg", "nifti", "dicom"]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Image:
    """One image or volume.

    Attributes:
        pixels: (C, rows, columns) or (C, i, j, k) float32, finite; C is 1 or 3 (red, green, blue). In any
            memory order. Values are the file's own (grey levels, rescaled DICOM values such as HU, scaled
            NIfTI values).
        affine_ras: (4, 4) float64, maps the voxel index (i, j, k, 1) to patient coordinates in mm, axes to
            the patient's right, front (anterior) and head (superior); None for a 2-D image.
        spacing_mm: Distance of neighbouring pixels along each axis; None where the file does not say.
        modality: DICOM modality (`CT`, `MR`, …); empty where the file does not say.
        format: What the file was.
        source: The file, or the folder of the series.
        warnings: What a reader of an answer should know of it, each beginning with a stable code.

    Example:
        >>> image = Image(np.zeros((1, 4, 6), np.float32), None, None, "", "png", Path("a.png"))
        >>> image.channels, image.dimensions, image.shape
        (1, 2, (4, 6))
    """

    pixels: Float32 = field(repr=False)
    affine_ras: Float64 | None
    spacing_mm: tuple[float, ...] | None
    modality: str
    format: Format
    source: Path
    warnings: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """C, 1 or 3."""
        return int(self.pixels.shape[0])

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.pixels.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides of the image, without the channels."""
        return tuple(self.pixels.shape[1:])


def read_image(path: Path | str) -> Image:
    """Read an image file, or a folder that holds one DICOM series; the content decides, not the name.

    Raises:
        InputError: There is no such file, it is none of the formats, broken, cut off, of one pixel, too
            large, or holds something that has no single meaning as an image (animation, transparency, a
            cine, …).

    Example:
        >>> import tempfile
        >>> import PIL.Image
        >>> path = Path(tempfile.mkdtemp()) / "a.png"
        >>> PIL.Image.new("L", (6, 4), 7).save(path)
        >>> image = read_image(path)
        >>> image.shape, image.pixels.max()
        ((4, 6), np.float32(7.0))
    """
    path = Path(path)
    if path.is_dir():
        from fedmed_edge.images.dicom import read_series

        return read_series(path)
    kind = sniff(path)
    if kind in ("png", "jpeg"):
        from fedmed_edge.images.raster import read_raster

        return read_raster(path)
    if kind == "nifti":
        from fedmed_edge.images.nifti import read_nifti

        return read_nifti(path)
    from fedmed_edge.images.dicom import read_dicom

    return read_dicom(path)


def read_mask(path: Path, image: Image, classes: int, names: Sequence[str] = ()) -> UInt8:
    """Read the mask of `image`: PNG of class numbers for a 2-D image, NIfTI for a volume, DICOM SEG for both.

    A mask in NIfTI or DICOM may have its axes in another order or direction than the image; it is brought to
    the image's by their places in the patient, which must agree to a tenth of a voxel.

    Args:
        classes: Number of classes C; the mask holds 0 to C - 1.
        names: Class names in order; segments of a DICOM SEG are told by them, else by number.

    Returns:
        uint8 of `image.shape`.

    Raises:
        InputError: The mask cannot be read, is of another size or lies elsewhere, or holds another number.
    """
    if _is_dicom(path):
        from fedmed_edge.images.segments import classes_by_segment, read_segments, target_of

        return read_segments(path, target_of(image), classes_by_segment(path, names, classes))
    values, affine = _stored_mask(path)
    if values.ndim != image.dimensions:
        wanted = "a volume in NIfTI" if image.dimensions == 3 else "a PNG"
        raise InputError(
            f"{path}: mask has {values.ndim} dimensions, expected {wanted} for {image.source.name}"
        )
    if affine is not None and image.affine_ras is not None:
        carried = carry_axes(values, affine, image.affine_ras)
        if carried is None:
            raise InputError(f"{path}: mask lies elsewhere in the patient than {image.source.name}")
        values = carried
    if values.shape != image.shape:
        raise InputError(
            f"{path}: mask has size {sides(values.shape)}, expected {sides(image.shape)} "
            f"as {image.source.name}"
        )
    return _class_numbers(path, values, classes)


def mask_classes(path: Path, classes: int, names: Sequence[str] = ()) -> tuple[int, ...]:
    """Class numbers that occur in a mask file, rising.

    Args:
        classes, names: As of `read_mask`.

    Raises:
        InputError: The mask cannot be read, or holds a number that is no class.
    """
    if _is_dicom(path):
        from fedmed_edge.images.segments import classes_by_segment, classes_inside

        return tuple(sorted(classes_inside(path, classes_by_segment(path, names, classes))))
    values, _ = _stored_mask(path)
    return tuple(int(number) for number in np.unique(_class_numbers(path, values, classes)))


def _stored_mask(path: Path) -> tuple[npt.NDArray[np.generic], Float64 | None]:
    kind = "a folder" if path.is_dir() else sniff(path)
    if kind == "png":
        from fedmed_edge.images.raster import read_class_numbers

        return read_class_numbers(path), None
    if kind == "nifti":
        from fedmed_edge.images.nifti import read_voxels

        return read_voxels(path)
    found = "JPEG, which changes the numbers it stores" if kind == "jpeg" else kind
    raise InputError(f"{path}: mask is {found}, expected PNG, NIfTI or DICOM SEG")


def _is_dicom(path: Path) -> bool:
    return not path.is_dir() and sniff(path) == "dicom"


def _class_numbers(path: Path, values: npt.NDArray[np.generic], classes: int) -> UInt8:
    if classes > MASK_CLASSES_CAP:
        raise InputError(f"{path}: `classes` has {classes}, expected at most {MASK_CLASSES_CAP} for masks")
    numbers = values
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.rint(values.astype(np.float64))):
            raise InputError(f"{path}: mask has values that are no whole numbers, expected class numbers")
        numbers = np.rint(values.astype(np.float64)).astype(np.int64)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        binary = classes == 2 and set(np.unique(numbers).tolist()) == {0, 255}
        raise InputError(
            f"{path}: mask has class {wrong}, expected 0 to {classes - 1}",
            hint="write 1 instead of 255 for the foreground" if binary else None,
        )
    return np.ascontiguousarray(numbers, np.uint8)


def sniff(path: Path) -> Format:
    """What a file is, by its first bytes.

    Raises:
        InputError: There is no such file, it cannot be read or is none of the formats.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a file")
        with path.open("rb") as file:
            start = file.read(352)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not start:
        raise InputError(f"{path}: is empty")
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if start.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if start[128:132] == b"DICM":
        return "dicom"
    nifti1, nifti2 = start[344:347] in (b"n+1", b"ni1"), start[4:7] in (b"n+2", b"ni2")
    if nifti1 or nifti2 or start.startswith(b"\x1f\x8b"):
        return "nifti"
    raise InputError(f"{path}: not a PNG, JPEG, NIfTI or DICOM file", hint=_format_hint(start))


def _format_hint(start: bytes) -> str | None:
    if start[:2] in (b"\x08\x00", b"\x02\x00", b"\x00\x08", b"\x00\x02") and start[3:4] == b"\x00":
        return "if it is DICOM without the file header, write that first, for example with dcmconv"
    return None


def check_size(path: Path, shape: tuple[int, ...], frames: int = 1) -> None:
    """Refuse a declared size before anything of that size is allocated.

    Args:
        shape: Declared sides, 2 or 3 of them.
        frames: How many such images the file holds.

    Raises:
        InputError: A side is under 2, or there are more than `PIXEL_CAP` pixels (2-D) or `VOXEL_CAP` voxels.
    """
    things, cap = ("pixels", PIXEL_CAP) if len(shape) == 2 and frames == 1 else ("voxels", VOXEL_CAP)
    if min(shape) < 2:
        what = "1 pixel" if max(shape) == 1 else f"{sides(shape)} {things}"
        raise InputError(f"{path}: image has {what}, expected at least 2 a side")
    if _product(shape) * frames > cap:
        raise InputError(f"{path}: image has {_product(shape) * frames} {things}, expected at most {cap}")


def check_finite(path: Path, values: Float32) -> None:
    """Refuse pixels that are no numbers.

    Raises:
        InputError: A value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        raise InputError(
            f"{path}: {counted(bad, 'pixel is', 'pixels are')} NaN or infinite, expected numbers"
        )


def sides(shape: tuple[int, ...]) -> str:
    """A size as messages write it.

    Example:
        >>> sides((3, 4))
        '3x4'
    """
    return "x".join(str(side) for side in shape)


def _product(shape: tuple[int, ...]) -> int:
    # Python integers: declared sides can overflow numpy's.
    total = 1
    for side in shape:
        total *= side
    return total
