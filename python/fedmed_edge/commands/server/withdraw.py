"""`fedmed-server withdraw`: delete a site's contributions, rebuild, and prove it."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.server.rebuild import told
from fedmed_edge.commands.verbs import Output, Verb


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
    if not yes:
        click.confirm(f"delete everything that {site} contributed?", abort=True, err=True)
    done = store.withdraw(site)
    models, lines = [], [f"{site}: {len(done.contributions)} contributions deleted"]
    lines.append(f"models marked as withdrawn: {', '.join(d[:12] for d in done.models) or 'none'}")
    for task in done.tasks:
        left = store.contributions(task)
        if not left:
            lines.append(f"{task}: nobody is left, so no model was rebuilt")
            continue
        model = rebuild(left, store.recipe(task))
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
            "faults": faults,
        },
        lines + [f"fault: {fault}" for fault in faults],
    )
