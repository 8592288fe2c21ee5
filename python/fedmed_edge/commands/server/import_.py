"""`fedmed-server import`: take contributions that came by file."""

from dataclasses import asdict
from pathlib import Path

import click

from fedmed_edge.commands.folders import ANY_PATH, folder_option, read_server
from fedmed_edge.commands.verbs import Output, Verb


@click.command("import", cls=Verb)
@folder_option("Server")
@click.argument("files", nargs=-1, required=True, type=ANY_PATH)
@click.pass_obj
def command(out: Output, folder: Path, files: tuple[Path, ...]) -> None:
    """Check FILES and keep them; the same one again changes nothing.

    Example: fedmed-server import -C server a.contribution
    """
    _, store = read_server(folder)
    taken = []
    with out.progress("importing", len(files)) as advance:
        for file in files:
            taken.append(store.import_contribution(file))
            advance(file.name)
    out.answer(
        {"imported": [asdict(one) for one in taken]},
        [
            f"{file}: {one.id[:12]} of {one.site} for {one.task}, "
            + (f"sequence {one.sequence}" if one.new else "held already, nothing changed")
            for file, one in zip(files, taken, strict=True)
        ],
    )
