"""The node's own process, real senders and a real PACS; see tests/end_to_end/pacs.py."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from kits import load

from fedmed_edge.listener.journal import Journal


@pytest.fixture(scope="session")
def pacs(lacks: Callable[[str], NoReturn]) -> ModuleType:
    """The helpers, where the PACS and dcmtk are installed."""
    kit = load("end_to_end/pacs.py")
    if not (kit.DCMTK / "storescu").exists() or not shutil.which("Orthanc"):
        lacks("Orthanc or dcmtk: sh tests/packages.sh installs them")
    return kit


@pytest.fixture
def site_of(pacs: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes sites whose nodes end with the test."""
    made: list[Any] = []

    def make(**how: Any) -> Any:
        made.append(pacs.Site(tmp_path / f"site{len(made)}", **how))
        return made[-1]

    yield make
    for site in made:
        site.kill()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite")
    yield made
    made.close()


@pytest.fixture(scope="session")
def orthanc_of(pacs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts PACS that end with the session."""
    made: list[Any] = []

    def make(**how: Any) -> Any:
        made.append(pacs.Orthanc(tmp_path_factory.mktemp("pacs") / "orthanc", **how))
        return made[-1]

    yield make
    for one in made:
        one.stop()
