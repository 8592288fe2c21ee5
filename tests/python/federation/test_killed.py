"""Killed in the middle of an upload, of receiving, of a ledger row; full disks; clocks that are off."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import CHILD, run_python
from PIL import Image as Raster

from fedmed_edge.atomic import locked, write_atomic
from fedmed_edge.config import Policy, SiteConfig, SiteFederation, write_config
from fedmed_edge.errors import InputError, StoreError, Unreachable
from fedmed_edge.federation import outbox, parts, records, server_side
from fedmed_edge.federation.egress import read_egress
from fedmed_edge.recipe import Recipe, write_recipe

# Lines between two points where the child is killed; smaller ones are run by hand.
STEP = int(os.environ.get("FEDMED_TEST_STEP", "401"))
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

# Either it is site and server at once, or the server alone, which a fresh one follows while the site goes on.
SCRIPT = (
    CHILD
    + """
import socket
from fedmed_edge.config import SiteConfig
from fedmed_edge.errors import Unreachable
from fedmed_edge.federation import parts
from fedmed_edge.federation.loopback import Loopback
from fedmed_edge.federation.outbox import Outbox
from fedmed_edge.federation.server_side import serve
from fedmed_edge.federation.site_side import sync
from fedmed_edge.federation.wire import Request, decode_reply, decode_request, encode
from fedmed_edge.store.store import Store

parts.PART_BYTES = 1024
who, step, wanted, served = sys.argv[1], int(sys.argv[4]), *sys.argv[5:7]
template, work = map(Path, sys.argv[2:4])
site = work / "alpha"
config = SiteConfig(site="alpha", key=site / "site.key", server_key=work / "server.pub",
                    federation={"parts_in_flight": 1})

ROOMS = ("edge/federation", "edge/store", "edge/atomic.py")

def meet():
    channel = Loopback(Store.open(work / "store"), work / "federation", "alpha")
    return sync(channel, site, config, patience_s=0)

class Served:
    # the server in a child, at the other end of a socket
    def __init__(self, limit):
        self.near, far = socket.socketpair()
        self.pid = child(lambda: self.loop(far), limit)
        far.close()

    def loop(self, far):
        self.near.close()
        store, file = Store.open(work / "store"), far.makefile("rwb")
        while size := file.read(4):
            request = decode_request(file.read(int.from_bytes(size, "big")))
            content = encode(serve(store, work / "federation", "alpha", request))
            file.write(len(content).to_bytes(4, "big") + content)
            file.flush()

    def ask(self, op, fields, data=b""):
        content = encode(Request(op, fields, data))
        try:
            with self.near.makefile("rwb") as file:
                file.write(len(content).to_bytes(4, "big") + content)
                file.flush()
                size = file.read(4)
                if len(size) < 4:
                    raise Unreachable("test: the server is gone")
                return decode_reply(file.read(int.from_bytes(size, "big")))
        except OSError:
            raise Unreachable("test: the server is gone") from None

    def end(self):
        self.near.close()
        return ended(self.pid)

killed, limit = 0, 1
while True:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    if who == "both":
        status = ended(child(meet, limit))
        meet()
    else:
        server = Served(limit)
        try:
            sync(server, site, config, patience_s=0)
        except Unreachable:
            pass
        status = server.end()
        server = Served(0)
        sync(server, site, config, patience_s=0)
        assert server.end() == 0, limit
    store = Store.open(work / "store")
    assert store.verify() == [], (limit, store.verify())
    store.verify_ledger()
    held = sorted(entry.id for entry in store.contribution_entries())
    assert held == sorted(wanted.split()), (limit, held)
    kinds = [entry.kind for entry in store.ledger()]
    assert kinds.count("contributed") == len(held) and "refused" not in kinds, (limit, kinds)
    assert Outbox(site / "outbox").waiting() == [], (limit, Outbox(site / "outbox").waiting())
    assert not list((site / "outbox").glob("*.contribution")) and not list((site / "outbox").glob(".part*"))
    assert not list((work / "federation").glob("inbox/*/*.part"))
    assert (site / "inbox" / (served + ".model")).read_bytes() == (work / "object").read_bytes(), limit
    if os.WIFEXITED(status):
        break
    killed, limit = killed + 1, limit + step
