"""Which images behind a path a model would answer, and why; neither pixels nor network are loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmed_edge.atomic import read_regular
from fedmed_edge.errors import InputError
from fedmed_edge.images.selection import Verdict
from fedmed_edge.images.sources import find_sources
from fedmed_edge.inference.inputs import grouped_dicom, judged, renamed, series_names
from fedmed_edge.kinds import file_kind
from fedmed_edge.model.manifest import METADATA_KEY, parse_manifests
from fedmed_edge.onnx_file import model_metadata
from fedmed_edge.recipe import Recipe, read_recipe

_FILE_CAP = 1 << 31


def recipes_of(model: Path) -> tuple[Recipe, ...]:
    """The recipe of each task in an exported model, or that in a recipe file; no signature is checked.

    Raises:
        InputError: The file is missing or is neither.
    """
    if file_kind(model) == "recipe":
        return (read_recipe(model),)
    text = model_metadata(read_regular(model, _FILE_CAP), str(model)).get(METADATA_KEY)
    if text is None:
        raise InputError(f"{model}: has no manifest, expected a model made by `fedmed-server export`")
    return tuple(manifest.recipe for manifest, _ in parse_manifests(text, str(model)))


Named = tuple[str, Recipe, Verdict]
"""A series by its name, and what a recipe says of it."""


def survey(paths: Sequence[Path], *recipes: Recipe) -> tuple[list[Named], list[tuple[str, str]]]:
    """Every DICOM series behind `paths` with the verdict of each recipe, and everything else with what it is.

    No pixel is read. What was unpacked is gone again.
    """
    with find_sources(paths) as sources:
        names, grouped = grouped_dicom(sources)
        named = []
        for recipe in recipes:
            verdicts = judged(grouped, sources, recipe)
            called = series_names(verdicts, names)
            named += [(name, recipe, verdict) for name, verdict in zip(called, verdicts, strict=True)]
        rest = [(names[path], str(renamed(error, path, names[path]))) for path, error in grouped.refused]
        rest += [(names[path], kind) for path, kind in grouped.others]
        rest += [
            (source.name, source.reason or _picture(str(source.kind), recipes))
            for source in sources.files
            if source.kind != "dicom"
        ]
        return named, rest


def _picture(kind: str, recipes: Sequence[Recipe]) -> str:
    misfit = kind in ("png", "jpeg") and all(recipe.dimensions == 3 for recipe in recipes)
    return f"{kind} image, " + ("expected a volume" if misfit else "taken as it is")


def document_of(name: str, recipe: Recipe, verdict: Verdict) -> dict[str, Any]:
    """A verdict as one JSON object."""
    series = verdict.series
    return {
        "name": name,
        "task": recipe.name,
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
