from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

def class_gram(
    rows: npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16],
    classes: npt.NDArray[np.int32],
    grams: npt.NDArray[np.float64],
    mode: str,
    dtype: str,
    threads: int,
) -> None: ...
def lifted_class_gram(
    maps: Sequence[npt.NDArray[np.float32]],
    mean: npt.NDArray[np.float32],
    gain: npt.NDArray[np.float32],
    lift: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    projection: npt.NDArray[np.float32],
    size: Sequence[int],
    stride: int,
    classes: npt.NDArray[np.int32],
    grams: npt.NDArray[np.float64],
    picked: npt.NDArray[np.int64],
    kept: npt.NDArray[np.float32],
    mode: str,
    threads: int,
) -> None: ...
def channel_moments(
    maps: npt.NDArray[np.float32],
    channel_axis: int,
    sums: npt.NDArray[np.float64],
    squares: npt.NDArray[np.float64],
    threads: int,
) -> None: ...
def amplitude_moments(
    pixels: npt.NDArray[np.float32],
    floor: float,
    sums: npt.NDArray[np.float64],
    squares: npt.NDArray[np.float64],
    threads: int,
) -> None: ...
def resample(
    pixels: npt.NDArray[np.float32],
    matrix: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    out: npt.NDArray[np.float32],
    mode: str,
    threads: int,
) -> None: ...
def blend_windows(
    total: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    window: npt.NDArray[np.float32],
    importance: npt.NDArray[np.float32],
    start: Sequence[int],
    threads: int,
) -> None: ...
def weighted_mean(
    sources: list[str] | list[npt.NDArray[Any]],
    weights: Sequence[int],
    out: int | npt.NDArray[Any],
    nan: str,
    threads: int,
) -> None: ...
def clip_norm(
    sources: list[str] | list[npt.NDArray[Any]],
    weights: Sequence[int],
    reference: str | npt.NDArray[Any],
    max_norm: float,
    norms: npt.NDArray[np.float64],
    out: int | npt.NDArray[Any],
    threads: int,
) -> None: ...
def median(
    sources: list[str] | list[npt.NDArray[Any]], out: int | npt.NDArray[Any], nan: str, threads: int
) -> None: ...
def trimmed_mean(
    sources: list[str] | list[npt.NDArray[Any]],
    cut: int,
    out: int | npt.NDArray[Any],
    nan: str,
    threads: int,
) -> None: ...
def pairwise_distances(
    sources: list[str] | list[npt.NDArray[Any]],
    distances: npt.NDArray[np.float64],
    nan: str,
    threads: int,
) -> None: ...
def running_mean_add(
    sums: npt.NDArray[np.int64], values: npt.NDArray[Any], weight: int, bound: float, threads: int
) -> None: ...
def running_mean_finish(
    sums: npt.NDArray[np.int64], bound: float, total: int, out: npt.NDArray[np.float32], threads: int
) -> None: ...
def argmax_slab(
    total: npt.NDArray[np.float32],
    start: Sequence[int],
    out: npt.NDArray[np.uint8],
    threads: int,
) -> None: ...
def instruction_set() -> str: ...
