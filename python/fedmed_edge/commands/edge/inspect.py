"""`fedmed-edge inspect`: what is in a contribution, a generation or a model, tensor by tensor."""

from pathlib import Path
from typing import Any

import click

from fedmed_edge.commands.folders import FILE
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError

HEADER_CAP = 1 << 22
# field 1 of an ONNX model, its format's version
ONNX_START = b"\x08"


@click.command(cls=Verb)
@click.argument("file", type=FILE)
@click.pass_obj
def command(out: Output, file: Path) -> None:
    """Show what FILE holds: a contribution, a generation, a backbone or an exported model.

    Example: fedmed-edge inspect a.contribution
    """
    out.answer(*_TELLERS[_kind(file)](file))


def _kind(file: Path) -> str:
    """What the file says it is, by its first bytes."""
    try:
        with file.open("rb") as stream:
            head = stream.read(8)
            length = int.from_bytes(head, "little")
            start = stream.read(min(length, HEADER_CAP)) if 2 <= length <= HEADER_CAP else b""
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {(error.strerror or '').lower()}") from None
    for kind in ("fedmed_contribution", "fedmed_generation", "fedmed_backbone"):
        if kind.encode() in start:
            return kind
    if head.startswith(ONNX_START):
        return "model"
    raise InputError(f"{file}: is no contribution, generation, backbone or model of this product")


def _contribution(file: Path) -> tuple[dict[str, Any], list[str]]:
    from fedmed_edge.commands.edge.contribute import summary
    from fedmed_edge.statistics.contribution import read_contribution

    read = read_contribution(file)
    document, lines = summary(read, every=True)
    signed = f"signed by {read.signer} (not checked here)" if read.signer else "not signed"
    return {"kind": "contribution", **document, "signer": read.signer}, [
        f"{file}: contribution, {signed}",
        *lines,
    ]


def _generation(file: Path) -> tuple[dict[str, Any], list[str]]:
    from fedmed_edge.generation import read_generation

    read = read_generation(file)
    header = read.header
    document = {
        "kind": "generation",
        "digest": read.digest,
        "draft": read.draft,
        "header": header.model_dump(mode="json"),
        "row_dim": read.row_dim,
        "feature_dim": read.feature_dim,
        "tensors": {name: list(value.shape) for name, value in read.weights.items()},
    }
    return document, [
        f"{file}: {'draft' if read.draft else 'generation'} {read.digest[:12]}, {header.kind}",
        f"backbone {header.backbone.network}, {len(read.weights)} tensors, scales {header.widths}",
        f"rows of {read.row_dim}: {header.lift_dim} lifted, {read.feature_dim} features, 1",
        f"trained by: {', '.join(header.trained_by) or 'nobody'}",
    ]


def _backbone(file: Path) -> tuple[dict[str, Any], list[str]]:
    from fedmed_edge.features.weights import read_backbone

    read = read_backbone(file)
    shapes = {name: list(value.shape) for name, value in read.weights.items()}
    header = read.header
    document = {"kind": "backbone", "header": header.model_dump(mode="json"), "tensors": shapes}
    return document, [
        f"{file}: backbone {header.backbone.network}, {header.kind}, of {header.images} images",
        *(f"  {name:<48} {shape}" for name, shape in shapes.items()),
    ]


def _model(file: Path) -> tuple[dict[str, Any], list[str]]:
    from fedmed_edge.model.manifest import METADATA_KEY, parse_manifest
    from fedmed_edge.runtime import open_session

    session = open_session(file, device="cpu")
    if METADATA_KEY not in session.metadata:
        raise InputError(f"{file}: is no contribution, generation, backbone or model of this product")
    manifest = parse_manifest(session.metadata[METADATA_KEY], str(file))
    values = manifest.model_dump(mode="json")
    lines = [f"{file}: model (signature not checked here)"]
    lines += [f"  {name}: {value}" for name, value in values.items() if name != "recipe"]
    lines += [f"  recipe.{name}: {value}" for name, value in values.get("recipe", {}).items()]
    return {"kind": "model", **values}, lines


_TELLERS = {
    "fedmed_contribution": _contribution,
    "fedmed_generation": _generation,
    "fedmed_backbone": _backbone,
    "model": _model,
}
