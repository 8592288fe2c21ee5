import json

import pytest
from kits import run_python

from fedmed_edge.errors import InputError
from fedmed_edge.model.manifest import Manifest, parse_manifest
from fedmed_edge.recipe import Recipe


@pytest.fixture
def manifest() -> Manifest:
    recipe = Recipe(name="r", kind="classification", classes=("a", "b"), backbone={"arguments": {"x": [1]}})
    return Manifest(
        recipe=recipe,
        recipe_digest=recipe.digest,
        generation="1" * 64,
        model="2" * 64,
        known_threshold=3.5,
        priors=(0.5, 0.5),
        temperature=1.0,
        ridge=0.01,
        sites=2,
        contributions=("3" * 64,),
        provenance="p",
        withdrawn_notice="w",
    )


def test_round_trip(manifest: Manifest) -> None:
    again = parse_manifest(manifest.text, "m.onnx")
    assert again == manifest and again.text == manifest.text
    assert (again.task, again.classes) == ("r", ("a", "b"))


def test_refusals(manifest: Manifest) -> None:
    values = json.loads(manifest.text)
    with pytest.raises(InputError, match=r"m\.onnx: manifest: not JSON"):
        parse_manifest("{", "m.onnx")
    with pytest.raises(InputError, match="manifest: has list, expected a JSON object"):
        parse_manifest("[]", "m.onnx")
    with pytest.raises(InputError, match="manifest: unknown key `extra`"):
        parse_manifest(json.dumps(values | {"extra": 1}), "m.onnx")
    with pytest.raises(InputError, match="manifest: `recipe_digest` has 000000000000, expected"):
        parse_manifest(json.dumps(values | {"recipe_digest": "0" * 64}), "m.onnx")
    with pytest.raises(InputError, match="`priors` has 3 values, expected 2"):
        parse_manifest(json.dumps(values | {"priors": [0.1, 0.2, 0.7]}), "m.onnx")
    with pytest.raises(InputError, match="manifest: `sites`"):
        parse_manifest(json.dumps(values | {"sites": 0}), "m.onnx")


def test_reading_a_manifest_loads_no_runtime() -> None:
    program = (
        "import sys, fedmed_edge.model.manifest;"
        "print([m for m in ('torch', 'monai', 'onnx', 'onnxruntime', 'pydicom') if m in sys.modules])"
    )
    assert run_python(program).strip() == "[]"
