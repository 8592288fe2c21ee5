"""`fedmed-server withdraw`: delete a site's contributions and rebuild without them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.server.rebuild import told, told_held_back
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.store.store import Store
    from fedmed_edge.store.withdrawal import Rebuilt, Withdrawn


@click.command(cls=Verb)
@folder_option("Server")
@click.argument("site")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.pass_obj
def command(out: Output, folder: Path, site: str, yes: bool) -> None:
    """Delete everything that SITE contributed and rebuild every task it took part in.

    The new model has the same bytes as one of a federation that SITE never contributed to. What the shared
    backbone learned from it stays until the next generation. Files that were exported before still answer at
    hospitals that do not connect: export anew and hand it over.

    Example: fedmed-server withdraw -C server hospital-b --yes
    """
    from fedmed_edge.commands.staging import forget_stages
    from fedmed_edge.federation.coordinator import FOLDER
    from fedmed_edge.federation.parts import discard_all
    from fedmed_edge.federation.rounds import discard_unfinished
    from fedmed_edge.store.withdrawal import withdraw_and_rebuild

    _, store = read_server(folder)
    held = store.site(site).contributions
    if not yes:
        _ask(f"delete everything that {site} contributed ({counted(held, 'contribution')}) and rebuild?")
    done, stages = withdraw_and_rebuild(store, site), forget_stages(folder, store)
    arriving = discard_all(folder / FOLDER / "inbox" / site, store.cipher)
    discard_unfinished(folder / FOLDER, store.cipher)
    exported = _exported(store, site)
    models = [told(task.model)[0] for task in done.tasks.values() if task.model]
    document = {
        "site": site,
        "deleted": list(done.deleted.contributions),
        "withdrawn_models": list(done.deleted.models),
        "exported": exported,
        "tasks": {
            name: {"before": task.before, "after": task.model.digest if task.model else None}
            for name, task in done.tasks.items()
        },
        "models": models,
        "digest": models[0]["digest"] if models else None,
        "sites": models[0]["sites"] if models else [],
        "not_rebuilt": {name: task.why for name, task in done.tasks.items() if task.why},
        "stays": {"backbones": list(done.backbones), "measurements": list(done.measurements)},
        "stages": stages,
        "arriving": arriving,
        "faults": list(done.faults),
    }
    held_back = {name: store.held_back.of(name) for name in done.tasks}
    more = {"back": {name: list(task.back) for name, task in done.tasks.items()}, "held_back": held_back}
    lines = [f"stage {one[:12]} was not finished and had learned from it: deleted" for one in stages]
    lines += [f"files of {site} that had not come whole: {arriving} deleted"] if arriving else []
    lines += [
        f"model {digest[:12]} was exported and still answers at hospitals that do not connect: "
        "export anew and hand it over"
        for digest in exported
    ]
    lines += [line for held in held_back.values() for line in told_held_back(held)]
    out.answer(document | more, _lines(site, done) + lines)


def _exported(store: "Store", site: str) -> list[str]:
    """Digests of the withdrawn models with the site in them of which a file was written."""
    files = {row.subject for row in store.ledger() if row.kind == "exported"}
    return [
        one.digest for one in store.models() if one.withdrawn and site in one.sites and one.digest in files
    ]


def _ask(question: str) -> None:
    how = "give --yes to withdraw without being asked"
    if not (sys.stdin and sys.stdin.isatty()):
        raise click.UsageError(f"there is no terminal to confirm at: {how}")
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as stop:
        if isinstance(stop.__context__, EOFError):
            click.echo(err=True)
            raise click.UsageError(f"not answered, nothing was deleted: {how}") from None
        raise
    if not agreed:
        raise InputError("withdraw: not confirmed, nothing was deleted", hint="answer y, or give --yes")


def _lines(site: str, done: "Withdrawn") -> list[str]:
    count, marked = len(done.deleted.contributions), [digest[:12] for digest in done.deleted.models]
    stays = "stays until the next generation:"
    lines = [
        f"{site}: {counted(count, 'contribution')} deleted"
        if count
        else f"{site}: held nothing, nothing was deleted",
        f"models marked as withdrawn: {', '.join(marked) or 'none'}",
        *(_line(name, task) for name, task in done.tasks.items()),
        *(f"{stays} what the backbone of {one[:12]} learned from images of {site}" for one in done.backbones),
        *(
            f"{stays} standardisation and reference of {one[:12]}, measured with images of {site}"
            for one in done.measurements
        ),
    ]
    if not (done.backbones or done.measurements):
        lines.append(f"no published backbone learned from images of {site}")
    return lines + [f"fault: {fault}" for fault in done.faults]


def _line(name: str, task: "Rebuilt") -> str:
    before = f"model {task.before[:12]}" if task.before else "no model"
    if task.model is None:
        return f"{name}: {before} before, no model was rebuilt from those who are left: {task.why}"
    after = "unchanged" if task.before == task.model.digest else f"{task.model.digest[:12]} now"
    back = f"; in it now and not before: {', '.join(task.back)}" if task.back else ""
    return f"{name}: {before} before, {after}, of {', '.join(task.model.sites)}{back}"
