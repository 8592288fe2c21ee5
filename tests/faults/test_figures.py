"""What a federation costs: time to connect, a round, memory of the server, goodput of a slow link."""

import shutil
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image as Raster

MB = 1e6


class Memory:
    """Peak of what the processes under a supervisor hold for themselves (RssAnon), sampled."""

    def __init__(self, network: Any, name: str) -> None:
        self.network, self.name = network, name
        self.idle = self.now()
        self.peak, self._ended = self.idle, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def now(self) -> int:
        process = self.network.processes[self.name]
        return sum(_anonymous(one.pid) for one in (process, *process.children(recursive=True)))

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def _anonymous(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def seconds_of_puts(network: Any, name: str) -> float:
    """From the first part that left to the answer that all were taken."""
    import datetime
    import json

    lines = (network.f.root / name / "egress.jsonl").read_text().splitlines()
    times = {"put": [], "commit": []}
    for line in lines:
        entry = json.loads(line)
        if entry["op"] in times:
            times[entry["op"]].append(datetime.datetime.fromisoformat(entry["when"]).timestamp())
    return float(times["commit"][-1] - times["put"][0])


@pytest.mark.parametrize("sites", [2, 8])
def test_time_to_connect(sites: int, world: Any, net: ModuleType, tmp_path: Path, figure: Any) -> None:
    federation = world.copy(tmp_path / "world")
    names = "abcdefgh"[:sites]
    for seed, name in enumerate(names):
        if not (federation.root / name).exists():
            federation.enrol(name, seed)
    with net.Network(federation) as network:
        network.enrol(*(name for name in names if name not in "abc"))
        for name in "abc"[:sites]:
            network.set(federation.root / name, server=f"localhost:{network.port}")
        figure("all connected after, s", round(network.up(*names), 1))
        figure("engine of the server idle, MB", round(Memory(network, "server").idle / MB))
        figure("agent idle, MB", round(Memory(network, "a").idle / MB))


def test_a_small_round(network: Any, figure: Any) -> None:
    """From the outbox to the ledger, a contribution of about 1 MiB."""
    network.f.recipe.write_text(network.f.recipe.read_text().replace("lift_dim = 1024", "lift_dim = 96"))
    for name in "ab":
        (network.f.root / name / "recipe.toml").write_bytes(network.f.recipe.read_bytes())
    network.f.learn("a", "b")
    file = network.f.contribute("a", file="small")
    network.up("a")
    time.sleep(10)
    began = time.monotonic()
    figure("MB", round(network.hand_over("a", file).bytes / MB, 2))
    network.until_taken("a", seconds=600)
    figure("outbox to ledger, s", round(time.monotonic() - began, 1))
    figure("of it the transfer, s", round(seconds_of_puts(network, "a"), 2))


CLASSES = 25
"""With 5 folds and rows of about 1100 numbers, this many make a contribution of about 500 MiB."""


def many_classes(folder: Path, seed: int) -> None:
    """Ten images of every class, whose brightness rises from class to class."""
    shutil.rmtree(folder)
    folder.mkdir()
    random, lines = np.random.default_rng(seed), ["image,label,mask,patient,split"]
    for index in range(10 * CLASSES):
        pixels = np.clip(random.normal(10 * (index % CLASSES), 8, (32, 32)), 0, 255).astype(np.uint8)
        Raster.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(f"{index}.png,c{index % CLASSES},,p{index},train")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def test_memory_of_the_server(kit: ModuleType, net: ModuleType, tmp_path: Path, figure: Any) -> None:
    """Two contributions of about 500 MiB at once."""
    f = kit.Federation(tmp_path)
    classes = ", ".join(f'"c{index}"' for index in range(CLASSES))
    text = f.recipe.read_text().replace("lift_dim = 32", "lift_dim = 1024")
    f.recipe.write_text(text.replace('"dark", "bright"', classes))
    for seed, name in enumerate("ab"):
        f.enrol(name, seed)
        many_classes(f.root / f"{name}-data", seed)
    f.learn("a", "b")
    files = {name: f.contribute(name, file=f"{name}.wide") for name in "ab"}
    with net.Network(f, sync_s=600.0) as network:
        network.enrol("a", "b")
        network.up("a", "b")
        time.sleep(20)  # the first meeting with each site
        net.until("no job runs", lambda: not list(network.below("server", "runner_process")), seconds=120)
        with Memory(network, "server") as memory:
            began = time.monotonic()
            for name, file in files.items():
                figure(f"{name}, MiB", round(network.hand_over(name, file).bytes / 2**20))
            network.until_taken("a", "b", seconds=600)
            figure("both in the ledger after, s", round(time.monotonic() - began, 1))
        figure("server idle, MB", round(memory.idle / MB))
        figure("server above idle, MB", round((memory.peak - memory.idle) / MB))
        for name in "ab":
            figure(f"transfer of {name}, s", round(seconds_of_puts(network, name), 1))
        assert f.admin("status")["faults"] == []


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("delay_ms", [0, 20])
def test_goodput_of_a_slow_link(
    parts: int, delay_ms: int, network: Any, link: ModuleType, figure: Any
) -> None:
    rate = 3e6
    with link.Link(bytes_per_s=rate, delay_s=delay_ms / 1e3) as slow:
        network.set(network.f.root / "a", proxy=slow.address, parts_in_flight=parts)
        size = network.hand_over("a").bytes
        network.up("a")
        network.until_taken("a", seconds=600)
        goodput = size / seconds_of_puts(network, "a")
        figure("MB", round(size / MB))
        figure("goodput, MB/s", round(goodput / MB, 2))
        figure("of the link", f"{goodput / rate:.0%}")
        figure("up in all, MB", round(slow.up / MB, 1))
    assert goodput / rate >= (0.65 if parts == 1 else 0.85) or delay_ms
