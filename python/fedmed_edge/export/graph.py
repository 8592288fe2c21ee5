"""Operators appended to an encoder: pooling, standardisation, lift, head, softmax and distance.

Everything stays a fixed-shape graph of float32 operators that every provider has.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fedmed_edge.errors import InputError
from fedmed_edge.generation import Array64, Generation

PREFIX = "fedmed_"

Scale = tuple[str, tuple[int, ...], npt.NDArray[np.intp]]
"""One map of the encoder: name, (1, C_k, *s_k), and the raw features that its channels are."""


class Tail:
    """Writes nodes behind an encoder; every value is named in order, so equal models are equal bytes."""

    def __init__(self, encoder: onnx.ModelProto, generation: Generation) -> None:
        self.graph = encoder.graph
        self.generation = generation
        self.scales = _scales(encoder, generation)
        self._count = 0
        names = [name for node in self.graph.node for name in node.output]
        if any(name.startswith(PREFIX) for name in names):
            raise InputError(f"export: the encoder has values named `{PREFIX}…`, expected other names")

    def node(self, operator: str, inputs: Sequence[str], output: str | None = None, **settings: Any) -> str:
        """Append one operator; returns the name of its output."""
        name = output or self._name(operator)
        made = helper.make_node(operator, list(inputs), [name], name=f"{PREFIX}node_{name}", **settings)
        self.graph.node.append(made)
        return name

    def constant(self, value: npt.ArrayLike, dtype: type = np.float32) -> str:
        """Store an array as float32 (or int64); returns its name."""
        name = self._name("constant")
        array: npt.NDArray[Any] = np.ascontiguousarray(value, dtype)
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def output(self, name: str, shape: Sequence[int]) -> None:
        """Declare a float32 output."""
        self.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{PREFIX}{self._count:03d}_{stem.lower()}"

    def features(self) -> str:
        """(1, F) standardised and projected means of all maps."""
        generation, pooled = self.generation, []
        for name, shape, _ in self.scales:
            mean = name if len(shape) == 2 else self.node("GlobalAveragePool", [name])
            pooled.append(mean if len(shape) == 2 else self.node("Flatten", [mean], axis=1))
        raw = pooled[0] if len(pooled) == 1 else self.node("Concat", pooled, axis=1)
        centred = self.node("Sub", [raw, self.constant(generation.mean[None])])
        features = self.node("Mul", [centred, self.constant(_gain(generation)[None])])
        if generation.projection is not None:
            features = self.node("MatMul", [features, self.constant(generation.projection)])
        return features

    def distance(self, features: str) -> None:
        """Output `distance` (1,): squared Mahalanobis distance of the features to the reference."""
        mean = self.generation.reference_mean
        assert mean is not None  # a draft was refused
        centred = self.node("Sub", [features, self.constant(mean[None])])
        white = self.node("MatMul", [centred, self.constant(self.generation.whitening)])
        square = self.node("Mul", [white, white])
        self.node("ReduceSum", [square, self.constant([1], np.int64)], "distance", keepdims=0)
        self.output("distance", (1,))

    def image_probabilities(self, features: str, weight: Array64, bias: Array64) -> None:
        """Output `probabilities` (1, C) from features (1, F) and the linear form W (D, C), b (C,)."""
        generation, lifted = self.generation, self.generation.header.lift_dim
        rows = features
        if lifted:
            inputs = [features, self.constant(generation.lift_weight), self.constant(generation.lift_bias)]
            relu = self.node("Relu", [self.node("Gemm", inputs)])
            rows = self.node("Concat", [relu, features], axis=1)
        inputs = [rows, self.constant(weight[:-1]), self.constant(weight[-1] + bias)]
        self.node("Softmax", [self.node("Gemm", inputs)], "probabilities", axis=1)
        self.output("probabilities", (1, len(bias)))

    def pixel_probabilities(self, weight: Array64, bias: Array64) -> None:
        """Output `probabilities` (1, C, *size) from the maps.

        Standardisation, projection and 1×1 maps commute with upsampling, so scales are multiplied where that
        is cheap, and only the relu's (L, *size) map has the input's resolution and the lift's width. A
        volume's coarse scales are upsampled before: interpolating all lifted channels in 3-D costs more than
        the product, and the map of all scales is smaller than the lifted one.
        """
        generation, size = self.generation, self.generation.header.size
        lifted = generation.header.lift_dim
        parts: dict[str, list[str]] = {"lift": [], "linear": []}
        for maps, shape, columns in self._groups(lifted + len(bias)):
            linear = _slice(generation, columns) @ weight[lifted:-1]
            constant = None if parts["linear"] else weight[-1] + bias
            parts["linear"].append(self._upsampled(self._mapped(maps, linear, constant), shape, len(bias)))
            if lifted:
                lift = _slice(generation, columns) @ generation.lift_weight.astype(np.float64)
                shift = None if parts["lift"] else generation.lift_bias
                parts["lift"].append(self._upsampled(self._mapped(maps, lift, shift), shape, lifted))
        logits = self._sum(parts["linear"])
        if lifted:
            relu = self.node("Relu", [self._sum(parts["lift"])])
            logits = self.node("Add", [logits, self._mapped(relu, weight[:lifted], None)])
        self.node("Softmax", [logits], "probabilities", axis=1)
        self.output("probabilities", (1, len(bias), *size))

    def _groups(self, width: int) -> list[tuple[str, tuple[int, ...], npt.NDArray[np.intp]]]:
        """Standardised maps of one resolution side by side: name, resolution, raw features."""
        size = self.generation.header.size
        groups: dict[tuple[int, ...], list[tuple[str, npt.NDArray[np.intp]]]] = {}
        for name, shape, columns in self.scales:
            spread = (-1, *[1] * len(size))
            centred = self.node("Sub", [name, self.constant(self.generation.mean[columns].reshape(spread))])
            own = self.node("Mul", [centred, self.constant(_gain(self.generation)[columns].reshape(spread))])
            where = shape[2:]
            if len(size) == 3 and where != size and len(columns) < width:
                own, where = self._upsampled(own, where, len(columns)), size
            groups.setdefault(where, []).append((own, columns))
        return [
            (
                members[0][0] if len(members) == 1 else self.node("Concat", [m[0] for m in members], axis=1),
                where,
                np.concatenate([m[1] for m in members]),
            )
            for where, members in groups.items()
        ]

    def _mapped(self, maps: str, weight: Array64, bias: npt.NDArray[np.floating] | None) -> str:
        """1×1 convolution by weight (channels in, channels out)."""
        kernel = weight.T.reshape(*weight.T.shape, *[1] * len(self.generation.header.size))
        inputs = [maps, self.constant(kernel)]
        return self.node("Conv", inputs if bias is None else [*inputs, self.constant(bias)])

    def _upsampled(self, maps: str, shape: tuple[int, ...], channels: int) -> str:
        size = self.generation.header.size
        if shape == size:
            return maps
        sizes = self.constant([1, channels, *size], np.int64)
        return self.node(
            "Resize",
            [maps, "", "", sizes],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def _sum(self, terms: Sequence[str]) -> str:
        total = terms[0]
        for term in terms[1:]:
            total = self.node("Add", [total, term])
        return total


def _gain(generation: Generation) -> npt.NDArray[np.float32]:
    return (1.0 / generation.deviation.astype(np.float64)).astype(np.float32)


def _slice(generation: Generation, columns: npt.NDArray[np.intp]) -> Array64:
    """(len(columns), F) part of the projection, or of the identity, that these raw features go through."""
    if generation.projection is not None:
        return generation.projection[columns].astype(np.float64)
    return np.eye(generation.feature_dim)[columns]


def _scales(encoder: onnx.ModelProto, generation: Generation) -> list[Scale]:
    """The encoder's outputs, taken off its list of outputs.

    Raises:
        InputError: Outputs do not have the generation's widths, or a side is not fixed.
    """
    widths, scales, start = generation.header.widths, [], 0
    found = list(encoder.graph.output)
    if len(found) != len(widths):
        raise InputError(f"export: the encoder has {len(found)} outputs, expected {len(widths)}")
    for output, width in zip(found, widths, strict=True):
        shape = tuple(int(side.dim_value) for side in output.type.tensor_type.shape.dim)
        if len(shape) < 2 or prod(shape) < 1 or shape[:2] != (1, width):
            raise InputError(
                f"export: `{output.name}` of the encoder has shape {shape}, "
                f"expected (1, {width}, …) with all sides fixed"
            )
        scales.append((output.name, shape, np.arange(start, start + width)))
        start += width
    del encoder.graph.output[:]
    return scales
