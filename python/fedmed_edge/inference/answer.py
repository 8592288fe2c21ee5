"""One input, all its frames answered: what every file of its results is made from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.images.image import Image, UInt8
from fedmed_edge.inference.inputs import Input
from fedmed_edge.inference.options import Options
from fedmed_edge.inference.predict import Model, Prediction, predict
from fedmed_edge.inference.usage import Stopwatch

STAGES = ("read", "prepare", "network", "blend", "write")
"""What an answer's seconds go to, in this order."""

_PART_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class Answer:
    """What an input was answered with.

    Attributes:
        frames: The answer for its image, or for each frame of a cine; their pixels are given back already.
        probabilities: Class name → probability; of a cine the mean over its frames.
        label: Most probable class of a classification, else None.
        sizes: Class name → volume in ml or area in mm², class 0 left out; empty where voxels have no size.
        unit: `ml` or `mm2`.
        present: Classes that the mask holds, or the label.
        known: Whether every frame is like the images that the model was made from.
        picture: (rows, columns, 3) uint8, the frame with most foreground and the answer on it; where asked.
        preview: Content of a PNG file, where it was asked for.
    """

    input: Input
    frames: tuple[Prediction, ...]
    probabilities: Mapping[str, float]
    label: str | None
    sizes: Mapping[str, float]
    unit: str
    present: frozenset[str]
    known: bool | None
    distance: float
    threshold: float | None
    warnings: tuple[str, ...]
    stages: dict[str, float] = field(repr=False)
    picture: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    preview: bytes | None = field(default=None, repr=False)

    @property
    def image(self) -> Image:
        """The image, or the first frame, without its pixels."""
        return self.frames[0].image


def answer_input(model: Model, given: Input, options: Options) -> Answer:
    """Read an input, answer it, draw what was asked for, and give back the memory of its pixels.

    Raises:
        InputError: As `Input.images` and `predict`.
    """
    watch = Stopwatch()
    drawing = _Drawing(given, options)
    frames = []
    for image in _read(given, options, watch):
        prediction = predict(model, image)
        with watch.stage("write"):
            drawing.look_at(prediction)
        frames.append(_without_pixels(prediction))
        del image, prediction
    if not frames:
        raise InputError(f"{given.name}: holds no frame")
    return _together(model, given, frames, drawing, watch)


def _read(given: Input, options: Options, watch: Stopwatch) -> Iterator[Image]:
    images = given.images(lenient=options.lenient, compact=True)
    while True:
        with watch.stage("read"):
            image = next(images, None)
        if image is None:
            return
        yield image
        del image


def _without_pixels(prediction: Prediction) -> Prediction:
    image = prediction.image
    nothing = np.broadcast_to(np.zeros((), np.float32), image.pixels.shape)
    return replace(prediction, image=replace(image, pixels=nothing))


class _Drawing:
    """Pictures of the frame with most foreground; the first of a classification."""

    def __init__(self, given: Input, options: Options) -> None:
        self._captures = given.series is not None and "sc" in options.formats
        self._previews = options.preview
        self._most = -1
        self.picture: npt.NDArray[np.uint8] | None = None
        self.preview: bytes | None = None

    def look_at(self, prediction: Prediction) -> None:
        if not (self._captures or self._previews):
            return
        mask = prediction.mask
        foreground = 0 if mask is None else int(np.count_nonzero(mask))
        if foreground <= self._most:
            return
        # Draws text and pictures: only where it was asked for.
        from fedmed_edge.inference.preview import draw_answer, draw_preview

        self._most = foreground
        self.picture = draw_answer(prediction) if self._captures else None
        self.preview = draw_preview(prediction) if self._previews else None


def _together(
    model: Model, given: Input, frames: list[Prediction], drawing: _Drawing, watch: Stopwatch
) -> Answer:
    classes = model.recipe.classes
    shares = {name: float(np.mean([one.probabilities[name] for one in frames])) for name in classes}
    classifies = frames[0].mask is None
    label = max(classes, key=lambda name: shares[name]) if classifies else None
    counts = np.zeros(len(classes), np.int64)
    for one in frames:
        counts += 0 if one.mask is None else _counts(one.mask, len(classes))
    found = frozenset({label} if label is not None else (classes[n] for n in np.flatnonzero(counts)))
    sizes, unit = (
        ({}, "") if classifies or len(frames) > 1 else _sizes(given, frames[0].image, counts, classes)
    )
    spent = [watch.seconds, *(one.stages for one in frames)]
    stages = {name: sum(one.get(name, 0.0) for one in spent) for name in STAGES}
    known = [one.known for one in frames]
    return Answer(
        input=given,
        frames=tuple(frames),
        probabilities=shares,
        label=label,
        sizes=sizes,
        unit=unit,
        present=found,
        known=None if None in known else all(known),
        distance=float(np.mean([one.distance for one in frames])),
        threshold=frames[0].threshold,
        warnings=tuple(dict.fromkeys(text for one in frames for text in one.warnings)),
        stages=stages,
        picture=drawing.picture,
        preview=drawing.preview,
    )


def _counts(mask: UInt8, classes: int) -> npt.NDArray[np.int64]:
    """Voxels of each class; counted part by part, as counting widens each number to eight bytes."""
    total = np.zeros(classes, np.int64)
    flat = mask.T.reshape(-1) if mask.T.flags.c_contiguous else mask.reshape(-1)
    for first in range(0, flat.size, _PART_VALUES):
        total += np.bincount(flat[first : first + _PART_VALUES], minlength=classes)
    return total


def _sizes(
    given: Input, image: Image, counts: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[dict[str, float], str]:
    if image.affine_ras is not None:
        each, unit = abs(float(np.linalg.det(image.affine_ras[:3, :3]))) / 1000, "ml"
    elif image.spacing_mm is not None and _is_calibrated(given):
        each, unit = image.spacing_mm[0] * image.spacing_mm[1], "mm2"
    else:
        return {}, ""
    return {name: float(count) * each for name, count in zip(classes[1:], counts[1:], strict=True)}, unit


def _is_calibrated(given: Input) -> bool:
    """Whether the spacing of a 2-D image is that in the patient, not that at the detector.

    Source: DICOM PS3.3 10.7.1.1 (Pixel Spacing value order and calibration).
    """
    if given.series is None:
        return False
    header = given.series.headers()[0]
    own, detector = header.get("PixelSpacing"), header.get("ImagerPixelSpacing")
    return bool(own) and (detector is None or list(own) != list(detector))
