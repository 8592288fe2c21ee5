"""What this machine is, as far as speed and compiled engines depend on it; read from the system itself."""

import hashlib
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PROC = Path("/proc")


def processor() -> str:
    """Name of the processor, or its architecture where the system does not say.

    Example:
        >>> bool(processor())
        True
    """
    found = re.search(r"^model name\s*:\s*(.+)$", _text(_PROC / "cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def gpus() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that the driver knows, in the order of their slots."""
    files = sorted((_PROC / "driver" / "nvidia" / "gpus").glob("*/information"))
    found = (re.search(r"^Model:\s*(.+)$", _text(file), re.MULTILINE) for file in files)
    return tuple(model[1].strip() for model in found if model)


def driver() -> str:
    """Version of the NVIDIA driver; empty where there is none."""
    found = re.search(r"(\d+\.[\d.]+)", _text(_PROC / "driver" / "nvidia" / "version"))
    return found[1] if found else ""


def packages(*names: str) -> dict[str, str]:
    """Versions of those of the named packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def fingerprint() -> str:
    """16 hexadecimal digits that change with processor, GPUs, driver and the runtime's packages."""
    runtime = packages("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    parts = (processor(), *gpus(), driver(), *(f"{name} {found}" for name, found in runtime.items()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
