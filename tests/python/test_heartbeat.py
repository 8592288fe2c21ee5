"""What a long-running verb says of itself, and what `health` makes of it."""

import json
import time
from pathlib import Path

import pytest

from fedmed_edge import heartbeat
from fedmed_edge.errors import InputError
from fedmed_edge.heartbeat import Heartbeat, faults_of, running


def test_facts_are_there_while_the_verb_runs_and_gone_after(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, "agent") as beat:
        beat.tell(connected=True, sent_bytes=7)
        said = running(tmp_path)["agent"]
        assert said["connected"] is True and said["sent_bytes"] == 7 and said["verb"] == "agent"
        assert faults_of(tmp_path) == []
    assert running(tmp_path) == {}
    assert faults_of(tmp_path) == ["nothing is running"]


def test_a_false_flag_is_a_fault(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, "listen") as beat:
        beat.tell(listening=True, disk_ok=False)
        assert faults_of(tmp_path) == ["listen: not disk ok"]


def test_it_beats_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.02)
    with Heartbeat(tmp_path, "agent"):
        first = running(tmp_path)["agent"]["beat"]
        deadline = time.monotonic() + 10
        while running(tmp_path)["agent"]["beat"] == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running(tmp_path)["agent"]["beat"] != first


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"beat": "soon"}', '{"beat": 1.0}'])
def test_a_file_that_says_nothing_new_is_a_fault(tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "agent.json").write_text(content)
    assert faults_of(tmp_path) == ["agent: no sign of life for 30 s"]


def test_what_a_killed_process_left_grows_stale(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    left = {"verb": "agent", "connected": True, "beat": time.time() - 31}
    (tmp_path / "run" / "agent.json").write_text(json.dumps(left))
    assert faults_of(tmp_path) == ["agent: no sign of life for 30 s"]


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="run: "), Heartbeat(tmp_path, "agent"):
        pass


def test_one_verb_is_asked_for_alone(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, "agent") as agent, Heartbeat(tmp_path, "listen") as listen:
        listen.tell(listening=False)
        agent.tell(connected=True)
        assert faults_of(tmp_path, "agent") == []
        assert faults_of(tmp_path, "listen") == faults_of(tmp_path) == ["listen: not listening"]
    assert faults_of(tmp_path, "agent") == ["agent is not running"]
