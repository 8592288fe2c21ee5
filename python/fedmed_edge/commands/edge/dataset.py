"""`fedmed-edge dataset`: a dataset folder from DICOM and a spreadsheet of labels."""

from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from fedmed_edge.commands.folders import FILE, FOLDER
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.listening import LabelKey
from fedmed_edge.words import counted

_BY = click.Choice(get_args(LabelKey))


@click.command(cls=Verb)
@click.argument("scan", nargs=-1, required=True)
@click.option("--out", "target", type=FOLDER, required=True, help="Dataset folder to make.")
@click.option("--labels", type=FILE, help="CSV file with a row a study; without it images are unlabelled.")
@click.option("--by", type=_BY, default="AccessionNumber", show_default=True, help="Column naming the study.")
@click.option("--label", default="label", show_default=True, help="Column with the class.")
@click.option("--recipe", type=FILE, help="Its rules choose series, its classes number masks.")
@click.option(
    "--class", "renames", multiple=True, metavar="NAME=CLASS", help="Class of a segment or structure."
)
@click.option("--copy", is_flag=True, help="Copy the files instead of linking to them.")
@click.option("--lenient", is_flag=True, help="Resample crooked stacks and keep them as NIfTI.")
@click.option(
    "--query", multiple=True, metavar="KEY=VALUE", help="What studies of a DICOMweb server must match."
)
@click.option("--user", help="Name at the DICOMweb server.")
@click.option("--password-file", type=FILE, help="File with the password there.")
@click.pass_context
def command(
    ctx: click.Context,
    scan: tuple[str, ...],
    target: Path,
    labels: Path | None,
    by: str,
    label: str,
    recipe: Path | None,
    renames: tuple[str, ...],
    copy: bool,
    lenient: bool,
    query: tuple[str, ...],
    user: str | None,
    password_file: Path | None,
) -> None:
    """Make a dataset folder from SCAN: DICOM files, folders, DICOMDIR, zips, or a DICOMweb server's address.

    Series and rows of the table find each other by accession number, study or patient. DICOM segmentations
    and radiotherapy structures become masks. What is left out is listed, and in unused.csv; the exit code is
    3 where that is a loss: a row without images, a file that cannot be read.

    Example: fedmed-edge dataset archive --labels findings.csv --by AccessionNumber --out lesions
    """
    from fedmed_edge.images.archive import open_archive
    from fedmed_edge.images.collect import Plan, collect
    from fedmed_edge.recipe import read_recipe

    out: Output = ctx.obj
    rules = read_recipe(recipe) if recipe else None
    plan = Plan(target, by, labels, label, rules, _pairs(renames, "--class"), copy, lenient)
    with out.progress("collecting") as advance:
        archive = open_archive(scan, plan, _pairs(query, "--query"), user, password_file, advance)
        made = collect(archive.paths, plan, advance, failed=archive.failed)
    lines = [f"left out   {name}: {reason}" for name, reason in made.unused]
    images, patients = counted(made.images, "image"), counted(made.patients, "patient")
    told = f"{target}: {images} of {patients}, {counted(made.masks, 'mask')}"
    document = {"out": str(target), **asdict(made), "unused": [list(one) for one in made.unused]}
    out.answer(document, [*lines, told, f"classes: {', '.join(made.classes) or 'none'}"])
    ctx.exit(3 if made.faults else 0)


def _pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    if wrong := next((pair for pair in given if "=" not in pair), None):
        raise click.UsageError(f"{option}: `{wrong}` has no `=`")
    return {name.strip(): value.strip() for name, _, value in (pair.partition("=") for pair in given)}
