"""Files at rest: encrypted, refused without the key, changed over at any point, and gone when withdrawn."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from kits import CHILD

from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.recipe import Recipe
from fedmed_edge.store.at_rest import hold_key
from fedmed_edge.store.encryption import HEADER_BYTES, FileCipher, StoreKey, make_store_key, read_store_key
from fedmed_edge.store.store import Store

Send = Callable[..., Path]
Make = Callable[..., Store]
# Lines between two points where a child is killed; smaller ones are run by hand.
STEP = os.environ.get("FEDMED_TEST_STEP", "97")
HINT = "name the store's key file as `store_key` in fedmed.toml, or in the environment as FEDMED_STORE_KEY"


@pytest.fixture
def key(tmp_path: Path) -> StoreKey:
    return make_store_key(tmp_path / "store.key")


def objects(store: Store) -> list[Path]:
    return sorted(path for path in (store.folder / "objects").rglob("*") if path.is_file())


def holds(folder: Path, *secrets: bytes) -> list[str]:
    """Files below a folder that hold one of these bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(secret in path.read_bytes() for secret in secrets)]


def slices(content: bytes) -> list[bytes]:
    """Parts of the tensors of a file, from the first to the last; its header is told in the ledger."""
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    parts = [tensors[place : place + 24] for place in range(0, len(tensors) - 24, 24)]
    told = [part for part in parts if len(set(part)) > 12]
    assert len(told) > 3
    return told


# --- keys --------------------------------------------------------------------------------------------------


def test_a_key_is_kept_for_its_owner_and_never_written_over(tmp_path: Path, key: StoreKey) -> None:
    path = tmp_path / "store.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_store_key(path) == key
    assert key.id not in path.read_text() and "aead" not in repr(key)
    with pytest.raises(InputError, match="is there already, a key is never written over"):
        make_store_key(path)


@pytest.mark.parametrize(
    "content", [b"", b"key", b"\xff" * 64, b"-----BEGIN FEDMED STORE PRIVATE KEY-----\nQUJD\n"]
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "none").write_bytes(content)
    with pytest.raises(InputError, match=r"`store_key`: .*: not a store key") as no:
        read_store_key(tmp_path / "none")
    assert no.value.hint == "`fedmed-server store key FILE` makes one"
    with pytest.raises(InputError, match=r"`store_key`: .*: no such file"):
        read_store_key(tmp_path / "missing")


