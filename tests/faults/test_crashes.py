"""Killed in the midst of work, a full disk, a clock that is off: nothing lost, nothing twice."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from fedmed_edge.federation.egress import read_egress
from fedmed_edge.federation.outbox import Outbox
from fedmed_edge.federation.server_side import ROOM_BYTES

PART = 4 << 20


def there_once(network: Any, name: str, holds: str = "sums") -> None:
    """What a site handed over for the newest generation is in the store once, and the store is sound."""
    f = network.f
    assert f.admin("status")["faults"] == []
    f.admin("log", "--verify")
    rows = [row for row in f.admin("log")["rows"] if row["kind"] == "contributed" and row["site"] == name]
    held = [one for one in f.admin("status")["contributions"] if one["site"] == name]
    newest = [one for one in held if one["current"] and one["holds"] == holds]
    assert len(newest) >= 1 and len(rows) == len(held) == len({one["id"] for one in held})
    assert not list((f.server / "federation" / "inbox").rglob("*.part"))


def killed(
    network: Any, net: ModuleType, stops: ModuleType, folder: Path, name: str, where: str, count: int = 1
) -> None:
    """Start a server or agent that stops in a function, kill all of its processes there, start it anew."""
    network.start(name, **stops.stop_at(folder, where, count=count))
    net.until(f"{name} stops in {where}", (folder / "stopped").exists, seconds=240)
    network.kill(name)
    network.start(name)


def test_site_killed_in_training(
    network: Any, net: ModuleType, stops: ModuleType, tmp_path: Path, figure: Any
) -> None:
    network.set(network.f.root / "a", may_train=True)
    network.f.admin("train", "--rounds", 1, "--epochs", 5, "--site", "a")
    network.start("server")
    killed(network, net, stops, tmp_path / "stops", "a", "fedmed_edge.features.feed:Feed.batch", 4)
    assert Outbox(network.f.root / "a" / "outbox").all() == []
    began = time.monotonic()

    def training() -> Any:
        (one,) = network.f.admin("train", "--list")["trainings"]
        return one

    net.until("the training ends", lambda: training()["state"] == "finished", seconds=300)
    figure("finished after the start, s", round(time.monotonic() - began, 1))
    assert training()["ended"][0]["sites"] == ["a"]
    there_once(network, "a", "weights")


def test_site_killed_in_extraction(
    network: Any, net: ModuleType, stops: ModuleType, tmp_path: Path, figure: Any
) -> None:
    network.set(network.f.root / "a", may_contribute=True)
    network.f.admin("publish", network.f.generation)
    network.start("server")
    killed(network, net, stops, tmp_path / "stops", "a", "fedmed_edge.images.preprocess:prepare", 7)
    outbox = Outbox(network.f.root / "a" / "outbox")
    assert outbox.all() == []
    began = time.monotonic()
    net.until("a has contributed", lambda: [one for one in outbox.all() if one.state == "taken"], seconds=300)
    figure("taken after the start, s", round(time.monotonic() - began, 1))
    there_once(network, "a")


@pytest.mark.short
def test_server_killed_in_ledger_write(
    network: Any, net: ModuleType, stops: ModuleType, tmp_path: Path, figure: Any
) -> None:
    """All is written but the transaction's end."""
    parcel = network.hand_over("a")
    network.start("a")
    killed(network, net, stops, tmp_path / "stops", "server", "fedmed_edge.store.ledger:append")
    began = time.monotonic()
    network.until_taken("a")
    figure("taken after the server's start, s", round(time.monotonic() - began, 1))
    sent = sum(entry.op == "put" for entry in read_egress(network.f.root / "a"))
    figure("parts sent again", sent + parcel.bytes // -PART)
    there_once(network, "a")


def test_server_killed_in_rebuild(network: Any, net: ModuleType, stops: ModuleType, tmp_path: Path) -> None:
    """A rebuild is a command of its own; all else on the server goes on."""
    f = network.f
    f.admin("import", f.root / "a.contribution", f.root / "b.contribution")
    undisturbed = f.copy(tmp_path / "undisturbed").admin("rebuild")["digest"]
    network.up("c")
    stopping = stops.stop_at(tmp_path / "stops", "fedmed_edge.store.models:record")
    rebuild = network.program("rebuild", "-C", f.server, program=net.SERVER, **stopping)
    net.until("the rebuild stops", (tmp_path / "stops" / "stopped").exists, seconds=120)
    rebuild.kill()
    rebuild.communicate(timeout=30)
    network.kill("server")
    network.start("server")
    assert f.admin("status")["models"] == [] and f.admin("status")["faults"] == []
    assert f.admin("rebuild")["digest"] == undisturbed
    network.hand_over("c")
    network.until_taken("c")
    there_once(network, "c")


def test_parts_that_come_twice_and_late(network: Any, stops: ModuleType, tmp_path: Path, figure: Any) -> None:
    parcel = network.hand_over("a")
    network.start("server")
    network.start("a", **stops.twice_and_late(tmp_path / "stops"))
    network.until_taken("a")
    figure("parts", -(parcel.bytes // -PART))
    there_once(network, "a")


@pytest.fixture
def small_disk(network: Any, tmp_path: Path, lacks: Callable[[str], NoReturn]) -> Iterator[Path]:
    """The server's folder lies on a disk with room for one contribution and little more."""
    server, kept = network.f.server, tmp_path / "kept"
    size = 2 * (network.f.root / "a.contribution").stat().st_size + ROOM_BYTES + (64 << 20)
    shutil.move(server, kept)
    server.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(server)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        server.rmdir()
        lacks("a small disk: only root can mount one")
    try:
        shutil.copytree(kept, server, dirs_exist_ok=True)
        yield server
    finally:
        for name in list(network.processes):
            network.stop(name)
        subprocess.run(["umount", "-l", str(server)], check=True)


def test_disk_full_at_the_server(network: Any, net: ModuleType, small_disk: Path, figure: Any) -> None:
    """It fills up while a file comes; the file waits until there is room."""
    folder = network.f.root / "a"
    network.set(folder, bytes_per_s=6_000_000, parts_in_flight=2)
    parcel = network.hand_over("a")
    network.up("a")
    net.until(
        "some parts are sent",
        lambda: sum(entry.op == "put" for entry in read_egress(folder)) >= 3,
        seconds=120,
    )
    filler = small_disk / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space left on device"):
        while True:
            file.write(bytes(1 << 20))
    outbox = Outbox(folder / "outbox")
    net.until("the site is told to wait", lambda: outbox.all()[0].tries > 0, seconds=240)
    (waiting,) = outbox.all()
    assert (waiting.state, waiting.why) == ("waiting", "server: cannot take it now")
    filler.unlink()
    began = time.monotonic()
    network.until_taken("a", seconds=400)
    figure("taken after there was room, s", round(time.monotonic() - began, 1))
    sent = sum(entry.op == "put" for entry in read_egress(folder))
    figure("parts sent again", sent + parcel.bytes // -PART)
    there_once(network, "a")


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory, lacks: Callable[[str], NoReturn]) -> Path:
    """What a process loads whose clock is off."""
    compiler = shutil.which("cc") or lacks("a C compiler")
    made = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    return made


@pytest.mark.parametrize("off_s", [600, -600])
def test_clock_ten_minutes_off(off_s: int, network: Any, clock: Path, figure: Any) -> None:
    """At the site: its certificate, heartbeats and files do."""
    network.hand_over("a")
    network.start("server")
    began = time.monotonic()
    network.start("a", LD_PRELOAD=str(clock), CLOCK_OFF_S=str(off_s))
    network.until_taken("a")
    figure("taken after, s", round(time.monotonic() - began, 1))
    assert f"clock: is {off_s} seconds off the server's" in network.log("a")
    there_once(network, "a")
