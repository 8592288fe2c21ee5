"""Small encoders written by hand in ONNX, and models with heads drawn at random: no torch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fedmed_edge.generation import Generation, GenerationHeader
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.posterior import Posterior
from fedmed_edge.recipe import Backbone, Recipe


def encoder(channels: int, size: tuple[int, ...], widths: tuple[int, ...], pixels: bool) -> bytes:
    """Strided convolutions and relu, one map each at half the side; for pixels scale 0 is the image."""
    random = np.random.default_rng(0)
    nodes, inits, outputs, source, left = [], [], [], "image", list(widths)
    into, sides, k = channels, list(size), 0
    if pixels:
        nodes.append(helper.make_node("Identity", ["image"], ["scale0"]))
        outputs.append(helper.make_tensor_value_info("scale0", TensorProto.FLOAT, [1, channels, *size]))
        left, k = left[1:], 1
    for width in left:
        kernel = random.standard_normal((width, into, *[3] * len(size))) / np.sqrt(9 * into)
        kernel = kernel.astype(np.float32)
        inits.append(numpy_helper.from_array(kernel, f"w{k}"))
        nodes.append(
            helper.make_node(
                "Conv", [source, f"w{k}"], [f"c{k}"], pads=[1] * (2 * len(size)), strides=[2] * len(size)
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"scale{k}"]))
        sides = [-(-side // 2) for side in sides]
        outputs.append(helper.make_tensor_value_info(f"scale{k}", TensorProto.FLOAT, [1, width, *sides]))
        source, into, k = f"scale{k}", width, k + 1
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, *size])
    graph = helper.make_graph(nodes, "encoder", [image], outputs, inits)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


def generation(
    kind: Any = "classification",
    size: tuple[int, ...] = (16, 24),
    *,
    channels: int = 1,
    widths: tuple[int, ...] = (6, 10),
    lift: int = 32,
    features: int | None = None,
    **fields: Any,
) -> Generation:
    random = np.random.default_rng(1)
    pixels = kind == "segmentation"
    widths = (channels, *widths) if pixels else widths
    raw = sum(widths)
    wide = raw if features is None else features
    rows = random.standard_normal((50, wide))
    values: dict[str, Any] = {
        "header": GenerationHeader(
            kind=kind, channels=channels, size=size, backbone=Backbone(), widths=widths, lift_dim=lift
        ),
        "weights": {},
        "encoder": encoder(channels, size, widths, pixels),
        "mean": random.random(raw).astype(np.float32),
        "deviation": (0.5 + random.random(raw)).astype(np.float32),
        "projection": None
        if features is None
        else np.linalg.qr(random.standard_normal((raw, wide)))[0].astype(np.float32),
        "lift_weight": (random.standard_normal((wide, lift)) / np.sqrt(wide)).astype(np.float32),
        "lift_bias": random.standard_normal(lift).astype(np.float32),
        "reference_mean": random.standard_normal(wide),
        "reference_covariance": rows.T @ rows / 50 + 0.1 * np.eye(wide),
    }
    return Generation(**(values | fields))


def model_for(made: Generation, classes: int = 3, *, scale: float = 1.0, **fields: Any) -> GlobalModel:
    random = np.random.default_rng(2)
    header = made.header
    recipe = Recipe(
        name="r",
        kind=header.kind,
        classes=tuple(f"c{k}" for k in range(classes)),
        channels=header.channels,
        size=header.size,
        spacing_mm=(1.0, 1.0, 1.0) if len(header.size) == 3 else None,
    )
    priors = np.full(classes, 1 / classes)
    posterior = Posterior(
        3.0 * random.standard_normal((classes, classes)), random.standard_normal(classes), 1.5, priors
    )
    values: dict[str, Any] = {
        "recipe": recipe,
        "generation": made.digest,
        "head": scale * random.standard_normal((made.row_dim, classes)) / np.sqrt(made.row_dim),
        "ridge": 1e-2,
        "posterior": posterior,
        "known_threshold": 12.5,
        "sites": ("alpha", "beta"),
        "contributions": ("1" * 64, "2" * 64),
    }
    return GlobalModel(**(values | fields))


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """The functions above: test modules cannot import a conftest."""
    return SimpleNamespace(generation=generation, model=model_for, encoder=encoder, onnx=onnx)
