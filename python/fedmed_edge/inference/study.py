"""The one call that answers a study: what a DICOM node's worker, a script or a notebook asks."""

from collections.abc import Sequence
from pathlib import Path

from fedmed_edge.inference.batch import infer
from fedmed_edge.inference.inputs import find_inputs
from fedmed_edge.inference.options import Options
from fedmed_edge.inference.predict import Model
from fedmed_edge.inference.result import DicomObject, Result

__all__ = ["DicomObject", "Options", "Result", "answer_study"]


def answer_study(
    models: Model | Sequence[Model],
    paths: Sequence[Path],
    out: Path,
    options: Options | None = None,
    *,
    series: str | None = None,
) -> list[Result]:
    """Answer what a model, or those of several tasks, is about among files, and write the results.

    Args:
        models: From `predict.load_model` or `load_models`; may be used again and again.
        paths: Files, folders, DICOMDIRs, zips.
        out: Folder of the results; a DICOM series gets StudyInstanceUID/SeriesInstanceUID in it.
        options: What is written; default: all that an input is fit for.
        series: Answer the series of this SeriesInstanceUID alone.

    Returns:
        One result for each input and task that answers it; a failed one has `error` and no objects.

    Raises:
        NothingMatched: Nothing of it is what the model is about; says why of the first series.
        InputError: Results cannot be written, or a zip or DICOMDIR is broken.
    """
    models = (models,) if isinstance(models, Model) else models
    recipes = [model.recipe for model in models]
    with find_inputs(paths, *recipes, skip=out, series=series) as found:
        return list(infer(models, found, out, options))
