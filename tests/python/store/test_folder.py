"""The store's folder: made, opened, damaged, restored, strange files in it, not writable."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import run_python
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.generation import Generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.store import verification
from fedmed_edge.store.index import Index
from fedmed_edge.store.objects import FolderObjects
from fedmed_edge.store.store import Store

Send = Callable[..., Path]


@dataclass(frozen=True)
class StandIn:
    """What the store asks of a model."""

    recipe: Recipe
    generation: str
    sites: tuple[str, ...]
    contributions: tuple[str, ...]
    content: bytes = b"model"
    digest: str = "11" * 32
    refined_for: str | None = None


def rebuilt(store: Store, recipe: Recipe, content: bytes = b"model") -> StandIn:
    taken = store.contributions(recipe.name)
    names = tuple(one.header.site for one in taken), tuple(one.id for one in taken)
    return StandIn(recipe, store.generations()[0], *names, content=content)


@pytest.fixture
def place() -> dict[str, str]:
    return {}


def objects_of(store: Store) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (store.folder / "objects").rglob("*") if path.is_file()}


def change(store: Store, *statements: str) -> None:
    """Write into the index behind the store's back."""
    engine = create_engine(f"sqlite:///{store.folder / 'index.sqlite'}", poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


# --- made and opened ---------------------------------------------------------------------------------------


def test_a_store_is_made_once(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="store: is a store already"):
        Store.create(store.folder)
    with pytest.raises(StoreError, match="nothing: no store here") as refusal:
        Store.open(tmp_path / "nothing")
    assert "`fedmed-server init` makes one; where there was one, restore" in str(refusal.value.hint)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file: cannot be made: File exists"):
        Store.create(tmp_path / "file")
    with pytest.raises(StoreError, match="file: no store here"):
        Store.open(tmp_path / "file")
    assert Store.open(store.folder).tasks() == ["lesion"]
    assert Store.exists(store.folder)


def test_a_store_is_not_made_among_other_things(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"images: holds `1\.png`, expected an empty folder"):
        Store.create(tmp_path / "images")
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["1.png"]
    with pytest.raises(StoreError, match="images: no store here"):
        Store.open(tmp_path / "images")


def test_folders_and_files_may_be_named_by_strings(store: Store, sent: Send, tmp_path: Path) -> None:
    assert Store.create(str(tmp_path / "other")).sites() == []
    assert Store.open(str(store.folder)).import_contribution(str(sent("alpha"))).new


def test_a_store_of_a_newer_version_or_a_damaged_one_is_refused(store: Store) -> None:
    for version in ("5", "two"):
        change(store, f"UPDATE settings SET value = '{version}' WHERE key = 'schema_version'")
        with pytest.raises(
            StoreError, match=f"store has schema version {version}, expected at most 4"
        ) as refusal:
            Store.open(store.folder)
        assert "a newer fedmed-server made it: upgrade this one" in str(refusal.value.hint)
    (store.folder / "index.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"index\.sqlite: cannot be used: file is not a database"):
        Store.open(store.folder)
    (store.folder / "index.sqlite").write_bytes(b"")
    with pytest.raises(StoreError, match="store was not finished") as refusal:
        Store.open(store.folder)
    assert "run `fedmed-server init` again; else restore the index" in str(refusal.value.hint)
    Store.create(store.folder)
    assert Store.open(store.folder).tasks() == []


# What later versions added, taken out again.
OLDER = {
    "3": ["DROP TABLE held_back"],
    "2": ["DROP TABLE ledger", "DELETE FROM settings WHERE key = 'ledger_head'"],
    "1": ["DROP TABLE loose"],
}


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_a_store_of_an_older_version_is_brought_up_to_date(
    version: str, store: Store, sent: Send, send_all: None
) -> None:
    store.withdraw("gamma")
    store.import_contribution(sent("gamma", 2, seed=2))
    for older in ("3", "2", "1"):
        if older >= version:
            change(store, *OLDER[older])
    if version < "3":
        change(store, "DROP INDEX ix_contributions_object")
    change(store, f"UPDATE settings SET value = '{version}' WHERE key = 'schema_version'")
    opened = Store.open(store.folder)
    assert opened.verify() == []
    assert opened.held_back.add("lesion", "beta", "its labels are swapped")
    assert opened.held_back.release("lesion", "beta")
    if version == "3":
        assert opened.ledger()[0].details == {}
        return
    started, held, released = opened.ledger()
    assert (held.kind, released.kind) == ("held back", "released")
    assert (started.kind, started.details["sites"]) == ("started", ["alpha", "beta", "gamma"])
    assert sorted(started.details["contributions"].values()) == ["alpha", "beta", "gamma"]
    assert list(started.details["withdrawn"].values()) == ["gamma"]
    assert len(opened.contributions("lesion")) == 3
    assert opened.import_contribution(sent("alpha", 2, seed=2)).new
    opened.withdraw("beta")
    assert Store.open(store.folder).verify() == []


# --- swept, and never swept --------------------------------------------------------------------------------


def test_what_the_journal_names_and_no_row_does_is_swept(store: Store, send_all: None) -> None:
    held = objects_of(store)
    folder = next(path for path in (store.folder / "objects").iterdir())
    left = store.folder / "objects" / "ee" / ("ee" * 32)
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"of a killed process")
    (folder / ".part-1234").write_bytes(b"half")
    named = next(path.name for path in held)
    change(store, f"INSERT INTO loose VALUES ('{left.name}'), ('{named}')")
    Store.open(store.folder)
    assert objects_of(store) == held
    assert store.verify() == []


def test_after_an_older_index_is_restored_nothing_is_lost_and_an_import_heals(
    store: Store,
    sent: Send,
    send_all: None,
    recipe: Recipe,
    make_generation: Callable[..., Generation],
    tmp_path: Path,
) -> None:
    backup = shutil.copyfile(store.folder / "index.sqlite", tmp_path / "backup")
    later = sent("alpha", 2, seed=2)
    last = sent("beta", 2, seed=2)
    second = make_generation(1)
    for file in (later, last):
        store.import_contribution(file)
    store.publish_generation(second.content)
    store.save_model(rebuilt(store, recipe))
    held = objects_of(store)
    shutil.copyfile(backup, store.folder / "index.sqlite")

    restored = Store.open(store.folder)
    assert len(restored.contributions("lesion")) == 3
    found = restored.verify()
    assert objects_of(store) == held
    assert len(found) == 4 and all(
        "that the index does not name, as after an older index" in one for one in found
    )
    assert sum("contribution of site `alpha`, sequence 2, that the index" in one for one in found) == 1
    assert sum("`fedmed-server import` takes this very file, or delete it" in one for one in found) == 2
    assert sum(": generation that the index does not name" in one for one in found) == 1
    # from the hospital's file, and from the very object
    assert restored.import_contribution(later).new
    (line,) = (one for one in restored.verify() if "`beta`" in one)
    assert restored.import_contribution(line.partition(": ")[0]).new
    restored.publish_generation(second.content)
    restored.save_model(rebuilt(restored, recipe))
    assert restored.verify() == []
    assert objects_of(store) == held
    restored.withdraw("alpha")
    assert len(objects_of(store)) == len(held) - 2


def test_strange_files_among_the_objects_are_told_and_left_alone(store: Store, send_all: None) -> None:
    objects = store.folder / "objects"
    shelf = next(objects.iterdir())
    strange = [objects / "notes.txt", shelf / "copy of a file", objects / "old" / "x", shelf / ("ee" * 32)]
    (objects / "old").mkdir()
    for path in strange:
        path.write_bytes(b"somebody's")
    os.mkfifo(objects / "pipe")
    (shelf / "link").symlink_to("nowhere")
    opened = Store.open(store.folder)
    assert len(opened.contributions("lesion")) == 3
    opened.withdraw("gamma")
    found = sorted(opened.verify())
    told = [strange[0], strange[1], strange[2].parent, strange[3], objects / "pipe", shelf / "link"]
    assert found == sorted(f"{path}: is no file of the store; move it elsewhere" for path in told)
    assert all(path.read_bytes() == b"somebody's" for path in strange)


def test_an_import_goes_on_where_another_process_swept_its_journal(
    store: Store, sent: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, original, count = Store.open(store.folder), Index.write, 0

    @contextmanager
    def write(self: Index, **more: Any) -> Iterator[Any]:
        nonlocal count
        with original(self, **more) as connection:
            yield connection
        count += 1
        if count == 1:
            other._files.sweep()

    monkeypatch.setattr(Index, "write", write)
    assert store.import_contribution(sent("alpha")).new
    assert count == 4  # journalled, swept, journalled again, recorded
    assert store.verify() == []


def test_a_refused_import_leaves_nothing_but_its_row_in_the_ledger(store: Store, sent: Send) -> None:
    store.import_contribution(sent("alpha", 2))
    held, index = objects_of(store), (store.folder / "index.sqlite").read_bytes()
    assert not store.import_contribution(sent("alpha", 2)).new
    assert (store.folder / "index.sqlite").read_bytes() == index
    with pytest.raises(InputError, match="`sequence` has 1, expected more than 2"):
        store.import_contribution(sent("alpha", 1, seed=1))
    assert objects_of(store) == held
    assert [entry.kind for entry in store.ledger()[-2:]] == ["contributed", "refused"]
    assert Store.open(store.folder).verify() == []


def test_an_import_does_not_hold_its_file_in_memory(store: Store, sent: Send) -> None:
    weights = {f"layer{number}": np.ones((512, 512), np.float32) for number in range(40)}
    file = sent("alpha", weights=weights)
    size = file.stat().st_size
    assert size > 40 << 20
    tracemalloc.start()
    try:
        assert store.import_contribution(file).new
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 8
    assert store.verify() == []


def test_a_file_that_changes_while_it_is_taken_is_refused(
    store: Store, sent: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write = sent("alpha"), FolderObjects.write

    def change_and_write(self: FolderObjects, content: Any, digest: str) -> str:
        with file.open("r+b") as opened:
            opened.seek(-1, os.SEEK_END)
            opened.write(b"x")
        return write(self, content, digest)

    monkeypatch.setattr(FolderObjects, "write", change_and_write)
    with pytest.raises(StoreError, match="object not kept: file was changed while it was read"):
        store.import_contribution(file)
    assert store.contribution_entries() == []
    assert Store.open(store.folder).verify() == []


def test_a_model_made_anew_replaces_its_file(store: Store, send_all: None, recipe: Recipe) -> None:
    store.save_model(rebuilt(store, recipe, b"one"))
    store.save_model(rebuilt(store, recipe, b"two"))
    assert store.model_content("11" * 32) == b"two"
    assert Store.open(store.folder).verify() == []
    assert b"one" not in objects_of(store).values()


def test_nothing_withdrawn_is_left_in_the_index_file(store: Store, sent: Send) -> None:
    taken = store.import_contribution(sent("alpha"))
    (entry,) = store.contribution_entries()
    stored = next(
        path.name for path in (store.folder / "objects").rglob("*/*") if path.stat().st_size == entry.bytes
    )
    store.withdraw("alpha")
    index = (store.folder / "index.sqlite").read_bytes()
    assert stored.encode() not in index
    assert taken.id.encode() in index  # the tombstone


# --- damaged -----------------------------------------------------------------------------------------------


def test_damage_is_found_and_named(store: Store, send_all: None) -> None:
    objects = sorted((store.folder / "objects").rglob("*/*"))
    objects[0].write_bytes(b"other")
    objects[1].unlink()
    found = "\n".join(store.verify())
    assert found.count("\n") == 1
    restore = "; restore it from a backup of the store"
    assert f"{objects[0]}: damaged, its content is not what its name says{restore}" in found
    assert f"{objects[1]}: no such file{restore}" in found
    for path in objects:
        path.unlink(missing_ok=True)
    with pytest.raises(StoreError, match="no such file") as refusal:
        store.contributions("lesion")
    assert "backup" in str(refusal.value.hint)
    shutil.rmtree(store.folder / "objects")
    assert f"{store.folder / 'objects'}: cannot be read: No such file or directory" in store.verify()[0]


@pytest.mark.parametrize("damage", [b"other", None])
def test_importing_the_same_file_again_mends_its_object(
    store: Store, sent: Send, damage: bytes | None
) -> None:
    held, file = objects_of(store), sent("alpha")
    store.import_contribution(file)
    (path,) = objects_of(store).keys() - held.keys()
    path.unlink()
    if damage:
        path.write_bytes(damage)
    assert len(store.verify()) == 1
    assert not store.import_contribution(file).new
    assert path.read_bytes() == file.read_bytes()
    assert store.verify() == []


def test_rows_that_disagree_with_their_files_are_found(store: Store, send_all: None, recipe: Recipe) -> None:
    store.save_model(rebuilt(store, recipe))
    change(
        store,
        "UPDATE contributions SET sequence = 7 WHERE site = 'alpha'",
        "UPDATE recipes SET content = replace(content, '\"lesion\"', '\"other\"')",
        "INSERT INTO tombstones SELECT id, site, sequence, 'now' FROM contributions WHERE site='beta'",
    )
    found = "\n".join(store.verify())
    assert "`sequence` has 1, its row 7" in found
    assert "recipe" in found
    assert "is there although it was withdrawn" in found
    assert "holds withdrawn site `beta` and is not marked" in found


def test_what_is_withdrawn_while_the_store_is_checked_is_no_fault(
    store: Store, send_all: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = verification._check_contribution

    def check(row: Any, objects: Any) -> None:
        if row.site == "alpha":
            Store.open(store.folder).withdraw("alpha")
        original(row, objects)

    monkeypatch.setattr(verification, "_check_contribution", check)
    assert store.verify() == []
    assert [one.site for one in store.contribution_entries()] == ["beta", "gamma"]


# --- not writable, not readable ----------------------------------------------------------------------------

# Another user than the one who made the store; root may read and write everything.
NOBODY = """
import os, sys
from fedmed_edge.errors import FedmedError
from fedmed_edge.store.store import Store

what, folder, file = sys.argv[1:]
Store.open(folder).verify()  # everything is loaded before the user changes
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    store = Store.open(folder)
    if what == "read":
        print(len(store.contributions("lesion")), store.verify())
    elif what == "import":
        store.import_contribution(file)
    elif what == "withdraw":
        store.withdraw("alpha")
    else:
        print(store.verify())
except FedmedError as error:
    print(type(error).__name__, error, error.hint, sep="\\n")
"""


@pytest.fixture
def shared(store: Store, sent: Send, send_all: None) -> Iterator[tuple[Path, Path]]:
    """A copy of the store and a contribution that every user may read and nobody write."""
    root = Path(tempfile.mkdtemp())
    shutil.copytree(store.folder, root / "store")
    shutil.copyfile(sent("alpha", 2, seed=2), root / "sent")
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield root / "store", root / "sent"
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(root)


def as_nobody(what: str, folder: Path, file: Path) -> list[str]:
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    return run_python(NOBODY, what, folder, file, environment=settings, timeout_s=60).splitlines()


@pytest.mark.parametrize("what", ["import", "withdraw"])
def test_a_read_only_store_is_read_and_says_why_it_is_not_written(
    what: str, shared: tuple[Path, Path]
) -> None:
    folder, file = shared
    assert as_nobody("read", folder, file) == ["3 []"]
    kind, said, hint = as_nobody(what, folder, file)
    assert kind == "StoreError"
    assert said == f"{folder / 'index.sqlite'}: cannot be written: store is read-only"
    assert hint.startswith("check owner, permissions and mount of the store's folder")
    assert as_nobody("read", folder, file) == ["3 []"]


def test_what_may_not_be_read_is_named(shared: tuple[Path, Path]) -> None:
    folder, file = shared
    one = next(path for path in sorted(folder.rglob("objects/*/*")))
    shelf = next(path.parent for path in sorted(folder.rglob("objects/*/*")) if path.parent != one.parent)
    root = os.geteuid() == 0
    if not root:
        pytest.skip("the first look at the store needs the right to read it")
    one.chmod(0)
    (found,) = as_nobody("verify", folder, file)
    assert f"{one}: cannot be read: Permission denied" in found
    shelf.chmod(0)
    (found,) = as_nobody("verify", folder, file)
    assert f"{shelf}: cannot be read: Permission denied; check its owner and permissions" in found
    shelf.chmod(0o555)
    (folder / "index.sqlite").chmod(0)
    kind, said, hint = as_nobody("read", folder, file)
    assert (kind, said) == ("StoreError", f"{folder / 'index.sqlite'}: cannot be opened")
    assert hint.startswith("check owner, permissions")
    folder.chmod(0)
    kind, said, _ = as_nobody("read", folder, file)
    assert (kind, said) == ("StoreError", f"{folder / 'index.sqlite'}: cannot be read: Permission denied")


def test_a_withdrawal_whose_files_cannot_be_deleted_says_so_and_goes_on(
    store: Store, send_all: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = len(objects_of(store))

    def refuse(*_arguments: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StoreError, match="cannot be deleted: Permission denied") as refusal:
            store.withdraw("beta")
        assert "it goes on from there" in str(refusal.value.hint)
        assert len(objects_of(store)) == held
        (found,) = Store.open(store.folder).verify()
        assert found.startswith("what a killed process or a withdrawal left is not swept: ")
    assert store.withdraw("beta").contributions == ()
    assert len(objects_of(store)) == held - 1
    assert store.verify() == []


CREATE = """
import sys
from fedmed_edge.errors import StoreError
from fedmed_edge.store.store import Store

try:
    Store.create(sys.argv[1])
except StoreError as error:
    print(error, error.hint, sep="|")
"""


def test_a_full_disk_while_a_store_is_made_is_named_and_making_it_again_goes_on(tmp_path: Path) -> None:
    for room in (0, 100, 5000, 20_000):
        done = subprocess.run(
            [sys.executable, "-c", CREATE, str(tmp_path / "new")],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda room=room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        )
        said, hint = done.stdout.strip().split("|")
        assert said.startswith(f"{tmp_path / 'new' / 'index.sqlite'}: cannot be written: "), done.stderr
        assert hint.startswith("make room on the store's disk and run it again")
        with pytest.raises(StoreError, match="store was not finished"):
            Store.open(tmp_path / "new")
    assert not Store.exists(tmp_path / "new")
    Store.create(tmp_path / "new")
    assert Store.exists(tmp_path / "new")
    assert Store.open(tmp_path / "new").verify() == []
