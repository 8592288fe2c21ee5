"""Waiting until the server has taken what was put into the outbox."""

from pathlib import Path

import numpy as np
import pytest

from fedmed_edge.commands import handing_over
from fedmed_edge.commands.verbs import Output
from fedmed_edge.federation.outbox import Outbox
from fedmed_edge.heartbeat import Heartbeat
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import new_contribution


@pytest.mark.parametrize("connected", [None, False])
def test_nobody_waits_for_an_agent_that_is_not_there_or_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connected: bool | None
) -> None:
    recipe = Recipe(name="lesion", kind="classification", classes=("a", "b"), size=(32, 32))
    said = {"generation": "1" * 64, "site": "a", "sequence": 1, "weights": {"w": np.ones(2)}}
    parcel = Outbox(tmp_path / "outbox").add(new_contribution(None, recipe=recipe, **said))
    monkeypatch.setattr(handing_over, "PATIENCE_S", 0.2)
    monkeypatch.setattr(handing_over, "LOOK_S", 0.05)
    with Heartbeat(tmp_path, "agent" if connected is not None else "listen") as beat:
        beat.tell(connected=bool(connected))
        waited = handing_over.wait_for(Output(as_json=False, quiet=True), tmp_path, parcel)
    assert waited == parcel
