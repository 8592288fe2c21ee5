"""Held-out images with the outlines of truth and answer, as PNG inside the page."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture

from fedmed_edge.report.data import Array, Example

# Outlines lie on the picture itself, so they look the same on a light and a dark page.
TRUTH, PREDICTION = (0, 190, 255), (255, 150, 0)
_SIDE = 300


def example_picture(example: Example) -> str:
    """Draw an example as a `data:` address, the truth outlined in blue and the answer in orange.

    The line of the answer is half as wide, so that both show where they agree.
    """
    image = _colours(example.image)
    scale = max(1, round(_SIDE / max(image.shape[:2])))
    size = (image.shape[1] * scale, image.shape[0] * scale)
    drawn = np.array(Picture.fromarray(image).resize(size, Picture.Resampling.BICUBIC))
    line = max(1, scale // 3)
    for labels, colour, width in ((example.truth, TRUTH, 2 * line), (example.prediction, PREDICTION, line)):
        if labels is not None:
            drawn[_outline(_enlarged(labels, scale), width)] = colour
    out = io.BytesIO()
    Picture.fromarray(drawn).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _colours(image: Array) -> npt.NDArray[np.uint8]:
    shown = np.ascontiguousarray(image, np.uint8)
    return np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown


def _enlarged(labels: Array, scale: int) -> npt.NDArray[np.uint8]:
    return np.repeat(np.repeat(np.asarray(labels, np.uint8), scale, axis=0), scale, axis=1)


def _outline(labels: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.bool_]:
    """Every border of two classes once: a band `width` pixels wide on the side of the higher number."""
    band = np.zeros(labels.shape, np.bool_)
    for number in np.unique(labels[labels > 0]):
        inside = labels >= number
        core = inside.copy()
        for axis in (0, 1):
            for step in range(1, width + 1):
                core &= _shifted(inside, step, axis) & _shifted(inside, -step, axis)
        band |= inside & ~core
    return band


def _shifted(inside: npt.NDArray[np.bool_], by: int, axis: int) -> npt.NDArray[np.bool_]:
    """Neighbours `by` pixels away along an axis; beyond the border, the pixel itself."""
    moved = np.roll(inside, by, axis)
    edge = [slice(None), slice(None)]
    edge[axis] = slice(None, by) if by > 0 else slice(by, None)
    moved[tuple(edge)] = inside[tuple(edge)]
    return moved
