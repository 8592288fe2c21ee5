"""Does this machine compute a model as its maker did? The embedded sample, answered here and compared."""

import logging
from dataclasses import dataclass

from fedmed_edge.errors import TrustError
from fedmed_edge.inference.predict import Model
from fedmed_edge.model.manifest import TOLERANCES
from fedmed_edge.runtime import as_batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleCheck:
    """How far the answer to the sample is off.

    Attributes:
        probabilities: Largest difference of a probability.
        distance: Difference of the distance, relative to it.
    """

    probabilities: float
    distance: float


def check_sample(model: Model) -> SampleCheck | None:
    """Answer the sample that a model carries, and compare.

    Returns:
        None where the model carries none: its maker had no runtime, or it is of an older format.

    Raises:
        TrustError: The answer is further off than the precision of the model allows.
        InputError: The sample cannot be answered.
    """
    sample, precision = model.manifest.sample, model.manifest.precision
    if sample is None:
        log.warning(
            "warning: %s carries no sample, so its answers on this machine are not compared", model.path
        )
        return None
    probabilities, distance = model.session.run({"image": as_batch(sample.image(model.recipe.size))})
    off = sample.difference(probabilities[0], float(distance.reshape(-1)[0]))
    for name, got, wanted in zip(("probabilities", "distance"), off, TOLERANCES[precision], strict=True):
        if not got <= wanted:
            raise TrustError(
                f"{model.path}: sample: `{name}` is off by {got:.2g} on {model.device}, "
                f"expected at most {wanted:g}",
                hint="this machine's runtime does not compute the model as its maker did: try --device cpu",
            )
    return SampleCheck(*off)
