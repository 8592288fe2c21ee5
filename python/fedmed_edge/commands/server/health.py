"""`fedmed-server health`: is what runs in the server's folder well? For containers and monitors."""

from pathlib import Path

import click

from fedmed_edge.commands.edge.health import answer_health
from fedmed_edge.commands.folders import folder_option
from fedmed_edge.commands.verbs import Verb


@click.command(cls=Verb)
@folder_option("Server")
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """Tell whether `start`, where it runs in this folder, is well: exit code 0, else 1.

    Example: fedmed-server health -C server
    """
    answer_health(ctx, folder)
