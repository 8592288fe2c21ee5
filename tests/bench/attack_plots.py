"""Draws the tables of SECURITY.md: who is found in the sums, and what noise costs.

    .venv/bin/python tests/bench/attack_plots.py [SECURITY.md] [--out docs/attacks.svg]

The tables are those that `attacks.py` and `noise.py` print, so the plot shows what the page says and nothing
else. Run it again when a table has changed.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from harness import end_with

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Table = list[list[str]]

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedmed",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
}
COSTS = ("blood_cells", "dermoscopy", "nuclei, Dice")
"""Sets of the tables with a column for every ε, as they follow each other on the page."""


def tables_of(text: str) -> Iterator[Table]:
    """Tables of a page, rows of cells, the heading first."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        yield [rows[0], *rows[2:]]


def number(cell: str) -> float:
    """The figure that a cell begins with."""
    return float(cell.replace(",", " ").split()[0])


def draw_members(axes: Axes, table: Table) -> None:
    """AUC over patients, a line for each width, and dashed with the recommended noise."""
    patients = [number(cell.removeprefix("n =")) for cell in table[0][2:]]
    for row in table[1:]:
        exact = row[1] == "exact, folds (default)"
        if exact or row[:2] == ["33", "ε 8"]:
            auc = [number(cell) for cell in row[2:]]
            label = f"{row[0]} columns, exact" if exact else "33 columns, ε 8"
            axes.plot(patients, auc, "o-" if exact else "k--", markersize=3, label=label)
    axes.axhline(0.5, color="0.7", linewidth=0.8)
    axes.set(xscale="log", xlabel="patients of the class", ylabel="AUC", title="Membership from the sums")
    axes.set_xticks(patients, [f"{n:g}" for n in patients])
    axes.minorticks_off()
    axes.legend()


def draw_costs(axes: Axes, tables: list[Table]) -> None:
    """Score over ε at 33 columns, a line for each set."""
    for name, table in zip(COSTS, tables, strict=True):
        (row,) = [row for row in table if row[0] == "33"]
        score = [number(cell) for cell in row[1:]]
        axes.plot(range(len(score)), score, "o-", markersize=3, label=name)
        axes.set_xticks(range(len(score)), table[0][1:])
    axes.set(ylabel="balanced accuracy, or Dice", title="What noise costs at 33 columns", ylim=(0.4, None))
    axes.legend(loc="lower left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", type=Path, nargs="?", default=Path("SECURITY.md"))
    parser.add_argument("--out", type=Path, default=Path("docs/attacks.svg"))
    options = parser.parse_args()
    tables = list(tables_of(options.page.read_text()))
    (members,) = [one for one in tables if one[0][:2] == ["columns", "release"] and "200" in one[0][-1]]
    costs = [one for one in tables if one[0][:2] == ["columns", "exact"]]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
        draw_members(left, members)
        draw_costs(right, costs)
        figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    end_with(main)
