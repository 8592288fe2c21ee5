"""Links that are slow or cut, processes that are killed: nothing lost, nothing twice, the store sound."""

import shutil
import time
from types import ModuleType
from typing import Any

import pytest

from fedmed_edge.federation.egress import read_egress
from fedmed_edge.federation.outbox import Outbox

PART = 4 << 20


def state(network: Any, name: str) -> str:
    (parcel,) = Outbox(network.f.root / name / "outbox").all()
    return str(parcel.state)


def parts_sent(network: Any, name: str) -> int:
    return sum(entry.op == "put" for entry in read_egress(network.f.root / name))


def sound(network: Any, *names: str) -> None:
    """Every contribution is there once, and the store verifies."""
    status = network.f.admin("status")
    assert status["faults"] == []
    held = [entry["site"] for entry in status["contributions"] if entry["holds"] == "sums"]
    assert [held.count(name) >= 1 for name in names] == [True] * len(names)
    current = [one for one in status["contributions"] if one["current"]]
    ids = [one["id"] for one in status["contributions"]]
    assert len(ids) == len(set(ids)) and {one["site"] for one in current} >= set(names)
    assert not list((network.f.server / "federation" / "inbox").rglob("*.part"))


def half_sent(network: Any, net: ModuleType, **pace: int) -> Any:
    """Have site a send its contribution until some parts of it are there; the parcel."""
    network.set(network.f.root / "a", bytes_per_s=6_000_000, **pace)
    parcel = network.hand_over("a")
    network.up("a")
    net.until("some parts are sent", lambda: parts_sent(network, "a") >= 3, seconds=120)
    return parcel


def test_time_to_connect_and_memory(network: Any, figure: Any) -> None:
    figure("connected after, s", round(network.up("a", "b"), 1))
    network.hand_over("a")
    network.hand_over("b")
    began = time.monotonic()
    network.until_taken("a", "b")
    figure("two contributions taken after, s", round(time.monotonic() - began, 1))
    sound(network, "a", "b")
    assert network.f.admin("rebuild")["sites"] == ["a", "b"]


@pytest.mark.short
def test_link_cut_twice(network: Any, net: ModuleType, link: ModuleType, figure: Any) -> None:
    with link.Link(bytes_per_s=6e6) as slow:
        network.set(network.f.root / "a", proxy=slow.address, parts_in_flight=1)
        parcel = network.hand_over("a")
        network.up("a")
        total = -(-parcel.bytes // PART)
        for least in (2, 5):
            net.until(
                "some parts are sent", lambda least=least: parts_sent(network, "a") >= least, seconds=120
            )
            slow.cut()
        network.until_taken("a")
        figure("parts", total)
        figure("parts sent again", parts_sent(network, "a") - total)
        assert parts_sent(network, "a") - total <= 2
        assert set(slow.targets) == {f"localhost:{network.port}"}
    sound(network, "a")


def test_site_killed_in_upload(network: Any, net: ModuleType, figure: Any) -> None:
    parcel = half_sent(network, net, parts_in_flight=2)
    network.kill("a")
    assert state(network, "a") == "waiting"
    network.start("a")
    network.until_taken("a")
    figure("parts sent again", parts_sent(network, "a") + parcel.bytes // -PART)
    sound(network, "a")


def test_server_killed_while_receiving(network: Any, net: ModuleType, figure: Any) -> None:
    parcel = half_sent(network, net, parts_in_flight=2)
    network.kill("server")
    time.sleep(3)
    network.start("server")
    began = time.monotonic()
    network.until_taken("a", seconds=300)
    figure("taken after the server's start, s", round(time.monotonic() - began, 1))
    figure("parts sent again", parts_sent(network, "a") + parcel.bytes // -PART)
    sound(network, "a")


@pytest.mark.parametrize("word", ["server_train", "coordinator", "runner_process"])
def test_one_process_of_the_server_killed(word: str, network: Any, net: ModuleType, figure: Any) -> None:
    half_sent(network, net)
    for process in list(network.below("server", word)):
        process.kill()
    began = time.monotonic()
    network.until_taken("a", seconds=300)
    figure("taken after, s", round(time.monotonic() - began, 1))
    sound(network, "a")


def test_a_site_that_is_away_holds_nobody_up(network: Any) -> None:
    network.hand_over("a")
    network.hand_over("b")
    network.up("a")
    network.until_taken("a")
    assert state(network, "b") == "waiting"
    assert network.f.admin("rebuild")["sites"] == ["a"]
    network.start("b")
    network.until_taken("b")
    sound(network, "a", "b")


def test_one_kit_at_two_places(network: Any) -> None:
    """A copied folder: whoever holds the name, what is handed over is there once."""
    shutil.copytree(network.f.root / "a", network.f.root / "twin")
    network.hand_over("a")
    network.up("a")
    network.start("twin")
    network.until_taken("a", seconds=240)
    sound(network, "a")


@pytest.mark.short
def test_a_second_start_is_refused(network: Any, net: ModuleType) -> None:
    network.up("a")
    for program, verb, name in ((net.SERVER, "start", "server"), (net.EDGE, "agent", "a")):
        second = network.program(verb, "-C", network.f.root / name, program=program)
        out, err = second.communicate(timeout=30)
        assert second.returncode == 1 and "is running here already" in err, (out, err)
    assert network.connected("a")
