"""A generation's encoder, run by ONNX Runtime: one image in, the maps of every scale out."""

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.generation import Generation
from fedmed_edge.kernels import channel_moments
from fedmed_edge.recipe import Recipe
from fedmed_edge.runtime import Device, as_batch, open_session

__all__ = ["Encoder", "Moments", "moments_of", "pooled_of", "require_fit"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Moments = list[tuple[int, Float64, Float64]]


class Encoder:
    """Runs one image or window at a time, so that its bits never depend on its company.

    Args:
        generation: Whose encoder it is.
        device: `auto`, `cpu`, `cuda` or `tensorrt`.

    Attributes:
        device: The device that came up.

    Raises:
        DeviceError: The asked device did not come up.
        InputError: The encoder does not fit the generation's header, or no runtime is installed.
    """

    def __init__(self, generation: Generation, device: Device | str = "auto") -> None:
        header = generation.header
        self._session = open_session(generation.encoder, device=device)
        self.device = self._session.device
        self.shape = (header.channels, *header.size)
        wanted = {"image": (1, *self.shape)}
        if self._session.inputs != wanted or len(self._session.outputs) != len(header.widths):
            raise InputError(
                f"generation: `encoder` takes {self._session.inputs} to {len(self._session.outputs)} scales, "
                f"expected {wanted} to {len(header.widths)}"
            )

    def maps(self, window: Float32) -> list[Float32]:
        """Maps (C_k, *s_k) float32 of every scale of a window (channels, *size) float32.

        Raises:
            InputError: The window has another shape.
        """
        if window.shape != self.shape:
            raise InputError(f"encoder: `window` has shape {window.shape}, expected {self.shape}")
        return [scale[0] for scale in self._session.run({"image": as_batch(window)})]


def moments_of(maps: list[Float32]) -> Moments:
    """(count, sums (C_k,), sums of squares (C_k,)) of the channels of every scale."""
    return [channel_moments(np.ascontiguousarray(scale)) for scale in maps]


def pooled_of(moments: Moments) -> Float32:
    """Mean of every channel over its map, all scales concatenated: (F0,) float32."""
    return np.concatenate([sums / count for count, sums, _ in moments]).astype(np.float32)


def require_fit(generation: Generation, recipe: Recipe) -> None:
    """Refuse a recipe whose images the generation's encoder was not made for.

    Kinds may differ: rows of images and rows of pixels are both made of the encoder's maps.

    Raises:
        InputError: Channels or size differ.
    """
    header = generation.header
    for name, got, wanted in (
        ("channels", recipe.channels, header.channels),
        ("size", recipe.size, header.size),
    ):
        if got != wanted:
            raise InputError(
                f"recipe {recipe.name}: `{name}` has {got}, expected the generation's {wanted}",
                hint="state the generation's `channels` and `size` in the recipe: grey images are repeated, "
                "others stretched",
            )
