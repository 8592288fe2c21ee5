"""ONNX Runtime, behind one door: provider checked, telemetry off, messages ours.

It is loaded when the first session is opened. What never ran where this was written: TensorRT.
"""

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from fedmed_edge.config import Device
from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.kernels import thread_count
from fedmed_edge.machine import fingerprint, gpus

__all__ = [
    "Device",
    "Session",
    "as_batch",
    "compile_engine",
    "installed_flavours",
    "open_session",
    "usable_devices",
]

log = logging.getLogger(__name__)

FLAVOURS = ("onnxruntime", "onnxruntime-gpu")

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# what an asked device needs, best first; each falls back to the next for single operators
_CHAINS = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "tensorrt": ("tensorrt", "cuda", "cpu")}
# the smallest ONNX model, y = -x: a session on it shows which device comes up
PROBE = bytes.fromhex(
    "080812003a320a0b0a017812017922034e65671201705a0f0a0178120a0a08080112040a02080162"
    "0f0a0179120a0a08080112040a02080142040a001011"
)


class Session:
    """A loaded model.

    Attributes:
        device: The device that came up: `cpu`, `cuda` or `tensorrt`.
        inputs: Name → shape of every input; −1 where a side is free.
        outputs: Names of the outputs.
        metadata: The model's own texts by name.
    """

    def __init__(self, session: Any, device: str, binding: "_Binding | None" = None) -> None:
        self._session = session
        self._binding = binding
        self.device = device
        self.inputs: dict[str, tuple[int, ...]] = {
            port.name: tuple(side if isinstance(side, int) else -1 for side in port.shape)
            for port in session.get_inputs()
        }
        self.outputs: list[str] = [port.name for port in session.get_outputs()]
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Outputs of the model, in the order of `outputs`.

        Args:
            feeds: Input name → array of that input's shape and type.

        Raises:
            InputError: An input is missing or unknown, or has another shape or type.
        """
        if set(feeds) != set(self.inputs):
            raise InputError(f"runtime: `inputs` has {sorted(feeds)}, expected {sorted(self.inputs)}")
        for name, array in feeds.items():
            wanted = self.inputs[name]
            fits = [side in (-1, got) for side, got in zip(wanted, array.shape, strict=False)]
            if array.ndim != len(wanted) or not all(fits):
                raise InputError(f"runtime: `{name}` has shape {array.shape}, expected {wanted}")
        try:
            if self._binding is not None:
                return self._binding.run(feeds)
            return cast("list[npt.NDArray[Any]]", self._session.run(None, dict(feeds)))
        except Exception as error:
            raise InputError(f"runtime: the model could not be run: {_first_line(error)}") from None


class _Binding:
    """Inputs that keep their place in a device's memory from one run to the next.

    Args:
        kind: What ONNX Runtime calls the memory: `cuda` or `cpu`.
    """

    def __init__(self, runtime: ModuleType, session: Any, kind: str) -> None:
        self._values, self._session, self._kind = runtime.OrtValue, session, kind
        self._binding = session.io_binding()
        self._places: dict[str, Any] = {}

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        for name, array in feeds.items():
            contiguous, place = np.ascontiguousarray(array), self._places.get(name)
            if place is not None and tuple(place.shape()) == contiguous.shape:
                place.update_inplace(contiguous)
                continue
            self._places[name] = self._values.ortvalue_from_numpy(contiguous, self._kind, 0)
            self._binding.bind_ortvalue_input(name, self._places[name])
        self._binding.clear_binding_outputs()  # made anew: an answer outlives the next run
        for port in self._session.get_outputs():
            self._binding.bind_output(port.name, self._kind)
        self._session.run_with_iobinding(self._binding)
        return cast("list[npt.NDArray[Any]]", self._binding.copy_outputs_to_cpu())


def open_session(model: bytes | Path, *, device: Device | str = "auto", precision: str = "fp32") -> Session:
    """Load an ONNX model on the asked device; `FEDMED_THREADS` bounds the threads of a run.

    TensorRT's engines are kept in `FEDMED_CACHE`, or else the user's own cache folder, by GPU, driver,
    versions and the model's digest: building one takes minutes.

    Args:
        model: The model's bytes, or its file.
        device: `auto` takes CUDA where it comes up and else the processor, and says so where CUDA should have
            come up; any other falls back to nothing.
        precision: Of the model's network: `fp32`, `fp16` or `int8`. TensorRT has to be told.

    Raises:
        DeviceError: The asked device did not come up.
        InputError: No runtime or two of them are installed, or the model cannot be loaded.
    """
    if device not in get_args(Device):
        raise DeviceError(f"runtime: `device` has {device}, expected auto, cpu, cuda or tensorrt")
    runtime = _runtime()
    available = runtime.get_available_providers()
    if device != "auto" and _PROVIDERS[device] not in available:
        raise _missing(device)
    wanted = ("cuda" if _PROVIDERS["cuda"] in available else "cpu") if device == "auto" else device
    chain = [name for name in _CHAINS[wanted] if _PROVIDERS[name] in available]
    why = ""
    try:
        session = _load(
            runtime, model, [(_PROVIDERS[name], _settings(name, model, precision)) for name in chain]
        )
    except InputError as error:
        if wanted == "cpu":
            raise
        # the processor tells whether it was the model or the device
        session, why = _load(runtime, model, [(_PROVIDERS["cpu"], {})]), f": {error}"
    got = session.get_providers()
    came_up = next(name for name in ("tensorrt", "cuda", "cpu") if _PROVIDERS[name] in got)
    if device not in ("auto", came_up):
        raise _missing(device, why)
    if came_up != wanted:
        log.warning("warning: device: auto took the %s, as %s did not come up%s", came_up, wanted, why)
    log.debug("model loaded on %s", came_up)
    return Session(session, came_up, None if came_up == "cpu" else _Binding(runtime, session, "cuda"))


def compile_engine(model: bytes, *, precision: str = "fp32") -> bytes:
    """Build a model's TensorRT engine for this machine: an ONNX file whose one operator holds the engine.

    Names of inputs and outputs stay; metadata do not.

    Args:
        model: The model's bytes.
        precision: As `open_session`.

    Raises:
        DeviceError: TensorRT does not come up here, or does not take the whole model.
        InputError: No runtime or two of them are installed.
    """
    open_session(PROBE, device="tensorrt")
    runtime = _runtime()
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "engine.onnx"
        kept = {"trt_dump_ep_context_model": "1", "trt_ep_context_embed_mode": "1"}
        settings = _settings("tensorrt", model, precision) | kept | {"trt_ep_context_file_path": str(target)}
        _load(runtime, model, [(_PROVIDERS["tensorrt"], settings), (_PROVIDERS["cpu"], {})])
        if not target.exists():
            raise DeviceError("runtime: tensorrt does not take this model whole, expected one engine")
        return target.read_bytes()


def usable_devices() -> dict[str, str]:
    """Every device that a session really comes up on → empty, and every other → why it does not.

    Raises:
        InputError: No runtime or two of them are installed.
    """
    found = {}
    for device in _PROVIDERS:
        try:
            open_session(PROBE, device=device)
            found[device] = ""
        except DeviceError as error:
            found[device] = str(error).removeprefix("runtime: ")
    return found


def installed_flavours() -> tuple[str, ...]:
    """Names of the installed onnxruntime packages; more than one do not work together."""
    found = []
    for name in FLAVOURS:
        with contextlib.suppress(PackageNotFoundError):
            version(name)
            found.append(name)
    return tuple(found)


def _runtime() -> ModuleType:
    if importlib.util.find_spec("onnxruntime") is None:
        raise InputError(
            "runtime: onnxruntime is not installed, expected one flavour of it",
            hint='pip install "fedmed-edge[cpu]", or [gpu] where there is one',
        )
    flavours = installed_flavours()
    if len(flavours) > 1:
        raise InputError(
            f"runtime: {' and '.join(flavours)} are both installed, expected one",
            hint=f"pip uninstall {' '.join(flavours)}, then install fedmed-edge[cpu] or fedmed-edge[gpu]",
        )
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        raise InputError(
            "runtime: onnxruntime was imported before fedmed_edge, with its telemetry on",
            hint="import fedmed_edge first, or set ORT_DISABLE_TELEMETRY=1",
        )
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    return cast(ModuleType, onnxruntime)


def _options(runtime: ModuleType) -> Any:
    options = runtime.SessionOptions()
    # 0 is ONNX Runtime's own choice
    options.intra_op_num_threads = thread_count() if os.environ.get("FEDMED_THREADS") else 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # the pattern of the first run is laid out beside what that run left: twice the memory, and no faster
    options.enable_mem_pattern = False
    # idle threads that spin would take the processor from the listener and from numpy
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _settings(device: str, model: bytes | Path, precision: str) -> dict[str, str]:
    """Options of a provider."""
    if device == "cuda":
        return {"use_tf32": "0"}  # ten bits of mantissa would be no fp32
    if device != "tensorrt":
        return {}
    settings = {
        "trt_fp16_enable": str(int(precision == "fp16")),
        "trt_int8_enable": str(int(precision == "int8")),
    }
    folder = engine_folder(model)
    try:
        # what lies in it is run: nobody else may write there
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid() or folder.stat().st_mode & 0o022:
            raise PermissionError(1, "others can write to it")
    except OSError as error:
        log.warning("warning: %s: engines cannot be kept here: %s", folder, error.strerror)
        return settings
    kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
    return settings | kept | {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(folder)}


def engine_folder(model: bytes | Path) -> Path:
    """Where the TensorRT engines of a model are kept on this machine."""
    content = model if isinstance(model, bytes) else model.read_bytes()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedmed-edge"
    root = Path(os.environ.get("FEDMED_CACHE") or caches)
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", gpus()[0]) if gpus() else "gpu"
    return root / "tensorrt" / f"{gpu}-{fingerprint()}" / hashlib.sha256(content).hexdigest()[:32]


def _load(runtime: ModuleType, model: bytes | Path, providers: list[tuple[str, dict[str, str]]]) -> Any:
    source: bytes | str = model if isinstance(model, bytes) else str(model)
    if _PROVIDERS["cuda"] in dict(providers) and hasattr(runtime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it did not find
            runtime.preload_dlls()
    options = _options(runtime)
    try:
        # its own fallback prints to stdout; settings within a model are nobody's to make
        session = runtime.InferenceSession(
            source, options, providers, enable_fallback=0, read_config_from_model=0
        )
        session._model_bytes = None  # kept for that fallback alone
        return session
    except Exception as error:
        where = "model" if isinstance(model, bytes) else str(model)
        raise InputError(f"{where}: not a model that can be loaded: {_first_line(error)}") from None


def _missing(device: str, why: str = "") -> DeviceError:
    hint = 'pip install "fedmed-edge[gpu]" and check the driver with nvidia-smi, or ask for `auto`'
    if device == "tensorrt":
        hint = 'install "fedmed-edge[gpu,tensorrt]" and check the driver with nvidia-smi, or ask for `cuda`'
    return DeviceError(
        f"runtime: `device` has {device}, expected one that comes up on this machine{why}", hint=hint
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def as_batch(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """One image as a batch of one, contiguous float32.

    Example:
        >>> as_batch(np.zeros((1, 4, 4), np.float32)).shape
        (1, 1, 4, 4)
    """
    return np.ascontiguousarray(image, np.float32)[None]
