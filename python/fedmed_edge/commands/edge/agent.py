"""`fedmed-edge agent`: stay connected, within the site's policy."""

from pathlib import Path

import click

from fedmed_edge.commands.connection_checks import way_of
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
    from fedmed_edge.federation.engine.reachability import Watch
    from fedmed_edge.federation.engine.site_kit import TLS_KEY
    from fedmed_edge.signing import read_private_key

    config, ended = read_site(folder), ends_on_signal()
    way = way_of(folder, config)
    read_private_key(config.key)
    (folder / TLS_KEY).read_bytes()  # what the engine would look for again and again
    out.answer(
        {"folder": str(folder), "site": config.site, "server": f"{way.host}:{way.port}"},
        f"{folder}: site {config.site} connects to {way} and to nothing else",
    )
    with Heartbeat(folder, "agent") as beat:
        watch = Watch(folder, way)

        def told(facts: dict[str, bool]) -> None:
            beat.tell(**facts)
            watch.see(facts.get("connected", True))

        run_agent(folder, config, told, ended.is_set)
