"""The verb `health` of both programs."""

from pathlib import Path
from types import ModuleType

import pytest

from fedmed_edge.heartbeat import Heartbeat


@pytest.mark.parametrize("program", ["fedmed-edge", "fedmed-server"])
def test_health_answers_by_its_exit_code(program: str, tmp_path: Path, kit: ModuleType) -> None:
    said = kit.run(program, "health", "-C", tmp_path)
    assert (said.code, said.out) == (1, "nothing is running\n")
    with Heartbeat(tmp_path, "agent") as beat:
        said = kit.run(program, "health", "-C", tmp_path, "--json")
        assert said.code == 0 and said.json["healthy"] and said.json["running"]["agent"]["verb"] == "agent"
        assert kit.run(program, "health", "-C", tmp_path).out == "well: agent\n"
        beat.tell(connected=False)
        said = kit.run(program, "health", "-C", tmp_path)
        assert (said.code, said.out) == (1, "agent: not connected\n")
