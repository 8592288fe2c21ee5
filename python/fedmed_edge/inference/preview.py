"""Preview pictures: the image as grey or colour with the answer drawn on it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from fedmed_edge.images.geometry import world_axes
from fedmed_edge.images.image import Float32, Image
from fedmed_edge.images.raster import png_bytes
from fedmed_edge.inference.predict import Prediction

Colours = npt.NDArray[np.uint8]

# Okabe & Ito's palette without black and grey: told apart by readers with any colour vision.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)

_SIDE = 512
_SOFT_TISSUE_HU = (-160.0, 240.0)
_TINT = 0.35


def draw_preview(prediction: Prediction) -> bytes:
    """Draw an answer as PNG: a segmentation as tint and outline, a classification as caption.

    A volume is shown by the axial slice with the most foreground, patient's right on the left of the picture.

    Returns:
        Content of a PNG file, longest side at least 512 pixels.
    """
    picture = draw_answer(prediction)
    if prediction.mask is not None:
        return png_bytes(picture)
    label = prediction.label or ""
    text = f"{label}  {prediction.probabilities[label]:.2f}"
    if prediction.known is False:
        text += "  (unlike the images that the model was made from)"
    return png_bytes(with_lines(picture, [text]))


def draw_answer(prediction: Prediction) -> Colours:
    """Draw the image, and a segmentation on it as tint and outline; no words.

    Returns:
        (rows, columns, 3) uint8, longest side at least 512 pixels.
    """
    masks = () if prediction.mask is None else (prediction.mask,)
    grey, labels, spacing = display_plane(prediction.image, *masks)
    colours = np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey
    height, width = colours.shape[0] * spacing[0], colours.shape[1] * spacing[1]
    scale = max(_SIDE, *colours.shape[:2]) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture: Colours = np.asarray(Picture.fromarray(colours).resize(size, Picture.Resampling.BILINEAR))
    if labels:
        numbers = np.asarray(Picture.fromarray(labels[0]).resize(size, Picture.Resampling.NEAREST))
        picture = overlay(picture, numbers)
    return picture


def overlay(picture: Colours, labels: npt.NDArray[np.uint8]) -> Colours:
    """Tint each foreground class and draw its outline.

    Args:
        picture: (rows, columns, 3) uint8.
        labels: (rows, columns) class numbers; class k has colour (k - 1) of `PALETTE`, repeating.

    Example:
        >>> spot = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.uint8)
        >>> drawn = overlay(np.zeros((3, 3, 3), np.uint8), spot)
        >>> drawn[1, 1].tolist(), drawn[0, 0].tolist()
        ([230, 159, 0], [0, 0, 0])
    """
    palette = np.array(PALETTE, np.float32)[(labels.astype(np.int64) - 1) % len(PALETTE)]
    edge = _outline(labels)[..., None]
    tinted = picture * (1 - _TINT) + palette * _TINT
    drawn = np.where(edge, palette, np.where(labels[..., None] > 0, tinted, picture))
    return drawn.round().astype(np.uint8)


def _outline(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Foreground pixels with a neighbour of another class."""
    padded = np.pad(labels, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.asarray((labels > 0) & np.any([labels != other for other in around], axis=0))


def display_plane(
    image: Image, *labels: npt.NDArray[np.uint8]
) -> tuple[Colours, tuple[npt.NDArray[np.uint8], ...], tuple[float, float]]:
    """The plane of an image that stands for it, as it is to be shown.

    A volume gives the axial slice with the most foreground in the first of `labels` (the middle one where
    there is none), patient's right on the left of the picture. Grey levels run from the 1st to the 99th
    percentile, for CT over soft tissue.

    Args:
        labels: Class numbers of the image's own shape.

    Returns:
        (rows, columns) or (rows, columns, 3) uint8; the labels in that plane; height and width of a pixel, in
        mm where they are known.
    """
    if image.dimensions == 2:
        spacing = image.spacing_mm or (1.0, 1.0)
        return _window(image, image.pixels), labels, (spacing[0], spacing[1])
    axes, directions = world_axes(_affine(image))
    order = np.argsort(axes)
    steps = tuple(slice(None, None, directions[axis]) for axis in order)
    pixels = image.pixels.transpose(0, *(order + 1))[(slice(None), *steps)]
    turned = [one.transpose(order)[steps] for one in labels]
    level = pixels.shape[3] // 2
    if turned and turned[0].any():
        # plane by plane, as numpy would make a copy of the volume to count along axes
        level = int(np.argmax([np.count_nonzero(plane) for plane in np.moveaxis(turned[0], -1, 0)]))
    spacing_mm = image.spacing_mm or (1.0, 1.0, 1.0)
    # Seen from the feet, as radiologists do: rows from front to back, columns from right to left.
    flat = pixels[:, ::-1, ::-1, level].swapaxes(1, 2)
    shown = tuple(np.ascontiguousarray(one[::-1, ::-1, level].T) for one in turned)
    return _window(image, flat), shown, (spacing_mm[order[1]], spacing_mm[order[0]])


def _affine(image: Image) -> npt.NDArray[np.float64]:
    return np.eye(4) if image.affine_ras is None else image.affine_ras


def _window(image: Image, pixels: Float32) -> Colours:
    """(C, rows, columns) → uint8."""
    low, high = _SOFT_TISSUE_HU if image.modality == "CT" else np.percentile(pixels, [1, 99])
    scaled = (pixels - low) / max(float(high - low), 1e-6)
    levels = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))


def with_lines(picture: Colours, lines: Sequence[str]) -> Colours:
    """Put lines of text below a picture, as small as the longest needs.

    Example:
        >>> with_lines(np.zeros((100, 300, 3), np.uint8), ["benign  0.93"]).shape
        (128, 300, 3)
    """
    height, width = picture.shape[:2]
    size = max(14, width // 24)
    step = round(1.4 * size)
    canvas = Picture.new("RGB", (width, height + (len(lines) - 1) * step + 2 * size), (16, 20, 24))
    canvas.paste(Picture.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        fitting = size
        while fitting > 8 and draw.textlength(line, ImageFont.load_default(fitting)) > width - 2 * size:
            fitting -= 1
        place = (size, height + size // 2 + number * step)
        draw.text(place, line, fill=(236, 240, 241), font=ImageFont.load_default(fitting))
    return np.asarray(canvas)
