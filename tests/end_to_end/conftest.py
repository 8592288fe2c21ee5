import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load(stem: str) -> ModuleType:
    """A module beside this file."""
    name = f"fedmed_test_{stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{stem}.py"))
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The module `federation.py`."""
    return load("federation")


@pytest.fixture(scope="session")
def net() -> ModuleType:
    """The module `network.py`."""
    pytest.importorskip("nvflare")
    return load("network")
