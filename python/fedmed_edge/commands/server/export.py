"""`fedmed-server export`: signed files that `fedmed-edge infer` runs."""

from pathlib import Path

import click

from fedmed_edge.commands.exporting import (
    Precision,
    at_precision,
    chosen_model,
    export_together,
    exported,
)
from fedmed_edge.commands.folders import ANY_PATH, FOLDER, check_writable, folder_option, read_server
from fedmed_edge.commands.server.rebuild import task_of
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError
from fedmed_edge.signing import read_private_key, write_signed
from fedmed_edge.store.exports import note_exported


@click.command(cls=Verb)
@folder_option("Server")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    help="Task; needed where the store holds several. Repeatable: one file then answers them all.",
)
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
    tasks: tuple[str, ...],
    model: str | None,
    site: str | None,
    form: str,
    precisions: tuple[Precision, ...],
    calibration: Path | None,
    target: Path,
) -> None:
    """Write backbone, lift, head and manifest as one ONNX file, with the server's signature beside it.

    `tensorrt` builds an engine for the GPU of this machine; `bundle` makes a MONAI bundle around the file.

    Example: fedmed-server export -C server --out lesion.onnx
    """
    if len(tasks) > 1 and (model or form != "onnx" or precisions):
        raise click.UsageError("--model, --to and --precision go with one task")
    from fedmed_edge.export.bundle import MODEL_FILE, write_bundle
    from fedmed_edge.export.onnx_model import manifest_of
    from fedmed_edge.inference.model_folder import variant_path

    config, store = read_server(folder)
    key = read_private_key(config.key)
    if form != "bundle" and target.is_dir():
        raise InputError(f"{target}: is a folder, expected a file to write")
    check_writable(target)
    entries = [chosen_model(store, task_of(store, task), model, site) for task in tasks or (None,)]
    if len(entries) > 1:
        out.answer(*export_together(store, entries, target, key))
        return
    chosen, generation, content = exported(store, entries[0])
    file = target / MODEL_FILE if form == "bundle" else target
    files = {variant_path(file, p): at_precision(p, content, chosen.recipe, calibration) for p in precisions}
    if form == "bundle":
        write_bundle(target, manifest_of(chosen, generation))
    if form == "tensorrt":
        from fedmed_edge.export.tensorrt import to_engine

        content = to_engine(content)
    for path, made in {**files, file: content}.items():
        note_exported(store, chosen, made)
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
