"""`fedmed-server publish`: put a generation or a model on offer to the hospitals."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import FILE, folder_option, read_server
from fedmed_edge.commands.server.rebuild import task_of, task_option
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError
from fedmed_edge.signing import read_private_key


@click.command(cls=Verb)
@folder_option("Server")
@task_option
@click.argument("file", type=FILE)
@click.option("--site", "sites", multiple=True, help="Hospital that may have it; repeatable (default: all).")
@click.option("--ask/--no-ask", default=True, help="Of a generation: ask for contributions (default: yes).")
@click.option("--validate", is_flag=True, help="Of a model: ask hospitals first how it does on their images.")
@click.option("--tolerance", type=click.FloatRange(0, 1), default=0.02, help="Of --validate (default: 0.02).")
@click.pass_obj
def command(
    out: Output,
    folder: Path,
    task: str | None,
    file: Path,
    sites: tuple[str, ...],
    ask: bool,
    validate: bool,
    tolerance: float,
) -> None:
    """Offer FILE, a generation of `generation publish` or a model of `export`; `start` hands it over.

    Hospitals fetch it when they are next online. A refined model goes to its own hospital alone. With
    --validate the model is published once a quorum of hospitals has found it not worse than the one before by
    more than the tolerance.

    Example: fedmed-server publish -C server lesion.onnx
    """
    from fedmed_edge.federation.coordinator import FOLDER
    from fedmed_edge.federation.offers import Offers
    from fedmed_edge.federation.publishing import publish_generation, publish_model, validate_model
    from fedmed_edge.kinds import file_kind

    config, store = read_server(folder)
    key, offers = read_private_key(config.key), Offers(folder / FOLDER / "offers")
    for site in sites:
        store.site(site)
    kind, to = file_kind(file), sites or None
    if kind == "generation":
        from fedmed_edge.generation import read_generation

        digest, recipe = read_generation(file).digest, store.recipe(task_of(store, task))
        offer = publish_generation(store, offers, key, digest, recipe, sites=to, ask=ask)
    elif kind == "exported model" and validate:
        offer = validate_model(store, folder / FOLDER, key, file, config.federation, to, tolerance)
    elif kind == "exported model":
        offer = publish_model(store, offers, key, file, sites=to)
    else:
        found = f"a {kind}" if kind else "no file of ours"
        raise InputError(f"{file}: is {found}, expected a generation or an exported model")
    out.answer(
        {"digest": offer.digest, "kind": offer.kind, "task": offer.task, "sites": sites and list(sites)},
        f"{offer.kind} {offer.digest[:12]}: on offer to {', '.join(offer.sites or ()) or 'every hospital'}",
    )
