"""A trained backbone as ONNX: the encoder that every site runs without torch."""

import io
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import MultiScale
from fedmed_edge.generation import Architecture
from fedmed_edge.runtime import open_session

__all__ = ["INPUT", "TOLERANCE", "export_encoder", "output_names"]

log = logging.getLogger(__name__)

INPUT = "image"
OPSET = 18
TOLERANCE = 1e-3
"""Largest difference to torch that is let through, relative to the largest value of a scale."""


def output_names(scales: int) -> list[str]:
    """Names of the encoder's outputs.

    Example:
        >>> output_names(2)
        ['scale0', 'scale1']
    """
    return [f"scale{index}" for index in range(scales)]


def export_encoder(backbone: MultiScale, made: Architecture) -> bytes:
    """Serialise a backbone as ONNX with a fixed input shape and a batch of one.

    The trace-based exporter is used: for these networks it takes a second where the graph-capturing one takes
    up to minutes, and it writes no local path into the file. The same weights give the same bytes.

    Args:
        backbone: Left in evaluation mode.
        made: Gives channels and size of the input.

    Returns:
        The model: input `image` (1, channels, *size) float32, outputs `scale0` … (1, C_k, *s_k) float32.

    Raises:
        InputError: The network cannot be exported, or the export disagrees with torch by more than 1e-3.
    """
    began = time.perf_counter()
    backbone.to("cpu").eval()
    shape = (1, made.channels, *made.size)
    image = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).random(shape, np.float32))
    with torch.no_grad():
        expected = [scale.numpy().copy() for scale in backbone(image)]
    content = _stripped(_traced(backbone, image, len(expected)))
    error = _difference(content, image, expected)
    if not error <= TOLERANCE:
        raise InputError(f"encoder: `difference` to torch has {error:.2g}, expected at most {TOLERANCE:g}")
    log.info(
        "encoder of %d scales exported in %.1f s, %.1f MB, difference %.1e",
        len(expected),
        time.perf_counter() - began,
        len(content) / 1e6,
        error,
    )
    return content


def _traced(backbone: MultiScale, image: Tensor, scales: int) -> bytes:
    buffer = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                _Named(backbone),
                (image,),
                buffer,  # type: ignore[arg-type]
                input_names=[INPUT],
                output_names=output_names(scales),
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        name = str(error).strip().splitlines()[0]
        raise InputError(f"encoder: the backbone cannot be exported to ONNX: {name}") from None
    return buffer.getvalue()


class _Named(torch.nn.Module):
    """Gives the maps as a tuple of new tensors: an output of the graph cannot be its input too."""

    def __init__(self, backbone: MultiScale) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.clone(scale) for scale in self.backbone(image))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of itself and of constant shapes, which are meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx|fedmed_edge")
        warnings.filterwarnings("ignore", category=TracerWarning)
        # instance norm takes its statistics from the image in evaluation too
        warnings.filterwarnings("ignore", message=r".*operator 'instance_norm' is set to train=True")
        yield


def _stripped(content: bytes) -> bytes:
    """Without notes that name files or builds, serialised in a fixed order."""
    model = onnx.load_model_from_string(content)
    model.ClearField("metadata_props")
    model.doc_string = ""
    model.producer_version = ""
    for node in model.graph.node:
        node.doc_string = ""
        node.ClearField("metadata_props")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _difference(content: bytes, image: Tensor, expected: Sequence[npt.NDArray[np.float32]]) -> float:
    got = open_session(content, device="cpu").run({INPUT: image.numpy()})
    worst = 0.0
    for scale, wanted in zip(got, expected, strict=True):
        largest = float(np.abs(wanted).max()) or 1.0
        worst = max(worst, float(np.abs(scale - wanted).max()) / largest)
    return worst