print(killed)
"""
)


@pytest.mark.parametrize("who", ["both", "server"])
def test_killed_at_any_point_nothing_is_lost_and_nothing_is_there_twice(
    make_federation: Callable[..., Any], tmp_path: Path, who: str
) -> None:
    federation = make_federation(tmp_path / "template", "alpha")
    alpha = federation.hospitals["alpha"]
    wanted = [alpha.put(size=600).id, alpha.put(size=300).id]
    source = tmp_path / "template" / "object"
    source.write_bytes(np.random.default_rng(0).bytes(2500))
    served = federation.offers.publish(source, federation.key, kind="model").digest
    given = (who, tmp_path / "template", tmp_path / "work", STEP, " ".join(wanted), served)
    assert int(run_python(SCRIPT, *given, environment=os.environ | QUIET, timeout_s=280)) >= 3


def full(*_arguments: object, **_more: object) -> None:
    raise OSError(28, os.strerror(28))


def test_a_full_disk_at_the_server_is_waited_for(
    federation: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alpha = federation.hospitals["alpha"]
    first, second = alpha.put(), alpha.put()
    with monkeypatch.context() as patched:
        patched.setattr(parts, "_write_at", full)
        result = federation.sync("alpha")
    assert (result.sent, result.waiting) == ([], 2)
    waiting = alpha.outbox.waiting()
    assert [one.tries for one in waiting] == [1, 0]
    assert waiting[0].why == "server: cannot take it now"
    assert "disk: cannot be written: No space left on device" in caplog.text
    assert federation.sync("alpha").sent == []  # not before its time
    alpha.outbox._records.write(first.digest, waiting[0].model_copy(update={"not_before": 0.0}))
    assert federation.sync("alpha").sent == [first.id, second.id]
    assert federation.held() == sorted([first.id, second.id])


def test_a_disk_that_is_full_once_the_store_has_it_makes_no_refusal(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = federation.hospitals["alpha"]
    parcel = alpha.put()

    def full_at_the_server(path: Path, content: bytes) -> None:
        if path.is_relative_to(federation.folder / "inbox"):
            raise InputError(f"{path}: cannot be written: No space left on device")
        write_atomic(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(records, "write_atomic", full_at_the_server)
        result = federation.sync("alpha")
    assert (result.sent, result.refused, result.waiting) == ([], {}, 1)
    (waiting,) = alpha.outbox.waiting()
    assert waiting.why == "server: cannot take it now"
    alpha.outbox._records.write(parcel.digest, waiting.model_copy(update={"not_before": 0.0}))
    assert federation.sync("alpha").sent == [parcel.id] == federation.held()


def test_what_is_damaged_at_the_server_is_told_without_its_place(federation: Any) -> None:
    federation.sync("alpha")
    (federation.folder / "offers").mkdir(exist_ok=True)
    (federation.folder / "offers" / f"{'0' * 64}.json").write_text("{")
    with pytest.raises(Unreachable, match=r"^server: cannot take it now$"):
        federation.sync("alpha")


def test_a_disk_that_has_no_room_for_a_file_is_told_before_a_byte_of_it_travels(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.hospitals["alpha"].put()
    monkeypatch.setattr(server_side, "ROOM_BYTES", 1 << 60)
    assert federation.sync("alpha").waiting == 1
    assert {entry.op for entry in read_egress(federation.hospitals["alpha"].folder)} == {"hello", "offer"}


def test_a_full_disk_at_the_site_is_told_and_what_came_is_kept(
    federation: Any, small_parts: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "object"
    source.write_bytes(bytes(3 * small_parts))
    offer = federation.offers.publish(source, federation.key, kind="model")
    write, written = parts._write_at, []

    def soon_full(path: Path, data: bytes, offset: int) -> None:
        written.append(offset)
        if len(written) > 4:
            full()
        write(path, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(parts, "_write_at", soon_full)
        with pytest.raises(StoreError, match="disk: cannot be written: No space left on device"):
            federation.sync("alpha")
    channel = federation.channel("alpha")
    asked: list[str] = []
    ask = channel.ask

    def noted(op: str, fields: Any, data: bytes = b"") -> Any:
        asked.append(op)
        return ask(op, fields, data)

    channel.ask = noted
    assert federation.sync("alpha", channel).received == [offer.digest]
    assert asked.count("get") == 1


def test_nothing_leaves_that_cannot_be_written_down(federation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    federation.hospitals["alpha"].put()
    monkeypatch.setattr("fedmed_edge.federation.egress.os.write", full)
    with pytest.raises(InputError, match=r"egress.jsonl: cannot be written: No space left on device"):
        federation.sync("alpha")
    assert federation.held() == []


def test_a_record_that_is_damaged_is_named(federation: Any) -> None:
    parcel = federation.hospitals["alpha"].put()
    path = federation.hospitals["alpha"].folder / "outbox" / f"{parcel.digest}.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=r"\.json: is damaged"):
        federation.sync("alpha")


@pytest.mark.parametrize("off", [-600.0, 600.0, 86400.0])
def test_a_clock_that_is_off_changes_nothing_but_a_warning(
    federation: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, off: float
) -> None:
    real = time.time
    sent = federation.hospitals["alpha"].put()
    with monkeypatch.context() as patched:
        patched.setattr("fedmed_edge.federation.server_side.time.time", lambda: real() + off)
        # both ends share this process: the site's clock is right where it looks at it
        patched.setattr("fedmed_edge.federation.site_side.time", Clock(real))
        patched.setattr(outbox, "time", Clock(real))
        assert federation.sync("alpha").sent == [sent.id]
    assert f"clock: is {-off:.0f} seconds off the server's" in caplog.text
    assert federation.held() == [sent.id]


class Clock:
    """The `time` module as one side sees it."""

    def __init__(self, real: Callable[[], float]) -> None:
        self.time, self.monotonic, self.sleep = real, time.monotonic, time.sleep


def test_a_sync_that_runs_is_not_run_twice(federation: Any) -> None:

    with (
        locked(federation.hospitals["alpha"].folder / "sync.lock"),
        pytest.raises(InputError, match="sync: another one of this site is running"),
    ):
        federation.sync("alpha")


def test_a_copied_folder_is_swept_of_what_a_killed_process_left(federation: Any, tmp_path: Path) -> None:
    alpha = federation.hospitals["alpha"]
    parcel = alpha.put()
    copy = alpha.outbox.path(parcel.digest).with_name("00" * 32 + ".contribution")
    shutil.copy(alpha.outbox.path(parcel.digest), copy)
    federation.sync("alpha")
    assert not copy.exists()


# The same of a site that does what the server asked: each step in a child, as a runtime's threads do not
# survive a fork.
WORK = (
    CHILD
    + """
