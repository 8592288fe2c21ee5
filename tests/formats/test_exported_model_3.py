"""An exported model of several tasks, manifest format 3, must still open and answer as it did.

`exported_model_3.onnx` was made once, by the first release that wrote that format; it is never made anew or
deleted. Two of its tasks share a generation.
"""

from pathlib import Path

import numpy as np
import pytest

from fedmed_edge.inference.predict import load_models
from fedmed_edge.inference.sample import check_sample

GOLDEN = Path(__file__).with_name("exported_model_3.onnx")

ANSWERS = {
    "lesion": ("image0", [0.3287431, 0.48586828, 0.1853886], 24.459377),
    "organs": ("image0", [0.94187975, 0.03771216, 0.02040808], 24.459377),
    "skin": ("image1", [0.14539659, 0.64514744, 0.209456], 40.171051),
}


def test_the_tasks_of_format_3_still_answer() -> None:
    models = load_models(GOLDEN, trust=GOLDEN.with_suffix(".pub"), device="cpu")
    assert [model.manifest.task for model in models] == list(ANSWERS)
    for model in models:
        image, wanted, far = ANSWERS[model.manifest.task]
        recipe = model.recipe
        probabilities, distance = model.run(np.full((recipe.channels, *recipe.size), 0.5, np.float32))
        assert model.ports.image == image and probabilities.shape[0] == 3
        np.testing.assert_allclose(probabilities.reshape(3, -1)[:, 0], wanted, atol=1e-5)
        assert distance == pytest.approx(far, rel=1e-5)
        assert check_sample(model) is not None
    assert {model.recipe.modality for model in models} == {("DX", "CR"), ("CT",), ()}
