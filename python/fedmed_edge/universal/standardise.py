"""From a stage's weights to a generation: standardised on the pool, so no site has to measure anything."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedmed_edge.features.extract import extract
from fedmed_edge.features.publish import complete_generation
from fedmed_edge.generation import Generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.feature_statistics import FeatureStatistics
from fedmed_edge.universal.pool import Pool

__all__ = ["standardise"]

MOST_IMAGES = 512
"""So many images of the pool are looked at: the first in order of content, which is as good as drawn."""


def standardise(
    draft: Generation,
    pool: Pool,
    recipes: Sequence[Recipe],
    *,
    device: str = "auto",
    seed: int = 0,
) -> Generation:
    """Complete a draft by what the pool's images show under it.

    Rows are those of the tasks' kinds, images' and pixels', each kind weighing alike. No site is named as
    measured, and each site's distances tell of images that the reference has not seen.

    Args:
        recipes: Of the tasks that share the encoder.
        device: `auto`, `cpu`, `cuda` or `tensorrt`.

    Raises:
        InputError: As `extract` and `complete_generation`; an image was changed since the pool was read.
        DeviceError: The asked device did not come up.
    """
    kinds = {recipe.kind: recipe for recipe in recipes}
    measured: list[dict[str, FeatureStatistics]] = []
    for kind in sorted(kinds):
        told = {"kind": kind, "pixel_stride": kinds[kind].pixel_stride, "classes": kinds[kind].classes}
        images = pool.dataset(pool.recipe.model_copy(update=told), MOST_IMAGES)
        sums = extract(draft, images, min_cohort=1, device=device)
        if measured:  # the same images count once
            sums = replace(sums, image_gram=np.zeros_like(sums.image_gram))
        measured.append({"": sums})
    pool.refuse_changed(MOST_IMAGES)
    return complete_generation(draft, pool.recipe, measured[0], others=measured[1:], seed=seed)
