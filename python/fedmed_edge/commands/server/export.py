"""`fedmed-server export`: one signed file that `fedmed-edge infer` runs."""

import hashlib
from pathlib import Path

import click

from fedmed_edge.commands.folders import FILE, check_writable, folder_option, read_server
from fedmed_edge.commands.server.rebuild import task_of, task_option
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.signing import read_private_key, write_signed


@click.command(cls=Verb)
@folder_option("Server")
@task_option
@click.option("--model", help="Digest (or its beginning) of the model; default the newest global one.")
@click.option("--refined", "site", help="The newest model refined for this site instead.")
@click.option("--to", "form", type=click.Choice(["onnx"]), default="onnx", show_default=True)
@click.option(
    "--out", "target", type=FILE, required=True, help="File to write; its signature stands beside it."
)
@click.pass_obj
def command(
    out: Output, folder: Path, task: str | None, model: str | None, site: str | None, form: str, target: Path
) -> None:
    """Write backbone, lift, head and manifest as one ONNX file, with the server's signature beside it.

    Example: fedmed-server export -C server --out lesion.onnx
    """
    from fedmed_edge.export.onnx_model import export_onnx
    from fedmed_edge.model.global_model import parse_model

    config, store = read_server(folder)
    task = task_of(store, task)
    key = read_private_key(config.key)
    check_writable(target)
    entries = [entry for entry in store.models(task) if model is None or entry.digest.startswith(model)]
    if model is None:
        entries = [entry for entry in entries if entry.refined_for == site and not entry.withdrawn]
    if not entries:
        raise InputError(
            f"export: no {'such ' if model else ''}model of {task}{f' for {site}' if site else ''}",
            hint=f"run `fedmed-server {f'refine {site}' if site else 'rebuild'}` first",
        )
    entry = entries[0]
    if entry.withdrawn:
        raise StoreError(f"export: a site in model {entry.digest[:12]} has withdrawn", hint="rebuild first")
    chosen = parse_model(store.model_content(entry.digest), f"model {entry.digest[:12]}")
    content = export_onnx(chosen, store.generation(chosen.generation))
    # before the file is there: what left is in the ledger, whatever happens in between
    told = {"task": task, "file": hashlib.sha256(content).hexdigest()}
    store.ledger_append("exported", chosen.refined_for, chosen.digest, told)
    signature = write_signed(target, content, key)
    answer = {
        "out": str(target),
        "signature": str(signature),
        "digest": chosen.digest,
        "sites": list(chosen.sites),
        "bytes": target.stat().st_size,
    }
    out.answer(
        answer,
        f"{target}: model {chosen.digest[:12]} of {', '.join(chosen.sites)}, {answer['bytes']:,} bytes; "
        f"signature {signature}",
    )
