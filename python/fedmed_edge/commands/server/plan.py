"""`fedmed-server plan`: what a federation of some size will ask of its server."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed_edge.commands.folders import FOLDER
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.store.planning import Federation, Plan, Rates

GIGABIT = 125e6


@click.command(cls=Verb)
@click.option("--sites", type=int, required=True, help="Hospitals.")
@click.option("--feature-dim", "row_dim", type=int, required=True, help="D, width of a lifted row.")
@click.option("--classes", type=int, required=True, help="Classes of the task.")
@click.option(
    "--folds", type=click.Choice(["2", "5"]), default="5", show_default=True, help="Folds of a class."
)
@click.option(
    "--updates-per-year", type=float, default=4.0, show_default=True, help="Contributions of a site."
)
@click.option("--at", type=FOLDER, help="Measure on the disk of this folder; default the temporary one's.")
@click.pass_obj
def command(
    out: Output, sites: int, row_dim: int, classes: int, folds: str, updates_per_year: float, at: Path | None
) -> None:
    """Bytes, seconds and storage, from rates that are measured on this machine in less than a minute.

    Example: fedmed-server plan --sites 5000 --feature-dim 1024 --classes 7
    """
    from fedmed_edge.store.planning import Federation, measure, plan

    federation = Federation(sites, row_dim, classes, int(folds), updates_per_year=updates_per_year)
    rates = measure(row_dim, int(folds), folder=at)
    made = plan(federation, rates)
    document = {"federation": asdict(federation), "plan": asdict(made), "rates": asdict(rates)}
    out.answer(document, _lines(federation, made, rates))


def _lines(federation: "Federation", made: "Plan", rates: "Rates") -> list[str]:
    sites, year = federation.sites, federation.updates_per_year
    shape = (
        f"{counted(federation.folds, 'fold')} of {federation.classes} classes, rows of {federation.row_dim}"
    )
    line = f"{_time(made.round_bytes / GIGABIT)} on a line of 1 Gbit/s"
    rows = [
        ("one contribution", _size(made.contribution_bytes), shape),
        ("one of every site", _size(made.round_bytes), line),
        ("kept after a year", _size(made.year_bytes), f"{year:g} of every site; superseded ones stay"),
        ("index and ledger", _size(made.index_bytes), "after a year"),
        ("memory", _size(made.memory_bytes), "of a rebuild: the sums of all sites at once"),
        ("receive", _time(made.receive_s), f"to write and hash one of each of {counted(sites, 'site')}"),
        ("check", _time(made.check_s), "signature, numbers, every Gram; and keep it"),
        ("rebuild", _time(made.rebuild_s), "one global model, reading included"),
        ("refine", _time(made.refine_s), "one site's model, distances between all sites included"),
    ]
    return [
        *(f"{name:<18} {value:>10}  {what}" for name, value, what in rows),
        f"rates were measured on this machine in {rates.took:.0f} s, one process, as busy as it is now; "
        "bytes are counted",
    ]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _time(seconds: float) -> str:
    for unit, length in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        if seconds < 2 * length:
            return f"{seconds:.2g} {unit}" if seconds < 10 else f"{seconds:.0f} {unit}"
        seconds /= length
    return f"{seconds:.1f} days"
