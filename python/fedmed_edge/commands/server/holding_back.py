"""`fedmed-server site hold` and `site release`: who is left out of a task's models, though stored."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.server.rebuild import task_of, task_option
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@folder_option("Server")
@click.argument("name")
@task_option
@click.option("--why", default="held back by hand", show_default=True, help="Words for the ledger.")
@click.pass_obj
def hold(out: Output, folder: Path, name: str, task: str | None, why: str) -> None:
    """Leave NAME out of the task's models from now on: of `rebuild`, `refine` and what `withdraw` makes.

    Nor does it teach in a `stage`, train in rounds of `train` or validate a model. Its contributions stay
    stored, and later ones are taken. Models that exist stay as they are.

    Example: fedmed-server site hold -C server hospital-a --why "labels are being checked"
    """
    _, store = read_server(folder)
    task = task_of(store, task)
    new = store.held_back.add(task, name, why)
    held_back = store.held_back.of(task)
    told = (
        f"held back: {held_back[name]}; the next `rebuild` leaves it out" if new else "was held back already"
    )
    out.answer({"task": task, "site": name, "new": new, "held_back": held_back}, f"{name}: {told}")


@click.command(cls=Verb)
@folder_option("Server")
@click.argument("name")
@task_option
@click.pass_obj
def release(out: Output, folder: Path, name: str, task: str | None) -> None:
    """Take NAME in again, from the next model and the next round of training on.

    Example: fedmed-server site release -C server hospital-a
    """
    _, store = read_server(folder)
    task = task_of(store, task)
    new = store.held_back.release(task, name)
    told = "released; the next `rebuild` takes it in again" if new else "was not held back"
    out.answer(
        {"task": task, "site": name, "new": new, "held_back": store.held_back.of(task)}, f"{name}: {told}"
    )
