"""A model of the store as a file: which one was meant, exported, at which precision, noted in the ledger."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.store.entries import named_by
from fedmed_edge.store.exports import note_exported

if TYPE_CHECKING:
    from fedmed_edge.generation import Generation
    from fedmed_edge.model.global_model import GlobalModel
    from fedmed_edge.recipe import Recipe
    from fedmed_edge.signing import PrivateKey
    from fedmed_edge.store.entries import ModelEntry
    from fedmed_edge.store.store import Store

CALIBRATED_ON = 128
"""Images that INT8 is calibrated on, at most."""

Precision = Literal["fp16", "int8"]


def chosen_model(store: "Store", task: str, model: str | None, site: str | None) -> "ModelEntry":
    """The model that was asked for, if no site in it has withdrawn."""
    entries = store.models(task)
    if model:
        named = named_by(model, [entry.digest for entry in entries], f"models of {task}")
        entries = [entry for entry in entries if entry.digest == named]
    else:  # none was named, nor by a variable of a script that holds nothing
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


def exported(store: "Store", entry: "ModelEntry") -> "tuple[GlobalModel, Generation, bytes]":
    """The model, its generation, and the ONNX file that holds both."""
    from fedmed_edge.export.onnx_model import export_onnx
    from fedmed_edge.model.global_model import parse_model

    model = parse_model(store.model_content(entry.digest), f"model {entry.digest[:12]}")
    generation = store.generation(model.generation)
    return model, generation, export_onnx(model, generation)


def export_together(
    store: "Store", entries: "Sequence[ModelEntry]", target: Path, key: "PrivateKey"
) -> tuple[dict[str, Any], str]:
    """Write the models of several tasks as one signed ONNX file; says what was written."""
    from fedmed_edge.export.tasks import export_tasks
    from fedmed_edge.model.global_model import parse_model
    from fedmed_edge.signing import write_signed

    models = [
        parse_model(store.model_content(one.digest), f"model {one.digest[:12]}")
        for one in sorted(entries, key=lambda one: one.task)
    ]
    generations = {digest: store.generation(digest) for digest in {model.generation for model in models}}
    content = export_tasks([(model, generations[model.generation]) for model in models])
    for model in models:
        note_exported(store, model, content)
    signature = write_signed(target, content, key)
    tasks = [{"task": one.recipe.name, "digest": one.digest, "sites": list(one.sites)} for one in models]
    told = {"out": str(target), "signature": str(signature), "tasks": tasks, "bytes": len(content)}
    names = ", ".join(one.recipe.name for one in models)
    line = f"{target}: {len(models)} tasks, {names}, {len(content):,} bytes; signature {signature}"
    return told, line


def at_precision(precision: Precision, content: bytes, recipe: "Recipe", calibration: Path | None) -> bytes:
    """The exported model at lower precision; INT8 is calibrated on the images of a dataset folder."""
    from fedmed_edge.export.precision import to_fp16, to_int8

    if precision == "fp16":
        return to_fp16(content)
    if calibration is None:
        return to_int8(content, [])  # says what it wants
    from fedmed_edge.images.dataset import read_dataset
    from fedmed_edge.inference.bench import windows_of

    return to_int8(content, windows_of(read_dataset(calibration, recipe), CALIBRATED_ON))
