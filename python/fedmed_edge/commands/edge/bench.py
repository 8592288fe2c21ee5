"""`fedmed-edge bench`: precisions and devices of a model, measured and compared on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed_edge.commands.folders import FILE, Number, folder_option, read_site, read_site_data
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError

if TYPE_CHECKING:
    from fedmed_edge.inference.bench import Row


@click.command(cls=Verb)
@folder_option("Site")
@click.argument("model", default="")
@click.option("--trust", type=FILE, help="The server's public key (default: server_key of fedmed.toml).")
@click.option(
    "--images", type=click.IntRange(0, 1000), default=16, help="Images of the site to compare on; default 16."
)
@click.option("--seconds", type=Number(0, 600), default=2.0, help="Time for each row; default 2.")
@click.pass_obj
def command(out: Output, folder: Path, model: str, trust: Path | None, images: int, seconds: float) -> None:
    """Measure MODEL, a file or the name of a model here (default: the active one), and keep what is best.

    Every device, and FP16 and INT8 where such files came with the model, is compared with FP32 on the
    processor. `infer` and `listen` then use what was chosen for a model of this site.

    Example: fedmed-edge bench -C hospital-a
    """
    from fedmed_edge.inference.bench import bench, choice_of, windows_of
    from fedmed_edge.inference.choice import write_choice
    from fedmed_edge.inference.model_folder import ModelFolder, precisions_beside

    site = read_site(folder) if (folder / "fedmed.toml").is_file() else None
    models, entry, path = ModelFolder(folder), None, Path(model)
    if not model or not path.is_file():
        if model and (path.suffix or path.name != model):  # a name of ours is letters and digits alone
            raise InputError(f"{path}: not a file" if path.exists() else f"{path}: no such file")
        entry = models.find(model) if model else models.active()
        path = entry.path
    windows = []
    if images and site and site.data.exists() and site.recipe.exists():
        windows = windows_of(read_site_data(site), images)
    rows = bench(
        path,
        precisions_beside(path),
        trust=trust or (site.server_key if site else None),
        images=windows,
        seconds=seconds,
    )
    if entry is not None:
        write_choice(entry, choice_of(rows))
    for row in rows:
        out.answer({"model": str(path), "images": len(windows), **asdict(row)}, _line(row))


def _line(row: "Row") -> str:
    if row.milliseconds is None:
        return f"{row.precision:<5} {row.device:<9} cannot run: {row.note}"
    mark = "chosen" if row.chosen else "same" if row.parity else f"differs: {row.note}"
    return (
        f"{row.precision:<5} {row.device:<9} {row.milliseconds:>9.2f} ms  x{row.gain or 0:<5.2f} "
        f"difference {row.difference:.1e}  {mark}"
    )
