"""Sites that are held back: a fact of the task that whatever is made of it respects, and the ledger tells."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedmed_edge.errors import StoreError
from fedmed_edge.recipe import Recipe
from fedmed_edge.store.store import Store
from fedmed_edge.store.withdrawal import withdraw_and_rebuild

Send = Callable[..., Path]


def sites(store: Store, **options: bool) -> list[str]:
    return [one.header.site for one in store.contributions("lesion", **options)]  # type: ignore[arg-type]


def test_who_is_held_back_is_in_nothing_that_is_made(store: Store, send_all: None, recipe: Recipe) -> None:
    assert store.held_back.add("lesion", "beta", "rows 12 times as spread")
    assert store.held_back.of("lesion") == {"beta": "rows 12 times as spread"}
    assert sites(store) == ["alpha", "gamma"] and sites(store, held_back=True) == ["alpha", "beta", "gamma"]
    assert [entry.site for entry in store.contribution_entries()] == ["alpha", "beta", "gamma"]
    done = withdraw_and_rebuild(store, "gamma")
    assert done.tasks["lesion"].model is not None and done.tasks["lesion"].model.sites == ("alpha",)
    assert sites(store) == ["alpha"]
    assert store.held_back.release("lesion", "beta") and sites(store) == ["alpha", "beta"]
    assert store.verify() == []


def test_a_new_contribution_does_not_release(store: Store, send_all: None, sent: Send) -> None:
    store.held_back.add("lesion", "beta", "why")
    assert store.import_contribution(sent("beta", 2, seed=2)).new
    assert sites(store) == ["alpha", "gamma"]


def test_the_ledger_tells_once_with_the_words(store: Store, send_all: None) -> None:
    assert store.held_back.add("lesion", "beta", "why") and not store.held_back.add("lesion", "beta", "again")
    assert store.held_back.of("lesion") == {"beta": "why"}
    assert store.held_back.release("lesion", "beta") and not store.held_back.release("lesion", "beta")
    told = [(row.kind, row.site, row.details) for row in store.ledger()[-2:]]
    assert told == [
        ("held back", "beta", {"task": "lesion", "why": "why"}),
        ("released", "beta", {"task": "lesion"}),
    ]
    store.verify_ledger()


def test_an_unknown_site_or_task_is_refused(store: Store, send_all: None) -> None:
    with pytest.raises(StoreError, match="no site `omega`"):
        store.held_back.add("lesion", "omega", "why")
    with pytest.raises(StoreError, match="no task `other`"):
        store.held_back.release("other", "beta")
