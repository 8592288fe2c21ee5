"""Eight senders, two thousand instances, and a node that is killed meanwhile."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FAULTS = Path(__file__).parents[2] / "faults" / "listener.py"


@pytest.fixture(scope="module")
def faults(pacs: ModuleType) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fedmed_test_faults_listener", FAULTS)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_there_twice_after_three_kills(
    faults: ModuleType, orthanc_of: Callable[..., Any], tmp_path: Path
) -> None:
    figures = faults.run(tmp_path, orthanc_of(), kills=3)
    assert (figures["instances"], figures["series"]) == (2000, 40)
    assert figures["objects"] >= 40
