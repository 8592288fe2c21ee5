"""`fedmed-edge pull`: the newest model that the server published."""

import shutil
import time
from pathlib import Path

import click

from fedmed_edge.commands.folders import FILE, check_writable, folder_option, read_site
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import NothingMatched, Unreachable
from fedmed_edge.heartbeat import running
from fedmed_edge.signing import signature_path, verify_trusted

LOOK_S = 0.5


@click.command(cls=Verb)
@folder_option("Site")
@click.option("--task", help="Name of the recipe; needed where models of several came.")
@click.option("--generation", is_flag=True, help="The newest generation instead.")
@click.option("--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for one.")
@click.option(
    "--out", "target", type=FILE, help="File to write, its .sig beside it; else `model activate` has it."
)
@click.pass_obj
def command(
    out: Output, folder: Path, task: str | None, generation: bool, wait_s: float, target: Path | None
) -> None:
    """Check the newest model that `agent` fetched, refined for this site where there is one; it then waits.

    Of a refined and the global model the one is kept that does better on the site's own test images.
    `fedmed-edge model activate` has it answer. With --out, or --generation, it is copied to a file instead.

    Example: fedmed-edge pull -C hospital-a
    """
    from fedmed_edge.federation.inbox import Inbox

    config, kind = read_site(folder), "generation" if generation else "model"
    if target is None and generation:
        raise click.UsageError("--generation needs --out, the file to write")
    if target is not None:
        check_writable(target)
    inbox, until = Inbox(folder / "inbox"), time.monotonic() + wait_s
    while (found := inbox.newest(kind, task=task)) is None and time.monotonic() < until:
        time.sleep(LOOK_S)
    if found is None and "agent" not in running(folder):
        raise Unreachable(
            f"{folder}: no {kind} came, and no agent runs",
            hint="`fedmed-edge agent` fetches what is published",
        )
    if found is None:
        raise NothingMatched(f"{folder}: the server has not published a {kind} for this site yet")
    source = inbox.path(found.digest)
    if target is None:
        from fedmed_edge.federation.choosing import choose
        from fedmed_edge.inference.models import add_model

        choice = choose(inbox, found, config)
        entry = add_model(folder, inbox.path(choice.model.digest), trust=config.server_key)
        facts = {"out": str(entry.path), "kind": kind, "digest": choice.model.digest}
        told, words = choice.told()
        out.answer(
            facts | {"task": entry.task, "others": list(entry.tasks[1:]), "state": entry.state} | told,
            [f"{entry.name}  {entry.state}  {', '.join(entry.tasks)}, model {entry.model[:12]}", *words],
        )
        return
    verify_trusted(source, config.server_key)
    for origin, copy in ((source, target), (signature_path(source), signature_path(target))):
        shutil.copyfile(origin, copy)
    out.answer(
        {"out": str(target), "kind": kind, "digest": found.digest, "task": found.task, "bytes": found.bytes},
        f"{target}: {kind} {found.digest[:12]}" + (f" for {', '.join(found.tasks)}" if found.tasks else ""),
    )
