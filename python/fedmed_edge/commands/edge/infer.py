"""`fedmed-edge infer`: answer images with a model."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fedmed_edge.commands.folders import ANY_PATH, DEVICE, FILE, FOLDER, read_site
from fedmed_edge.commands.verbs import Output, Verb, complain
from fedmed_edge.errors import InputError
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.config import SiteConfig
    from fedmed_edge.inference.predict import Model
    from fedmed_edge.inference.result import Result

log = logging.getLogger(__name__)


@click.command(cls=Verb)
@click.argument("inputs", nargs=-1, required=True, type=ANY_PATH)
@click.option("-o", "--out", "target", type=FOLDER, required=True, help="Folder for the results.")
@click.option(
    "--model",
    type=FILE,
    envvar="FEDMED_MODEL",
    help="Model file, its .sig beside it (default: the active model of the site folder here).",
)
@click.option("--trust", type=FILE, help="The server's public key (default: server_key of fedmed.toml here).")
@click.option(
    "--device",
    type=DEVICE,
    envvar="FEDMED_DEVICE",
    help="Default: that of fedmed.toml here, else auto.",
)
@click.option("--threads", type=click.IntRange(1, 256), help="Processor threads (default: all).")
@click.option("--series", help="Answer the DICOM series of this SeriesInstanceUID alone.")
@click.option("--lenient", is_flag=True, help="Resample series whose slices are no regular stack.")
@click.option("--format", "formats", help="Some of json,csv,seg,sr,sc,nifti,png (default: all that fit).")
@click.option(
    "--seg", type=click.Choice(["binary", "labelmap"]), default="binary", help="Kind of DICOM segmentation."
)
@click.option("--seg-keep-empty", is_flag=True, help="Also store empty frames between those of a segment.")
@click.option("--preview", is_flag=True, help="Also write a preview picture of each answer.")
@click.pass_context
def command(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    target: Path,
    model: Path | None,
    trust: Path | None,
    device: str | None,
    threads: int | None,
    series: str | None,
    lenient: bool,
    formats: str | None,
    seg: Literal["binary", "labelmap"],
    seg_keep_empty: bool,
    preview: bool,
) -> None:
    """Answer INPUTS: DICOM files, folders, DICOMDIRs and zips, NIfTI, PNG and JPEG, told apart by content.

    Each gets a folder with result.json and, for a segmentation, the mask; DICOM also gets DICOM results;
    results.csv lists all. The exit code is 3 where some inputs failed and 4 where there was none. A model
    file of several tasks answers an input with each task whose rules take it and whose images it is like.

    Example: fedmed-edge infer study/ -o results --model lesion.onnx --trust server.pub
    """
    from fedmed_edge.inference.batch import exit_code, infer
    from fedmed_edge.inference.inputs import find_inputs
    from fedmed_edge.inference.options import FORMATS, Options, parse_formats

    out: Output = ctx.obj
    try:
        wanted = parse_formats(formats or ",".join(FORMATS))
        options = Options(wanted, seg, preview, lenient, bool(formats), seg_keep_empty)
    except InputError as error:
        raise click.UsageError(str(error)) from None
    missing = next((path for path in inputs if not path.exists()), None)
    if missing is not None and len(inputs) == 1:
        raise InputError(f"{missing}: no such file or folder")
    site = _site()
    trust = trust or (site.server_key if site else _server_key())
    device = device or (site.device if site else "auto")
    if threads:
        os.environ["FEDMED_THREADS"] = str(threads)
    loaded = _load(model, site, trust, device)
    results: list[Result] = []
    with find_inputs(inputs, *(one.recipe for one in loaded), skip=target, series=series) as found:
        for name, reason in found.not_taken:
            log.info("not taken: %s: %s", name, reason)
        with out.progress("answering", len(found.inputs) + len(found.refused)) as advance:
            for result in infer(loaded, found, target, options):
                if not results or result.input != results[-1].input:  # its first task
                    advance(Path(result.input).name)
                out.answer(result.document(), result.line())
                results.append(result)
    code = exit_code(results)
    if code:
        failed = {result.input for result in results if result.error is not None}
        table = f"{target / 'results.csv'} says why" if "csv" in options.formats else None
        complain(
            f"{len(failed)} of {counted(len({one.input for one in results}), 'input')} could not be answered",
            table,
        )
    ctx.exit(code)


def _load(
    model: Path | None, site: "SiteConfig | None", trust: Path | None, device: str
) -> "tuple[Model, ...]":
    """The named model, or the active one of the site folder."""
    from fedmed_edge.inference.model_folder import ModelFolder
    from fedmed_edge.inference.predict import load_models

    if model is None and site is None:
        raise click.UsageError("missing option `--model`, as there is no site folder here")
    if model is None:
        from fedmed_edge.inference.choice import load_active

        return load_active(_folder(), trust=trust, device=device)
    loaded = load_models(model, trust=trust, device=device)
    if site is not None:
        ModelFolder(_folder()).refuse_withdrawn([one.digest for one in loaded], model)
    return loaded


def _folder() -> Path:
    return Path(os.environ.get("FEDMED_FOLDER", "."))


def _site() -> "SiteConfig | None":
    """Settings of a site in this folder or in `FEDMED_FOLDER`, if there is one."""
    return read_site(_folder()) if (_folder() / "fedmed.toml").is_file() else None


def _server_key() -> Path | None:
    named = os.environ.get("FEDMED_SERVER_KEY")
    return Path(named) if named else None
