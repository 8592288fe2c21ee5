"""`fedmed-server start`: let the hospitals connect."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.verbs import Output, Verb, ends_on_signal
from fedmed_edge.heartbeat import Heartbeat


@click.command(cls=Verb)
@folder_option("Server")
@click.pass_obj
def command(out: Output, folder: Path) -> None:
    """Run the federation: take connections on one port, and meet the hospitals that are online.

    Runs until Ctrl-C or SIGTERM. Everything else works beside it, and without it.

    Example: fedmed-server start -C server
    """
    from fedmed_edge.federation.engine.processes import run_server

    config, _ = read_server(folder)
    rules, ended = config.federation, ends_on_signal()
    out.answer(
        {"folder": str(folder), "host": rules.host, "port": rules.port},
        f"{folder}: hospitals reach this server at {rules.host}, TCP port {rules.port}",
    )
    with Heartbeat(folder, "server") as beat:
        run_server(folder, config, lambda alive: beat.tell(**alive), ended.is_set)
