"""Does the exported file answer as the reference does? Measured on made-up images, where a runtime is."""

import base64
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.features.encoder import Encoder, moments_of, pooled_of
from fedmed_edge.features.lift import Lift
from fedmed_edge.generation import Generation
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.manifest import Manifest, Sample, stretched
from fedmed_edge.runtime import open_session

TOLERANCE = 1e-4
"""Largest difference of a probability that is let through."""

DISTANCE_TOLERANCE = 1e-3
"""Largest difference of a squared distance, relative to it."""

_ROWS = 4096
_SAMPLE_ROWS = 64

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Reference:
    """A made-up image, and what encoder, lift and head in NumPy answer to it.

    Attributes:
        coarse: (channels, *cells) uint8, which the image is stretched from.
        image: (channels, *size) float32.
        axes: Indices along each axis that were looked at; empty for a classification.
        probabilities: (N, C) float, of the image or of each place of `axes`.
        distance: Squared Mahalanobis distance.
    """

    coarse: UInt8
    image: Float32
    axes: tuple[npt.NDArray[np.intp], ...]
    probabilities: npt.NDArray[np.floating]
    distance: float


def reference_answers(model: GlobalModel, generation: Generation) -> list[Reference]:
    """Answers of the reference on `coarse_images`; none where no runtime is installed.

    Raises:
        InputError: The encoder does not fit the generation.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    encoder, lift, size = Encoder(generation, "cpu"), Lift(generation), generation.header.size
    found = []
    for coarse in coarse_images(generation):
        image = stretched(coarse, size)
        maps = encoder.maps(image)
        pooled = pooled_of(moments_of(maps))
        rows, axes = lift.image_row(pooled), tuple[npt.NDArray[np.intp], ...]()
        if model.recipe.kind == "segmentation":
            rows, places = lift.pixel_rows(maps, _stride(size), size)
            axes = tuple(places)
        distance = float(generation.squared_distance(lift.standardise(pooled)[None])[0])
        found.append(Reference(coarse, image, axes, model.probabilities(rows), distance))
    return found


def check_parity(content: bytes, references: Sequence[Reference], *, image: str = "image") -> float | None:
    """Run an exported model and compare it with the reference.

    Args:
        content: Of one task.
        image: Name of its input.

    Returns:
        The largest difference of a probability; None where there is nothing to compare with.

    Raises:
        InputError: A probability differs by more than 1e-4 or a distance by more than 1e-3 of itself.
    """
    if not references:
        return None
    session = open_session(content, device="cpu")
    worst = 0.0
    for one in references:
        got, distance = session.run({image: one.image[None]})
        if not abs(float(distance[0]) - one.distance) <= DISTANCE_TOLERANCE * max(one.distance, 1.0):
            raise InputError(
                f"export: `distance` has {float(distance[0]):.6g}, "
                f"expected the reference's {one.distance:.6g}"
            )
        picked = np.moveaxis(got[0][:, *np.ix_(*one.axes)], 0, -1) if one.axes else got
        worst = max(worst, float(np.abs(picked.reshape(one.probabilities.shape) - one.probabilities).max()))
    if not worst <= TOLERANCE:
        raise InputError(
            f"export: `probabilities` differ by {worst:.2g} from the reference, "
            f"expected at most {TOLERANCE:g}",
            hint="rebuild with a larger --ridge: the head is too steep for float32",
        )
    return worst


def sample_of(references: Sequence[Reference]) -> Sample | None:
    """The last of the references as a model carries it; None where there is none.

    Rounded, so that equal models stay equal bytes on processors that add up in another order.
    """
    if not references:
        return None
    one, step = references[-1], 1
    while np.prod([len(axis[::step]) for axis in one.axes]) > _SAMPLE_ROWS:
        step += 1
    picked = one.probabilities.reshape(*[len(axis) for axis in one.axes], -1)
    picked = picked[tuple(slice(None, None, step) for _ in one.axes)]
    return Sample(
        shape=one.coarse.shape,
        values=base64.b64encode(one.coarse.tobytes()).decode(),
        at=tuple(tuple(axis[::step].tolist()) for axis in one.axes),
        probabilities=tuple(np.round(picked.ravel().astype(np.float64), 4).tolist()),
        distance=float(f"{one.distance:.4g}"),
    )


def sample_fault(content: bytes, manifest: Manifest, *, device: str = "cpu") -> str:
    """What is wrong with how an exported file answers the sample of its manifest; empty where nothing is.

    Raises:
        InputError: The file cannot be run.
        DeviceError: The device did not come up.
    """
    if manifest.sample is None:
        return ""
    session = open_session(content, device=device, precision=manifest.precision)
    image = manifest.sample.image(manifest.recipe.size)
    probabilities, distance = session.run({"image": image[None]})
    return manifest.sample_fault(probabilities[0], float(distance.reshape(-1)[0]))


def coarse_images(generation: Generation) -> list[UInt8]:
    """Two random coarse images (channels, *cells), of few and of more cells; the same every time."""
    header, random = generation.header, np.random.Generator(np.random.PCG64(0))
    sides = ([min(cells, side) for side in header.size] for cells in (4, 9))
    return [random.integers(0, 256, (header.channels, *shape), np.uint8) for shape in sides]


def _stride(size: tuple[int, ...]) -> int:
    """Least step at which a grid of `size` has at most some thousand positions."""
    stride = 1
    while np.prod([-(-side // stride) for side in size]) > _ROWS:
        stride += 1
    return stride
