"""`fedmed-edge health`: is what runs in the site's folder well? For containers and monitors."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import folder_option
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@folder_option("Site")
@click.argument("verb", type=click.Choice(["agent", "listen"]), required=False)
@click.pass_context
def command(ctx: click.Context, folder: Path, verb: str | None) -> None:
    """Tell whether `agent` and `listen`, where they run in this folder, are well: exit code 0, else 1.

    With VERB, that one alone, which has to run.

    Example: fedmed-edge health -C hospital-a
    """
    answer_health(ctx, folder, verb)


def answer_health(ctx: click.Context, folder: Path, verb: str | None = None) -> None:
    """Print what is wrong, or that all is well, and end with the exit code that says so."""
    from fedmed_edge.heartbeat import faults_of, running

    out: Output = ctx.obj
    faults, verbs = faults_of(folder, verb), running(folder)
    document = {"healthy": not faults, "faults": faults, "running": verbs}
    out.answer(document, faults or f"well: {', '.join(verbs)}")
    ctx.exit(1 if faults else 0)
