"""One ONNX file that answers an image: the generation's encoder, then lift, head and posterior.

Outputs: `probabilities` (1, C) or (1, C, *size) float32, and `distance` (1,) float32, the squared Mahalanobis
distance of the image's pooled features to the generation's reference Gaussian.
"""

import logging

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fedmed_edge.errors import InputError
from fedmed_edge.export.graph import Tail
from fedmed_edge.export.parity import check_parity, reference_answers, sample_of
from fedmed_edge.generation import Generation
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.manifest import METADATA_KEY, Manifest, Sample

__all__ = ["answering_graph", "export_onnx", "finished", "manifest_of"]

log = logging.getLogger(__name__)

LEAST_OPSET = 13
"""First operator set in which all of `graph` reads as written."""


def export_onnx(model: GlobalModel, generation: Generation) -> bytes:
    """Write a model as ONNX, with its manifest in the metadata.

    The bytes depend on the model and the generation alone, but for a sample input with the reference's
    answer, which is in it where a runtime is installed; the file is then also run and compared (`parity`).

    Args:
        model: What `rebuild` or `refine` made.
        generation: The one that the model's rows come from.

    Raises:
        InputError: The generation is a draft or another one, its encoder is damaged, or the written file
            disagrees with the reference by more than 1e-4.
    """
    answering = answering_graph(model, generation)
    references = reference_answers(model, generation)
    content = finished(answering, manifest_of(model, generation, sample_of(references)).text)
    difference = check_parity(content, references)
    log.info(
        "exported %s: %.1f MB, difference to the reference %s",
        model.digest[:12],
        len(content) / 1e6,
        "not measured: no runtime" if difference is None else f"{difference:.1e}",
    )
    return content


def answering_graph(model: GlobalModel, generation: Generation) -> onnx.ModelProto:
    """The generation's encoder with the model's lift, head and distance behind it; no manifest yet.

    Raises:
        InputError: The generation is a draft or another one, or its encoder is damaged.
    """
    _refuse_unfit(model, generation)
    try:
        encoder = onnx.load_model_from_string(generation.encoder)
    except DecodeError:
        raise InputError("export: the generation's encoder is no ONNX model") from None
    _refuse_old(encoder)
    tail = Tail(encoder, generation)
    weight, bias = model.linear()
    features = tail.features()
    if model.recipe.kind == "classification":
        tail.image_probabilities(features, weight, bias)
    else:
        tail.pixel_probabilities(weight, bias)
    tail.distance(features)
    encoder.graph.name = "fedmed"
    del encoder.metadata_props[:]
    return encoder


def finished(model: onnx.ModelProto, manifest: str) -> bytes:
    """The bytes of a file: a graph and the manifest in its metadata."""
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, manifest
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def manifest_of(model: GlobalModel, generation: Generation, sample: Sample | None = None) -> Manifest:
    """What the exported file says of itself. Names of sites stay at the server."""
    sites, trainers = len(model.sites), len(generation.header.trained_by)
    made = "refined for one site" if model.kept == "refined" else "rebuilt"
    return Manifest(
        recipe=model.recipe,
        recipe_digest=model.recipe.digest,
        generation=model.generation,
        model=model.digest,
        known_threshold=model.known_threshold,
        priors=tuple(model.posterior.priors.tolist()),
        temperature=model.posterior.temperature,
        ridge=model.ridge,
        absent=tuple(
            name
            for name, prior in zip(model.recipe.classes, model.posterior.priors, strict=True)
            if prior == 0
        ),
        sites=sites,
        refined_for=model.refined_for,
        kept=model.kept,
        contributions=model.contributions,
        provenance=(
            f"Head {made} in closed form from the statistics of {sites} site(s); backbone of generation "
            f"{model.generation[:12]} trained by {trainers} site(s). No image left a site."
        ),
        withdrawn_notice=(
            "A site that withdraws is taken out of head, posterior and thresholds bit for bit by a rebuild. "
            "What the backbone learned from it stays until the next generation."
        ),
        sample=sample,
    )


def _refuse_unfit(model: GlobalModel, generation: Generation) -> None:
    if generation.draft:
        raise InputError(
            "export: the generation is a draft, expected one with standardisation and reference Gaussian",
            hint="complete it: `fedmed-server generation publish --from CONTRIBUTION…`",
        )
    recipe, header = model.recipe, generation.header
    pairs = {
        "generation": (model.generation[:12], generation.digest[:12]),
        "channels": (recipe.channels, header.channels),
        "size": (recipe.size, header.size),
        "row_dim": (len(model.head), generation.row_dim),
    }
    for name, (got, wanted) in pairs.items():
        if got != wanted:
            raise InputError(f"export: `{name}` of the model has {got}, expected the generation's {wanted}")
    if not np.isfinite(model.head).all():
        raise InputError("export: `head` has NaN or Inf, expected finite values")


def _refuse_old(encoder: onnx.ModelProto) -> None:
    opset = next((entry.version for entry in encoder.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise InputError(f"export: the encoder has operator set {opset}, expected {LEAST_OPSET} or later")
    names = [value.name for value in encoder.graph.input]
    if names != ["image"]:
        raise InputError(f"export: the encoder takes {names}, expected ['image']")
