"""`fedmed-edge demo`: the whole path on this machine, with a report at the end."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from fedmed_edge.commands.experiments import policy_option, require_packages
from fedmed_edge.commands.folders import FOLDER, TORCH_DEVICE, check_writable_folder
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@click.option(
    "--data", type=FOLDER, multiple=True, help="Task folder (one dataset folder a site); repeatable."
)
@click.option("--out", "target", type=FOLDER, default=Path("demo-output"), show_default=True)
@policy_option("--setting", "open")
@click.option("--joining", help="Site that joins by its statistics (default: the last by name).")
@click.option("--full", is_flag=True, help="Train fedavg and pooled to their plateau (hours).")
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True)
@click.option("--device", type=TORCH_DEVICE, default="auto", show_default=True)
@click.option("--federation", is_flag=True, help="Tell the story again over processes that connect by TLS.")
@click.pass_obj
def command(
    out: Output,
    data: tuple[Path, ...],
    target: Path,
    setting: str,
    joining: str | None,
    full: bool,
    seeds: int,
    device: str,
    federation: bool,
) -> None:
    """Learn a backbone on all sites but one, let that one join by its sums, refine, withdraw, export, infer.

    Without --data a synthetic cohort of four hospitals is written as DICOM first. Running it again with the
    same --out goes on where it stopped.

    Example: fedmed-edge demo --data tasks/lesions --out lesions-demo
    """
    needed = ("torch", "monai", "sqlalchemy", "onnx", "matplotlib", *(["nvflare"] if federation else []))
    extras = "cpu,train,server" + (",federation" if federation else "")
    require_packages("demo", *needed, extras=extras)
    from fedmed_edge.study.demo import run_demo
    from fedmed_edge.study.plan import POLICIES

    with _made(target), out.progress("demo") as advance:
        result = run_demo(
            target,
            data=data,
            setting=POLICIES[setting],
            full=full,
            seeds=seeds,
            joining=joining,
            device=device,
            federation=federation,
            watch=advance,
        )
    first, *more = result.documents
    out.answer({**first, "more_tasks": more} if more else first, result.lines)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder to write in; where it was made for that and stays empty, it goes again."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        check_writable_folder(folder)
        yield
    finally:
        if new:
            with suppress(OSError):  # something is in it
                folder.rmdir()
