from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import helper

from fedmed_edge.errors import InputError
from fedmed_edge.export.onnx_model import export_onnx


def test_only_the_lifted_map_has_full_resolution(made: SimpleNamespace) -> None:
    """Two-dimensional scales are multiplied where they are; none is brought to full size as features."""
    generation = made.generation("segmentation", widths=(6, 10))
    model = onnx.load_model_from_string(export_onnx(made.model(generation), generation))
    inferred = onnx.shape_inference.infer_shapes(model)
    channels = [
        value.type.tensor_type.shape.dim[1].dim_value
        for value in inferred.graph.value_info
        if [side.dim_value for side in value.type.tensor_type.shape.dim[2:]] == [16, 24]
    ]
    assert set(channels) <= {1, 3, 32}


def test_encoders_that_do_not_fit_are_refused(made: SimpleNamespace) -> None:
    def refused(change: Any, message: str) -> None:
        encoder = onnx.load_model_from_string(made.generation().encoder)
        change(encoder)
        generation = made.generation(encoder=encoder.SerializeToString())
        with pytest.raises(InputError, match=message):
            export_onnx(made.model(generation), generation)

    def old(encoder: onnx.ModelProto) -> None:
        encoder.opset_import[0].version = 11

    def renamed(encoder: onnx.ModelProto) -> None:
        encoder.graph.input[0].name = "x"

    def fewer(encoder: onnx.ModelProto) -> None:
        del encoder.graph.output[1]

    def free(encoder: onnx.ModelProto) -> None:
        encoder.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "rows"

    def taken(encoder: onnx.ModelProto) -> None:
        encoder.graph.node.append(helper.make_node("Identity", ["scale0"], ["fedmed_1"]))

    refused(old, "encoder has operator set 11, expected 13 or later")
    refused(renamed, r"encoder takes \['x'\], expected \['image'\]")
    refused(fewer, "encoder has 1 outputs, expected 2")
    refused(free, r"`scale0` of the encoder has shape \(1, 6, 0, 12\), expected \(1, 6, …\)")
    refused(taken, "encoder has values named `fedmed_…`")
