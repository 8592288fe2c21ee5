from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

def class_gram(
    rows: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int32],
    grams: npt.NDArray[np.float64],
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
def argmax_slab(
    total: npt.NDArray[np.float32],
    start: Sequence[int],
    out: npt.NDArray[np.uint8],
    threads: int,
) -> None: ...
def instruction_set() -> str: ...
