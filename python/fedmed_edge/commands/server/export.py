"""`fedmed-server export`: signed files that `fedmed-edge infer` runs."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fedmed_edge.commands.folders import ANY_PATH, FOLDER, check_writable, folder_option, read_server
from fedmed_edge.commands.server.rebuild import task_of, task_option
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.signing import read_private_key, write_signed

if TYPE_CHECKING:
    from fedmed_edge.recipe import Recipe
    from fedmed_edge.store.entries import ModelEntry
    from fedmed_edge.store.store import Store

CALIBRATED_ON = 128


@click.command(cls=Verb)
@folder_option("Server")
@task_option
@click.option("--model", help="Digest (or its beginning) of the model; default the newest global one.")
@click.option("--refined", "site", help="The newest model refined for this site instead.")
@click.option(
    "--to", "form", type=click.Choice(["onnx", "tensorrt", "bundle"]), default="onnx", show_default=True
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp16", "int8"]),
    multiple=True,
    help="Also write this variant beside the FP32 file; repeatable.",
)
@click.option(
    "--calibration", type=FOLDER, help="Dataset folder of public images that INT8 is calibrated on."
)
@click.option(
    "--out", "target", type=ANY_PATH, required=True, help="File (bundle: folder) to write; signatures beside."
)
@click.pass_obj
def command(
    out: Output,
    folder: Path,
    task: str | None,
    model: str | None,
    site: str | None,
    form: str,
    precisions: tuple[Literal["fp16", "int8"], ...],
    calibration: Path | None,
    target: Path,
) -> None:
    """Write backbone, lift, head and manifest as one ONNX file, with the server's signature beside it.

    `tensorrt` builds an engine for the GPU of this machine; `bundle` makes a MONAI bundle around the file.

    Example: fedmed-server export -C server --out lesion.onnx
    """
    from fedmed_edge.export.bundle import MODEL_FILE, write_bundle
    from fedmed_edge.export.onnx_model import export_onnx, manifest_of
    from fedmed_edge.inference.model_folder import variant_path
    from fedmed_edge.model.global_model import parse_model

    config, store = read_server(folder)
    task = task_of(store, task)
    key = read_private_key(config.key)
    if form != "bundle" and target.is_dir():
        raise InputError(f"{target}: is a folder, expected a file to write")
    check_writable(target)
    entry = chosen_model(store, task, model, site)
    chosen = parse_model(store.model_content(entry.digest), f"model {entry.digest[:12]}")
    generation = store.generation(chosen.generation)
    content = export_onnx(chosen, generation)
    file = target / MODEL_FILE if form == "bundle" else target
    files = {variant_path(file, p): _variant(content, p, chosen.recipe, calibration) for p in precisions}
    if form == "bundle":
        write_bundle(target, manifest_of(chosen, generation))
    if form == "tensorrt":
        from fedmed_edge.export.tensorrt import to_engine

        content = to_engine(content)
    for path, made in {**files, file: content}.items():
        # before the file is there: what left is in the ledger, whatever happens in between
        told = {"task": task, "file": hashlib.sha256(made).hexdigest()}
        store.ledger_append("exported", chosen.refined_for, chosen.digest, told)
        signature = write_signed(path, made, key)
    answer = {
        "out": str(file),
        "signature": str(signature),
        "variants": [str(path) for path in files],
        "digest": chosen.digest,
        "sites": list(chosen.sites),
        "bytes": len(content),
    }
    out.answer(
        answer,
        f"{file}: model {chosen.digest[:12]} of {', '.join(chosen.sites)}, {answer['bytes']:,} bytes; "
        f"signature {signature}" + "".join(f"; variant {path}" for path in files),
    )


def chosen_model(store: "Store", task: str, model: str | None, site: str | None) -> "ModelEntry":
    """The model that was asked for, if no site in it has withdrawn."""
    entries = [entry for entry in store.models(task) if model is None or entry.digest.startswith(model)]
    if model is None:
        entries = [entry for entry in entries if entry.refined_for == site and not entry.withdrawn]
    if not entries:
        raise InputError(
            f"export: no {'such ' if model else ''}model of {task}{f' for {site}' if site else ''}",
            hint=f"run `fedmed-server {f'refine {site}' if site else 'rebuild'}` first",
        )
    if entries[0].withdrawn:
        raise StoreError(
            f"export: a site in model {entries[0].digest[:12]} has withdrawn", hint="rebuild first"
        )
    return entries[0]


def _variant(
    content: bytes, precision: Literal["fp16", "int8"], recipe: "Recipe", calibration: Path | None
) -> bytes:
    """The model at lower precision."""
    from fedmed_edge.export.precision import to_fp16, to_int8

    if precision == "fp16":
        return to_fp16(content)
    if calibration is None:
        return to_int8(content, [])  # says what it wants
    from fedmed_edge.images.dataset import read_dataset
    from fedmed_edge.inference.bench import windows_of

    return to_int8(content, windows_of(read_dataset(calibration, recipe), CALIBRATED_ON))
