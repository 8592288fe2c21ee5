"""What a site tells beside a heartbeat, and its worker that says once what is wrong."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("psutil")
pytest.importorskip("nvflare")
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message

from fedmed_edge.federation.asked import Asked
from fedmed_edge.federation.engine import presence, processes
from fedmed_edge.federation.engine.site_kit import CONNECTED
from fedmed_edge.federation.messages import Ask
from fedmed_edge.federation.outbox import Outbox
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import new_contribution

RECIPE = Recipe(name="lesion", kind="classification", classes=("a", "b"), size=(32, 32))


class Cell:
    """A server that answers every heartbeat."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def send_request(self, *, request: Message, **said: Any) -> Message:
        self.heard.append(request.payload)
        return Message({MessageHeaderKey.RETURN_CODE: ReturnCode.OK}, b"")


def test_a_damaged_record_of_the_outbox_does_not_keep_a_site_from_being_heard_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kit, outbox, cell = tmp_path / "engine", Outbox(tmp_path / "outbox"), Cell()
    kit.mkdir()
    presence._tell(cell, kit)
    said = {"generation": "1" * 64, "site": "a", "sequence": 1, "weights": {"w": np.ones(2)}}
    parcel = outbox.add(new_contribution(None, recipe=RECIPE, **said))
    presence._tell(cell, kit)
    record = tmp_path / "outbox" / f"{parcel.digest}.json"
    whole = record.read_bytes()
    record.write_text("{")
    (kit / CONNECTED).unlink()
    presence._tell(cell, kit)
    presence._tell(cell, kit)
    assert (kit / CONNECTED).is_file()
    assert caplog.text.count("is damaged") == 1
    record.write_bytes(whole)
    outbox.put_off(parcel, "later")
    presence._tell(cell, kit)
    assert cell.heard == [b"0", b"1", b"0", b"0", b"0"]


def test_a_worker_says_once_what_is_wrong_and_looks_at_nothing_where_nothing_is_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0

    def rest(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            assert caplog.text == ""  # there is no fedmed.toml, but nobody asked for anything
            said = {"kind": "train", "recipe": "a" * 64, "generation": "b" * 64, "deadline": 0}
            Asked(tmp_path / "requests").note([Ask.model_validate({"id": "0" * 32} | said)])
        if rounds == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(processes.time, "sleep", rest)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        processes.work(tmp_path)
    assert caplog.text.count("fedmed.toml") == 1
