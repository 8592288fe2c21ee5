"""`fedmed-server status`: who has contributed what, and which models exist."""

from dataclasses import asdict
from pathlib import Path

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@folder_option("Server")
@click.pass_obj
def command(out: Output, folder: Path) -> None:
    """Sites, generations, contributions and models in the store, and whether its files are sound.

    Example: fedmed-server status -C server
    """
    _, store = read_server(folder)
    sites, entries, models = store.sites(), store.contribution_entries(), store.models()
    faults = store.verify()
    document = {
        "sites": [asdict(site) for site in sites],
        "generations": store.generations(),
        "tasks": store.tasks(),
        "contributions": [asdict(entry) for entry in entries],
        "models": [asdict(model) for model in models],
        "faults": faults,
    }
    lines = [
        f"sites: {', '.join(site.name for site in sites) or 'none'}",
        f"generations: {', '.join(digest[:12] for digest in store.generations()) or 'none'}",
        *(
            f"contribution {entry.id[:12]}  {entry.site:<20} {entry.task:<20} "
            f"generation {entry.generation[:12]}  {entry.bytes:>12,} bytes"
            f"{'' if entry.current else '  superseded'}"
            for entry in entries
        ),
        *(
            f"model {model.digest[:12]}  {model.task:<20} "
            f"{'refined for ' + model.refined_for if model.refined_for else 'global'}  "
            f"of {', '.join(model.sites)}{'  WITHDRAWN' if model.withdrawn else ''}"
            for model in models
        ),
        *(f"fault: {fault}" for fault in faults),
    ]
    out.answer(document, lines)
