"""An exported model of manifest format 1 must still open and answer as it did.

`exported_model_1.onnx` was made once, by the last release that wrote that format; it is never made anew or
deleted.
"""

from pathlib import Path

import numpy as np

from fedmed_edge.inference.predict import load_model

GOLDEN = Path(__file__).with_name("exported_model_1.onnx")


def test_the_model_of_format_1_still_answers() -> None:
    model = load_model(GOLDEN, trust=GOLDEN.with_suffix(".pub"), device="cpu")
    manifest = model.manifest
    assert (manifest.format_version, manifest.precision, manifest.sample) == (1, "fp32", None)
    assert (manifest.sites, manifest.known_threshold, manifest.classes) == (2, 12.5, ("c0", "c1", "c2"))
    probabilities, distance = model.session.run({"image": np.full((1, 1, 16, 24), 0.5, np.float32)})
    np.testing.assert_allclose(probabilities[0], [0.231254, 0.567788, 0.200957], atol=1e-5)
    np.testing.assert_allclose(distance, [35.41805], rtol=1e-5)
