"""`fedmed-edge report`: make the HTML report of a demo again."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import FILE, FOLDER, check_writable
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@click.argument("folder", type=FOLDER, default=Path("demo-output"))
@click.option("--out", "target", type=FILE, help="HTML file (default: report.html in FOLDER).")
@click.pass_obj
def command(out: Output, folder: Path, target: Path | None) -> None:
    """Write the report from the figures that a demo left in FOLDER; nothing is computed.

    Example: fedmed-edge report demo-output
    """
    from fedmed_edge.report.data import read_data
    from fedmed_edge.report.html import write_report

    path = target or folder / "report.html"
    figures = read_data(folder / "report.json")
    check_writable(path)
    write_report(path, figures)
    out.answer({"report": str(path)}, f"report: {path}")
