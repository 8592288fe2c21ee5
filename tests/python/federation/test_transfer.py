"""Contributions up and objects down over a channel that goes wrong: nothing lost, nothing twice."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed_edge.errors import InputError, Unreachable
from fedmed_edge.federation import parts
from fedmed_edge.federation.inbox import Inbox

FAULTS = st.lists(st.sampled_from(["ok", "lose", "cut", "twice", "late"]), max_size=60)


def until_done(federation: Any, name: str, channel: Any) -> int:
    """Sync until nothing is cut any more; how often that took."""
    for attempt in itertools.count(1):
        try:
            federation.sync(name, channel)
        except Unreachable:
            continue
        return attempt
    raise AssertionError


def test_what_lies_in_the_outbox_is_in_the_store_after_a_sync(federation: Any) -> None:
    parcel = federation.hospitals["alpha"].put()
    result = federation.sync("alpha")
    assert result.sent == [parcel.id] == federation.held()
    assert result.waiting == 0
    assert [entry.kind for entry in federation.store.ledger()][-1] == "contributed"
    assert federation.sync("alpha").sent == []
    assert not list((federation.folder / "inbox" / "alpha").glob("*.part"))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_whatever_happens_to_the_messages_everything_arrives_once(
    make_federation: Callable[..., Any],
    small_parts: int,
    faulty: Any,
    tmp_path: Path,
    in_flight: int,
) -> None:
    federation = make_federation(tmp_path, parts_in_flight=in_flight)
    alpha = federation.hospitals["alpha"]
    everything: list[str] = []

    @settings(max_examples=12)
    @given(faults=FAULTS)
    def check(faults: list[str]) -> None:
        everything.extend([alpha.put(size=1500).id, alpha.put(size=300).id])
        source = tmp_path / "object"
        source.write_bytes(np.random.default_rng(alpha.made).bytes(3 * small_parts + 17))
        offer = federation.offers.publish(source, federation.key, kind="model", task="lesion")
        until_done(federation, "alpha", faulty(federation.channel("alpha"), faults))
        assert federation.held() == sorted(everything)
        assert [entry.kind for entry in federation.store.ledger()].count("contributed") == len(everything)
        assert alpha.outbox.waiting() == []
        came = alpha.folder / "inbox" / f"{offer.digest}.model"
        assert came.read_bytes() == source.read_bytes()

    check()


def puts(channel: Any) -> list[int]:
    return [fields["part"] for op, fields in channel.log if op == "put"]


@pytest.mark.parametrize("fault", ["lose", "cut"])
def test_a_cut_costs_at_most_one_part(federation: Any, small_parts: int, faulty: Any, fault: str) -> None:
    federation.hospitals["alpha"].put(size=5000)
    whole = parts.count_parts(federation.hospitals["alpha"].outbox.waiting()[0].bytes)
    faults = ["ok"] * 7 + [fault] + ["ok"] * 8 + [fault]
    channel = faulty(federation.channel("alpha"), faults)
    assert until_done(federation, "alpha", channel) == 3
    sent = puts(channel)
    assert len(sent) <= whole + 2
    assert set(sent) == set(range(whole))
    assert len(federation.held()) == 1


def test_a_part_whose_reply_was_lost_is_not_sent_again(
    federation: Any, small_parts: int, faulty: Any
) -> None:
    federation.hospitals["alpha"].put(size=3000)
    channel = faulty(federation.channel("alpha"), ["ok"] * 4 + ["cut"])
    until_done(federation, "alpha", channel)
    assert len(puts(channel)) == len(set(puts(channel)))


def test_contributions_are_handed_over_in_their_order(federation: Any) -> None:
    alpha = federation.hospitals["alpha"]
    second, first = alpha.put(sequence=7), alpha.put(sequence=3)
    assert federation.sync("alpha").sent == [first.id, second.id]


def test_a_refused_contribution_is_told_and_not_sent_again(federation: Any) -> None:
    alpha = federation.hospitals["alpha"]
    alpha.put(sequence=5)
    federation.sync("alpha")
    older = alpha.put(sequence=2)
    result = federation.sync("alpha")
    assert list(result.refused) == [older.id]
    assert "`sequence` has 2, expected more than 5" in result.refused[older.id]
    assert str(federation.folder) not in result.refused[older.id]
    assert alpha.outbox.waiting() == []
    assert alpha.outbox.all()[0].why
    assert [entry.kind for entry in federation.store.ledger()][-1] == "refused"


def test_a_site_whose_folder_is_older_than_the_server_goes_on_behind_it(federation: Any) -> None:
    from fedmed_edge.federation.releases import Releases

    alpha = federation.hospitals["alpha"]
    alpha.put(sequence=41)
    federation.sync("alpha")
    federation.sync("alpha")
    assert Releases(alpha.folder).sequence == 41


def test_what_was_taken_back_and_is_published_again_is_the_newest_again(
    federation: Any, tmp_path: Path
) -> None:
    inbox = Inbox(federation.hospitals["alpha"].folder / "inbox")
    files = [tmp_path / "first", tmp_path / "second"]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]))
        offer = federation.offers.publish(path, federation.key, kind="model", task="lesion")
        federation.sync("alpha")
    federation.offers.take_back(offer.digest, "taken back")
    federation.sync("alpha")
    assert inbox.newest("model").digest != offer.digest
    federation.offers.publish(files[1], federation.key, kind="model", task="lesion")
    federation.sync("alpha")
    assert inbox.newest("model").digest == offer.digest
    federation.offers.publish(files[0], federation.key, kind="model", task="lesion")
    federation.sync("alpha")
    assert inbox.newest("model").digest != offer.digest  # also without taking the other back
    federation.offers.take_back(offer.digest, "withdrawn")
    federation.sync("alpha")
    with pytest.raises(InputError, match="was withdrawn"):
        inbox.path(offer.digest)
