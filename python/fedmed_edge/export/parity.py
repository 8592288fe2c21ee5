"""Does the exported file answer as the reference does? Measured on made-up images, where a runtime is."""

import importlib.util

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.features.encoder import Encoder, moments_of, pooled_of
from fedmed_edge.features.lift import Lift
from fedmed_edge.generation import Generation
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.runtime import open_session

TOLERANCE = 1e-4
"""Largest difference of a probability that is let through."""

DISTANCE_TOLERANCE = 1e-3
"""Largest difference of a squared distance, relative to it."""

_ROWS = 4096

Float32 = npt.NDArray[np.float32]


def check_parity(content: bytes, model: GlobalModel, generation: Generation) -> float | None:
    """Run an exported model on smooth random images and compare it with encoder, lift and head in NumPy.

    Returns:
        The largest difference of a probability; None where no runtime is installed.

    Raises:
        InputError: A probability differs by more than 1e-4 or a distance by more than 1e-3 of itself.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    session = open_session(content, device="cpu")
    encoder, lift = Encoder(generation, "cpu"), Lift(generation)
    worst = 0.0
    for image in sample_images(generation):
        got, distance = session.run({"image": image[None]})
        maps = encoder.maps(image)
        features = lift.standardise(pooled_of(moments_of(maps)))
        wanted = float(generation.squared_distance(features[None])[0])
        if not abs(float(distance[0]) - wanted) <= DISTANCE_TOLERANCE * max(wanted, 1.0):
            raise InputError(
                f"export: `distance` has {float(distance[0]):.6g}, expected the reference's {wanted:.6g}"
            )
        if generation.header.kind == "classification":
            answer, reference = got, model.probabilities(lift.image_row(pooled_of(moments_of(maps))))
        else:
            rows, axes = lift.pixel_rows(maps, _stride(generation.header.size), generation.header.size)
            answer = np.moveaxis(got[0][(slice(None), *np.ix_(*axes))], 0, -1).reshape(len(rows), -1)
            reference = model.probabilities(rows)
        worst = max(worst, float(np.abs(answer - reference).max()))
    if not worst <= TOLERANCE:
        raise InputError(
            f"export: `probabilities` differ by {worst:.2g} from the reference, "
            f"expected at most {TOLERANCE:g}",
            hint="rebuild with a larger --ridge: the head is too steep for float32",
        )
    return worst


def sample_images(generation: Generation) -> list[Float32]:
    """Two smooth random images (channels, *size) float32 in [0, 1], the same every time."""
    header = generation.header
    random = np.random.Generator(np.random.PCG64(0))
    images = []
    for cells in (4, 9):
        image = random.random((header.channels, *[min(cells, side) for side in header.size]))
        for axis, side in enumerate(header.size, start=1):
            place = np.linspace(0, image.shape[axis] - 1, side)
            low = np.minimum(place.astype(np.intp), image.shape[axis] - 1)
            high = np.minimum(low + 1, image.shape[axis] - 1)
            share = (place - low).reshape(-1, *[1] * (image.ndim - axis - 1))
            image = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
        images.append(np.ascontiguousarray(image, np.float32))
    return images


def _stride(size: tuple[int, ...]) -> int:
    """Least step at which a grid of `size` has at most some thousand positions."""
    stride = 1
    while np.prod([-(-side // stride) for side in size]) > _ROWS:
        stride += 1
    return stride
