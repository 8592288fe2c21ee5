"""Where a store may be: what an index elsewhere must keep, and files in a bucket or in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import generate_key
from fedmed_edge.store import objects, remote
from fedmed_edge.store.database import StoreBusy
from fedmed_edge.store.store import Store

Send = Callable[..., Path]
Make = Callable[..., Store]


# --- an index in PostgreSQL --------------------------------------------------------------------------------


def test_names_keep_the_order_of_bytes_whatever_the_database_sorts_by(
    tmp_path: Path, database: str, cluster: Any
) -> None:
    store = Store.create(tmp_path / "store", index=database)
    for name in ("b", "A", "a", "B", "a-b", "ab"):
        store.add_site(name, generate_key().public_key())
    assert [site.name for site in store.sites()] == ["A", "B", "a", "a-b", "ab", "b"]
    with store._index.read() as connection:
        order = list(connection.exec_driver_sql("SELECT x FROM (VALUES ('b'), ('A'), ('a')) t(x) ORDER BY x"))
    assert not cluster.sorts_as_people or [row[0] for row in order] == ["a", "A", "b"]


def test_a_sequence_may_be_as_large_as_the_format_allows(store: Store, sent: Send) -> None:
    assert store.import_contribution(sent("alpha", 2**53)).sequence == 2**53
    assert store.next_sequence("alpha") == 2**53 + 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://root@host/x", r"`index` has mysql, expected postgresql\+psycopg://USER@HOST/DATABASE"),
        ("postgresql://u:x@host:port/db", "`index` is no URL"),
    ],
)
def test_an_index_elsewhere_is_refused(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Store.open(tmp_path, index=url)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"^postgresql\+psycopg://u:\*\*\*@127\.0\.0\.1:1/db: cannot be reac"
    ) as no:
        Store.open(tmp_path, index="postgresql://u:secret@127.0.0.1:1/db?sslmode=disable")
    assert "secret" not in str(no.value) and "check `index`" in str(no.value.hint)


def test_a_database_without_a_store_says_so_and_one_is_made_once(tmp_path: Path, database: str) -> None:
    with pytest.raises(StoreError, match="store was not finished") as no:
        Store.open(tmp_path / "store", index=database)
    assert "run `fedmed-server init` again" in str(no.value.hint)
    assert not Store.exists(tmp_path / "store", index=database)
    Store.create(tmp_path / "store", index=database)
    assert Store.exists(tmp_path / "store", index=database)
    with pytest.raises(StoreError, match="is a store already"):
        Store.create(tmp_path / "other", index=database)


def test_a_user_who_may_only_read_is_told(database: str, cluster: Any, make_store: Make) -> None:
    store, name = make_store(index=database), database.split("/")[3].split("?")[0]
    cluster.execute(
        f"CREATE ROLE reader_{name} LOGIN",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}",
        database=name,
    )
    reader = Store.open(store.folder, index=database.replace("fedmed@", f"reader_{name}@"))
    assert [site.name for site in reader.sites()] == ["alpha", "beta", "gamma"]
    with pytest.raises(StoreError, match=r"cannot be written: permission denied for table \w+") as no:
        reader.revoke_site("alpha")
    assert "check the rights of the user in `index`" in str(no.value.hint)
    cluster.execute(f"DROP OWNED BY reader_{name}", f"DROP ROLE reader_{name}", database=name)


def test_more_threads_than_connections_take_turns(tmp_path: Path, database: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    store = Store.create(tmp_path / "store", index=database)
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(lambda number: store.ledger_append("exported", subject=str(number)), range(80)))
    assert store.verify_ledger().number == 81
    assert {row.subject for row in store.ledger()[1:]} == {str(number) for number in range(80)}


# --- files elsewhere ---------------------------------------------------------------------------------------


def test_files_in_memory(sent: Send, make_store: Make) -> None:
    store = make_store(objects="memory://test_files_in_memory")
    store.import_contribution(sent("alpha"))
    assert not (store.folder / "objects").exists()
    again = Store.open(store.folder, objects="memory://test_files_in_memory")
    assert len(again.contributions("lesion")) == 1
    assert again.verify() == []
    again.withdraw("alpha")
    left = fsspec.filesystem("memory").find("/test_files_in_memory")
    assert [path.rpartition("/")[2] for path in left] == store.generations()


def test_what_a_store_does_with_files_it_does_in_a_bucket(
    sent: Send, make_store: Make, bucket: str, recipe: Recipe
) -> None:
    store = make_store(objects=bucket)
    for site, sequence, seed in (("alpha", 1, 1), ("alpha", 2, 2), ("beta", 1, 0), ("gamma", 1, 0)):
        assert store.import_contribution(sent(site, sequence, seed=seed)).new
    assert not store.import_contribution(sent("beta", 1)).new
    assert store.import_contribution(sent("alpha", 3, seed=1)).new  # signed anew: the older file is swept
    assert len(list(store._objects.listed())) == 5
    assert [one.header.sequence for one in store.contributions("lesion")] == [3, 1, 1]
    model = rebuild(store.contributions("lesion"), recipe)
    assert store.save_model(model) == store.save_model(model) == model.digest
    assert store.model_content(model.digest) == model.content
    assert store.verify() == []
    assert store.withdraw("alpha").models == (model.digest,)
    left = [store._objects.read(str(digest)) for _, digest in store._objects.listed()]
    assert len(left) == 4 and not any(b'\\"site\\":\\"alpha\\"' in one for one in left)
    assert Store.open(store.folder, objects=bucket).verify() == []


def test_an_import_that_ends_after_its_object_was_written_is_swept(
    sent: Send, make_store: Make, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(objects=bucket)
    file, write = sent("alpha"), remote.RemoteObjects.write

    def end(self: Any, content: Any, digest: str) -> str:
        write(self, content, digest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remote.RemoteObjects, "write", end)
        with pytest.raises(KeyboardInterrupt):
            store.import_contribution(file)
    assert len(list(store._objects.listed())) == 2
    opened = Store.open(store.folder, objects=bucket)
    assert len(list(opened._objects.listed())) == 1 and opened.verify() == []
    assert opened.import_contribution(file).new and opened.verify() == []


def test_damage_and_strangers_in_a_bucket_are_named(sent: Send, make_store: Make, bucket: str) -> None:
    store, files = make_store(objects=bucket), fsspec.filesystem("s3")
    file = sent("alpha")
    store.import_contribution(file)
    (digest,) = {digest for _, digest in store._objects.listed()} - set(store.generations())
    place = f"{bucket}/{str(digest)[:2]}/{digest}"
    files.pipe_file(place, b"damaged")
    files.pipe_file(f"{bucket}/notes.txt", b"somebody's")
    files.pipe_file(f"{bucket}/ee/{'ee' * 32}", b"somebody's")
    assert sorted(store.verify()) == sorted(
        [
            f"{place}: damaged, its content is not what its name says; {objects.RESTORE}",
            f"{bucket}/notes.txt: is no file of the store; move it elsewhere",
            f"{bucket}/ee/{'ee' * 32}: file of no known kind that the index does not name, as after an older "
            "index was restored; move it elsewhere, or delete it",
        ]
    )
    assert not store.import_contribution(file).new
    assert len(store.verify()) == 2
    files.rm_file(place)
    with pytest.raises(StoreError, match="no such object"):
        store.contributions("lesion")


def test_an_object_beyond_the_cap_is_not_taken_up(
    sent: Send, make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(objects="memory://test_an_object_beyond_the_cap")
    store.import_contribution(sent("alpha"))
    monkeypatch.setattr(remote, "OBJECT_CAP", 100)
    with pytest.raises(StoreError, match=r"has [0-9]+ bytes, expected at most 100"):
        store.contributions("lesion")
    with pytest.raises(StoreError, match=r"object has [0-9]+ bytes, expected at most 100"):
        store.import_contribution(sent("beta"))


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        (
            "nothing://bucket",
            "`objects` has nothing://bucket: Protocol not known: nothing",
            "fedmed-edge[s3]",
        ),
        ("s3://not-there/store", "s3://not-there/store: cannot be written: ", "check `objects`"),
    ],
)
def test_a_place_that_is_none_is_named(
    tmp_path: Path, bucket: str, url: str, message: str, hint: str
) -> None:
    with pytest.raises((InputError, StoreError), match=message) as no:
        Store.create(tmp_path / "store", objects=url)
    assert hint in str(no.value.hint)


def test_a_bucket_that_does_not_answer_is_named(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(StoreError, match="s3://x/store: cannot be written: ") as no:
        Store.create(tmp_path / "store", objects="s3://x/store")
    assert "that the server runs" in str(no.value.hint)
    fsspec.filesystem("s3").clear_instance_cache()


def test_an_index_in_a_database_and_files_in_a_bucket(
    tmp_path: Path, sent: Send, make_store: Make, database: str, bucket: str
) -> None:
    place = {"index": database, "objects": bucket}
    store = make_store(**place)
    store.import_contribution(sent("alpha"))
    with store._index.write(), pytest.raises(StoreBusy), store._index.write(wait_s=0):
        pass
    # from another machine, whose folder is another
    other = Store.open(tmp_path / "elsewhere", **place)
    assert [one.header.site for one in other.contributions("lesion")] == ["alpha"]
    assert other.verify() == [] and list(store.folder.iterdir()) == []
