from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from kits import run_python
from scipy.ndimage import map_coordinates

from fedmed_edge.errors import InputError
from fedmed_edge.export.onnx_model import export_onnx
from fedmed_edge.generation import Generation
from fedmed_edge.model.manifest import parse_manifest
from fedmed_edge.runtime import open_session

KINDS: list[dict[str, Any]] = [
    {"kind": "classification"},
    {"kind": "classification", "channels": 3, "features": 7},
    {"kind": "classification", "lift": 0},
    {"kind": "classification", "size": (8, 12, 16)},
    {"kind": "segmentation"},
    {"kind": "segmentation", "channels": 3, "features": 9, "size": (15, 21)},
    {"kind": "segmentation", "lift": 0},
    {"kind": "segmentation", "size": (8, 12, 16)},
    {"kind": "segmentation", "size": (9, 12, 16), "lift": 4, "features": 5},
]


def upsampled(scale: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Half-pixel linear interpolation with clamped borders, by SciPy."""
    axes = [
        np.clip((np.arange(full) + 0.5) * side / full - 0.5, 0, side - 1)
        for side, full in zip(scale.shape[1:], size, strict=True)
    ]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.stack([map_coordinates(own.astype(np.float64), grid, order=1, mode="nearest") for own in scale])


def rows_of(made: Generation, maps: list[np.ndarray]) -> np.ndarray:
    """Lifted rows by their definition: all scales at full resolution, standardised, projected, lifted."""
    size = made.header.size
    if made.header.kind == "classification":
        raw = np.concatenate(
            [scale.reshape(len(scale), -1).mean(axis=1, dtype=np.float64) for scale in maps]
        )[None]
    else:
        raw = np.concatenate([upsampled(scale, size) for scale in maps]).reshape(len(made.mean), -1).T
    features = (raw - made.mean) / made.deviation
    if made.projection is not None:
        features = features @ made.projection
    relu = np.maximum(features @ made.lift_weight + made.lift_bias, 0)
    return np.hstack([relu, features, np.ones((len(features), 1))])


@pytest.mark.parametrize("setting", KINDS, ids=str)
def test_exported_model_answers_as_the_rows_say(made: SimpleNamespace, setting: dict[str, Any]) -> None:
    generation = made.generation(**setting)
    model, size = made.model(generation), generation.header.size
    session = open_session(export_onnx(model, generation), device="cpu")
    image = np.random.default_rng(7).random((1, generation.header.channels, *size), np.float32)
    probabilities, distance = session.run({"image": image})
    maps = [scale[0] for scale in open_session(generation.encoder, device="cpu").run({"image": image})]
    wanted = model.probabilities(rows_of(generation, maps))
    if generation.header.kind == "segmentation":
        wanted = wanted.T.reshape(3, *size)
        assert probabilities.shape == (1, 3, *size)
    assert probabilities.dtype == np.float32 and distance.shape == (1,)
    np.testing.assert_allclose(probabilities[0], wanted.reshape(probabilities[0].shape), atol=1e-5)
    pooled = np.concatenate([scale.reshape(len(scale), -1).mean(axis=1, dtype=np.float64) for scale in maps])
    features = (pooled - generation.mean) / generation.deviation
    if generation.projection is not None:
        features = features @ generation.projection
    centred = features - generation.reference_mean
    square = centred @ np.linalg.solve(generation.reference_covariance, centred)
    assert distance[0] == pytest.approx(square, rel=1e-4)
    assert generation.squared_distance(features[None])[0] == pytest.approx(square, rel=1e-9)


def test_manifest_travels_inside(made: SimpleNamespace) -> None:
    generation = made.generation()
    model = made.model(generation, refined_for="alpha", kept="refined")
    session = open_session(export_onnx(model, generation), device="cpu")
    assert set(session.metadata) == {"fedmed"}
    manifest = parse_manifest(session.metadata["fedmed"], "m")
    assert manifest.recipe == model.recipe
    assert (manifest.generation, manifest.model) == (generation.digest, model.digest)
    assert (manifest.known_threshold, manifest.sites, manifest.temperature) == (12.5, 2, 1.5)
    assert manifest.contributions == model.contributions
    assert "refined for one site" in manifest.provenance and "next generation" in manifest.withdrawn_notice
    assert "beta" not in session.metadata["fedmed"]


def test_absent_classes_are_named(made: SimpleNamespace) -> None:
    generation = made.generation()
    model = made.model(generation)
    model.posterior.priors[:] = [0.5, 0.5, 0.0]
    model.posterior.weight[:, 2], model.posterior.bias[2] = 0.0, -1e4
    content = export_onnx(model, generation)
    session = open_session(content, device="cpu")
    assert parse_manifest(session.metadata["fedmed"], "m").absent == ("c2",)
    probabilities, _ = session.run({"image": np.zeros((1, 1, 16, 24), np.float32)})
    assert probabilities[0, 2] == 0.0


def test_bytes_depend_on_nothing_else(made: SimpleNamespace) -> None:
    generation = made.generation("segmentation")
    assert export_onnx(made.model(generation), generation) == export_onnx(made.model(generation), generation)


def test_file_is_valid_and_keeps_the_encoders_operator_set(made: SimpleNamespace) -> None:
    generation = made.generation("segmentation")
    model = onnx.load_model_from_string(export_onnx(made.model(generation), generation))
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == ["probabilities", "distance"]
    assert model.opset_import[0].version == 18 and model.ir_version == 8


def test_refusals(made: SimpleNamespace) -> None:
    generation = made.generation()
    model = made.model(generation)
    draft = made.generation(reference_mean=None, reference_covariance=None)
    with pytest.raises(InputError, match="generation is a draft, expected one with standardisation"):
        export_onnx(made.model(draft), draft)
    other = made.generation(features=7)
    with pytest.raises(InputError, match=r"`generation` of the model has .*, expected the generation's"):
        export_onnx(model, other)
    with pytest.raises(InputError, match="`row_dim` of the model has 5, expected the generation's 49"):
        export_onnx(made.model(generation, head=np.ones((5, 3))), generation)
    broken = made.generation(encoder=b"\xff\xffnone")
    with pytest.raises(InputError, match="encoder is no ONNX model"):
        export_onnx(made.model(broken), broken)
    steep = made.model(generation, head=np.full((49, 3), np.nan))
    with pytest.raises(InputError, match="`head` has NaN or Inf, expected finite values"):
        export_onnx(steep, generation)


def test_distance_is_refused_for_other_features_and_drafts(made: SimpleNamespace) -> None:
    with pytest.raises(InputError, match=r"`features` has shape \(1, 5\), expected \(N, 16\)"):
        made.generation().squared_distance(np.ones((1, 5)))
    draft = made.generation(reference_mean=None, reference_covariance=None)
    with pytest.raises(InputError, match="generation: is a draft, which has no reference Gaussian"):
        draft.squared_distance(np.ones((1, 16)))
    flat = made.generation(reference_covariance=np.zeros((16, 16)))
    with pytest.raises(InputError, match="`reference_covariance` is not positive definite"):
        flat.squared_distance(np.ones((1, 16)))


def test_export_needs_no_torch() -> None:
    program = (
        "import sys, fedmed_edge.export.onnx_model;"
        "print([m for m in ('torch', 'monai', 'onnxruntime', 'pydicom') if m in sys.modules])"
    )
    assert run_python(program).strip() == "[]"