def test_a_key_that_others_read_is_warned_of(
    tmp_path: Path, key: StoreKey, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store.key").chmod(0o644)
    read_store_key(tmp_path / "store.key")
    assert "can be read by others than its owner" in caplog.text
    assert (tmp_path / "store.key").read_text().splitlines()[1] not in caplog.text


# --- an encrypted store ------------------------------------------------------------------------------------


def test_nothing_of_a_contribution_is_on_the_disk(
    make_store: Make, sent: Send, key: StoreKey, recipe: Recipe
) -> None:
    store, file = make_store(cipher=FileCipher(key)), sent("alpha")
    plain = make_store("plain")
    for one in (store, plain):
        assert one.import_contribution(file).new
        one.save_model(rebuild(one.contributions("lesion"), recipe))
    assert {path.name for path in objects(store)} == {path.name for path in objects(plain)}
    secrets = [part for path in objects(plain) for part in slices(path.read_bytes())]
    assert len(holds(plain.folder / "objects", *secrets)) == 3
    assert holds(store.folder / "objects", *secrets) == []
    assert holds(store.folder, *slices(file.read_bytes())) == []
    for before, after in zip(objects(plain), objects(store), strict=True):
        assert store._objects.read(before.name) == before.read_bytes()
        assert after.stat().st_size == before.stat().st_size + HEADER_BYTES + 16
    assert store.verify() == [] and set(store.key_ids().values()) == {key.id}


def test_the_same_content_is_never_the_same_ciphertext(make_store: Make, sent: Send, key: StoreKey) -> None:
    one, other = (make_store(name, cipher=FileCipher(key)) for name in ("one", "other"))
    file = sent("alpha")
    for store in (one, other):
        store.import_contribution(file)
    for left, right in zip(objects(one), objects(other), strict=True):
        assert left.name == right.name
        assert left.read_bytes()[HEADER_BYTES:] != right.read_bytes()[HEADER_BYTES:]


def test_content_of_many_chunks_comes_back(tmp_path: Path, key: StoreKey) -> None:
    cipher, chunk = FileCipher(key), 1 << 20
    for size in (0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk + 5):
        content, path = os.urandom(size), tmp_path / "file"
        pieces = [content[place : place + 700_001] for place in range(0, size, 700_001)]
        path.write_bytes(b"".join(cipher.encrypted(pieces, size, "ab" * 32)))
        with path.open("rb") as file:
            assert cipher.decrypted(file, path.stat().st_size, "ab" * 32) == content


def test_a_store_is_not_opened_without_its_key(make_store: Make, tmp_path: Path, key: StoreKey) -> None:
    store = make_store(cipher=FileCipher(key))
    with pytest.raises(
        StoreError, match=f"store: is encrypted with key {key.id}, and `store_key` is not"
    ) as no:
        Store.open(store.folder)
    assert no.value.hint == HINT
    other = make_store_key(tmp_path / "other.key")
    message = f"`store_key` has key {other.id} of .*other.key, expected {key.id}, which the store is"
    with pytest.raises(StoreError, match=message) as no:
        Store.open(store.folder, cipher=FileCipher(other))
    assert "`fedmed-server store encrypt --old-key FILE`" in str(no.value.hint)
    assert Store.open(store.folder, cipher=FileCipher(key)).verify() == []


def test_a_store_that_is_open_without_the_key_writes_no_plain_file(
    make_store: Make, sent: Send, key: StoreKey
) -> None:
    before = make_store()
    Store.open(before.folder, cipher=FileCipher(key)).rewrite()
    with pytest.raises(StoreError, match="is encrypted with key"):
        before.import_contribution(sent("alpha"))
    with pytest.raises(
        StoreError, match=rf"objects/.*: is encrypted with key {key.id}, and `store_key` is not"
    ):
        before.generation()


@pytest.mark.parametrize("place", [0, 20, 28, 40, 60, 90, HEADER_BYTES, HEADER_BYTES + 1000, -1])
def test_a_changed_byte_is_refused(make_store: Make, sent: Send, key: StoreKey, place: int) -> None:
    store, file = make_store(cipher=FileCipher(key)), sent("alpha")
    store.import_contribution(file)
    (path,) = (path for path in objects(store) if path.name not in store.generations())
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    message = {20: "is encrypted with key", 28: "damaged, its length is not what"}.get(place, "damaged, ")
    with pytest.raises(StoreError, match=f"{path}: {message}"):
        store.contributions("lesion")
    assert len(store.verify()) == 1
    assert not store.import_contribution(file).new  # mends it
    assert store.verify() == [] and set(store.key_ids().values()) == {key.id}


def test_files_that_are_cut_or_change_places_are_refused(make_store: Make, sent: Send, key: StoreKey) -> None:
    store = make_store(cipher=FileCipher(key))
    for site in ("alpha", "beta"):
        store.import_contribution(sent(site))
    one, other = (path for path in objects(store) if path.name not in store.generations())
    content = other.read_bytes()
    one.write_bytes(content)
    with pytest.raises(StoreError, match="damaged, or changed after it was encrypted"):
        store._objects.read(one.name)
    for kept in (content[:50], content[:-1], content + b"x"):
        other.write_bytes(kept)
        with pytest.raises(StoreError, match="damaged"):
            store._objects.read(other.name)


def test_an_object_of_an_encrypted_store_is_imported_as_the_file_it_was(
    make_store: Make, sent: Send, tmp_path: Path, key: StoreKey
) -> None:
    """As after an older index was restored, which does not name it."""
    store, other = (make_store(name, cipher=FileCipher(key)) for name in ("store", "other"))
    store.import_contribution(sent("alpha"))
    (path,) = (path for path in objects(store) if path.name not in store.generations())
    assert other.import_contribution(path).new and other.verify() == []
    with pytest.raises(StoreError, match=r"is encrypted with key .*, and `store_key` is not set"):
        make_store("plain").import_contribution(path)
    renamed = path.rename(tmp_path / "renamed")
    with pytest.raises(StoreError, match="renamed: damaged, or changed after it was encrypted"):
        other.import_contribution(renamed)


# --- from plain to encrypted, to another key, and back ----------------------------------------------------


def test_a_store_is_changed_over_file_by_file_and_back(
    make_store: Make, sent: Send, tmp_path: Path, key: StoreKey
) -> None:
    store = make_store()
    store.import_contribution(sent("alpha"))
    plain = {path.name: path.read_bytes() for path in objects(store)}
    secrets = [part for content in plain.values() for part in slices(content)]
    mixed = Store.open(store.folder, cipher=FileCipher(key))
    assert mixed.verify() == []
    mixed.import_contribution(sent("beta"))  # the next write is encrypted
    assert Counter(mixed.key_ids().values()) == {key.id: 1, None: 2}
    seen: list[str] = []
    assert (mixed.rewrite(seen.append), mixed.rewrite(), len(seen)) == (2, 0, 3)
    assert set(mixed.key_ids().values()) == {key.id} and mixed.verify() == []
    assert holds(store.folder / "objects", *secrets) == []

    new = make_store_key(tmp_path / "new.key")
    cut_off = Store.open(store.folder, cipher=FileCipher(new, [key]))
    with cut_off._index.write() as connection:
        hold_key(connection, cut_off.cipher)
    with pytest.raises(StoreError, match=f"with key {key.id}, and `store_key` names key {new.id}") as refused:
        Store.open(store.folder, cipher=FileCipher(new)).contributions("lesion")
    assert "`fedmed-server store encrypt --old-key FILE`" in (refused.value.hint or "")
    changed = Store.open(store.folder, cipher=FileCipher(new, [key]))
    assert changed.rewrite() == 3
    assert set(changed.key_ids().values()) == {new.id}
    with pytest.raises(StoreError, match=f"expected {new.id}"):
        Store.open(store.folder, cipher=FileCipher(key))

    back = Store.open(store.folder, cipher=FileCipher(None, [new]))
    assert back.rewrite() == 3
    again = Store.open(store.folder)
    assert again.verify() == [] and set(again.key_ids().values()) == {None}
    assert {name: (store._objects.read(name)) for name in plain} == plain


def test_a_damaged_file_keeps_no_other_in_plain(make_store: Make, sent: Send, key: StoreKey) -> None:
    store = make_store()
    for site in ("alpha", "beta", "gamma"):
        store.import_contribution(sent(site))
    damaged = objects(store)[0]
    damaged.write_bytes(b"damaged" * 20)
    mixed = Store.open(store.folder, cipher=FileCipher(key))
    for _ in range(2):
        with pytest.raises(StoreError, match=f"{damaged}: damaged, its content is not what its name says"):
            mixed.rewrite()
        assert Counter(mixed.key_ids().values()) == {key.id: 3, None: 1}


def test_a_folder_in_the_place_of_a_file_is_told_as_a_fault(
    make_store: Make, sent: Send, key: StoreKey
) -> None:
    store = make_store(cipher=FileCipher(key))
    store.import_contribution(sent("alpha"))
    damaged = objects(store)[0]
    damaged.unlink()
    damaged.mkdir()
    assert f"{damaged}: cannot be read: Is a directory" in " ".join(store.verify())
    assert Counter(store.key_ids().values()) == {key.id: 1, "unknown": 1}
    with pytest.raises(StoreError, match=f"{damaged}: cannot be read: Is a directory"):
        store.rewrite()


def test_what_was_plain_is_written_over(make_store: Make, sent: Send, key: StoreKey) -> None:
    store = make_store()
    store.import_contribution(sent("alpha"))
    paths = objects(store)
    held = [path.open("rb") for path in paths]  # sees the very blocks, whatever their names are now
    Store.open(store.folder, cipher=FileCipher(key)).rewrite()
    for path, file in zip(paths, held, strict=True):
        with file:
            assert set(file.read()) == {0}, path


def test_a_file_with_a_second_name_is_left_to_whoever_gave_it(
    make_store: Make, sent: Send, tmp_path: Path, key: StoreKey
) -> None:
    store = make_store(cipher=FileCipher(key))
    store.import_contribution(sent("alpha"))
    for path in objects(store):
        os.link(path, tmp_path / f"backup-{path.name}")
    store.withdraw("alpha")
    assert len(objects(store)) == 1
    assert all(path.read_bytes()[:6] == b"fedmed" for path in tmp_path.glob("backup-*"))


# A child dies at its n-th line of ours, for every n-th of all of them.
SCRIPT = (
    CHILD
    + """
from fedmed_edge.store.encryption import FileCipher, read_store_key
from fedmed_edge.store.store import Store

what, template, work, key, step = sys.argv[1], *map(Path, sys.argv[2:5]), int(sys.argv[5])
key = read_store_key(key)
doing = {"encrypt": FileCipher(key), "decrypt": FileCipher(None, [key]), "withdraw": FileCipher(key)}[what]
either = FileCipher(None, [key]) if what == "decrypt" else FileCipher(key)

def run():
    store = Store.open(work, cipher=doing)
    store.withdraw("alpha") if what == "withdraw" else store.rewrite()

ROOMS = ("fedmed_edge/store", "fedmed_edge/atomic.py")

secrets = [bytes.fromhex(line) for line in sys.stdin.read().split()]
stopped = limit = 0
while True:
    limit += step
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    if ended(child(run, limit)) == 0:
        break
    stopped += 1
    store = Store.open(work, cipher=either)
    assert store.verify() == [], (limit, store.verify())
    run()
    store = Store.open(work, cipher=either)
    assert store.verify() == [], (limit, store.verify())
    left = 1 if what == "withdraw" else 2
    assert len(store.contributions("lesion")) == left
    ids = set(store.key_ids().values())
    assert ids == {None if what == "decrypt" else key.id}, (limit, ids)
    files = [path for path in work.rglob("*") if path.is_file()]
    assert len(files) == left + 2, (limit, files)
    found = [path for path in files if any(secret in path.read_bytes() for secret in secrets)]
    assert not found, (limit, found)
print(stopped)
"""
)


@pytest.mark.parametrize("what", ["encrypt", "decrypt", "withdraw"])
def test_killed_at_any_point_nothing_is_lost_and_running_again_ends_it(
    make_store: Make, sent: Send, tmp_path: Path, key: StoreKey, what: str
) -> None:
    store = make_store(cipher=None if what == "encrypt" else FileCipher(key))
    files = [sent("alpha"), sent("beta")]
    for file in files:
        store.import_contribution(file)
    secrets = {"encrypt": files, "decrypt": [], "withdraw": files[:1]}[what]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, what, store.folder, tmp_path / "work", tmp_path / "store.key", STEP],
        input=" ".join(part.hex() for file in secrets for part in slices(file.read_bytes())),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2


