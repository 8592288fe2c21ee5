"""Eight senders, two thousand instances, and a node that is killed meanwhile."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kits import load


@pytest.fixture(scope="module")
def faults(pacs: ModuleType) -> ModuleType:
    return load("faults/listener.py")


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_there_twice_after_three_kills(
    faults: ModuleType, orthanc_of: Callable[..., Any], tmp_path: Path
) -> None:
    figures = faults.run(tmp_path, orthanc_of(), kills=3)
    assert (figures["instances"], figures["series"]) == (2000, 40)
    assert figures["objects"] >= 40
