"""`fedmed-server evaluate`: what the stored sums tell, with no image and no site online."""

from pathlib import Path
from typing import Any

import click

from fedmed_edge.commands.findings import told
from fedmed_edge.commands.folders import FILE, check_writable, folder_option, read_server
from fedmed_edge.commands.server.rebuild import ridge_option, task_of, task_option, told_held_back
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@folder_option("Server")
@task_option
@ridge_option
@click.option("--out", "target", type=FILE, help="Also draw it: an HTML page with map and tree of the sites.")
@click.pass_obj
def command(out: Output, folder: Path, task: str | None, ridge: Any, target: Path | None) -> None:
    """Error at every site of a head that has not seen it, worth of each site, distances between them.

    Example: fedmed-server evaluate -C server --out sums.html
    """
    from fedmed_edge.model.evaluate import evaluate
    from fedmed_edge.model.sums import read_sums
    from fedmed_edge.model.suspects import stand_out

    _, store = read_server(folder)
    task = task_of(store, task)
    if target is not None:
        check_writable(target)
    recipe, held_back = store.recipe(task), store.held_back.of(task)
    found = evaluate(store.contributions(task), recipe, ridge=ridge)
    stands_out = found.stands_out
    if held_back:  # they are looked at too: whoever does not stand out any more may be released
        stands_out = stand_out(read_sums(store.contributions(task, held_back=True), recipe))
    document, lines = told(found)
    more = {"task": task, "stands_out": dict(stands_out), "held_back": held_back}
    lines += [f"{name} stands out: {how}" for name, how in stands_out.items()] + told_held_back(held_back)
    if target is not None:
        from fedmed_edge.report.sums import write_sums_report

        notes = {name: f"stands out: {how}" for name, how in stands_out.items()}
        notes |= {name: f"is held back: {why}" for name, why in held_back.items()}
        write_sums_report(target, task, found, notes)
        more["out"] = str(target)
        lines.append(f"drawn: {target}")
    out.answer(document | more, lines)