WRITER = """
import sys, time
from pathlib import Path
from fedmed_edge.store.encryption import FileCipher, read_store_key
from fedmed_edge.store.store import Store

store = Store.open(sys.argv[1], cipher=FileCipher(read_store_key(Path(sys.argv[2]))))
print("ready", flush=True)
sys.stdin.readline()
for file in sys.argv[3:]:
    store.import_contribution(file)
"""


def test_two_writers_take_turns_while_a_third_encrypts(
    make_store: Make, sent: Send, tmp_path: Path, key: StoreKey
) -> None:
    plain = make_store()
    plain.import_contribution(sent("gamma"))
    store = Store.open(plain.folder, cipher=FileCipher(key))
    processes = []
    for site in ("alpha", "beta"):
        files = [str(sent(site, 1 + turn, seed=turn)) for turn in range(4)]
        arguments = [sys.executable, "-c", WRITER, str(store.folder), str(tmp_path / "store.key"), *files]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes.append(subprocess.Popen(arguments, text=True, **pipes))  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        store.rewrite()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(store.contribution_entries()) == 9
    assert store.verify() == [] and set(store.key_ids().values()) == {key.id}


# --- withdrawn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_withdrawal_leaves_no_plain_byte_and_no_wrapped_key(
    make_store: Make, sent: Send, key: StoreKey, encrypted: bool
) -> None:
    store, file = make_store(cipher=FileCipher(key) if encrypted else None), sent("alpha")
    store.import_contribution(file)
    kept = {path: path.read_bytes() for path in objects(store) if path.name not in store.generations()}
    ((path, content),) = kept.items()
    with path.open("rb") as held:  # the very blocks of the file, which has no name any more
        Store.open(store.folder, cipher=FileCipher(key)).withdraw("alpha")
        left = held.read()
    wrapped = content[44:HEADER_BYTES]
    assert not path.exists()
    assert not any(part in left for part in ([wrapped] if encrypted else slices(content)))
    assert left[:HEADER_BYTES] == bytes(HEADER_BYTES)
    assert holds(store.folder, wrapped, *slices(file.read_bytes())) == []
    again = Store.open(store.folder, cipher=FileCipher(key))
    assert [row.kind for row in again.ledger()][-1] == "withdrew" and again.verify() == []


# --- elsewhere ---------------------------------------------------------------------------------------------


def test_files_in_a_bucket_are_encrypted_too(
    make_store: Make, sent: Send, bucket: str, key: StoreKey
) -> None:
    store, file, files = make_store(objects=bucket), sent("alpha"), fsspec.filesystem("s3")
    store.import_contribution(file)
    mixed = Store.open(store.folder, objects=bucket, cipher=FileCipher(key))
    mixed.import_contribution(sent("beta"))
    assert mixed.rewrite() == 2 and mixed.verify() == []
    kept = [files.cat_file(path) for path in files.find(bucket)]
    assert len(kept) == 3 and all(content.startswith(b"fedmed at rest 1") for content in kept)
    assert not any(part in content for content in kept for part in slices(file.read_bytes()))
    assert not mixed.import_contribution(file).new
    place = next(path for path in files.find(bucket) if path.rpartition("/")[2] in mixed.generations())
    content = bytearray(files.cat_file(place))
    content[-1] ^= 1
    files.pipe_file(place, bytes(content))
    with pytest.raises(StoreError, match="damaged, or changed after it was encrypted"):
        mixed.generation()
