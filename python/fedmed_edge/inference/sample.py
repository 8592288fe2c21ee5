"""Does this machine compute a model as its maker did? The embedded sample, answered here and compared."""

import logging
from dataclasses import dataclass

from fedmed_edge.errors import TrustError
from fedmed_edge.inference.predict import Model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleCheck:
    """How far the answer to the sample is off.

    Attributes:
        probabilities, distance: As `Sample.difference`.
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
    sample = model.manifest.sample
    if sample is None:
        task = model.manifest.task
        log.warning("warning: the model of %s carries no sample to compare this machine's answer with", task)
        return None
    probabilities, distance = model.run(sample.image(model.recipe.size))
    fault = model.manifest.sample_fault(probabilities, distance)
    if fault:
        raise TrustError(
            f"{model.path}: {fault}, on {model.device}",
            hint="this machine's runtime does not compute the model as its maker did: try --device cpu",
        )
    return SampleCheck(*sample.difference(probabilities, distance))
