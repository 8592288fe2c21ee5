"""`fedmed-edge agent`: stay connected, within the site's policy."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import folder_option, read_site
from fedmed_edge.commands.verbs import Output, Verb, ends_on_signal
from fedmed_edge.heartbeat import Heartbeat


@click.command(cls=Verb)
@folder_option("Site")
@click.pass_obj
def command(out: Output, folder: Path) -> None:
    """Stay connected to the server: hand over what lies in the outbox, fetch what is published, do what the
    server asks where `[federation]` of fedmed.toml allows it.

    One outbound connection; nothing listens for others. Runs until Ctrl-C or SIGTERM.

    Example: fedmed-edge agent -C hospital-a
    """
    from fedmed_edge.federation.engine.processes import run_agent
    from fedmed_edge.federation.engine.site_kit import server_address

    config = read_site(folder)
    host, port = server_address(folder)
    server, ended = config.federation.server or f"{host}:{port}", ends_on_signal()
    out.answer(
        {"folder": str(folder), "site": config.site, "server": server},
        f"{folder}: site {config.site} connects to {server} and to nothing else",
    )
    with Heartbeat(folder, "agent") as beat:
        run_agent(folder, config, lambda facts: beat.tell(**facts), ended)
