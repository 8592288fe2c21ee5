"""ONNX Runtime, behind one door: provider checked, telemetry off, messages ours.

The only importer of onnxruntime; it is loaded when the first session is opened.
"""

import contextlib
import importlib.util
import io
import logging
import os
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

__all__ = ["Device", "Session", "as_batch", "installed_flavours", "open_session"]

log = logging.getLogger(__name__)

FLAVOURS = ("onnxruntime", "onnxruntime-gpu")

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# what an asked device needs, best first; each falls back to the next for single operators
_CHAINS = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "tensorrt": ("tensorrt", "cuda", "cpu")}


class Session:
    """A loaded model.

    Attributes:
        device: The device that came up: `cpu`, `cuda` or `tensorrt`.
        inputs: Name → shape of every input; −1 where a side is free.
        outputs: Names of the outputs.
        metadata: The model's own texts by name.
    """

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
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
            return cast("list[npt.NDArray[Any]]", self._session.run(None, dict(feeds)))
        except Exception as error:
            raise InputError(f"runtime: the model could not be run: {_first_line(error)}") from None


def open_session(model: bytes | Path, *, device: Device | str = "auto") -> Session:
    """Load an ONNX model on the asked device; `FEDMED_THREADS` bounds the threads of a run.

    Args:
        model: The model's bytes, or its file.
        device: `auto` takes a GPU where one comes up and else the processor; any other falls back to nothing.

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
    chain = _CHAINS["cuda" if device == "auto" else device]
    providers = [_PROVIDERS[name] for name in chain if _PROVIDERS[name] in available]
    session = _load(runtime, model, providers, _options(runtime))
    got = session.get_providers()
    came_up = next(name for name in ("tensorrt", "cuda", "cpu") if _PROVIDERS[name] in got)
    if device not in ("auto", came_up):
        raise _missing(device)
    log.debug("model loaded on %s", came_up)
    return Session(session, came_up)


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
    # too late once onnxruntime is loaded, so here and in the package's root
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
    # idle threads that spin would take the processor from the listener and from numpy
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _load(runtime: ModuleType, model: bytes | Path, providers: list[str], options: Any) -> Any:
    source: bytes | str = model if isinstance(model, bytes) else str(model)
    if _PROVIDERS["cuda"] in providers and hasattr(runtime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it did not find
            runtime.preload_dlls()
    try:
        return runtime.InferenceSession(source, sess_options=options, providers=providers)
    except Exception as error:
        where = "model" if isinstance(model, bytes) else str(model)
        raise InputError(f"{where}: not a model that can be loaded: {_first_line(error)}") from None


def _missing(device: str) -> DeviceError:
    hint = 'pip install "fedmed-edge[gpu]" and check the driver with nvidia-smi, or ask for `auto`'
    if device == "tensorrt":
        hint = 'install "fedmed-edge[gpu,tensorrt]" and check the driver with nvidia-smi, or ask for `cuda`'
    return DeviceError(
        f"runtime: `device` has {device}, expected one that comes up on this machine", hint=hint
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
