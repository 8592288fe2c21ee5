"""`fedmed-edge doctor`: whether this site can work, and what to do where it cannot."""

from dataclasses import asdict
from pathlib import Path

import click

from fedmed_edge.commands.checks import examine
from fedmed_edge.commands.folders import folder_option
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@folder_option("Site")
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """Check settings, data, keys, runtime, device, disk and clock of a site; exit code 1 on a fault.

    Example: fedmed-edge doctor -C hospital-a
    """
    out: Output = ctx.obj
    checks = list(examine(folder))
    faults, warnings = (sum(check.level == level for check in checks) for level in ("fault", "warning"))
    lines = []
    for check in checks:
        lines.append(f"{check.level:<8} {check.name:<11} {check.found}")
        lines += [f"{'':<20} hint: {check.hint}"] if check.hint else []
    out.answer(
        {
            "folder": str(folder),
            "checks": [asdict(check) for check in checks],
            "faults": faults,
            "warnings": warnings,
        },
        [*lines, f"faults: {faults}, warnings: {warnings}"],
    )
    ctx.exit(1 if faults else 0)
