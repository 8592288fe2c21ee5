"""Past one server: what regional stores took, taken up by a central one, gives the same model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedmed_edge.errors import InputError, StoreError, TrustError
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import refine
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PrivateKey
from fedmed_edge.store.store import Store

Send = Callable[..., Path]
Make = Callable[..., Store]


@pytest.fixture
def place() -> dict[str, str]:
    return {}


def forward(region: Store, centre: Store, file: Path) -> list[bool]:
    news = []
    for entry in region.contribution_entries():
        if entry.current:
            file.write_bytes(region.contribution_content(entry.id))
            news.append(centre.import_contribution(file, where=entry.site, details={"came": "east"}).new)
    return news


def test_two_regions_in_one_centre_give_the_bytes_of_one_server(
    tmp_path: Path,
    store: Store,
    sent: Send,
    recipe: Recipe,
    make_store: Make,
    database: str,
    bucket: str,
) -> None:
    """Wherever index and files of each are, in whatever order they came, one of them updated meanwhile."""
    east = make_store("east", "alpha", "gamma", index=database)
    west = make_store("west", "beta", objects=bucket)
    centre, file = make_store("centre", "alpha", "beta", "gamma"), tmp_path / "forwarded"
    for one, *send in [(east, "gamma", 7), (west, "beta", 1), (east, "alpha", 1, 5), (east, "alpha", 2)]:
        site, sequence, *seed = send
        one.import_contribution(sent(site, sequence, seed=seed[0] if seed else 0))
    assert forward(west, centre, file) == [True]
    assert forward(east, centre, file) == [True, True]
    assert forward(east, centre, file) == [False, False]
    for site in ("alpha", "beta", "gamma"):
        store.import_contribution(sent(site))
    alone = store.contributions("lesion")
    assert rebuild(centre.contributions("lesion"), recipe).content == rebuild(alone, recipe).content
    for site in ("alpha", "beta"):
        wanted = refine(alone, site, recipe).content
        assert refine(centre.contributions("lesion"), site, recipe).content == wanted
    assert [row.details["came"] for row in centre.ledger() if row.kind == "contributed"] == ["east"] * 3
    assert centre.verify() == east.verify() == west.verify() == []
    # a site that leaves, leaves both; the centre's model is that of who never had it
    east.withdraw("alpha")
    centre.withdraw("alpha")
    left = rebuild(centre.contributions("lesion"), recipe)
    assert left.content == rebuild(store.contributions("lesion", without=["alpha"]), recipe).content


def test_a_centre_believes_no_region(
    tmp_path: Path, sent: Send, make_store: Make, keys: dict[str, PrivateKey]
) -> None:
    east, centre = make_store("east", "alpha"), make_store("centre", "beta")
    east.import_contribution(sent("alpha"))
    with pytest.raises(TrustError, match="alpha: unknown signer SHA256:"):
        forward(east, centre, tmp_path / "forwarded")
    centre.add_site("alpha", keys["alpha"].public_key())
    assert forward(east, centre, tmp_path / "forwarded") == [True]
    centre.withdraw("alpha")
    with pytest.raises(InputError, match="of site `alpha` was withdrawn"):
        forward(east, centre, tmp_path / "forwarded")
    with pytest.raises(StoreError, match="no contribution abababababab"):
        east.contribution_content("ab" * 32)
