"""What every test shares."""

import os
from pathlib import Path

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


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No FEDMED_* setting of the caller reaches a test, but for the data's place and the thread count."""
    for name in list(os.environ):
        if name.startswith("FEDMED_") and name not in ("FEDMED_TEST_DATA", "FEDMED_THREADS"):
            monkeypatch.delenv(name)
