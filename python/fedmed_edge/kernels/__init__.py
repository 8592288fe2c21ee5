"""The kernels, one typed function each; the only importer of `_kernels`.

Arrays go in as they are: a wrong dtype, shape or memory order is refused (`ValueError`), never converted.
Results do not depend on the number of threads, which is the environment variable `FEDMED_THREADS` or else
the number of processors. A plain NumPy definition of each kernel stands in its test.
"""

import fedmed_edge.kernels.interpreters  # noqa: F401  # before anything compiled is loaded
from fedmed_edge.kernels.aggregation import (
    RunningMean,
    clip_norm,
    median,
    pairwise_distances,
    trimmed_mean,
    weighted_mean,
)
from fedmed_edge.kernels.gram import GramMode, LiftWeights, class_gram, lifted_class_gram
from fedmed_edge.kernels.grids import argmax_slab, blend_windows, resample
from fedmed_edge.kernels.moments import amplitude_moments, channel_moments
from fedmed_edge.kernels.ridge import (
    RidgeSolution,
    diagonal_positions,
    held_out_losses,
    ridge_solve,
    upper_triangle,
)
from fedmed_edge.kernels.threads import thread_count

__all__ = [
    "GramMode",
    "LiftWeights",
    "RidgeSolution",
    "RunningMean",
    "amplitude_moments",
    "argmax_slab",
    "blend_windows",
    "channel_moments",
    "class_gram",
    "clip_norm",
    "diagonal_positions",
    "held_out_losses",
    "lifted_class_gram",
    "median",
    "pairwise_distances",
    "resample",
    "ridge_solve",
    "thread_count",
    "trimmed_mean",
    "upper_triangle",
    "weighted_mean",
]
