"""`fedmed-server withdraw`: delete a site's contributions, rebuild, and prove it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.server.rebuild import told
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError

if TYPE_CHECKING:
    from fedmed_edge.store.store import Store


@click.command(cls=Verb)
@folder_option("Server")
@click.argument("site")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(out: Output, folder: Path, site: str, yes: bool) -> None:
    """Delete everything that SITE contributed and rebuild every task it took part in.

    The new model has the same bytes as one of a federation that SITE never contributed to. What the shared
    backbone learned from it stays until the next generation.

    Example: fedmed-server withdraw -C server hospital-b --yes
    """
    from fedmed_edge.model.rebuild import rebuild

    _, store = read_server(folder)
    if not yes and not click.confirm(f"delete everything that {site} contributed?", err=True):
        raise InputError("withdraw: not confirmed, nothing was deleted", hint="answer y, or give --yes")
    done = store.withdraw(site)
    models, not_rebuilt, lines = [], {}, [f"{site}: {len(done.contributions)} contributions deleted"]
    lines.append(f"models marked as withdrawn: {', '.join(d[:12] for d in done.models) or 'none'}")
    for task in sorted({*done.tasks, *_unfinished(store)}):
        try:
            model = rebuild(store.contributions(task), store.recipe(task))
        except InputError as error:
            not_rebuilt[task] = str(error)
            lines.append(f"{task}: no model was rebuilt from those who are left: {error}")
            continue
        store.save_model(model)
        document, told_lines = told(model)
        models.append(document)
        lines += told_lines
    faults = store.verify()
    out.answer(
        {
            "site": site,
            "deleted": list(done.contributions),
            "withdrawn_models": list(done.models),
            "models": models,
            "digest": models[0]["digest"] if models else None,
            "sites": models[0]["sites"] if models else [],
            "not_rebuilt": not_rebuilt,
            "faults": faults,
        },
        lines + [f"fault: {fault}" for fault in faults],
    )


def _unfinished(store: "Store") -> set[str]:
    """Tasks whose newest global model is withdrawn: a withdrawal was interrupted before the rebuild."""
    newest = {entry.task: entry.withdrawn for entry in reversed(store.models()) if entry.refined_for is None}
    return {task for task, withdrawn in newest.items() if withdrawn}
