"""What every test shares."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

# A loaded machine makes an example slow, not wrong; the same examples are tried on every run.
hypothesis.settings.register_profile("fedmed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fedmed")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets: FEDMED_TEST_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("FEDMED_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: FEDMED_TEST_DATA names their folder")
    return folder


@pytest.fixture(scope="session")
def lacks() -> Callable[[str], NoReturn]:
    """Skip a test for want of something; but fail where `CI` is set, for there nothing is wanting."""

    def skip(what: str) -> NoReturn:
        if os.environ.get("CI"):
            pytest.fail(f"this machine lacks {what}")
        pytest.skip(f"this machine lacks {what}")

    return skip


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No FEDMED_* setting of the caller reaches a test, but for the data's place and the thread count."""
    for name in list(os.environ):
        if name.startswith("FEDMED_") and name not in ("FEDMED_TEST_DATA", "FEDMED_THREADS"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_log_level() -> Iterator[None]:
    """What a program run in this process sets of the package's log is undone."""
    log = logging.getLogger("fedmed_edge")
    level = log.level
    yield
    log.setLevel(level)
