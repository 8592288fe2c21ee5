"""Variants of lower precision answer as the FP32 file does, but for rounding; the tail stays as it is."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.export.onnx_model import export_onnx
from fedmed_edge.export.parity import sample_fault
from fedmed_edge.export.precision import LEAST_IMAGES, to_fp16, to_int8
from fedmed_edge.export.tensorrt import to_engine
from fedmed_edge.model.manifest import parse_manifest
from fedmed_edge.runtime import open_session, usable_devices

KINDS = [("classification", (16, 24)), ("segmentation", (16, 24)), ("segmentation", (16, 8, 24))]


def images_of(size: tuple[int, ...], count: int = LEAST_IMAGES) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        np.kron(random.random((1, *[s // 4 for s in size])), np.ones((1, *[4] * len(size))))
        for _ in range(count)
    ]


@pytest.mark.parametrize(("kind", "size"), KINDS)
@pytest.mark.parametrize("wanted", ["fp16", "int8"])
def test_a_variant_answers_as_its_model_does(
    made: SimpleNamespace, kind: str, size: tuple[int, ...], wanted: str
) -> None:
    generation = made.generation(kind, size)
    content = export_onnx(made.model(generation), generation)
    images = [image.astype(np.float32) for image in images_of(size)]
    variant = to_fp16(content) if wanted == "fp16" else to_int8(content, images)
    assert variant == (to_fp16(content) if wanted == "fp16" else to_int8(content, images))
    first, second = open_session(content, device="cpu"), open_session(variant, device="cpu")
    manifests = [parse_manifest(session.metadata["fedmed"], "m") for session in (first, second)]
    assert manifests[1] == manifests[0].model_copy(update={"precision": wanted})
    assert (second.inputs, second.outputs) == (first.inputs, first.outputs)
    for image in images[:4]:
        (p, d), (q, e) = first.run({"image": image[None]}), second.run({"image": image[None]})
        assert p.dtype == q.dtype == np.float32 and p.shape == q.shape
        assert np.abs(p - q).mean() <= (2e-3 if wanted == "fp16" else 5e-2)
        np.testing.assert_allclose(d, e, rtol=1e-2 if wanted == "fp16" else 0.2)
    if kind == "classification":  # of the others a Resize of the tail may move
        graph = onnx.load_model_from_string(variant).graph
        tail = [node for node in graph.node if node.name.startswith("fedmed_node_")]
        original = onnx.load_model_from_string(content).graph.node
        assert tail == [node for node in original if node.name.startswith("fedmed_node_")]


def test_int8_wants_images(made: SimpleNamespace) -> None:
    generation = made.generation()
    content = export_onnx(made.model(generation), generation)
    with pytest.raises(InputError, match="int8 has 15 images to calibrate on, expected at least 16"):
        to_int8(content, images_of((16, 24), 15))
    with pytest.raises(InputError, match="export: not an exported model"):
        to_fp16(b"nothing")


def test_a_variant_that_loses_too_much_is_refused(made: SimpleNamespace) -> None:
    generation = made.generation()
    model = onnx.load_model_from_string(export_onnx(made.model(generation), generation))
    manifest = parse_manifest(model.metadata_props[0].value, "m")
    assert manifest.sample is not None
    moved = manifest.sample.model_copy(update={"distance": 2 * manifest.sample.distance})
    model.metadata_props[0].value = manifest.model_copy(update={"sample": moved}).text
    with pytest.raises(
        InputError, match=r"export: fp16: sample: `distance` is off by 0\.5, expected at most"
    ):
        to_fp16(model.SerializeToString())


def test_the_sample_of_an_export_is_right(made: SimpleNamespace) -> None:
    generation = made.generation()
    content = export_onnx(made.model(generation), generation)
    manifest = parse_manifest(open_session(content).metadata["fedmed"], "m")
    assert sample_fault(content, manifest) == ""
    assert manifest.sample is not None
    moved = manifest.sample.model_copy(update={"distance": 2 * manifest.sample.distance})
    assert "`distance` is off by 0.5" in sample_fault(content, manifest.model_copy(update={"sample": moved}))
    assert sample_fault(b"", manifest.model_copy(update={"sample": None})) == ""
    assert manifest.format_version == 2


def test_an_engine_is_refused_where_tensorrt_does_not_come_up(made: SimpleNamespace) -> None:
    if not usable_devices()["tensorrt"]:
        pytest.skip("TensorRT comes up here")
    generation = made.generation()
    with pytest.raises(DeviceError, match="`device` has tensorrt, expected one that comes up") as caught:
        to_engine(export_onnx(made.model(generation), generation))
    assert caught.value.exit_code == 6
