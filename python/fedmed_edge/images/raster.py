"""PNG and JPEG files: images of one or three channels, and masks of class numbers.

What has one meaning is taken: grey of 1 to 16 bits as stored (1 bit as 0 and 255), 8-bit colour, 16-bit
colour brought to 8 bits, palettes as the colours they name, EXIF orientation applied, an alpha channel that
is opaque everywhere left out. What has not is refused: transparency, CMYK, animation.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ImageFile
from PIL.Image import Image as Picture
from PIL.Image import Transpose, fromarray
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.images.bounded import Bounded
from fedmed_edge.images.image import Image, check_size, sniff

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def png_bytes(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of (rows, columns) or (rows, columns, 3) uint8.

    Example:
        >>> png_bytes(np.zeros((2, 2), np.uint8))[1:4]
        b'PNG'
    """
    out = io.BytesIO()
    fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def read_raster(path: Path) -> Image:
    """Read a PNG or JPEG file as an image without a place in the patient.

    Returns:
        Image of (1 or 3, rows, columns) float32: 0 to 255, or 0 to 65535 for 16-bit grey.

    Raises:
        InputError: The file is broken, cut off, too large, of one pixel, CMYK, animated, or has a
            transparent part.
    """
    with _opened(path) as picture:
        upright = _upright(_opaque(path, picture))
        values = np.asarray(upright)
    if values.ndim == 2:
        pixels = values[None].astype(np.float32)
    else:
        pixels = values.transpose(2, 0, 1).astype(np.float32, order="C")
    return Image(
        pixels=pixels,
        affine_ras=None,
        spacing_mm=None,
        modality="",
        format="png" if isinstance(picture, PngImageFile) else "jpeg",
        source=path,
    )


def read_class_numbers(path: Path) -> npt.NDArray[np.generic]:
    """Read a PNG mask: (rows, columns) of the numbers stored, for a palette the indices.

    Raises:
        InputError: The file is broken, cut off, too large, of one pixel, animated, or has colours.
    """
    with _opened(path) as picture:
        if picture.mode not in ("1", "L", "P", "I", "I;16"):
            raise InputError(
                f"{path}: mask has mode {picture.mode}, expected one grey channel of class numbers"
            )
        return np.asarray(_upright(picture)).astype(np.int64)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    # The plugins are used directly: `PIL.Image.open` loads others first, and only warns of a bomb.
    try:
        with Bounded(io.FileIO(path)) as file:
            picture: ImageFile.ImageFile
            picture = PngImageFile(file) if sniff(path) == "png" else JpegImageFile(file)
            check_size(path, (picture.height, picture.width))
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                raise InputError(f"{path}: image has {frames} frames, expected a single one")
            picture.load()
            yield picture
    except (FedmedError, MemoryError):
        raise
    except Exception as error:
        # Pillow's parsers raise nearly every built-in exception on damaged files.
        raise InputError(f"{path}: image is broken or cut off: {error}") from None


def _opaque(path: Path, picture: Picture) -> Picture:
    if picture.mode in ("CMYK", "YCCK"):
        raise InputError(
            f"{path}: image has CMYK colours, expected grey or RGB",
            hint="convert it with its own colour profile",
        )
    if picture.mode == "1":
        return picture.convert("L")
    if "transparency" in picture.info or picture.mode in ("LA", "RGBA", "PA"):
        coloured = picture.convert("LA" if picture.mode in ("L", "LA") else "RGBA")
        if np.asarray(coloured.getchannel("A")).min() < 255:
            raise InputError(
                f"{path}: image has a transparent part, expected an opaque image",
                hint="save it without alpha",
            )
        return coloured.convert(coloured.mode[:-1])
    if picture.mode == "P":
        return picture.convert("RGB")
    if picture.mode not in ("L", "RGB", "I", "I;16"):
        raise InputError(f"{path}: image has mode {picture.mode}, expected grey or RGB")
    return picture


def _upright(picture: Picture) -> Picture:
    # `convert` drops nothing of `info`, so the EXIF block is still there.
    if "exif" not in picture.info:
        return picture
    turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION_TAG, 1))
    return picture if turn is None else picture.transpose(turn)
