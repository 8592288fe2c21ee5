"""The number of a site's contributions: it rises, and nobody gets one twice."""

import threading
from pathlib import Path
from typing import Any

import pytest

from fedmed_edge.atomic import locked
from fedmed_edge.config import Policy
from fedmed_edge.errors import InputError, Withheld
from fedmed_edge.features.patients import Leaving
from fedmed_edge.federation.releases import Releases
from fedmed_edge.federation.sequence import (
    FOLLOWED,
    private_training,
    raise_sequence,
    settle_lost,
    signed_as_next,
)
from fedmed_edge.hospital import Prepared
from fedmed_edge.images.dataset import Dataset, Item
from fedmed_edge.recipe import Recipe


def test_the_sequence_rises_and_is_never_lowered(tmp_path: Path) -> None:
    assert Releases(tmp_path).sequence == 0
    raise_sequence(tmp_path, 42)
    raise_sequence(tmp_path, 7)
    assert Releases(tmp_path).sequence == 41
    (tmp_path / "sequence").write_text("")
    with pytest.raises(InputError, match="sequence: not a number") as caught:
        Releases(tmp_path)
    assert "fedmed-server status" in (caught.value.hint or "")


def test_a_server_is_followed_so_far_and_a_person_at_the_site_further(tmp_path: Path) -> None:
    raise_sequence(tmp_path, FOLLOWED + 1)
    with pytest.raises(InputError, match=r"^server: `sequence` has 20002, expected at most 20001") as caught:
        raise_sequence(tmp_path, 2 * FOLLOWED + 2)
    assert "`fedmed-edge budget --restored`" in (caught.value.hint or "")
    assert Releases(tmp_path).sequence == FOLLOWED and len(Releases(tmp_path).lines) == 1
    raise_sequence(tmp_path, 2 * FOLLOWED + 2, by_hand=True)
    assert Releases(tmp_path).sequence == 2 * FOLLOWED + 1


@pytest.mark.parametrize("damage", [None, "-7", "3"])
def test_a_sequence_that_is_lost_or_too_low_goes_on_behind_what_was_written_down(
    damage: str | None, tmp_path: Path
) -> None:
    Releases(tmp_path).record(Leaving(generation="ab", task="t", parts=("weights",)), 41)
    if damage is not None:
        (tmp_path / "sequence").write_text(damage)
    assert Releases(tmp_path).sequence == 41


def test_what_is_made_at_once_gets_numbers_in_the_order_of_the_outbox(federation: Any) -> None:
    alpha = federation.hospitals["alpha"]
    made = [alpha.contribution() for _ in range(8)]
    order: list[int] = []

    def hand_over(contribution: Any) -> None:
        leaving = Leaving(generation=contribution.header.generation, task="t", parts=("weights",))
        prepared = Prepared(leaving, lambda: contribution)
        with signed_as_next(alpha.folder, prepared, alpha.key, policy=alpha.config.policy) as signed:
            signed.verify(alpha.key.public_key())
            if raising.ident is None:
                raising.start()
            order.append(signed.header.sequence)

    raising = threading.Thread(target=raise_sequence, args=(alpha.folder, 5))
    threads = [threading.Thread(target=hand_over, args=(one,)) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raising.join()
    assert order == sorted(set(order)) and len(order) == 8
    assert Releases(alpha.folder).sequence == order[-1]


def test_what_was_lost_is_settled_behind_who_is_signing(tmp_path: Path) -> None:
    raise_sequence(tmp_path, 4)
    settling = threading.Thread(target=settle_lost, args=(tmp_path, 0.0, Policy()))
    with locked(tmp_path / "sequence.lock"):
        settling.start()
        settling.join(0.2)
        assert settling.is_alive()
        Releases(tmp_path).record(Leaving(generation="ab", task="t", parts=("weights",)), 4)
    settling.join()
    assert [one.state for one in Releases(tmp_path).lines] == ["lost", "signed", "settled"]


def test_of_trainings_planned_at_once_no_more_begin_than_the_budget_allows(
    tmp_path: Path, recipe: Recipe
) -> None:
    pytest.importorskip("dp_accounting")
    items = tuple(Item(Path(f"{n}.png"), 0, None, f"p{n}", "train") for n in range(3))
    policy = Policy(epsilon=8.0, budget=8.0, delta=1e-3, min_cohort=1, sampling=0.5)
    dataset = Dataset(tmp_path, recipe, items)
    planned = [private_training(tmp_path, dataset, None, policy, 2.0) for _ in range(4)]
    began: list[str] = []

    def begin(training: Any) -> None:
        try:
            training.spend()
        except Withheld:
            return
        began.append(training.id)

    threads = [threading.Thread(target=begin, args=(one,)) for one in planned]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.training for one in Releases(tmp_path).lines] == began and len(began) == 1
