import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from kits import run_python
from onnx import TensorProto, helper

from fedmed_edge import runtime
from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.runtime import Session, as_batch, engine_folder, installed_flavours, open_session


@pytest.fixture(scope="module")
def model() -> bytes:
    """Doubles its input."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "image"], ["twice"])],
        "double",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, "side"])],
        [helper.make_tensor_value_info("twice", TensorProto.FLOAT, [1, "side"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(made, {"fedmed": "{}"})
    return bytes(made.SerializeToString())


def test_runs_bytes_and_files(model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    for source in (model, path):
        session = open_session(source)
        assert session.device in ("cpu", "cuda")
        assert (session.inputs, session.outputs) == ({"image": (1, -1)}, ["twice"])
        assert session.metadata == {"fedmed": "{}"}
        (answer,) = session.run({"image": np.array([[1, 2]], np.float32)})
        np.testing.assert_array_equal(answer, [[2, 4]])


def test_wrong_feeds_are_refused(model: bytes) -> None:
    session = open_session(model, device="cpu")
    with pytest.raises(InputError, match=r"`inputs` has \['picture'\], expected \['image'\]"):
        session.run({"picture": np.zeros((1, 2), np.float32)})
    with pytest.raises(InputError, match=r"`image` has shape \(2, 2\), expected \(1, -1\)"):
        session.run({"image": np.zeros((2, 2), np.float32)})
    with pytest.raises(InputError, match=r"the model could not be run: .*data type"):
        session.run({"image": np.zeros((1, 2))})


def test_what_is_no_model_is_refused(tmp_path: Path, model: bytes) -> None:
    with pytest.raises(InputError, match="model: not a model that can be loaded"):
        open_session(model[:30], device="cpu")
    with pytest.raises(InputError, match=r"none\.onnx: not a model that can be loaded"):
        open_session(tmp_path / "none.onnx", device="cpu")


def test_a_device_that_is_not_there_is_refused(model: bytes) -> None:
    with pytest.raises(DeviceError, match="`device` has gpu, expected auto, cpu, cuda or tensorrt"):
        open_session(model, device="gpu")
    for device in ("cuda", "tensorrt"):
        try:
            assert open_session(model, device=device).device == device
        except DeviceError as error:
            assert f"`device` has {device}, expected one that comes up on this machine" in str(error)
            assert error.exit_code == 6 and "fedmed-edge[gpu" in (error.hint or "")


class Pretending:
    """As onnxruntime-gpu on a machine without a GPU: it lists what it was built with."""

    def __init__(self, breaks: bool) -> None:
        self.real, self.breaks, self.asked = runtime._runtime(), breaks, list[Any]()
        self.SessionOptions, self.OrtValue = self.real.SessionOptions, self.real.OrtValue

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        print("nothing found")

    def InferenceSession(self, source: Any, options: Any, providers: Any, **kwargs: Any) -> Any:
        self.asked.append(dict(providers))
        if self.breaks and len(providers) > 1:
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected\nand more")
        return self.real.InferenceSession(source, options, providers=["CPUExecutionProvider"], **kwargs)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_session_that_falls_back_is_refused_and_auto_says_so(
    model: bytes,
    breaks: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """onnxruntime-gpu lists CUDA on any machine, and quietly gives the processor."""
    monkeypatch.setenv("FEDMED_CACHE", str(tmp_path))
    pretending = Pretending(breaks)
    monkeypatch.setattr(runtime, "_runtime", lambda: pretending)
    why = ": .*no CUDA-capable device is detected$" if breaks else "$"
    for device in ("cuda", "tensorrt"):
        with pytest.raises(
            DeviceError, match=f"`device` has {device}, expected one that comes up on this machine{why}"
        ):
            open_session(model, device=device)
    assert open_session(model, device="auto").device == "cpu"
    assert "auto took the cpu, as cuda did not come up" in caplog.text
    if breaks:
        with pytest.raises(InputError, match="model: not a model that can be loaded"):
            open_session(model[:30], device="cuda")
    assert pretending.asked[0]["CUDAExecutionProvider"] == {"use_tf32": "0"}
    usable = runtime.usable_devices()
    assert usable["cpu"] == "" and "has tensorrt, expected one that comes up" in usable["tensorrt"]
    assert capsys.readouterr().out == ""


def test_engines_are_kept_by_gpu_versions_and_model(
    model: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "gpus", lambda: ("NVIDIA H200",))
    settings = runtime._settings("tensorrt", model, "fp16")
    folder = Path(settings["trt_engine_cache_path"])
    assert folder == engine_folder(model) and folder.is_relative_to(tmp_path / "cache" / "tensorrt")
    assert folder.parent.name.startswith("NVIDIA-H200-") and folder.stat().st_mode & 0o777 == 0o700
    assert (settings["trt_fp16_enable"], settings["trt_int8_enable"]) == ("1", "0")
    assert engine_folder(model + b"x") != folder
    (tmp_path / "model").write_bytes(model)
    assert engine_folder(tmp_path / "model") == folder
    monkeypatch.setattr(runtime, "fingerprint", lambda: "other versions")
    assert engine_folder(model).parent != folder.parent
    monkeypatch.undo()
    monkeypatch.setenv("FEDMED_CACHE", str(tmp_path / "cache"))
    engine_folder(model).mkdir(parents=True, exist_ok=True)
    engine_folder(model).chmod(0o777)
    assert "trt_engine_cache_path" not in runtime._settings("tensorrt", model, "fp32")
    assert "engines cannot be kept here: others can write to it" in caplog.text


def test_a_binding_answers_as_the_session_does(model: bytes) -> None:
    session = open_session(model, device="cpu")
    bound = Session(session._session, "cuda", runtime._Binding(runtime._runtime(), session._session, "cpu"))
    earlier: list[Any] = []
    for row in ([[1, 2]], [[3, 4]], [[5, 6, 7]]):
        array = np.array(row, np.float32)
        (answer,) = bound.run({"image": array})
        np.testing.assert_array_equal(answer, 2 * array)
        earlier.append((answer, 2 * array))
    for answer, wanted in earlier:
        np.testing.assert_array_equal(answer, wanted)
    with pytest.raises(InputError, match=r"the model could not be run: .*data type"):
        bound.run({"image": np.zeros((1, 2))})


def test_two_flavours_and_none_are_refused(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "version", lambda name: "1.0")
    assert installed_flavours() == ("onnxruntime", "onnxruntime-gpu")
    with pytest.raises(InputError, match="onnxruntime and onnxruntime-gpu are both installed") as caught:
        open_session(model)
    assert "pip uninstall onnxruntime onnxruntime-gpu" in (caught.value.hint or "")

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(runtime, "version", missing)
    assert installed_flavours() == ()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="onnxruntime is not installed") as caught:
        open_session(model)
    assert 'pip install "fedmed-edge[cpu]"' in (caught.value.hint or "")


@pytest.mark.parametrize("setting", [None, "0"])
def test_telemetry_is_off_and_the_import_late(tmp_path: Path, setting: str | None) -> None:
    """With CI unset and a fresh home, since onnxruntime keeps silent under CI by itself."""
    script = (
        "import os, sys; import fedmed_edge; from fedmed_edge import runtime; "
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'; assert 'onnxruntime' not in sys.modules; "
        "os.environ.pop('ORT_DISABLE_TELEMETRY'); runtime._runtime(); "
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'; assert 'onnxruntime' in sys.modules; "
        "assert not {'torch', 'monai', 'onnx'} & set(sys.modules)"
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    if setting is not None:
        environment["ORT_DISABLE_TELEMETRY"] = setting
    run_python(script, environment=environment)
    assert not list(tmp_path.iterdir())


def test_a_runtime_that_was_imported_with_its_telemetry_on_is_refused(tmp_path: Path) -> None:
    script = (
        "import onnxruntime, fedmed_edge\n"
        "from fedmed_edge.runtime import PROBE, open_session\n"
        "try:\n    print(open_session(PROBE).device)\n"
        "except Exception as error:\n    print(error)"
    )
    for setting, wanted in (("1", "cpu"), ("0", "imported before fedmed_edge, with its telemetry on")):
        # CI keeps the runtime quiet while it is made to do what it should not
        environment = {
            "HOME": str(tmp_path),
            "PATH": "/usr/bin:/bin",
            "ORT_DISABLE_TELEMETRY": setting,
            "CI": "1",
        }
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert wanted in done.stdout, done


def test_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_THREADS", "3")
    options = runtime._options(runtime._runtime())
    assert options.intra_op_num_threads == 3
    # threads that wait leave the processor to the listener
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    monkeypatch.setenv("FEDMED_THREADS", "abc")
    with pytest.raises(InputError, match=r"^FEDMED_THREADS: has `abc`, expected a whole number"):
        open_session(b"no model", device="cpu")
    monkeypatch.delenv("FEDMED_THREADS")
    assert runtime._options(runtime._runtime()).intra_op_num_threads == 0


def test_as_batch() -> None:
    turned = np.arange(6, dtype=np.float64).reshape(1, 2, 3).swapaxes(1, 2)
    batch = as_batch(turned)  # type: ignore[arg-type]
    assert batch.shape == (1, 1, 3, 2) and batch.dtype == np.float32 and batch.flags.c_contiguous
