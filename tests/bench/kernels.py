"""Kernels against their peers: processor time of one thread, and peak memory.

    python tests/bench/kernels.py [--json] [--kernel NAME]... [--quick]

`pip install fedmed-edge[bench]` brings the peers; one that is not installed is skipped and said so. With
--json each row is one JSON object, else the table of cpp/benchmarks/README.md is printed. --quick takes
smaller cases, to see that everything runs; its figures mean little.
"""

import argparse
import dataclasses
import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import harness  # noqa: E402


def rows_by_kernel() -> dict[str, Callable[[], Iterator[harness.Row]]]:
    """What makes the rows of each kernel; the modules of the areas stand beside this one."""
    areas = (importlib.import_module(path.stem) for path in sorted(FOLDER.glob("rows_*.py")))
    return {kernel: make for area in areas for kernel, make in area.ROWS.items()}


def as_text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--kernel", action="append", default=[], metavar="NAME", help="only this kernel")
    parser.add_argument("--quick", action="store_true", help="small cases")
    options = parser.parse_args()
    if options.quick:
        os.environ["FEDMED_BENCH_QUICK"] = "1"
    known = rows_by_kernel()
    for kernel in options.kernel:
        if kernel not in known:
            parser.error(f"argument --kernel: has {kernel}, expected one of {', '.join(known)}")
    # Two kernels may share their rows.
    chosen = dict.fromkeys(known[kernel] for kernel in options.kernel or known)
    if not options.json:
        print("| kernel | case | peer | speedup | memory | error | bound |\n|---|---|---|---|---|---|---|")
    for row in itertools.chain.from_iterable(make() for make in chosen):
        if options.json:
            print(json.dumps(dataclasses.asdict(row)), flush=True)
        else:
            cells = [row.kernel, row.case, row.peer, f"{row.speedup:.2f}", as_text(row.memory_ratio, ".1f")]
            cells += [as_text(row.error, ".1e"), as_text(row.error_bound, ".0e")]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    # Before NumPy or torch are imported; they read them once.
    os.environ.update(harness.SINGLE_THREAD)
    harness.end_with(main)
