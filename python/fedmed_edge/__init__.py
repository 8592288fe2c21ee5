"""FedMed Edge: hospitals train a medical-imaging model together; their images stay at home.

In: contributions, signed models, images. Out: global and refined models, predictions. The public names are
those of `__all__`; each is imported when it is first asked for, so importing the package loads nothing else.
"""

import os
import sys
from typing import TYPE_CHECKING

# Forced, and before anything can import onnxruntime: a hospital's machine calls nobody. Where it was imported
# already it is too late, and `runtime` refuses it.
if "onnxruntime" not in sys.modules:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Before torch brings in its OpenMP: threads that spin while they wait take eight times the processor time
# as soon as another program wants a core. A hospital that knows better may set it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Before numpy brings in its OpenBLAS, for the same reason: each of its threads would spin for 30 ms first.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

__version__ = "0.1.0"

__all__ = [
    "Contribution",
    "FeatureStatistics",
    "FedmedError",
    "GlobalModel",
    "Image",
    "Recipe",
    "evaluate",
    "load_model",
    "predict",
    "read_contribution",
    "read_image",
    "read_recipe",
    "rebuild",
    "refine",
]

if TYPE_CHECKING:
    from fedmed_edge.errors import FedmedError
    from fedmed_edge.images.image import Image, read_image
    from fedmed_edge.inference.predict import load_model, predict
    from fedmed_edge.model.evaluate import evaluate
    from fedmed_edge.model.global_model import GlobalModel
    from fedmed_edge.model.rebuild import rebuild
    from fedmed_edge.model.refine import refine
    from fedmed_edge.recipe import Recipe, read_recipe
    from fedmed_edge.statistics.contribution import Contribution, read_contribution
    from fedmed_edge.statistics.feature_statistics import FeatureStatistics
else:
    # Hidden from the type checker, which would take any name for one of ours.
    _HOMES = {
        "Contribution": "statistics.contribution",
        "FeatureStatistics": "statistics.feature_statistics",
        "FedmedError": "errors",
        "GlobalModel": "model.global_model",
        "Image": "images.image",
        "Recipe": "recipe",
        "evaluate": "model.evaluate",
        "load_model": "inference.predict",
        "predict": "inference.predict",
        "read_contribution": "statistics.contribution",
        "read_image": "images.image",
        "read_recipe": "recipe",
        "rebuild": "model.rebuild",
        "refine": "model.refine",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
