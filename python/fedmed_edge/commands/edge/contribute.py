"""`fedmed-edge contribute`: what this site hands over, signed; `--dry-run` shows it and writes nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmed_edge.commands.folders import (
    FILE,
    check_writable,
    folder_option,
    read_site,
    read_site_data,
    read_site_generation,
)
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.signing import read_private_key

if TYPE_CHECKING:
    from fedmed_edge.statistics.contribution import Contribution


@click.command(cls=Verb)
@folder_option("Site")
@click.option("--generation", type=FILE, help="Generation to contribute to (default: that of fedmed.toml).")
@click.option(
    "--weights",
    type=FILE,
    help="Backbone file of `train`: its difference from the generation goes instead of sums.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]))
@click.option("--dry-run", is_flag=True, help="List every tensor that would leave; write nothing.")
@click.option("--out", "target", type=FILE, help="Contribution file to write.")
@click.pass_obj
def command(
    out: Output,
    folder: Path,
    generation: Path | None,
    weights: Path | None,
    device: str | None,
    dry_run: bool,
    target: Path | None,
) -> None:
    """Extract statistics from this site's training images, within the policy of fedmed.toml, and sign them.

    Example: fedmed-edge contribute -C hospital-a --generation lesion.generation --out a.contribution
    """
    if (target is None) == (not dry_run):
        raise click.UsageError("give either --out FILE or --dry-run")
    from fedmed_edge.hospital import SEQUENCE_FILE, make_contribution, next_sequence, record_sequence
    from fedmed_edge.statistics.contribution import write_contribution

    config = read_site(folder, generation=generation, device=device)
    for path in (target, folder / SEQUENCE_FILE) if target else ():
        check_writable(path)
    key = read_private_key(config.key)
    dataset = read_site_data(config)
    sequence = next_sequence(folder)
    with out.progress("extracting", len(dataset.train)) as advance:
        made = make_contribution(
            dataset,
            read_site_generation(config),
            config,
            sequence=sequence,
            weights_file=weights,
            progress=advance,
        )
    answer, lines = summary(made, every=dry_run)
    if dry_run or target is None:
        out.answer({"dry_run": True, **answer}, ["dry run: nothing was written", *lines])
        return
    # first, so that no two files of one sequence are made where this is interrupted: a gap does no harm
    record_sequence(folder, sequence)
    write_contribution(target, made.sign(key))
    out.answer({"out": str(target), **answer}, [f"{target}: signed contribution {made.id[:12]}", *lines])


def summary(contribution: "Contribution", *, every: bool = False) -> tuple[dict[str, Any], list[str]]:
    """What a contribution holds, as JSON values and as lines for people; `every` lists the weights too."""
    from fedmed_edge.statistics.description import describe

    header, rows = contribution.header, describe(contribution)
    document = {
        "id": contribution.id,
        "header": header.model_dump(mode="json"),
        "tensors": [{**row._asdict(), "shape": list(row.shape)} for row in rows],
        "bytes": sum(row.bytes for row in rows),
    }
    left_out = f"classes left out by min_cohort {header.min_cohort}: {', '.join(header.absent) or 'none'}"
    lines = [
        f"site {header.site}, task {header.task}, generation {header.generation[:12]}, "
        f"sequence {header.sequence}",
        left_out if "classes" in header.parts else "no class statistics",
        *(
            f"  {row.name:<20} {row.dtype:<8} {'×'.join(map(str, row.shape)) or '1':<16} "
            f"{row.bytes:>12,} bytes  {row.meaning}"
            for row in rows
            if every or row.part != "weights"
        ),
    ]
    sent = [row for row in rows if row.part == "weights"]
    if sent and not every:
        lines.append(f"  weights/…: {len(sent)} tensors, {sum(row.bytes for row in sent):,} bytes")
    return document, [*lines, f"  {document['bytes']:,} bytes in all"]
