"""Load: simulated hospitals hand over, the server rebuilds and refines; does it take what `plan` says?

    python tests/bench/load.py [--sites 200] [--row-dim 96] [--classes 7] [--index URL] [--json]

Every hospital is a thread with an outbox of its own that hands its contribution over in parts, by messages
that an engine would carry; all at once, in this process, to a real store. Then rebuild and refine, with a
quarter, half and all of the sites. Exit code 1 where a measured slope is more than twice the planned one or
less than half of it, or the store is not sound.
"""

import argparse
import hashlib
import json
import logging
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx.helper
from harness import end_with

from fedmed_edge.config import SiteConfig, SiteFederation
from fedmed_edge.federation.loopback import Loopback
from fedmed_edge.federation.outbox import Outbox
from fedmed_edge.federation.site_side import sync
from fedmed_edge.generation import Generation, GenerationHeader
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import refine
from fedmed_edge.recipe import Backbone, Recipe
from fedmed_edge.signing import generate_key, write_public_key
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.contribution import new_contribution
from fedmed_edge.store.planning import Federation, measure, plan
from fedmed_edge.store.store import Store

FEATURE_DIM, FOLDS, SIDE = 64, 5, 32
TOLERANCE = 2.0


def make_generation(row_dim: int) -> Generation:
    """Encoder outputs are copies of the image: the server never runs it."""
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [onnx.helper.make_node("Concat", ["image"] * FEATURE_DIM, ["scale0"], axis=1)]
    outputs = [value("scale0", kind, (1, FEATURE_DIM, SIDE, SIDE))]
    graph = onnx.helper.make_graph(nodes, "encoder", [value("image", kind, (1, 1, SIDE, SIDE))], outputs)
    lift_dim = row_dim - FEATURE_DIM - 1
    return Generation(
        header=GenerationHeader(
            kind="classification",
            channels=1,
            size=(SIDE, SIDE),
            backbone=Backbone(),
            widths=(FEATURE_DIM,),
            lift_dim=lift_dim,
        ),
        weights={"stem": np.zeros(1, np.float32)},
        encoder=onnx.helper.make_model(graph).SerializeToString(),
        mean=np.zeros(FEATURE_DIM, np.float32),
        deviation=np.ones(FEATURE_DIM, np.float32),
        projection=None,
        lift_weight=np.zeros((FEATURE_DIM, lift_dim), np.float32),
        lift_bias=np.zeros(lift_dim, np.float32),
        reference_mean=np.zeros(FEATURE_DIM),
        reference_covariance=np.eye(FEATURE_DIM),
    )


@dataclass(frozen=True)
class Hospital:
    name: str
    folder: Path
    config: SiteConfig


def make_hospital(root: Path, number: int, store: Store, generation: Generation, recipe: Recipe) -> Hospital:
    """Enrolled, with one contribution in its outbox."""
    name, random = f"hospital-{number:04}", np.random.default_rng(number)
    members = {index: [f"{index}-{patient}" for patient in range(10)] for index in range(len(recipe.classes))}
    sums = Accumulator(
        recipe.classes, row_dim=generation.row_dim, feature_dim=FEATURE_DIM, plan=plan_folds(members, 2)
    )
    for index, patients in members.items():
        for patient in patients:
            rows = random.normal(size=(1, generation.row_dim)).astype(np.float32)
            rows[:, -1] = 1
            sums.add_rows(rows, np.array([index], np.int32), patient)
            sums.add_image(random.normal(size=FEATURE_DIM).astype(np.float32), 1.0)
    made = new_contribution(
        sums.result(), generation=generation.digest, recipe=recipe, site=name, sequence=1, min_cohort=2
    )
    key, folder = generate_key(), root / name
    folder.mkdir()
    Outbox(folder / "outbox").add(made.sign(key))
    store.add_site(name, key.public_key())
    config = SiteConfig(site=name, server_key=root / "server.pub", federation=SiteFederation(server="here:1"))
    return Hospital(name, folder, config)


