"""What the coordinator makes of an engine that answers and runs no job."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nvflare")
from fedmed_edge.errors import Unreachable
from fedmed_edge.federation.engine import sessions
from fedmed_edge.federation.engine.sessions import EngineSites
from fedmed_edge.federation.engine.settings import GIVEN_UP


class Engine(EngineSites):
    """Sites over an engine that says this of every job."""

    def __init__(
        self, folder: Path, job: dict[str, Any], *, here: bool = True, restarts: bool = False
    ) -> None:
        super().__init__(folder)
        self.job, self.here, self.starts = job, here, iter([1, 2] if restarts else [1, 1])
        self.online()

    def online(self) -> list[str]:
        self._started = next(self.starts, self._started)
        return ["a"] if self.here else []

    def _ask(self, command: str, *arguments: Any, **options: Any) -> Any:
        return self.job if command == "get_job_meta" else SimpleNamespace()


def given_up(server: Path) -> bool:
    """Whether the supervisor is asked to start the engine anew."""
    return (server / GIVEN_UP).exists()


@pytest.fixture(autouse=True)
def kit(tmp_path: Path) -> None:
    (tmp_path / GIVEN_UP).parent.mkdir(parents=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("UNTRIED_S", 0.1), ("START_S", 0.5), ("POLL_S", 0.01)):
        monkeypatch.setattr(sessions, name, seconds)


def test_an_engine_that_takes_up_no_job_of_a_site_that_is_there_has_stalled(tmp_path: Path) -> None:
    engine = Engine(tmp_path, {"status": "SUBMITTED"})
    with pytest.raises(Unreachable, match=r"site `a`: the engine takes up no sync; it is started anew"):
        engine._wait("job", "a", 10.0)
    assert given_up(tmp_path)


@pytest.mark.parametrize(
    ("job", "here"),
    [({"status": "SUBMITTED"}, False), ({"status": "SUBMITTED", "schedule_count": 1}, True)],
    ids=["away", "tried"],
)
def test_one_that_waits_for_a_site_has_not(tmp_path: Path, job: dict[str, Any], here: bool) -> None:
    engine = Engine(tmp_path, job, here=here)
    with pytest.raises(Unreachable, match=r"site `a`: sync submitted after \d s, given up"):
        engine._wait("job", "a", 10.0)
    assert not given_up(tmp_path)


def test_one_that_was_started_anew_meanwhile_is_not_given_up_again(tmp_path: Path) -> None:
    engine = Engine(tmp_path, {"status": "SUBMITTED"}, restarts=True)
    with pytest.raises(Unreachable):
        engine._wait("job", "a", 10.0)
    assert not given_up(tmp_path)
