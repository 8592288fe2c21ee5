"""On a GPU, with onnxruntime-gpu installed: CUDA and TensorRT answer as the processor does."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedmed_edge.export.onnx_model import export_onnx
from fedmed_edge.export.precision import to_fp16
from fedmed_edge.export.tensorrt import to_engine
from fedmed_edge.model.manifest import TOLERANCES, Precision, parse_manifest
from fedmed_edge.runtime import engine_folder, open_session, usable_devices

pytestmark = pytest.mark.cuda

KINDS = [("classification", (16, 24)), ("segmentation", (16, 24)), ("segmentation", (16, 8, 24))]


@pytest.fixture(scope="module")
def usable() -> dict[str, str]:
    return usable_devices()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_CACHE", str(tmp_path))


@pytest.mark.parametrize(("kind", "size"), KINDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_answers_as_the_processor_does(
    made: SimpleNamespace,
    usable: dict[str, str],
    kind: str,
    size: tuple[int, ...],
    precision: Precision,
    device: str,
) -> None:
    if usable[device]:
        pytest.skip(usable[device])
    generation = made.generation(kind, size)
    fp32 = export_onnx(made.model(generation), generation)
    content = to_fp16(fp32) if precision == "fp16" else fp32
    session, reference = (
        open_session(content, device=device, precision=precision),
        open_session(fp32, device="cpu"),
    )
    assert session.device == device
    off, far = TOLERANCES[precision]
    for seed in range(4):  # again and again through the same bound memory
        image = np.random.default_rng(seed).random((1, 1, *size), np.float32)
        (p, d), (q, e) = session.run({"image": image}), reference.run({"image": image})
        assert np.abs(p - q).max(axis=1).mean() <= off
        np.testing.assert_allclose(d, e, rtol=far)
    if device == "tensorrt":
        assert list(engine_folder(content).glob("*.engine"))


def test_an_engine_answers_where_it_was_built(made: SimpleNamespace, usable: dict[str, str]) -> None:
    if usable["tensorrt"]:
        pytest.skip(usable["tensorrt"])
    generation = made.generation()
    engine = to_engine(export_onnx(made.model(generation), generation))
    session = open_session(engine, device="tensorrt")
    assert "NVIDIA" in parse_manifest(session.metadata["fedmed"], "m").built_for


def test_auto_takes_the_gpu(usable: dict[str, str], made: SimpleNamespace) -> None:
    if usable["cuda"]:
        pytest.skip(usable["cuda"])
    generation = made.generation()
    assert open_session(export_onnx(made.model(generation), generation), device="auto").device == "cuda"
