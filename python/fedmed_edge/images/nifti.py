"""NIfTI files: volumes with their place in the patient, and masks of class numbers."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.images.geometry import spacing
from fedmed_edge.images.image import Float64, Image, check_finite, check_size, sides

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

_HEADER_BYTES = {1: 348, 2: 540}
# Header extensions stand before the voxels; what is compressed is unpacked up to there.
_OFFSET_CAP = 1 << 24
_GZIP = 31


def read_nifti(path: Path) -> Image:
    """Read a NIfTI-1 or NIfTI-2 volume (`.nii`, `.nii.gz`).

    Stored values are scaled by `scl_slope` and `scl_inter`; the affine is the sform, else the qform.

    Returns:
        Image of (1, i, j, k) float32.

    Raises:
        InputError: The file is broken, cut off, too large, not three-dimensional, of one slice, of colours or
            complex numbers, without orientation, or holds NaN.

    Source: NIfTI-1 data format, fields dim, datatype, vox_offset, scl_slope, qform_code, sform_code.
    """
    # What overflows becomes infinite, and is refused as that.
    with np.errstate(over="ignore", invalid="ignore"):
        values, affine = read_voxels(path)
        pixels = values.astype(np.float32, copy=False)[None]
    check_finite(path, pixels)
    return Image(pixels, affine, spacing(affine), "", "nifti", path)


def read_voxels(path: Path) -> tuple[npt.NDArray[np.generic], Float64]:
    """Read the scaled values (i, j, k) of a NIfTI file, integers where it scales nothing, and its affine.

    Raises:
        InputError: As `read_nifti`, but for NaN.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _read_stream(path, raw)
            with gzip.open(raw) as unpacked:
                return _read_stream(path, unpacked)
    except (FedmedError, MemoryError):
        raise
    except Exception as error:
        # nibabel, gzip and zlib raise nearly every built-in exception on damaged files.
        raise InputError(f"{path}: NIfTI file is broken or cut off: {_one_line(error)}") from None


def nifti_pieces(values: npt.NDArray[Any], affine_ras: Float64, *, description: str = "") -> Iterator[bytes]:
    """A gzipped NIfTI-1 file of a volume, piece by piece: no second volume is held.

    Without a time in it, the same volume gives the same bytes.

    Args:
        values: (i, j, k) uint8, int16 or float32.
        affine_ras: (4, 4), voxel index → RAS mm.
        description: At most 79 characters of ASCII.
    """
    from nibabel.nifti1 import Nifti1Image

    # The header of a small stand-in: nibabel would copy the volume to write it.
    header = Nifti1Image(np.broadcast_to(np.zeros((), values.dtype), values.shape), affine_ras).header
    header.set_xyzt_units("mm")
    header.set_slope_inter(1.0, 0.0)
    header["descrip"] = description.encode("ascii")
    header["vox_offset"] = 352
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    yield packer.compress(header.binaryblock + bytes(4))
    for plane in values.T:
        yield packer.compress(np.ascontiguousarray(plane).tobytes())
    yield packer.flush()


def _read_stream(path: Path, stream: "BinaryIO | gzip.GzipFile") -> tuple[npt.NDArray[np.generic], Float64]:
    from nibabel.arrayproxy import ArrayProxy

    start = stream.read(_HEADER_BYTES[2])
    image_class, version = _image_class(path, start)
    # The header alone first: a size is refused before it is allocated.
    header: Any = image_class.header_class(start[: _HEADER_BYTES[version]])
    shape = _checked_shape(path, header)
    affine = _checked_affine(path, header)
    # the values alone: an extension may claim any length, and nothing here reads one
    proxy = ArrayProxy(stream, header, mmap=False)
    scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
    values = np.asarray(proxy, np.float32) if scaled else np.asarray(proxy.get_unscaled())
    return values.reshape(shape, order="F"), affine


def _image_class(path: Path, start: bytes) -> "tuple[type[Nifti1Image], int]":
    if start[344:347] == b"ni1" or start[4:7] == b"ni2":
        raise InputError(f"{path}: file is the header of an .hdr and .img pair, expected one .nii file")
    if start[344:347] == b"n+1":
        from nibabel.nifti1 import Nifti1Image

        return Nifti1Image, 1
    if start[4:7] == b"n+2":
        from nibabel.nifti2 import Nifti2Image

        return Nifti2Image, 2
    raise InputError(f"{path}: not a PNG, JPEG, NIfTI or DICOM file")


def _checked_shape(path: Path, header: Any) -> tuple[int, ...]:
    shape = tuple(int(side) for side in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise InputError(f"{path}: image has {len(shape)} dimensions ({sides(shape)}), expected a 3-D volume")
    check_size(path, shape)
    stored = header.get_data_dtype()
    if stored.kind not in "iuf":
        name = header.get_value_label("datatype")
        raise InputError(f"{path}: image has data type {name}, expected one real number a voxel")
    if not 0 <= float(header["vox_offset"]) <= _OFFSET_CAP:
        raise InputError(f"{path}: `vox_offset` has {header['vox_offset']}, expected at most {_OFFSET_CAP}")
    return shape


def _checked_affine(path: Path, header: Any) -> Float64:
    if int(header["qform_code"]) == 0 and int(header["sform_code"]) == 0:
        raise InputError(
            f"{path}: image has no orientation (`qform_code` and `sform_code` are 0)",
            hint="set one with the tool that wrote the file; left and right cannot be guessed",
        )
    affine = np.asarray(header.get_best_affine(), np.float64)
    # A determinant far below the product of the spacings is an affine with its axes in one plane.
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * np.prod(spacing(affine)):
        raise InputError(f"{path}: image has an affine that cannot be inverted")
    return affine


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
