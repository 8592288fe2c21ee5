"""Killed, interrupted, out of room, or two at once: the store stays whole and running again goes on."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import CHILD

from fedmed_edge.errors import StoreError
from fedmed_edge.store.database import StoreBusy
from fedmed_edge.store.store import Store

Send = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

# Lines between two points where the child is stopped; smaller ones are run by hand.
STEP = int(os.environ.get("FEDMED_TEST_STEP", "43"))


@pytest.fixture
def in_folder(place: dict[str, str]) -> None:
    if place:
        pytest.skip("of a store that is a folder alone")


# A child of fork runs one operation and dies at its n-th line of ours, for every n-th of all of them; with
# `clock` it is killed from outside after a random time, so that the database's own commit is hit too.
SCRIPT = (
    CHILD
    + """
import random, time
from dataclasses import dataclass
from sqlalchemy import NullPool, create_engine, make_url
from fedmed_edge.store.store import Store

how, operation, template, work = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
index, files = sys.argv[6] or None, [Path(name) for name in sys.argv[7:]]
database = make_url(index).database if index else ""
place = {"index": index.replace(database, "work" + database)} if index else {}

@dataclass
class StandIn:
    recipe: object
    generation: str
    sites: tuple
    contributions: tuple
    content: bytes = b"model" * 1000
    digest: str = "11" * 32
    refined_for: object = None

def run(store):
    if operation == "import":
        for file in files:
            store.import_contribution(file)
    elif operation == "withdraw":
        store.withdraw("alpha")
    else:
        taken = store.contributions("lesion")
        names = tuple(one.header.site for one in taken), tuple(one.id for one in taken)
        store.save_model(StandIn(store.recipe("lesion"), store.generations()[0], *names))

def state(store):
    entries = [(e.site, e.sequence, e.current) for e in store.contribution_entries()]
    told = [(row.kind, row.site, row.subject) for row in store.ledger()]
    assert store.verify_ledger().number == len(told)
    # a model that is made again is told again
    told = set(told) if operation == "save" else told
    models = [(m.digest, m.withdrawn) for m in store.models()]
    return told, entries, models, len(list(work.rglob("objects/*/*")))

ROOMS = ("fedmed_edge/store", "fedmed_edge/atomic.py")

def interrupt():
    raise KeyboardInterrupt

def once():
    try:
        run(Store(work, **place))
    except KeyboardInterrupt:
        os._exit(2)

def attempt(limit):
    if how != "clock":
        return ended(child(once, limit, kill if how == "kill" else interrupt))
    pid = child(once)
    time.sleep(random.Random(limit).uniform(0, 0.2 if index else 0.04))
    os.kill(pid, signal.SIGKILL)
    return ended(pid)

