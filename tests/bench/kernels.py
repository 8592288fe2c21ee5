"""Kernels against their peers: processor time of one thread, and peak memory.

    python tests/bench/kernels.py [--json] [--kernel NAME]... [--quick]

`pip install fedmed-edge[bench]` brings the peers; one that is not installed is skipped and said so. With
--json each row is one JSON object, else the table of cpp/benchmarks/README.md is printed. --quick takes
smaller cases, to see that everything runs; its figures mean little.
"""

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import harness  # noqa: E402


def all_rows(kernels: list[str]) -> Iterator[harness.Row]:
    """Rows of every area, whose modules stand beside this one."""
    for path in sorted(FOLDER.glob("rows_*.py")):
        area = importlib.import_module(path.stem)
        yield from area.rows(lambda kernel: not kernels or kernel in kernels)


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
    if not options.json:
        print("| kernel | case | peer | speedup | memory | error | bound |\n|---|---|---|---|---|---|---|")
    for row in all_rows(options.kernel):
        if options.json:
            print(json.dumps(dataclasses.asdict(row)), flush=True)
        else:
            cells = [row.kernel, row.case, row.peer, f"{row.speedup:.2f}", as_text(row.memory_ratio, ".1f")]
            cells += [as_text(row.error, ".1e"), as_text(row.error_bound, ".0e")]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    # Before NumPy or torch are imported; they read them once.
    os.environ.update(harness.SINGLE_THREAD)
    main()
