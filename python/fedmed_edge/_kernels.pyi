from collections.abc import Sequence

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
def instruction_set() -> str: ...
