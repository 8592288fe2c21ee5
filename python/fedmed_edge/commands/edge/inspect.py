"""`fedmed-edge inspect`: what is in a file of ours; or which DICOM series a model would answer, and why."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed_edge.commands.contents import tell
from fedmed_edge.commands.folders import ANY_PATH, FILE
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError, NothingMatched

if TYPE_CHECKING:
    from fedmed_edge.images.selection import Verdict


@click.command(cls=Verb)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=ANY_PATH)
@click.option("--model", type=FILE, help="Exported model or recipe: say which series it would take.")
@click.pass_context
def command(ctx: click.Context, paths: tuple[Path, ...], model: Path | None) -> None:
    """Show what PATH holds: a contribution, generation, backbone, model, recipe, settings, key or signature.

    It is only looked at: no signature is checked, and of a private key nothing but its fingerprint is shown.
    With --model, PATH is a file, folder, DICOMDIR or zip of images: each series is held against the rules of
    the model, task by task, one by one, without loading the network. The exit code is 4 where none is taken.

    Example: fedmed-edge inspect study --model lesion.onnx
    """
    out: Output = ctx.obj
    if model is None:
        if len(paths) > 1:
            raise click.UsageError("several paths need --model")
        out.answer(*tell(paths[0]))
        return
    from fedmed_edge.inference.survey import document_of, recipes_of, survey

    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        raise InputError(f"{missing}: no such file or folder")
    recipes = recipes_of(model)
    named, rest = survey(paths, *recipes)
    lines = []
    for name, recipe, verdict in named:
        task = [f"{'':<10} task {recipe.name}"] if len(recipes) > 1 else []
        first, *others = _lines(name, verdict)
        lines += [first, *task, *others]
    out.answer(
        {
            "model": str(model),
            "series": [document_of(*one) for one in named],
            "others": [{"name": name, "what": what} for name, what in rest],
        },
        [*lines, *(f"other      {name}: {what.removeprefix(f'{name}: ')}" for name, what in rest)],
    )
    if not named and not rest:
        raise NothingMatched("no image found, expected DICOM, NIfTI, PNG or JPEG")
    pictures = any(what.endswith("taken as it is") for _, what in rest)
    ctx.exit(0 if pictures or any(verdict.taken for *_, verdict in named) else NothingMatched.exit_code)


def _lines(name: str, verdict: "Verdict") -> list[str]:
    series = verdict.series
    known = f" ({series.part})" if series.part else ""
    state = "taken" if verdict.taken and verdict.sound else "faulty" if verdict.taken else "not taken"
    told = [f"{state:<10} {name}{known}", f"{'':<10} {verdict.geometry}"]
    told += [f"{'':<10} {'keeps' if rule.holds else 'breaks':<7}{rule}" for rule in verdict.rules]
    behind = verdict.matches and verdict.reason
    return [*told, f"{'':<10} {verdict.reason}"] if behind and not verdict.taken else told