from fedmed_edge.config import SiteConfig, read_config
from fedmed_edge.federation.duties import work
from fedmed_edge.federation.loopback import Loopback
from fedmed_edge.federation.site_side import sync
from fedmed_edge.store.store import Store

template, place, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
site = place / "alpha"

ROOMS = ("edge/federation", "edge/hospital", "edge/atomic.py")

def config():
    return read_config(SiteConfig, site)

def meet():
    sync(Loopback(Store.open(place / "store"), place / "federation", "alpha"), site, config(), patience_s=0)

killed, limit = 0, 1
while True:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place)
    status = ended(child(lambda: work(site, config()), limit))
    assert ended(child(lambda: work(site, config()))) == 0
    assert ended(child(meet)) == 0
    store = Store.open(place / "store")
    assert store.verify() == []
    (entry,) = store.contribution_entries()
    assert not (site / "work").exists() and not list((site / "outbox").glob("*.contribution"))
    (request,) = (place / "federation" / "requests" / "alpha").glob("*.json")
    assert '"state":"answered"' in request.read_text(), limit
    assert [row.kind for row in store.ledger()].count("contributed") == 1
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    killed, limit = killed + 1, limit + step
print(killed)
"""
)


def test_a_site_killed_while_it_extracts_contributes_once(
    make_federation: Callable[..., Any], tmp_path: Path, recipe: Recipe
) -> None:
    template = tmp_path / "template"
    federation = make_federation(template, "alpha")
    alpha = federation.hospitals["alpha"]
    data, lines = alpha.folder / "data", ["image,label,mask,patient,split"]
    data.mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 255, (32, 32)).astype(np.uint8)
        Raster.fromarray(pixels).save(data / f"{index}.png")
        lines.append(f"{index}.png,{recipe.classes[index % 2]},,p{index},train")
    (data / "labels.csv").write_text("\n".join(lines) + "\n")
    write_recipe(alpha.folder / "recipe.toml", recipe)
    shutil.copy(template / "server.pub", alpha.folder / "server.pub")
    write_config(
        alpha.folder / "fedmed.toml",
        SiteConfig(
            site="alpha",
            server_key=Path("server.pub"),
            device="cpu",
            policy=Policy(min_cohort=1),
            federation=SiteFederation(may_contribute=True),
        ),
    )
    file = tmp_path / "generation"
    file.write_bytes(alpha.generation.content)
    federation.offers.publish(file, federation.key, kind="generation", recipe=recipe.digest)
    federation.sync("alpha")
    given = (template, tmp_path / "work", STEP)
    assert int(run_python(WORK, *given, environment=os.environ | QUIET, timeout_s=280)) >= 2
