"""The ledger: what it tells, that nobody changes it unseen, and that no model depends on it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmed_edge.errors import InputError, StoreError, TrustError
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import refine
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PrivateKey, fingerprint, generate_key
from fedmed_edge.store import ledger
from fedmed_edge.store.exports import note_exported
from fedmed_edge.store.store import Store

Send = Callable[..., Path]


def change(store: Store, *statements: str) -> None:
    """Write into the index behind the store's back."""
    with store._index.write() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def rows_of(store: Store) -> list[Any]:
    with store._index.read() as connection:
        return list(connection.exec_driver_sql("SELECT * FROM ledger ORDER BY number").mappings())


def hash_of(row: Any) -> str:
    """As docs/formats.md says it."""
    fields = {name: row[name] for name in row if name != "hash"}
    content = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"fedmed ledger v1\0" + content).hexdigest()


@pytest.fixture
def told(store: Store, sent: Send) -> Store:
    """A store with nine rows: started, recipe, generation, three sites, three contributions."""
    for site in ("alpha", "beta", "gamma"):
        store.import_contribution(sent(site))
    return store


# --- what it tells -----------------------------------------------------------------------------------------


def test_every_change_is_told(
    told: Store, sent: Send, recipe: Recipe, keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    store = told
    contributions = store.contributions("lesion")
    ids = {one.header.site: one.id for one in contributions}
    model, refined = rebuild(contributions, recipe), refine(contributions, "beta", recipe)
    store.save_model(model)
    store.save_model(refined)
    store.ledger_append("exported", subject=model.digest, details={"file": "ab" * 32})
    with pytest.raises(TrustError):
        store.import_contribution(sent("alpha", 2, key=keys["beta"]))
    store.revoke_site("gamma")
    store.withdraw("beta")
    rows = store.ledger()
    assert [(row.kind, row.site) for row in rows] == [
        ("started", None),
        ("recipe added", None),
        ("published", None),
        *[("enrolled", name) for name in ("alpha", "beta", "gamma")],
        *[("contributed", name) for name in ("alpha", "beta", "gamma")],
        ("rebuilt", None),
        ("refined", "beta"),
        ("exported", None),
        ("refused", "alpha"),
        ("revoked", "gamma"),
        ("withdrew", "beta"),
    ]
    assert [row.number for row in rows] == list(range(1, 16))
    assert rows[2].subject == store.generations()[0]
    assert rows[3].details == {"fingerprint": fingerprint(keys["alpha"].public_key())}
    (contributed, rebuilt_row, refused, withdrew) = (rows[6], rows[9], rows[12], rows[14])
    assert contributed.subject == ids["alpha"]
    assert contributed.details["min_cohort"] == 2 and contributed.details["sequence"] == 1
    assert contributed.details["parts"] == ["classes", "images", "channels", "style"]
    assert contributed.details["signer"] == fingerprint(keys["alpha"].public_key())
    assert rebuilt_row.subject == model.digest
    assert rebuilt_row.details["contributions"] == ids
    assert rows[10].subject == refined.digest
    assert refused.details["why"] == "`site` has alpha, expected beta, which its key is enrolled under"
    assert refused.subject is None and str(tmp_path) not in json.dumps(refused.details)
    assert withdrew.details["contributions"] == [ids["beta"]]
    assert sorted(withdrew.details["models"]) == sorted({model.digest, refined.digest})
    assert store.verify() == []


def test_what_changes_nothing_is_not_told(
    told: Store, sent: Send, recipe: Recipe, keys: dict[str, PrivateKey]
) -> None:
    before = told.ledger()
    told.add_site("alpha", keys["alpha"].public_key())
    told.add_recipe(recipe)
    told.publish_generation(told.generation().content)
    assert not told.import_contribution(sent("alpha")).new
    with pytest.raises(InputError):
        told.import_contribution(Path(__file__))
    with pytest.raises(StoreError):
        told.add_site("alpha", generate_key().public_key())
    assert told.ledger() == before
    told.revoke_site("alpha")
    told.revoke_site("alpha")
    told.withdraw("alpha")
    told.withdraw("alpha")
    assert [row.kind for row in told.ledger()[len(before) :]] == ["revoked", "withdrew"]


def test_how_a_contribution_came_is_told_beside(store: Store, sent: Send) -> None:
    store.import_contribution(sent("alpha", 3), details={"came": "agent", "rule": "parts"})
    with pytest.raises(InputError):
        store.import_contribution(sent("alpha", 2, seed=1), details={"came": "agent"})
    taken, refused = store.ledger()[-2:]
    assert (taken.details["came"], taken.details["rule"]) == ("agent", "parts")
    assert refused.details["came"] == "agent"
    assert refused.details["why"] == "`sequence` has 2, expected more than 3 of site `alpha`"


def test_a_change_that_fails_is_not_told(store: Store, sent: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    file, before = sent("alpha"), store.ledger()

    def refuse(*_arguments: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(StoreError, match="object not kept"):
            store.import_contribution(file)
    assert store.ledger() == before
    assert store.contribution_entries() == []


# --- the chain ---------------------------------------------------------------------------------------------


def test_a_row_is_bound_to_the_one_before_by_the_hash_that_the_formats_state(told: Store) -> None:
    previous = "0" * 64
    for row in rows_of(told):
        assert row["previous"] == previous
        assert row["hash"] == hash_of(row)
        previous = row["hash"]
    head = told.verify_ledger()
    assert (head.number, head.hash) == (9, previous)
    assert told.verify_ledger(previous) == told.verify_ledger(previous[:12]) == head
    told.ledger_append("exported")
    assert told.verify_ledger(previous).number == 10


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE ledger SET details = '{}' WHERE number = 7", "row 7 was changed: hash has "),
        ("UPDATE ledger SET site = NULL WHERE number = 4", "row 4 was changed: hash has "),
        ("UPDATE ledger SET subject = 'x' WHERE number = 8", "row 8 was changed: hash has "),
        ("UPDATE ledger SET time = '1999-01-01T00:00:00+00:00' WHERE number = 1", "row 1 was changed"),
        ("UPDATE ledger SET hash = 'ab' WHERE number = 5", "row 5 was changed: hash has ab"),
        ("DELETE FROM ledger WHERE number = 5", "row 5 is missing, 6 follows"),
        ("DELETE FROM ledger WHERE number = 1", "row 1 is missing, 2 follows"),
        ("DELETE FROM ledger WHERE number > 8", "row 9 is missing at its end"),
        ("DELETE FROM ledger WHERE number > 5", "row 6 to 9 is missing at its end"),
        ("DELETE FROM ledger", "row 1 to 9 is missing at its end"),
        ("DELETE FROM settings WHERE key = 'ledger_head'", "its head is missing"),
    ],
)
def test_changed_and_deleted_rows_are_found(told: Store, statement: str, message: str) -> None:
    change(told, statement)
    with pytest.raises(StoreError, match=f"^ledger: {message}") as refusal:
        told.verify_ledger()
    assert "past fedmed-server" in str(refusal.value.hint)
    (found,) = told.verify()
    assert f"ledger: {message}" in found


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "UPDATE sites SET public_key = (SELECT public_key FROM sites WHERE name = 'beta')",
            "its key is anot",
        ),
        ("UPDATE sites SET public_key = substr(public_key, 2)", "its key is another than the ledger tells"),
        ("UPDATE sites SET fingerprint = 'SHA256:another'", "its key is another than the ledger tells"),
        ("UPDATE sites SET revoked = TRUE", "is revoked, unlike the ledger tells"),
        (
            "INSERT INTO sites SELECT 'zeta', public_key, 'SHA256:z', enrolled, FALSE FROM sites",
            "is enrolled, and the ledger tells of no enrolment",
        ),
    ],
)
def test_a_key_that_somebody_wrote_to_the_index_is_found(told: Store, statement: str, message: str) -> None:
    """Else what this key signs is taken as the hospital's."""
    change(told, f"{statement} WHERE name = 'alpha'")
    (found,) = told.verify()
    assert found.startswith(f"site `{'zeta' if 'zeta' in statement else 'alpha'}`: {message}")


