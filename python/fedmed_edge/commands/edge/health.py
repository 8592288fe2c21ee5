"""`fedmed-edge health` and `fedmed-server health`: is what runs in a folder well?"""

from pathlib import Path

import click

from fedmed_edge.commands.folders import folder_option
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@folder_option("Site or server")
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """Tell whether the verbs that run in this folder (agent, listen, start) are well: exit 0, else 1.

    Example: fedmed-edge health -C hospital-a
    """
    from fedmed_edge.heartbeat import faults_of, running

    faults = faults_of(folder)
    verbs = running(folder)
    out: Output = ctx.obj
    document = {"healthy": not faults, "faults": faults, "running": verbs}
    out.answer(document, faults or f"well: {', '.join(verbs)}")
    ctx.exit(1 if faults else 0)
