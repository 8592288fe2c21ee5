"""What a transfer and a round hold in memory: some parts, some models, never one a site."""

import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from kits import run_python

from fedmed_edge.features.weights import parse_backbone
from fedmed_edge.federation.messages import Report
from fedmed_edge.generation import Generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import new_contribution, write_contribution

# Anonymous memory alone: pages of mapped files are the system's to take back at any time.
SCRIPT = """
import json, re, sys, threading, time
from pathlib import Path
from fedmed_edge.config import SiteConfig
from fedmed_edge.federation.loopback import Loopback
from fedmed_edge.federation.rounds import Rounds
from fedmed_edge.federation.site_side import sync
from fedmed_edge.signing import read_private_key
from fedmed_edge.store.store import Store

what, root, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
peak = 0

def held():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

def watch():
    global peak
    while True:
        peak = max(peak, held())
        time.sleep(0.002)

store = Store.open(root / "store")
store.verify_ledger()
threading.Thread(target=watch, daemon=True).start()
time.sleep(0.05)
before, peak = held(), 0
if what == "sync":
    for name in names:
        folder = root / name
        config = SiteConfig(site=name, key=folder / "site.key", server_key=root / "server.pub",
                            federation={"parts_in_flight": 3})
        sync(Loopback(store, root / "federation", name), folder, config, patience_s=0)
else:
    rounds = Rounds(store, root / "federation", read_private_key(root / "server.key"))
    (training,) = rounds.all()
    assert rounds.step(training).state == "finished"
time.sleep(0.02)
print(json.dumps({"before": before, "peak": peak}))
"""

MIB = 1 << 18
"""Weights of float32 in a mebibyte."""


def measured(what: str, root: Path, *names: str) -> float:
    """MiB of anonymous memory at the most, beyond what was held before."""
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONWARNINGS": "ignore"}
    said = run_python(SCRIPT, what, root, *names, environment=os.environ | settings, timeout_s=280)
    found = json.loads(said)
    return float(found["peak"] - found["before"])


def test_a_sync_holds_some_parts_and_not_the_file(
    make_federation: Callable[..., Any], tmp_path: Path
) -> None:
    # Both ends are in one process here: each of three parts on its way is there as data and as message.
    federation = make_federation(tmp_path, "alpha")
    federation.hospitals["alpha"].put(size=int(os.environ.get("FEDMED_TEST_MIB", "96")) * MIB)
    used = measured("sync", tmp_path, "alpha")
    assert len(federation.held()) == 1
    print(f"sync: {used:.0f} MiB")
    assert used < 90


def test_a_round_holds_some_models_and_not_one_a_site(
    make_federation: Callable[..., Any], tmp_path: Path, recipe: Recipe
) -> None:
    model, sites = (
        16,
        [f"site{number:02}" for number in range(int(os.environ.get("FEDMED_TEST_SITES", "12")))],
    )
    federation = make_federation(tmp_path, *sites)
    rows = model * MIB // 8  # several tensors, as a network has
    weights = {f"layer{number}": np.zeros(rows, np.float32) for number in range(8)}
    generation = federation.hospitals[sites[0]].generation
    large = type(generation)(**{**vars_of(generation), "weights": weights})
    federation.store.publish_generation(large.content)
    coordinator = federation.coordinator(collect_s=0.001, at_once=1)
    said = {"rounds": 1, "sites": tuple(sites), "quorum": len(sites), "deadline_s": 3600.0}
    training = coordinator.rounds.begin(recipe, large.digest, **said)
    coordinator.rounds.step(training)
    for number, site in enumerate(sites):
        values = {name: np.full(rows, number, np.float32) for name in weights}
        made = new_contribution(
            None, generation=large.digest, recipe=recipe, site=site, sequence=1, weights=values
        ).sign(federation.hospitals[site].key)
        path = tmp_path / f"{site}.made"
        write_contribution(path, made)
        federation.store.import_contribution(path)
        path.unlink()
        (request,) = federation.requests.open_for(site)
        federation.requests.answer(site, Report(request=request.ask.id, state="done", contribution=made.id))
    used = measured("round", tmp_path)
    (ended,) = coordinator.rounds.all()[0].ended
    content = (federation.folder / "offers" / ended.backbone).read_bytes()
    assert (parse_backbone(content, "w").weights["layer3"] == (len(sites) - 1) / 2).all()
    print(f"round: {used:.0f} MiB, {used / model:.1f} models of {len(sites)}")
    assert used < 8 * model


def vars_of(generation: Generation) -> dict[str, Any]:
    return {field.name: getattr(generation, field.name) for field in fields(generation)}
