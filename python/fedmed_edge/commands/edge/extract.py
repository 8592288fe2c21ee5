"""`fedmed-edge extract`: feature statistics of this site, written but neither signed nor sent."""

from pathlib import Path

import click

from fedmed_edge.commands.contents import summary
from fedmed_edge.commands.folders import (
    DEVICE,
    FILE,
    check_writable,
    folder_option,
    read_site,
    read_site_data,
    read_site_generation,
)
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError


@click.command(cls=Verb)
@folder_option("Site")
@click.option("--generation", type=FILE, help="Generation to extract under (default: that of fedmed.toml).")
@click.option("--device", type=DEVICE)
@click.option("--out", "target", type=FILE, required=True, help="File to write; `inspect` shows it.")
@click.pass_obj
def command(out: Output, folder: Path, generation: Path | None, device: str | None, target: Path) -> None:
    """Measure this site's statistics, to look at them: the file has no signature and no server takes it.

    Example: fedmed-edge extract -C hospital-a --out statistics.contribution
    """
    from fedmed_edge.hospital import make_contribution
    from fedmed_edge.statistics.contribution import write_contribution

    config = read_site(folder, generation=generation, device=device)
    if config.policy.epsilon is not None:
        raise InputError(
            "extract: the policy asks for noise, and every file with it spends privacy",
            hint="`contribute --dry-run` shows what would leave",
        )
    check_writable(target)
    dataset = read_site_data(config)
    with out.progress("extracting", len(dataset.train)) as advance:
        made = make_contribution(dataset, read_site_generation(config), config, sequence=1, progress=advance)
    write_contribution(target, made)
    answer, lines = summary(made)
    out.answer({"out": str(target), **answer}, [f"{target}: not signed", *lines])
