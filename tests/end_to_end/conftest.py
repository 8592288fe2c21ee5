from types import ModuleType

import pytest
from kits import load


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The module `federation.py`."""
    return load("end_to_end/federation.py")


@pytest.fixture(scope="session")
def net() -> ModuleType:
    """The module `network.py`."""
    pytest.importorskip("nvflare")
    return load("end_to_end/network.py")