def fresh():
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    if index:
        admin = make_url(index).set(database="postgres")
        engine = create_engine(admin, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS work{database} WITH (FORCE)")
            connection.exec_driver_sql(f"CREATE DATABASE work{database} TEMPLATE {database}")

fresh()
run(Store(work, **place))
wanted = state(Store.open(work, **place))
assert Store.open(work, **place).verify() == []
stopped = 0
limit = 1
while True:
    fresh()
    status = attempt(limit)
    done = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    if done and how != "clock":
        break
    stopped += not done
    store = Store.open(work, **place)
    assert store.verify() == [], (limit, store.verify())
    run(store)
    assert state(store) == wanted, (limit, state(store), wanted)
    limit += int(sys.argv[5]) if how != "clock" else 1
    if how == "clock" and limit > (6 if index else 12):
        break
print(stopped)
"""
)


@pytest.fixture
def python() -> Run:
    def run(
        code: str, *arguments: object, limit: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=limit,
        )

    return run


@pytest.mark.parametrize("how", ["kill", "interrupt", "clock"])
@pytest.mark.parametrize("operation", ["import", "withdraw", "save"])
def test_stopped_at_any_point_the_store_is_whole_and_goes_on(
    store: Store, sent: Send, python: Run, tmp_path: Path, place: dict[str, str], how: str, operation: str
) -> None:
    if place and how == "interrupt":
        pytest.skip("as in a folder")
    for site in ("alpha", "beta"):
        store.import_contribution(sent(site))
    files = [sent("gamma"), sent("alpha", 2, seed=3)] if operation == "import" else []
    index, step = place.get("index", ""), STEP * (2 if place else 1)
    done = python(SCRIPT, how, operation, store.folder, tmp_path / "work", step, index, *files)
    assert done.returncode == 0, done.stderr
    if how != "clock":  # by the clock, a quick machine may be done before it is ever stopped
        assert int(done.stdout) >= 2


# Two of these import, and a third checks the store all the while: what it sweeps or reports must be right.
PROCESS = """
import sys, time
from pathlib import Path
from fedmed_edge.store.store import Store

place = {"index": sys.argv[1]} if sys.argv[1] else {}
folder, start, ended, *files = map(Path, sys.argv[2:])
store = Store.open(folder, **place)
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
for file in files:
    store.import_contribution(file)
while not files and not ended.exists():
    print(*Store.open(folder, **place).verify(), sep="\\n", end="")
"""


def test_two_writers_take_turns_and_nothing_is_lost_while_a_third_checks(
    store: Store, sent: Send, tmp_path: Path, place: dict[str, str]
) -> None:
    start, ended = tmp_path / "start", tmp_path / "ended"
    processes = []
    for site in ("alpha", "beta", None):
        # the last one goes back to the first, signed anew: its older file is swept
        seeds = [1, 2, 3, 4, 1]
        files = [sent(site, 1 + turn, seed=seed) for turn, seed in enumerate(seeds)] if site else []
        given = (place.get("index", ""), store.folder, start, ended, *files)
        arguments = [sys.executable, "-c", PROCESS, *map(str, given)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment))
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        start.touch()
        assert [process.wait(60) for process in processes[:2]] == [0, 0]
        ended.touch()
        assert processes[2].communicate(timeout=60) == ("", None)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [(entry.site, entry.sequence) for entry in store.contribution_entries()] == [
        (site, sequence) for site in ("alpha", "beta") for sequence in range(2, 6)
    ]
    assert store.verify() == []
    assert len(list((store.folder / "objects").rglob("*/*"))) == 9


@pytest.fixture
def lock(store: Store) -> Iterator[Callable[[float], threading.Thread]]:
    """Holds the write lock for some seconds."""
    threads = []

    def hold(seconds: float) -> threading.Thread:
        held = threading.Event()

        def body() -> None:
            with store._index.write():
                held.set()
                time.sleep(seconds)

        threads.append(threading.Thread(target=body))
        threads[-1].start()
        assert held.wait(10)
        return threads[-1]

    yield hold
    for thread in threads:
        thread.join()


def test_a_writer_waits_for_another(
    store: Store, sent: Send, lock: Callable[[float], threading.Thread]
) -> None:
    file = sent("alpha")
    thread = lock(0.3)
    assert store.import_contribution(file).new
    assert not thread.is_alive()


def test_a_writer_that_waited_too_long_says_so(
    store: Store, lock: Callable[[float], threading.Thread]
) -> None:
    lock(0.5)
    message = r": another process is writing to the store$"
    with (
        pytest.raises(StoreBusy, match=message) as refusal,
        store._index.write(wait_s=0),
    ):
        pass
    assert refusal.value.hint == "wait for it and run it again"


def test_opening_does_not_wait_for_a_writer(
    store: Store, lock: Callable[[float], threading.Thread], place: dict[str, str]
) -> None:
    thread = lock(0.5)
    assert Store.open(store.folder, **place).tasks() == ["lesion"]
    assert thread.is_alive()


FULL_DISK = """
import sys
from pathlib import Path
from fedmed_edge.errors import FedmedError
from fedmed_edge.store.store import Store

try:
    Store(Path(sys.argv[1])).import_contribution(Path(sys.argv[2]))
except FedmedError as error:
    print(type(error).__name__, error, error.hint, sep="\\n")
"""


@pytest.mark.parametrize(
    ("room", "message", "hint"),
    [
        (1024, "{index}: cannot be written: ", "make room on the store's disk and run it again"),
        (30_000, "{index}: cannot be written: ", "make room on the store's disk and run it again"),
        (
            200_000,
            "store: object not kept: {objects}",
            "is writable and its disk has room, then run it again",
        ),
    ],
)
def test_a_full_disk_changes_nothing(
    in_folder: None, store: Store, sent: Send, python: Run, room: int, message: str, hint: str
) -> None:
    file = sent("alpha", weights={"stem": np.ones((1, 100_000), np.float32)})
    assert 60_000 < (store.folder / "index.sqlite").stat().st_size < 200_000 < file.stat().st_size
    before = sorted(path for path in store.folder.rglob("*") if path.is_file())
    done = python(
        FULL_DISK,
        store.folder,
        file,
        limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    kind, said, told = done.stdout.splitlines()
    assert kind == "StoreError"
    assert said.startswith(
        message.format(objects=store.folder / "objects", index=store.folder / "index.sqlite")
    )
    assert hint in told and told.endswith("run it again; nothing was changed")
    opened = Store.open(store.folder)
    assert sorted(path for path in store.folder.rglob("*") if path.is_file()) == before
    assert opened.verify() == []
    assert opened.import_contribution(file).new


def test_an_object_folder_that_is_not_writable_is_named(
    store: Store, sent: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sent("alpha")

    def refuse(*_arguments: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match=r"store: object not kept: .*Permission denied"):
        store.import_contribution(file)
    assert store.contribution_entries() == []


# --- another process, on PostgreSQL ------------------------------------------------------------------------


HOLDER = """
import sys, time
from fedmed_edge.store.store import Store

with Store.open(sys.argv[2], index=sys.argv[1])._index.write():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_holds_no_lock(store: Store, sent: Send, place: dict[str, str]) -> None:
    if not place:
        pytest.skip("of a lock that is not the system's")
    file = sent("alpha")
    arguments = [sys.executable, "-c", HOLDER, place["index"], str(store.folder)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(StoreBusy), store._index.write(wait_s=0.05):
        pass
    process.kill()
    process.communicate()
    assert store.import_contribution(file).new


def test_a_database_that_stops_in_a_change_leaves_nothing_of_it(
    store: Store, sent: Send, cluster: Any, place: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not place:
        pytest.skip("of a database that is a process")
    file, write = sent("alpha"), type(store._objects).write

    def stop_and_write(self: Any, content: Any, digest: str) -> str:
        cluster.stop()
        return write(self, content, digest)

    with monkeypatch.context() as patch:
        patch.setattr(type(store._objects), "write", stop_and_write)
        with pytest.raises(
            StoreError, match=r"postgresql\+psycopg://fedmed@/store\w+: cannot be reached"
        ) as no:
            store.import_contribution(file)
    assert "check `index` in fedmed.toml" in str(no.value.hint)
    with pytest.raises(StoreError, match="cannot be reached"):
        Store.open(store.folder, **place)
    cluster.start()
    opened = Store.open(store.folder, **place)
    assert opened.verify() == [] and opened.contribution_entries() == []
    assert opened.import_contribution(file).new
    assert opened.verify() == []
