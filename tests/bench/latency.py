"""From the last C-STORE at the node until its results are found in a real PACS, without the settling time.

    .venv/bin/python tests/bench/latency.py [--rounds 7] [--slices 60] [--side 128] [--json]

Sends by dcmtk's storescu, and a node with a toy model whose network costs next to nothing answers and sends
on to Orthanc: one image (classification, a report), then a volume (segmentation and report). Each figure is
the median of the rounds, the first of which is left out, as it warms caches. `network` is part of `answer`;
`overhead` is all but settling and network, and has to be at most half a second. `cpu` is processor time of
node and model's process together behind the last C-STORE, which other work on the machine hardly lengthens.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import end_with

sys.path.insert(0, str(Path(__file__).parents[1]))

from kits import load

GOAL_S, SETTLE_S = 0.5, 1.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def one_round(
    pacs: ModuleType, site: Any, orthanc: Any, folder: Path, slices: int, side: int
) -> dict[str, float]:
    """Seconds of one series, by what they went to."""
    series = pacs.write_series(folder, slices, side=side, value=20)
    made = 1 if slices == 1 else 2
    before = orthanc.get("/statistics")["CountInstances"]
    assert pacs.send(site.port, folder) == 0
    cpu = processor_seconds(site.process.pid)
    assert pacs.until(
        lambda: orthanc.get("/statistics")["CountInstances"] >= before + made, seconds=120, step=0.01
    ), site.stderr
    found = time.time()
    cpu = processor_seconds(site.process.pid) - cpu
    ((received, ended, answering, out),) = site.rows(
        "SELECT received_at, finished_at, seconds, folder FROM series JOIN jobs USING (series_uid)"
        " WHERE series_uid = ?",
        series,
    )
    (result,) = Path(out).rglob("result.json")
    network = json.loads(result.read_text())["stages"]["network"]
    latency = found - received - SETTLE_S
    return {
        "latency": latency,
        "until taken up": ended - answering - received - SETTLE_S,
        "answer": answering,
        "network": network,
        "delivery": found - ended,
        "overhead": latency - network,
        "cpu": cpu,
    }


def processor_seconds(process: int) -> float:
    """Of a process and its children, so far."""
    total = 0.0
    children = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
    for one in (process, *(child for found in children for child in found)):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


def measure(options: argparse.Namespace, root: Path) -> dict[str, dict[str, float]]:
    """Medians by case."""
    pacs = load("end_to_end/pacs.py")
    orthanc = pacs.Orthanc(root / "orthanc")
    found = {}
    try:
        for name, dimensions, slices in (("image", 2, 1), ("volume", 3, options.slices)):
            site = pacs.Site(
                root / name,
                dimensions=dimensions,
                window=64,
                send=True,
                destination=[orthanc.destination],
                settle_s=SETTLE_S,
            )
            with pacs.running(site):
                rounds = [
                    one_round(pacs, site, orthanc, root / f"{name}-{number}", slices, options.side)
                    for number in range(options.rounds + 1)
                ][1:]
            found[name] = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    finally:
        orthanc.stop()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        found = measure(options, root)
    finally:
        shutil.rmtree(root)
    load_average = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"seconds": found, "load": load_average, "goal": GOAL_S}))
        return
    print(f"{'seconds':<16}" + "".join(f"{name:>10}" for name in found))
    for key in found["image"]:
        print(f"{key:<16}" + "".join(f"{one[key]:>10.3f}" for one in found.values()))
    met = all(one["overhead"] <= GOAL_S for one in found.values())
    print(f"goal of {GOAL_S} s {'met' if met else 'missed'}; load of the machine {load_average:.1f}")


if __name__ == "__main__":
    end_with(main)