def test_a_site_that_is_enrolled_anew_or_older_than_the_ledger_is_sound(told: Store) -> None:
    told.revoke_site("alpha")
    assert told.verify() == []
    change(told, "UPDATE sites SET revoked = FALSE WHERE name = 'alpha'")
    assert told.verify() == ["site `alpha`: is not revoked, unlike the ledger tells"]
    change(told, "UPDATE sites SET revoked = TRUE WHERE name = 'alpha'")
    told.add_site("alpha", generate_key().public_key())
    assert told.verify() == []
    change(told, "DELETE FROM ledger", "DELETE FROM settings WHERE key = 'ledger_head'")
    with told._index.write() as connection:
        ledger.start(connection)
    assert told.verify() == []


def test_a_row_that_was_inserted_is_found(told: Store) -> None:
    """With a hash that fits it, in the middle and at the end."""
    rows = rows_of(told)
    forged = dict(rows[4]) | {"site": "delta", "number": 6, "previous": rows[4]["hash"]}
    forged["hash"] = hash_of(forged)
    values = ", ".join("NULL" if one is None else repr(one) for one in forged.values())
    change(
        told,
        *[f"UPDATE ledger SET number = {number + 1} WHERE number = {number}" for number in (9, 8, 7, 6)],
        f"INSERT INTO ledger VALUES ({values})",
    )
    with pytest.raises(StoreError, match=r"row 7 follows [0-9a-f]{12}, the row before has "):
        told.verify_ledger()


