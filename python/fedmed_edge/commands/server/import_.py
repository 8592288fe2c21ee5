"""`fedmed-server import`: take contributions that came by file."""

from dataclasses import asdict
from pathlib import Path

import click

from fedmed_edge.commands.folders import ANY_PATH, folder_option, read_server
from fedmed_edge.commands.regions import contribution_files
from fedmed_edge.commands.verbs import Output, Verb, complain
from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.kinds import FileKind, file_kind, mistaken


@click.command("import", cls=Verb)
@folder_option("Server")
@click.argument("files", nargs=-1, required=True, type=ANY_PATH)
@click.pass_context
def command(ctx: click.Context, folder: Path, files: tuple[Path, ...]) -> None:
    """Check FILES and keep them; the same one again changes nothing. Exit code 3 where some were refused.

    The folder of another server stands for every contribution that is current in its store.

    Example: fedmed-server import -C server a.contribution
    """
    out: Output = ctx.obj
    _, store = read_server(folder)
    taken, refused = {}, {}
    with out.progress("importing") as advance, contribution_files(files) as found:
        for name, file in found:
            try:
                taken[name] = store.import_contribution(file, where=name)
            except FedmedError as error:
                refused[name] = _other_kind(file) or error
            advance(name)
    for why in refused.values():
        complain(str(why), why.hint)
    out.answer(
        {
            "imported": [{"file": file, **asdict(one)} for file, one in taken.items()],
            "refused": [{"file": file, "error": str(why), "hint": why.hint} for file, why in refused.items()],
        },
        [
            f"{file}: {one.id[:12]} of {one.site} for {one.task}, "
            + (f"sequence {one.sequence}" if one.new else "held already, nothing changed")
            for file, one in taken.items()
        ],
    )
    codes = [why.exit_code for why in refused.values()]
    ctx.exit(0 if not codes else 3 if taken else codes[0])


def _other_kind(file: Path) -> InputError | None:
    """What to say of a file of ours that is no contribution."""
    kind, said = file_kind(file), mistaken(file, "contribution")
    return InputError(f"{file}: {said}", hint=_TAKEN_BY[kind]) if kind and said else None


_TAKEN_BY: dict[FileKind, str] = {
    "generation": "hospitals take it: `fedmed-edge contribute --generation FILE`",
    "backbone": "`fedmed-edge contribute --weights FILE` makes a contribution of it, "
    "`fedmed-server generation publish --backbone FILE` a draft",
    "model": "`fedmed-server rebuild` makes models from contributions, none is imported",
    "exported model": "`fedmed-edge infer --model FILE` takes it",
    "recipe": "`fedmed-server generation publish --recipe FILE` takes it",
    "settings file": "its folder is named with -C",
    "public key": "`fedmed-server site add NAME --key FILE` takes it",
    "private key": "private keys never travel: leave it where it was made",
    "signature": "it belongs beside the file that it signs",
    "request": "`fedmed-server site add NAME --request FILE` takes it",
    "server's answer": "the hospital takes it: `fedmed-edge init FOLDER --install FILE`",
}
