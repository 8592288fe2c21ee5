"""`fedmed-server rollback`: take back what was published."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.server.rebuild import task_of, task_option
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import NothingMatched


@click.command(cls=Verb)
@folder_option("Server")
@task_option
@click.option("--digest", help="Of what is taken back, or its beginning (default: the newest global model).")
@click.pass_obj
def command(out: Output, folder: Path, task: str | None, digest: str | None) -> None:
    """Take a published model (or any object by its digest) back: hospitals fall back to the one before.

    Example: fedmed-server rollback -C server --task lesion
    """
    from fedmed_edge.federation.coordinator import FOLDER
    from fedmed_edge.federation.offers import Offers

    _, store = read_server(folder)
    offers = Offers(folder / FOLDER / "offers")
    there = [one for one in offers.all() if one.state == "on offer"]
    if digest is None:
        name = task_of(store, task)
        there = [one for one in there if (one.kind, one.sites) == ("model", None) and name in one.tasks]
    else:
        there = [one for one in there if one.digest.startswith(digest)]
    if not there or (digest and len(there) > 1):
        raise NothingMatched(f"rollback: {len(there)} objects on offer fit, expected 1")
    taken = offers.take_back(there[-1].digest, "taken back")
    told = {"kind": taken.kind, "task": taken.task, **({"others": taken.others} if taken.others else {})}
    store.ledger_append("taken back", subject=taken.digest, details=told)
    names = ", ".join(taken.tasks)
    before = next((one for one in reversed(there[:-1]) if digest is None), None)
    out.answer(
        {"digest": taken.digest, "kind": taken.kind, "tasks": list(taken.tasks)}
        | {"before": before and before.digest},
        f"{taken.kind} {taken.digest[:12]}{f' of {names}' if names else ''}: taken back"
        + (f"; {before.digest[:12]} is the newest again" if before else ""),
    )
