"""`fedmed-server refine`: one site's model, from the stored contributions alone."""

from pathlib import Path
from typing import Any

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.server.rebuild import ridge_option, task_of, task_option, told, told_held_back
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError


@click.command(cls=Verb)
@folder_option("Server")
@click.argument("site")
@task_option
@ridge_option
@click.pass_obj
def command(out: Output, folder: Path, site: str, task: str | None, ridge: Any) -> None:
    """Rebuild for SITE, hospitals like it weighing more; kept only where held-out sums say it is better.

    Example: fedmed-server refine -C server hospital-a
    """
    from fedmed_edge.model.refine import refine

    _, store = read_server(folder)
    task = task_of(store, task)
    held_back = store.held_back.of(task)
    if site in held_back:
        raise InputError(
            f"refine: site `{site}` is held back: {held_back[site]}",
            hint=f"`fedmed-server site release {site}` takes it in again",
        )
    contributions = store.contributions(task)
    if any(one.header.site == site and "images" not in one.header.parts for one in contributions):
        raise InputError(
            f"refine: site `{site}` handed over no image statistics, by which hospitals like it are found",
            hint="sums with noise have none: such a site takes the model of all, as `rebuild` makes it",
        )
    generations = {one.header.generation for one in contributions}
    trained_by = {name for digest in generations for name in store.generation(digest).header.trained_by}
    model = refine(contributions, site, store.recipe(task), trained_by=trained_by, ridge=ridge)
    store.save_model(model)
    document, lines = told(model)
    out.answer(document | {"held_back": held_back}, lines + told_held_back(held_back))