def test_a_row_that_was_appended_past_the_head_is_found(told: Store) -> None:
    last = rows_of(told)[-1]
    forged = dict(last) | {"number": 10, "previous": last["hash"]}
    forged["hash"] = hash_of(forged)
    values = ", ".join("NULL" if one is None else repr(one) for one in forged.values())
    change(told, f"INSERT INTO ledger VALUES ({values})")
    with pytest.raises(StoreError, match=r"row 10 has hash [0-9a-f]{12}, the head kept beside has 9 "):
        told.verify_ledger()


def test_rows_that_changed_places_are_found(told: Store) -> None:
    change(
        told,
        "UPDATE ledger SET number = 100 WHERE number = 7",
        "UPDATE ledger SET number = 7 WHERE number = 8",
        "UPDATE ledger SET number = 8 WHERE number = 100",
    )
    with pytest.raises(StoreError, match="row 7 follows "):
        told.verify_ledger()


def test_a_ledger_written_anew_is_found_by_a_head_that_was_written_down(told: Store) -> None:
    known = told.verify_ledger().hash
    rows, previous = rows_of(told), "0" * 64
    statements = []
    for row in rows:
        forged = dict(row) | {"previous": previous}
        if row["number"] == 7:
            forged["details"] = "{}"
        previous = forged["hash"] = hash_of(forged)
        statements.append(
            f"UPDATE ledger SET details = '{forged['details']}', previous = '{forged['previous']}', "
            f"hash = '{previous}' WHERE number = {row['number']}"
        )
    change(told, *statements, f"UPDATE settings SET value = '9 {previous}' WHERE key = 'ledger_head'")
    assert told.verify_ledger().hash == previous
    with pytest.raises(StoreError, match=f"ledger: no row has the hash {known}, which was written down"):
        told.verify_ledger(known)
    with pytest.raises(InputError, match="head has x1, expected at least 12 digits of a hash"):
        told.verify_ledger("x1")


def test_a_damaged_row_is_still_shown(told: Store) -> None:
    change(told, "UPDATE ledger SET details = '{' WHERE number = 7")
    assert told.ledger()[6].details == {"unreadable": "{"}


# --- what does not depend on it ----------------------------------------------------------------------------


def test_a_model_does_not_depend_on_the_ledger(told: Store, sent: Send, recipe: Recipe) -> None:
    before = rebuild(told.contributions("lesion"), recipe).content
    for number in range(3):
        told.ledger_append("exported", details={"number": number})
    with pytest.raises(InputError):
        told.import_contribution(sent("alpha", 1, seed=9))
    assert rebuild(told.contributions("lesion"), recipe).content == before
    change(told, "DELETE FROM ledger")
    assert rebuild(told.contributions("lesion"), recipe).content == before


def test_an_export_is_noted_with_the_digest_of_its_file(told: Store, recipe: Recipe) -> None:
    model = rebuild(told.contributions("lesion"), recipe)
    note_exported(told, model, b"content")
    row = told.ledger()[-1]
    assert (row.kind, row.site, row.subject) == ("exported", None, model.digest)
    assert row.details == {"task": "lesion", "file": hashlib.sha256(b"content").hexdigest()}
