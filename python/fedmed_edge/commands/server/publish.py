"""`fedmed-server publish`: put a generation or a model on offer to the hospitals."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import FILE, Number, folder_option, read_server
from fedmed_edge.commands.server.rebuild import task_option
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@folder_option("Server")
@task_option
@click.argument("file", type=FILE, required=False)
@click.option("--refined", metavar="SITE", help="The newest model refined for this hospital, to it alone.")
@click.option("--site", "sites", multiple=True, help="Hospital that may have it; repeatable (default: all).")
@click.option("--ask/--no-ask", default=True, help="Of a generation: ask for contributions (default: yes).")
@click.option("--validate", is_flag=True, help="Of a model: ask hospitals first how it does on their images.")
@click.option("--tolerance", type=Number(0, 1), default=0.02, help="Of --validate (default: 0.02).")
@click.pass_obj
def command(
    out: Output,
    folder: Path,
    task: str | None,
    file: Path | None,
    refined: str | None,
    sites: tuple[str, ...],
    ask: bool,
    validate: bool,
    tolerance: float,
) -> None:
    """Offer the newest model, or FILE: a generation of `generation publish`, a model of `export`.

    Hospitals fetch it from `start` when they are next online. A refined model goes to its own hospital alone.
    With --validate the model is published once a quorum of hospitals has found it not worse than the one
    before by more than the tolerance.

    Example: fedmed-server publish -C server --task lesion
    """
    if file and refined:
        raise click.UsageError("give either FILE or --refined SITE")
    from fedmed_edge.commands.offering import Offering

    config, store = read_server(folder)
    for site in (*sites, *([refined] if refined else [])):
        store.site(site)
    offering = Offering(folder, config, store, sites or None)
    if file:
        offer = offering.file(file, task, ask=ask, validate=validate, tolerance=tolerance)
    else:
        made = offering.newest_model(task, refined)
        offer = offering.model(*made, validate=validate, tolerance=tolerance)
    out.answer(
        {"digest": offer.digest, "kind": offer.kind, "task": offer.task, "model": offer.model}
        | {"others": offer.others, "sites": list(offer.sites or ()) or None},
        f"{offer.kind} {offer.digest[:12]}: on offer to {', '.join(offer.sites or ()) or 'every hospital'}",
    )
