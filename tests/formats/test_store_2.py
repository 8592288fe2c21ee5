"""A store of schema 2, from before there was a ledger, must still open; `store_2.zip` is never made anew."""

import zipfile
from pathlib import Path

import pytest

from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.store.store import Store

GOLDEN = Path(__file__).with_name("store_2.zip")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(tmp_path / "store")
    return tmp_path / "store"


def test_a_store_of_schema_2_is_brought_up_to_date_and_loses_nothing(folder: Path) -> None:
    store = Store.open(folder)
    assert store.verify() == []
    assert [(site.name, site.revoked) for site in store.sites()] == [
        ("alpha", False),
        ("beta", True),
        ("gamma", False),
    ]
    held = [(entry.site, entry.sequence, entry.current) for entry in store.contribution_entries()]
    assert held == [("alpha", 1, False), ("alpha", 2, True), ("beta", 1, True)]
    assert [model.withdrawn for model in store.models()] == [True]
    assert store.next_sequence("gamma") == 2


def test_its_ledger_begins_with_what_it_held(folder: Path) -> None:
    store = Store.open(folder)
    (started,) = store.ledger()
    assert started.kind == "started"
    assert started.details == {
        "sites": ["alpha", "beta", "gamma"],
        "generations": store.generations(),
        "contributions": {entry.id: entry.site for entry in store.contribution_entries()},
        "withdrawn": dict.fromkeys(started.details["withdrawn"], "gamma"),
        "models": [model.digest for model in store.models()],
    }
    model = rebuild(store.contributions("lesion"), store.recipe("lesion"))
    store.save_model(model)
    assert [row.kind for row in Store.open(folder).ledger()] == ["started", "rebuilt"]
    assert Store.open(folder).verify_ledger().number == 2
