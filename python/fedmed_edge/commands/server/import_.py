"""`fedmed-server import`: take contributions that came by file."""

from dataclasses import asdict
from pathlib import Path

import click

from fedmed_edge.commands.folders import ANY_PATH, folder_option, read_server
from fedmed_edge.commands.verbs import Output, Verb, complain
from fedmed_edge.errors import FedmedError


@click.command("import", cls=Verb)
@folder_option("Server")
@click.argument("files", nargs=-1, required=True, type=ANY_PATH)
@click.pass_context
def command(ctx: click.Context, folder: Path, files: tuple[Path, ...]) -> None:
    """Check FILES and keep them; the same one again changes nothing. Exit code 3 where some were refused.

    Example: fedmed-server import -C server a.contribution
    """
    out: Output = ctx.obj
    _, store = read_server(folder)
    taken, refused = {}, {}
    with out.progress("importing", len(files)) as advance:
        for file in files:
            try:
                taken[file] = store.import_contribution(file)
            except FedmedError as error:
                refused[file] = error
            advance(file.name)
    for why in refused.values():
        complain(str(why), why.hint)
    out.answer(
        {
            "imported": [{"file": str(file), **asdict(one)} for file, one in taken.items()],
            "refused": [{"file": str(file), "error": str(why)} for file, why in refused.items()],
        },
        [
            f"{file}: {one.id[:12]} of {one.site} for {one.task}, "
            + (f"sequence {one.sequence}" if one.new else "held already, nothing changed")
            for file, one in taken.items()
        ],
    )
    codes = [why.exit_code for why in refused.values()]
    ctx.exit(0 if not codes else 3 if taken else codes[0])
