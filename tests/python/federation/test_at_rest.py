"""What is on its way to a server with a store key: nothing of it is on the disk in plain, at any time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed_edge.errors import Unreachable
from fedmed_edge.federation.parts import PART_BYTES, Assembly, Incomplete, file_digest
from fedmed_edge.recipe import Recipe
from fedmed_edge.store.encryption import HEADER_BYTES, FileCipher, StoreKey, make_store_key
from fedmed_edge.store.store import Store

LARGE = PART_BYTES // 4 + 1000
"""Weights of more than one part."""


@pytest.fixture
def key(tmp_path: Path) -> StoreKey:
    return make_store_key(tmp_path / "store.key")


@pytest.fixture
def encrypted(federation: Any, key: StoreKey) -> Any:
    """A federation whose store is encrypted from now on."""
    federation.store = Store.open(federation.store.folder, cipher=FileCipher(key))
    federation.store.rewrite()
    return federation


def plain_files(federation: Any, weights: Any) -> list[Path]:
    """Files at the server that hold some of the weights."""
    root, values = federation.folder.parent, np.asarray(weights).tobytes()
    secrets = [values[place : place + 24] for place in range(0, len(values) - 24, len(values) // 50)]
    places = [federation.store.folder, federation.folder]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert root not in places
    return [path for path in files if any(secret in path.read_bytes() for secret in secrets)]


def test_a_contribution_that_is_cut_off_is_not_on_the_disk_in_plain_and_arrives_later(
    encrypted: Any, faulty: Any
) -> None:
    alpha = encrypted.hospitals["alpha"]
    parcel = alpha.put(size=LARGE)
    channel = faulty(encrypted.channel("alpha"), ["ok", "ok", "ok", "lose", *["lose"] * 9])
    with pytest.raises(Unreachable):
        encrypted.sync("alpha", channel)
    inbox = encrypted.folder / "inbox" / "alpha"
    (part,) = inbox.glob("*.part")
    assert part.read_bytes().startswith(b"fedmed at rest 1")
    assert sorted((inbox / part.stem).with_suffix(".have").read_bytes()) == [0, 1]
    assert plain_files(encrypted, alpha.weights) == []
    with part.open("rb") as held:
        assert encrypted.sync("alpha").sent == [parcel.id]
        assert held.read(HEADER_BYTES) == bytes(HEADER_BYTES)  # its data key is gone
    assert encrypted.held() == [parcel.id]
    assert plain_files(encrypted, alpha.weights) == [] and list(inbox.glob("*.part")) == []


def test_what_came_in_plain_begins_anew_and_is_written_over(
    federation: Any, faulty: Any, key: StoreKey
) -> None:
    alpha = federation.hospitals["alpha"]
    parcel = alpha.put(size=LARGE)
    with pytest.raises(Unreachable):
        federation.sync("alpha", faulty(federation.channel("alpha"), [*["ok"] * 3, *["lose"] * 10]))
    (path,) = plain_files(federation, alpha.weights)
    federation.store = Store.open(federation.store.folder, cipher=FileCipher(key))
    with path.open("rb") as held:
        assert federation.sync("alpha").sent == [parcel.id]
        assert set(held.read()) == {0}
    assert federation.held() == [parcel.id] and plain_files(federation, alpha.weights) == []


def test_a_part_that_a_kill_cut_off_is_the_same_ciphertext_again_or_the_file_begins_anew(
    tmp_path: Path, key: StoreKey
) -> None:
    content = np.random.default_rng(1).bytes(PART_BYTES + 70_000)
    (tmp_path / "whole").write_bytes(content)
    file = Assembly(tmp_path, file_digest(tmp_path / "whole"), FileCipher(key))
    file.begin(len(content))
    for part in (0, 1):
        file.put(part, content[part * PART_BYTES :][:PART_BYTES])
    have, written = file.path.with_suffix(".have"), file.path.read_bytes()
    have.write_bytes(b"\1\0")  # killed between the part and the list
    file.put(1, content[PART_BYTES:])
    assert file.path.read_bytes() == written and bytes(file.content()) == content
    have.write_bytes(b"\1\0")
    file.put(1, content[PART_BYTES + 1 :] + b"?")
    with pytest.raises(Incomplete, match="content is not what its digest says"):
        file.content()
    file.begin(len(content))
    assert file.missing() == (0, 1) and file.path.read_bytes()[:HEADER_BYTES] != written[:HEADER_BYTES]


def test_parts_in_any_order_and_twice_are_the_file(tmp_path: Path, key: StoreKey) -> None:
    content = np.random.default_rng(0).bytes(2 * PART_BYTES + 70_000)
    (tmp_path / "whole").write_bytes(content)
    digest = file_digest(tmp_path / "whole")
    file = Assembly(tmp_path, digest, FileCipher(key))
    file.begin(len(content))
    for part in (2, 0, 2, 1, 0):
        Assembly(tmp_path, digest, FileCipher(key)).put(
            part, content[part * PART_BYTES : (part + 1) * PART_BYTES]
        )
    file.begin(len(content))
    assert file.missing() == () and file.content() == content
    damaged = bytearray(file.path.read_bytes())
    damaged[PART_BYTES] ^= 1
    file.path.write_bytes(damaged)
    with pytest.raises(Incomplete, match="content is not what its digest says"):
        file.content()
    assert not file.begun


def test_another_key_begins_anew(tmp_path: Path, key: StoreKey) -> None:
    other = FileCipher(make_store_key(tmp_path / "other.key"))
    Assembly(tmp_path, "0" * 64, FileCipher(key)).begin(10)
    Assembly(tmp_path, "0" * 64, FileCipher(key)).put(0, bytes(10))
    file = Assembly(tmp_path, "0" * 64, other)
    file.begin(10)
    assert file.missing() == (0,)


def test_weights_that_are_put_together_are_written_over(encrypted: Any, recipe: Recipe) -> None:
    generation = encrypted.hospitals["alpha"].generation.digest
    coordinator = encrypted.coordinator(collect_s=0.001)
    said = {"rounds": 1, "sites": ("alpha", "beta"), "quorum": 2, "deadline_s": 60.0}
    coordinator.rounds.begin(recipe, generation, **said)
    for _ in range(6):
        coordinator.step()
        for hospital in encrypted.hospitals.values():
            hospital.train()
    (training,) = coordinator.rounds.all()
    assert training.state == "finished"
    for hospital in encrypted.hospitals.values():
        assert plain_files(encrypted, hospital.weights) == []


def test_of_a_part_that_is_given_up_the_data_key_goes(
    encrypted: Any, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted.hospitals["alpha"].put(size=LARGE)
    with pytest.raises(Unreachable):
        encrypted.sync("alpha", faulty(encrypted.channel("alpha"), [*["ok"] * 3, *["lose"] * 10]))
    inbox = encrypted.folder / "inbox" / "alpha"
    (part,) = inbox.glob("*.part")
    monkeypatch.setattr("fedmed_edge.federation.coordinator.STALE_S", -1.0)
    with part.open("rb") as held:
        encrypted.coordinator().step()
        assert held.read(HEADER_BYTES) == bytes(HEADER_BYTES)
    assert list(inbox.glob("*.part")) == [] and list(inbox.glob("*.have")) == []
