"""What is in a file of ours, as JSON values and as lines for people; one small function a kind."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed_edge.errors import InputError
from fedmed_edge.kinds import FileKind, file_kind
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.statistics.contribution import Contribution, ContributionHeader

Told = tuple[dict[str, Any], list[str]]

NONE_OF_OURS = "is none of this product's files: a contribution, generation, backbone, model, recipe or key"


def tell(file: Path) -> Told:
    """What `file` holds.

    Raises:
        InputError: The file is missing, none of ours, or broken.
    """
    images = "name a model with --model to ask which images it would answer"
    if not file.is_file():
        if file.exists():
            raise InputError(f"{file}: not a file", hint=images if file.is_dir() else None)
        raise InputError(f"{file}: no such file")
    kind = file_kind(file)
    if kind is None:
        with file.open("rb"):  # what may not be read is not called foreign
            raise InputError(f"{file}: {NONE_OF_OURS}", hint=images)
    values, lines = _TELLERS[kind](file)
    return {"kind": kind, **values}, lines


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
    if every:
        lines += [f"  {line}" for line in _figures(header)]
    sent = [row for row in rows if row.part == "weights"]
    if sent and not every:
        lines.append(f"  weights/…: {counted(len(sent), 'tensor')}, {sum(row.bytes for row in sent):,} bytes")
    return document, [*lines, f"  {document['bytes']:,} bytes in all"]


def _figures(header: "ContributionHeader") -> Iterator[str]:
    """What a header tells beside names, digests and the layout of the tensors."""
    told = header.evidence.model_dump(mode="json", exclude_defaults=True)
    if header.privacy is not None:
        told = {"noise": header.privacy.model_dump(mode="json", exclude_defaults=True), **told}
    for name, values in told.items():
        pairs = values if isinstance(values, dict) else {"": values}
        yield f"{name}: {', '.join(f'{key} {value}'.strip() for key, value in pairs.items())}"


def _contribution(file: Path) -> Told:
    from fedmed_edge.statistics.contribution import read_contribution

    read = read_contribution(file)
    document, lines = summary(read, every=True)
    signed = f"signed by {read.signer} (not checked here)" if read.signer else "not signed"
    return {**document, "signer": read.signer}, [f"{file}: contribution, {signed}", *lines]


def _generation(file: Path) -> Told:
    from fedmed_edge.generation import read_generation

    read = read_generation(file)
    header = read.header
    document = {
        "digest": read.digest,
        "draft": read.draft,
        "header": header.model_dump(mode="json"),
        "row_dim": read.row_dim,
        "feature_dim": read.feature_dim,
        "tensors": _shapes(read.weights),
    }
    return document, [
        f"{file}: {'draft' if read.draft else 'generation'} {read.digest[:12]}, {header.kind}",
        f"backbone {header.backbone.network}, {len(read.weights)} tensors, scales {header.widths}",
        f"rows of {read.row_dim}: {header.lift_dim} lifted, {read.feature_dim} features, 1",
        f"trained by: {', '.join(header.trained_by) or 'nobody'}",
    ]


def _backbone(file: Path) -> Told:
    from fedmed_edge.features.weights import read_backbone

    read = read_backbone(file)
    shapes, header = _shapes(read.weights), read.header
    return {"header": header.model_dump(mode="json"), "tensors": shapes}, [
        f"{file}: backbone {header.backbone.network}, {header.kind}, of {counted(header.images, 'image')}",
        *(f"  {name:<48} {shape}" for name, shape in shapes.items()),
    ]


def _model(file: Path) -> Told:
    from fedmed_edge.model.global_model import read_model

    read = read_model(file)
    values = {
        "digest": read.digest,
        "task": read.recipe.name,
        "classes": read.recipe.classes,
        "generation": read.generation,
        "sites": read.sites,
        "refined_for": read.refined_for,
        "ridge": read.ridge,
        "temperature": read.posterior.temperature,
        "known_threshold": read.known_threshold,
        "head": list(read.head.shape),
    }
    return values, [f"{file}: model of the store, not exported", *_listed(values)]


def _exported_model(file: Path) -> Told:
    from fedmed_edge.atomic import read_regular
    from fedmed_edge.model.manifest import METADATA_KEY, parse_manifests
    from fedmed_edge.onnx_file import model_metadata
    from fedmed_edge.signing import FILE_CAP

    # no signature is checked here, so no runtime sees its graph
    metadata = model_metadata(read_regular(file, FILE_CAP), str(file))
    if METADATA_KEY not in metadata:
        raise InputError(f"{file}: has no manifest, expected a model made by `fedmed-server export`")
    manifests = [one for one, _ in parse_manifests(metadata[METADATA_KEY], str(file))]
    title, lines = f"{file}: exported model (signature not checked here)", list[str]()
    for manifest in manifests:
        sample = "an input with its answer" if manifest.sample else "none"
        named = [f"task {manifest.task}"] if len(manifests) > 1 else []
        lines += [*named, *_listed(manifest.model_dump(mode="json") | {"sample": sample})]
    tasks = [manifest.model_dump(mode="json") for manifest in manifests]
    return tasks[0] if len(tasks) == 1 else {"tasks": tasks}, [title, *lines]


def _recipe(file: Path) -> Told:
    from fedmed_edge.recipe import read_recipe

    read = read_recipe(file)
    values = {"digest": read.digest, "recipe": read.model_dump(mode="json")}
    return values, [f"{file}: recipe {read.name}", *_listed(values)]


def _settings(file: Path) -> Told:
    from fedmed_edge.config import ServerConfig, SiteConfig, read_config
    from fedmed_edge.recipe import read_toml

    if "site" in read_toml(file):
        site = read_config(SiteConfig, file, environment={})
        who, values = f"site {site.site}", site.model_dump(mode="json")
    else:
        who, values = "a server", read_config(ServerConfig, file, environment={}).model_dump(mode="json")
    return {"settings": values}, [f"{file}: settings of {who}", *_listed(values)]


def _public_key(file: Path) -> Told:
    from fedmed_edge.signing import fingerprint, read_public_key

    mark = fingerprint(read_public_key(file))
    return {"fingerprint": mark}, [f"{file}: public key {mark}"]


def _private_key(file: Path) -> Told:
    from fedmed_edge.signing import fingerprint, read_private_key

    mark = fingerprint(read_private_key(file).public_key())
    return {"fingerprint": mark}, [f"{file}: private key of {mark}; it is not shown and must not be sent"]


def _signature(file: Path) -> Told:
    from fedmed_edge.atomic import read_regular

    try:
        signer = str(json.loads(read_regular(file, 1 << 12))["signer"])[:50]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{file}: not a signature file, or cut off") from None
    if not signer.isprintable():
        raise InputError(f"{file}: not a signature file, or cut off")
    signed = file.with_suffix("")
    beside = "which is not beside it" if not signed.exists() else "not checked here"
    return {"signer": signer, "of": str(signed)}, [f"{file}: signature by {signer} of {signed}, {beside}"]


def _request(file: Path) -> Told:
    from fedmed_edge.federation.engine.enrolment import read_request
    from fedmed_edge.signing import fingerprint

    request = read_request(file)
    mark = fingerprint(request.signing_key)
    return {"site": request.site, "fingerprint": mark}, [f"{file}: request of site {request.site}, {mark}"]


def _answer(file: Path) -> Told:
    from fedmed_edge.federation.engine.enrolment import read_unchecked_answer

    told = read_unchecked_answer(file)
    where = f"{told['host']}:{told['port']}"
    return told, [f"{file}: answer to site {told['site']} of the server at {where}, {told['fingerprint']}"]


def _shapes(weights: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in weights.items()}


def _listed(values: Mapping[str, Any], within: str = "") -> list[str]:
    """One line a value; those of a table by its name and theirs."""
    lines = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            lines += _listed(value, f"{within}{name}.")
        else:
            lines.append(f"  {within}{name}: {value}")
    return lines


_TELLERS: dict[FileKind, Callable[[Path], Told]] = {
    "contribution": _contribution,
    "generation": _generation,
    "backbone": _backbone,
    "model": _model,
    "exported model": _exported_model,
    "recipe": _recipe,
    "settings file": _settings,
    "public key": _public_key,
    "private key": _private_key,
    "signature": _signature,
    "request": _request,
    "server's answer": _answer,
}
