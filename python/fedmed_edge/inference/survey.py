"""Which images behind a path a model would answer, and why; neither pixels nor network are loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmed_edge.atomic import read_regular
from fedmed_edge.encoder_graph import model_metadata
from fedmed_edge.errors import InputError
from fedmed_edge.images.selection import Verdict
from fedmed_edge.images.sources import find_sources
from fedmed_edge.inference.inputs import grouped_dicom, judged, renamed, series_names
from fedmed_edge.kinds import file_kind
from fedmed_edge.model.manifest import METADATA_KEY, parse_manifest
from fedmed_edge.recipe import Recipe, read_recipe

_FILE_CAP = 1 << 31


def recipe_of(model: Path) -> Recipe:
    """The recipe in an exported model, or in a recipe file; no signature is checked.

    Raises:
        InputError: The file is missing or is neither.
    """
    if file_kind(model) == "recipe":
        return read_recipe(model)
    text = model_metadata(read_regular(model, _FILE_CAP), str(model)).get(METADATA_KEY)
    if text is None:
        raise InputError(f"{model}: has no manifest, expected a model made by `fedmed-server export`")
    return parse_manifest(text, str(model)).recipe


def survey(paths: Sequence[Path], recipe: Recipe) -> tuple[list[tuple[str, Verdict]], list[tuple[str, str]]]:
    """Every DICOM series behind `paths` with its verdict, and everything else with what it is.

    No pixel is read. What was unpacked is gone again.
    """
    with find_sources(paths) as sources:
        names, grouped = grouped_dicom(sources)
        verdicts = judged(grouped, sources, recipe)
        named = list(zip(series_names(verdicts, names), verdicts, strict=True))
        rest = [(names[path], str(renamed(error, path, names[path]))) for path, error in grouped.refused]
        rest += [(names[path], kind) for path, kind in grouped.others]
        rest += [
            (source.name, source.reason or _picture(str(source.kind), recipe))
            for source in sources.files
            if source.kind != "dicom"
        ]
        return named, rest


def _picture(kind: str, recipe: Recipe) -> str:
    flat = kind in ("png", "jpeg")
    return f"{kind} image, " + ("expected a volume" if flat and recipe.dimensions == 3 else "taken as it is")


def document_of(name: str, verdict: Verdict) -> dict[str, Any]:
    """A verdict as one JSON object."""
    series = verdict.series
    return {
        "name": name,
        "series_uid": series.series_uid,
        "modality": series.modality,
        "part": series.part,
        "files": len(series.files),
        "frames": len(series.frames),
        "taken": verdict.taken,
        "regular": verdict.sound,
        "reason": verdict.reason,
        "geometry": verdict.geometry,
        "rules": [vars(rule) for rule in verdict.rules],
        "warnings": list(series.warnings),
    }