def hand_over(store: Store, root: Path, hospitals: list[Hospital]) -> tuple[float, list[str]]:
    """Seconds until the last of all of them, each a thread, has handed over; what went wrong."""
    failed: list[str] = []
    together = threading.Barrier(len(hospitals) + 1)

    def visit(one: Hospital) -> None:
        together.wait()
        try:
            sync(Loopback(store, root / "federation", one.name), one.folder, one.config, patience_s=600)
        except Exception as error:
            failed.append(f"{one.name}: {error!r}")

    threads = [threading.Thread(target=visit, args=(one,)) for one in hospitals]
    for thread in threads:
        thread.start()
    together.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    waiting = [one.name for one in hospitals if Outbox(one.folder / "outbox").waiting()]
    return time.perf_counter() - start, failed + [f"{name}: not handed over" for name in waiting]


def slope(counts: list[int], work: Callable[[int], object]) -> tuple[list[float], float]:
    """Seconds for so many sites, the best of two; seconds a site, by least squares."""
    seconds = []
    for count in counts:
        best = np.inf
        for _ in range(2):
            start = time.perf_counter()
            work(count)
            best = min(best, time.perf_counter() - start)
        seconds.append(best)
    return seconds, float(np.polyfit(counts, seconds, 1)[0])


def run(root: Path, sites: int, row_dim: int, classes: int, index: str | None) -> dict[str, object]:
    names = tuple(f"class {number}" for number in range(classes))
    recipe = Recipe(name="load", kind="classification", classes=names, size=(SIDE, SIDE))
    generation, store = make_generation(row_dim), Store.create(root / "store", index=index)
    store.add_recipe(recipe)
    store.publish_generation(generation.content)
    write_public_key(root / "server.pub", generate_key().public_key())
    hospitals = [make_hospital(root, number, store, generation, recipe) for number in range(sites)]
    federation = Federation(sites, row_dim, classes, FOLDS, FEATURE_DIM)
    rates = measure(row_dim, FOLDS, folder=root)
    planned, quarter = plan(federation, rates), plan(Federation(sites // 4, row_dim, classes, FOLDS), rates)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    received, wrong = hand_over(store, root, hospitals)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    size = max(entry.bytes for entry in store.contribution_entries())

    def taken(count: int) -> list:
        without = {one.name for one in hospitals[count:]}
        return store.contributions(recipe.name, without=without)

    counts = [sites // 4, sites // 2, sites]
    rebuilt, rebuild_slope = slope(counts, lambda count: rebuild(taken(count), recipe))
    refined, refine_slope = slope(counts, lambda count: refine(taken(count), hospitals[0].name, recipe))

    def planned_slope(name: str) -> float:
        return (getattr(planned, name) - getattr(quarter, name)) / (sites - sites // 4)

    handed = planned.receive_s + planned.check_s
    rows = {
        "receive and check, s a site": (received / sites, handed / sites),
        "rebuild, s a site": (rebuild_slope, planned_slope("rebuild_s")),
        "refine, s a site": (refine_slope, planned_slope("refine_s")),
        "contribution, bytes": (size, planned.contribution_bytes),
    }
    wrong += [
        f"{name}: measured {one:.3g}, planned {two:.3g}"
        for name, (one, two) in rows.items()
        if not 1 / TOLERANCE <= one / two <= TOLERANCE
    ]
    wrong += store.verify()
    return {
        "sites": sites,
        "rows": rows,
        "seconds": {"receive": received, "rebuild": rebuilt, "refine": refined, "counts": counts},
        "memory_kib": held,
        "ledger": store.verify_ledger().number,
        "model": hashlib.sha256(rebuild(taken(sites), recipe).content).hexdigest(),
        "rates": asdict(rates),
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=200)
    parser.add_argument("--row-dim", type=int, default=96)
    parser.add_argument("--classes", type=int, default=7)
    parser.add_argument("--index", help="URL of an empty PostgreSQL database")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="fedmed-load-") as root:
        found = run(Path(root), given.sites, given.row_dim, given.classes, given.index)
    if given.json:
        print(json.dumps(found))
    else:
        print(f"{given.sites} sites at once: {found['seconds']}, {found['memory_kib']} KiB more held")
        for name, (measured, planned) in found["rows"].items():  # type: ignore[attr-defined]
            print(
                f"{name:<30} measured {measured:>12.5g}  planned {planned:>12.5g}  {measured / planned:6.2f}"
            )
    for line in found["wrong"]:  # type: ignore[attr-defined]
        print(f"wrong: {line}")
    raise SystemExit(bool(found["wrong"]))


if __name__ == "__main__":
    end_with(main)
