"""The store: what it takes, refuses, gives back and forgets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed_edge.errors import InputError, StoreError, TrustError
from fedmed_edge.generation import Generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PrivateKey, fingerprint, generate_key
from fedmed_edge.statistics.contribution import Contribution, new_contribution, write_contribution
from fedmed_edge.store.store import Store

Send = Callable[..., Path]
Make = Callable[..., Contribution]


@dataclass(frozen=True)
class StandIn:
    """What the store asks of a model."""

    recipe: Recipe
    generation: str
    sites: tuple[str, ...] = ()
    contributions: tuple[str, ...] = ()
    content: bytes = b"model"
    digest: str = "11" * 32
    refined_for: str | None = None


def contents(store: Store) -> list[bytes]:
    """Every file that the store keeps."""
    return [store._objects.read(str(digest)) for _, digest in store._objects.listed()]


def rebuilt(
    store: Store, recipe: Recipe, *, digest: str = "11" * 32, refined_for: str | None = None
) -> StandIn:
    """A model of all that a rebuild would take."""
    taken = store.contributions(recipe.name)
    return StandIn(
        recipe,
        store.generations()[0],
        tuple(one.header.site for one in taken),
        tuple(one.id for one in taken),
        content=digest.encode(),
        digest=digest,
        refined_for=refined_for,
    )


# --- taking ------------------------------------------------------------------------------------------------


def test_contributions_come_back_in_order_of_site_name(
    store: Store, send_all: None, make_contribution: Make
) -> None:
    taken = store.contributions("lesion")
    assert [one.header.site for one in taken] == ["alpha", "beta", "gamma"]
    for one in taken:
        assert one.id == make_contribution(one.header.site).id
        assert one.statistics is not None
    assert [one.header.site for one in store.contributions("lesion", without=["beta"])] == ["alpha", "gamma"]
    assert store.verify() == []


def test_an_import_says_what_it_took(store: Store, sent: Send, make_contribution: Make) -> None:
    taken = store.import_contribution(sent("alpha", 3))
    assert (taken.id, taken.site, taken.task, taken.sequence, taken.new) == (
        make_contribution("alpha").id,
        "alpha",
        "lesion",
        3,
        True,
    )
    assert store.next_sequence("alpha") == 4
    assert store.next_sequence("beta") == 1
    (entry,) = store.contribution_entries()
    assert (entry.site, entry.sequence, entry.current, entry.task) == ("alpha", 3, True, "lesion")
    assert entry.bytes > 0


def test_the_same_contribution_again_changes_nothing(store: Store, sent: Send) -> None:
    store.import_contribution(sent("alpha", 3))
    before = store.contribution_entries()
    assert not store.import_contribution(sent("alpha", 3)).new
    assert not store.import_contribution(sent("alpha", 2)).new
    assert store.contribution_entries() == before
    assert store.verify() == []


def test_an_update_supersedes_and_the_older_one_is_kept(store: Store, sent: Send) -> None:
    first = store.import_contribution(sent("alpha", 1, seed=1))
    second = store.import_contribution(sent("alpha", 2, seed=2))
    assert [one.id for one in store.contributions("lesion")] == [second.id]
    assert [(entry.id, entry.current) for entry in store.contribution_entries()] == [
        (first.id, False),
        (second.id, True),
    ]


def test_an_older_contribution_is_refused(store: Store, sent: Send) -> None:
    store.import_contribution(sent("alpha", 5, seed=1))
    for sequence in (4, 5):
        with pytest.raises(
            InputError, match=f"`sequence` has {sequence}, expected more than 5 of site `alpha`"
        ):
            store.import_contribution(sent("alpha", sequence, seed=2))
    store.import_contribution(sent("beta", 1))


def test_a_site_goes_back_to_an_earlier_contribution_by_signing_it_anew(store: Store, sent: Send) -> None:
    first = store.import_contribution(sent("alpha", 1, seed=1))
    store.import_contribution(sent("alpha", 2, seed=2))
    assert store.import_contribution(sent("alpha", 3, seed=1)).new
    assert [one.id for one in store.contributions("lesion")] == [first.id]
    assert store.contributions("lesion")[0].header.sequence == 3
    assert store.verify() == []
    assert len(contents(store)) == 3


# --- refusing ----------------------------------------------------------------------------------------------


def test_an_unknown_signer_is_not_trusted(store: Store, sent: Send) -> None:
    key = generate_key()
    with pytest.raises(
        TrustError, match=r"unknown signer SHA256:\S+, no site is enrolled with it"
    ) as refusal:
        store.import_contribution(sent("alpha", key=key))
    assert fingerprint(key.public_key()) in str(refusal.value)
    assert refusal.value.exit_code == 5
    assert "site add" in str(refusal.value.hint)


def test_the_key_of_another_site_is_not_trusted(
    store: Store, sent: Send, keys: dict[str, PrivateKey]
) -> None:
    with pytest.raises(TrustError, match="`site` has alpha, expected beta, which its key is enrolled under"):
        store.import_contribution(sent("alpha", key=keys["beta"]))


def test_a_wrong_signature_is_not_trusted(
    store: Store, tmp_path: Path, make_contribution: Make, keys: dict[str, PrivateKey]
) -> None:
    signed = make_contribution("alpha").sign(keys["alpha"])
    header = signed.header.model_copy(update={"sequence": 99})
    write_contribution(tmp_path / "c", replace(signed, header=header))
    with pytest.raises(TrustError, match="c: wrong signature: changed after it was signed"):
        store.import_contribution(tmp_path / "c")
    write_contribution(tmp_path / "d", make_contribution("alpha"))
    with pytest.raises(TrustError, match="d: has no signature"):
        store.import_contribution(tmp_path / "d")


def test_a_revoked_site_is_refused_and_what_it_sent_stays(store: Store, sent: Send) -> None:
    store.import_contribution(sent("alpha", 1))
    store.revoke_site("alpha")
    with pytest.raises(TrustError, match="site `alpha` was revoked"):
        store.import_contribution(sent("alpha", 2, seed=2))
    assert [one.header.site for one in store.contributions("lesion")] == ["alpha"]


def test_another_generation_is_refused_with_both_digests(
    store: Store, sent: Send, generation: Generation
) -> None:
    message = f"`generation` has abababababab, expected {generation.digest[:12]}$"
    with pytest.raises(InputError, match=message) as refusal:
        store.import_contribution(sent("alpha", generation="ab" * 32))
    assert "contribute" in str(refusal.value.hint)


def test_another_recipe_is_refused_with_both_digests(store: Store, sent: Send, recipe: Recipe) -> None:
    other = recipe.model_copy(update={"pixel_stride": 8})
    message = f"`recipe` has {other.digest[:12]}, expected {recipe.digest[:12]}$"
    with pytest.raises(InputError, match=message):
        store.import_contribution(sent("alpha", recipe=other))
    other = recipe.model_copy(update={"name": "other"})
    with pytest.raises(InputError, match="expected one of the store's, which has no task `other`"):
        store.import_contribution(sent("alpha", recipe=other))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task", "other", "`task` has other, expected lesion"),
        ("kind", "segmentation", "`kind` has segmentation, expected classification"),
        ("feature_dim", 4, "`image_gram` has shape|`feature_dim` has 4, expected 3"),
        ("classes", ("benign", "other"), "class `other` is not in the recipe `lesion`"),
    ],
)
def test_a_header_that_does_not_fit_its_recipe_or_generation_is_refused(
    store: Store,
    tmp_path: Path,
    make_contribution: Make,
    keys: dict[str, PrivateKey],
    field: str,
    value: object,
    message: str,
) -> None:
    made = make_contribution("alpha")
    made = replace(made, header=made.header.model_copy(update={field: value}))
    write_contribution(tmp_path / "c", made.sign(keys["alpha"]))
    with pytest.raises(InputError, match=message):
        store.import_contribution(tmp_path / "c")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"channel_moments": np.full((3, 4), 8.0)},
            r"`channel_moments` has shape \(3, 4\), expected \(3, 3\)",
        ),
        (
            {"style_sum": np.zeros((1, 5, 5)), "style_square": np.zeros((1, 5, 5))},
            r"`style_sum` has shape \(1, 5, 5\), expected \(1, 3, 3\)",
        ),
    ],
)
def test_sums_of_another_backbone_or_size_are_refused(
    store: Store,
    tmp_path: Path,
    make_contribution: Make,
    keys: dict[str, PrivateKey],
    fields: dict[str, Any],
    message: str,
) -> None:
    made = make_contribution("alpha")
    assert made.statistics is not None
    made = replace(made, statistics=replace(made.statistics, **fields)).sign(keys["alpha"])
    write_contribution(tmp_path / "c", made)
    with pytest.raises(InputError, match=message):
        store.import_contribution(tmp_path / "c")
    assert store.contribution_entries() == []


# --- withdrawing -------------------------------------------------------------------------------------------


def test_a_withdrawal_deletes_everything_of_the_site(
    store: Store, sent: Send, recipe: Recipe, send_all: None
) -> None:
    store.import_contribution(sent("beta", 2, seed=5))
    store.save_model(rebuilt(store, recipe))
    names = {entry.id for entry in store.contribution_entries() if entry.site == "beta"}
    content = contents(store)
    named = b'\\"site\\":\\"beta\\"'
    assert sum(named in one for one in content) == 2
    done = store.withdraw("beta")
    assert set(done.contributions) == names
    assert done.tasks == ("lesion",)
    assert done.models == ("11" * 32,)
    assert len(names) == 2
    assert [one.header.site for one in store.contributions("lesion")] == ["alpha", "gamma"]
    left = contents(store)
    assert len(left) == len(content) - 2
    assert not any(named in one for one in left)
    assert store.verify() == []
    again = store.withdraw("beta")
    assert (again.contributions, again.models, again.tasks) == ((), (), ())


def test_a_withdrawn_contribution_never_comes_back(store: Store, sent: Send) -> None:
    store.import_contribution(sent("alpha", 5))
    store.withdraw("alpha")
    with pytest.raises(InputError, match="of site `alpha` was withdrawn"):
        store.import_contribution(sent("alpha", 5))
    with pytest.raises(InputError, match="of site `alpha` was withdrawn"):
        store.import_contribution(sent("alpha", 9))
    with pytest.raises(InputError, match="`sequence` has 5, expected more than 5"):
        store.import_contribution(sent("alpha", 5, seed=1))
    assert store.import_contribution(sent("alpha", 6, seed=1)).new
    assert store.verify() == []


def test_after_a_withdrawal_a_rebuild_gets_what_a_store_without_the_site_gives(
    tmp_path: Path, store: Store, sent: Send, send_all: None, recipe: Recipe, generation: Generation
) -> None:
    store.withdraw("beta")
    never = Store.create(tmp_path / "never")
    assert never.folder.stat().st_mode & 0o777 == 0o700
    never.add_recipe(recipe)
    never.publish_generation(generation.content)
    fresh = {name: generate_key() for name in ("gamma", "alpha")}
    for name, key in fresh.items():
        never.add_site(name, key.public_key())
        never.import_contribution(sent(name, 40, key=key))
    pairs = list(zip(store.contributions("lesion"), never.contributions("lesion"), strict=True))
    assert len(pairs) == 2
    for one, other in pairs:
        assert one.id == other.id
        for name, tensor in one.tensors().items():
            assert tensor.tobytes() == other.tensors()[name].tobytes()


def test_a_site_that_is_not_enrolled_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match="no site `delta`, enrolled are: alpha, beta, gamma"):
        store.withdraw("delta")
    with pytest.raises(StoreError, match="no site `delta`"):
        store.revoke_site("delta")


# --- models ------------------------------------------------------------------------------------------------


def test_models_are_kept_newest_first(store: Store, send_all: None, recipe: Recipe) -> None:
    for digest in ("11" * 32, "22" * 32):
        store.save_model(rebuilt(store, recipe, digest=digest))
    store.save_model(rebuilt(store, recipe, digest="33" * 32, refined_for="alpha"))
    assert [entry.digest[:2] for entry in store.models("lesion")] == ["33", "22", "11"]
    newest = store.models("lesion")[1]
    assert newest.sites == ("alpha", "beta", "gamma")
    assert newest.contributions == tuple(one.id for one in store.contributions("lesion"))
    assert store.model_content(newest.digest) == b"22" * 32
    assert [entry.refined_for for entry in store.models("lesion")] == ["alpha", None, None]
    assert store.models("other") == []
    store.save_model(rebuilt(store, recipe))
    assert [entry.digest[:2] for entry in store.models()] == ["11", "33", "22"]
    with pytest.raises(StoreError, match="no model 444444444444"):
        store.model_content("44" * 32)
    assert store.verify() == []


def test_withdrawn_models_are_marked(store: Store, send_all: None, recipe: Recipe) -> None:
    store.save_model(replace(rebuilt(store, recipe), sites=(), contributions=()))
    store.save_model(rebuilt(store, recipe, digest="22" * 32))
    assert store.withdraw("gamma").models == ("22" * 32,)
    assert [entry.withdrawn for entry in store.models()] == [True, False]


def test_a_model_of_a_site_that_withdrew_meanwhile_is_refused(
    store: Store, send_all: None, recipe: Recipe
) -> None:
    model = rebuilt(store, recipe)
    store.withdraw("beta")
    with pytest.raises(StoreError, match="of site `beta`, which is not in the store") as refusal:
        store.save_model(model)
    assert refusal.value.hint == "the site withdrew meanwhile: rebuild again"
    assert store.models() == []
    assert store.verify() == []


# --- recipes, generations, sites ---------------------------------------------------------------------------


def test_a_rebuild_takes_the_newest_recipe_and_generation(
    store: Store, sent: Send, send_all: None, recipe: Recipe, make_generation: Callable[..., Generation]
) -> None:
    second = make_generation(1)
    store.publish_generation(second.content)
    assert len(store.contributions("lesion")) == 3
    store.import_contribution(sent("beta", 2, generation=second.digest))
    assert [one.header.generation for one in store.contributions("lesion")] == [second.digest]
    first = store.generations()[1]
    assert len(store.contributions("lesion", generation=first)) == 3
    other = recipe.model_copy(update={"pixel_stride": 8})
    store.add_recipe(other)
    assert store.recipe("lesion") == other
    assert store.contributions("lesion") == []
    store.add_recipe(recipe)
    assert store.recipe("lesion") == recipe
    assert len(store.contributions("lesion", generation=first)) == 3
    assert store.tasks() == ["lesion"]
    with pytest.raises(StoreError, match="no task `other`, known are: lesion"):
        store.contributions("other")


def test_generations_come_back_by_digest(
    store: Store, generation: Generation, make_generation: Callable[..., Generation]
) -> None:
    second = make_generation(1)
    assert store.publish_generation(second.content) == second.digest
    assert store.publish_generation(generation.content) == generation.digest
    assert store.generations() == [second.digest, generation.digest]
    assert store.generation().digest == second.digest
    assert store.generation(generation.digest).content == generation.content
    with pytest.raises(StoreError, match="no generation abababababab"):
        store.generation("ab" * 32)
    with pytest.raises(InputError, match="generation: cut off: "):
        store.publish_generation(b"text")
    empty = Store.create(store.folder.parent / "empty")
    with pytest.raises(StoreError, match="no generation is published"):
        empty.generation()


def test_sites_are_enrolled_once(store: Store, keys: dict[str, PrivateKey], send_all: None) -> None:
    store.add_site("alpha", keys["alpha"].public_key())
    with pytest.raises(StoreError, match="site `alpha`: is enrolled with the key SHA256:") as refusal:
        store.add_site("alpha", generate_key().public_key())
    assert "revoke" in str(refusal.value.hint)
    with pytest.raises(StoreError, match="site `delta`: its key is that of site `alpha`"):
        store.add_site("delta", keys["alpha"].public_key())
    with pytest.raises(StoreError, match=r"site `\.\./x`: expected a name of 1 to 64"):
        store.add_site("../x", generate_key().public_key())
    assert [(site.name, site.revoked, site.contributions) for site in store.sites()] == [
        ("alpha", False, 1),
        ("beta", False, 1),
        ("gamma", False, 1),
    ]


def test_a_revoked_site_comes_back_with_a_new_key_and_old_signatures_still_verify(
    store: Store, sent: Send, send_all: None
) -> None:
    key = generate_key()
    store.revoke_site("alpha")
    store.add_site("alpha", key.public_key())
    assert store.sites()[0].fingerprint == fingerprint(key.public_key())
    with pytest.raises(TrustError, match="unknown signer"):
        store.import_contribution(sent("alpha", 2, seed=2))
    assert store.import_contribution(sent("alpha", 2, seed=2, key=key)).new
    assert store.verify() == []


def _take(store: Store, folder: Path, key: PrivateKey, *contributions: Contribution) -> None:
    for number, one in enumerate(contributions):
        path = folder / f"{number}.contribution"
        write_contribution(path, one.sign(key))
        store.import_contribution(path)


def test_weights_of_a_site_do_not_hide_its_sums(
    store: Store,
    generation: Generation,
    recipe: Recipe,
    keys: dict[str, PrivateKey],
    make_contribution: Callable[..., Contribution],
    tmp_path: Path,
) -> None:
    sums = make_contribution("alpha", sequence=1)
    weights = new_contribution(
        None,
        generation=generation.digest,
        recipe=recipe,
        site="alpha",
        sequence=2,
        weights={"stem": np.ones((1, 1), np.float32)},
    )
    _take(store, tmp_path, keys["alpha"], sums, weights)
    assert [one.id for one in store.contributions("lesion")] == [sums.id]
    assert [one.id for one in store.contributions("lesion", holds="weights")] == [weights.id]
    assert all(entry.current for entry in store.contribution_entries())


def test_sums_under_a_draft_do_not_hide_the_generation_in_use(
    store: Store,
    generation: Generation,
    recipe: Recipe,
    keys: dict[str, PrivateKey],
    make_contribution: Callable[..., Contribution],
    tmp_path: Path,
) -> None:
    draft = replace(generation, reference_mean=None, reference_covariance=None)
    store.publish_generation(draft.content)
    sums = make_contribution("alpha", sequence=1)
    measured = new_contribution(
        sums.statistics, generation=draft.digest, recipe=recipe, site="alpha", sequence=2, min_cohort=2
    )
    _take(store, tmp_path, keys["alpha"], sums, measured)
    assert [one.id for one in store.contributions("lesion")] == [sums.id]
    assert [one.id for one in store.contributions("lesion", generation=draft.digest)] == [measured.id]
