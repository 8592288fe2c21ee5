"""How fast a model runs here at each precision and on each device, and whether it answers the same."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedmed_edge.errors import FedmedError
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.image import Float32
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.images.windows import cover
from fedmed_edge.inference.choice import Choice
from fedmed_edge.inference.model_folder import variant_path
from fedmed_edge.inference.predict import Model, load_model
from fedmed_edge.model.manifest import TOLERANCES, Precision
from fedmed_edge.runtime import as_batch, usable_devices
from fedmed_edge.words import counted

LEAST_IMAGES = 8
"""Images of the site that a lower precision must be compared on before it may answer."""

LEAST_AGREEMENT = 0.99
"""Share of images, or of pixels, whose class must be that of FP32 on the processor."""

LEAST_GAIN = 1.1
"""How many times faster than FP32 another precision or device must be to be chosen."""

_LEAST_RUNS = 5

Answer = tuple[Float32, float]


@dataclass(frozen=True)
class Row:
    """One precision on one device.

    Attributes:
        milliseconds: Wall time of the fastest run of the network, as slower ones only waited for other
            programs; None where it cannot run.
        processor_milliseconds: Processor time of a run, all threads.
        load_seconds: Wall time from file to first answer.
        gain: How many times faster than FP32 on the processor.
        difference: Of the probabilities from FP32 on the processor: the largest over the images of the mean
            over an image's pixels.
        agreement: Share of images, or of pixels, with the same class.
        parity: Whether it may answer in the place of FP32.
        chosen: Whether it is what should answer here.
        note: Why it cannot run, or may not answer.
    """

    precision: Precision
    device: str
    milliseconds: float | None = None
    processor_milliseconds: float | None = None
    load_seconds: float | None = None
    gain: float | None = None
    difference: float | None = None
    agreement: float | None = None
    parity: bool = False
    chosen: bool = False
    note: str = ""


def windows_of(dataset: Dataset, most: int) -> list[Float32]:
    """The middle window of up to `most` images, spread over the data set.

    Raises:
        InputError: An image cannot be used.
    """
    picked = (
        np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int))
        if len(dataset)
        else ()
    )
    found = []
    for item in dataset.subset([int(index) for index in picked]):
        windows = list(cover(prepare(dataset.load(item), dataset.recipe).pixels, dataset.recipe.size))
        found.append(np.ascontiguousarray(windows[len(windows) // 2]))
    return found


def bench(
    path: Path,
    precisions: Sequence[Precision],
    *,
    trust: Path | None,
    images: Sequence[Float32] = (),
    seconds: float = 2.0,
) -> list[Row]:
    """Measure every precision on every device that comes up, and choose.

    Args:
        path: The FP32 file; the others stand beside it.
        precisions: `fp32` first.
        trust: PEM file of the server's public key.
        images: (channels, *size) float32 windows of this site, for the parity check.
        seconds: Time for the runs of each row.

    Returns:
        The rows; one is chosen: the fastest that answers as FP32 does and gains `LEAST_GAIN`, else FP32.

    Raises:
        TrustError: A signature is not right.
        InputError: A file cannot be read, or FP32 does not run on the processor.
    """
    reference, devices = load_model(path, trust=trust, device="cpu"), usable_devices()
    inputs = [as_batch(window) for window in [*_sample(reference), *images]]
    wanted = [_answer(reference, batch) for batch in inputs]
    rows = []
    for device, why in devices.items():
        for precision in precisions:
            row = Row(precision, device, note=why)
            if not why:
                row = _measured(row, variant_path(path, precision), trust, inputs, wanted, seconds)
            if row.parity and precision != "fp32" and len(images) < LEAST_IMAGES:
                compared = counted(len(images), "image")
                note = f"compared on {compared} of this site, expected at least {LEAST_IMAGES}"
                row = replace(row, parity=False, note=note)
            rows.append(row)
    return _with_choice(rows)


def choice_of(rows: Sequence[Row]) -> Choice:
    """What the rows say should answer."""
    (row,) = (row for row in rows if row.chosen)
    return Choice(row.precision, row.device)


def _sample(model: Model) -> list[Float32]:
    """The model's own sample; noise where it has none."""
    size = model.recipe.size
    if model.manifest.sample is not None:
        return [model.manifest.sample.image(size)]
    return [np.random.default_rng(0).random((model.recipe.channels, *size), np.float32)]


def _answer(model: Model, batch: Float32) -> Answer:
    probabilities, distance = model.session.run({"image": batch})
    return probabilities[0], float(distance.reshape(-1)[0])


def _measured(
    row: Row,
    path: Path,
    trust: Path | None,
    inputs: Sequence[Float32],
    wanted: Sequence[Answer],
    seconds: float,
) -> Row:
    started = time.perf_counter()
    try:
        model = load_model(path, trust=trust, device=row.device)
        got = [_answer(model, inputs[0])]
        load = time.perf_counter() - started
        got += [_answer(model, batch) for batch in inputs[1:]]
        walls, processor = _timed(model, inputs[0], seconds)
    except FedmedError as error:
        return replace(row, note=str(error))
    compared = _compared(row.precision, got, wanted, model.manifest.known_threshold)
    return replace(
        row,
        milliseconds=1e3 * min(walls),
        processor_milliseconds=1e3 * processor / len(walls),
        load_seconds=load,
        difference=compared.difference,
        agreement=compared.agreement,
        parity=not compared.fault,
        note=compared.fault,
    )


@dataclass(frozen=True)
class _Compared:
    difference: float
    agreement: float
    fault: str


def _compared(
    precision: Precision, got: Sequence[Answer], wanted: Sequence[Answer], threshold: float | None
) -> _Compared:
    off, same, far, known = 0.0, [], 0.0, True
    for (probabilities, distance), (reference, reference_distance) in zip(got, wanted, strict=True):
        off = max(off, float(np.abs(probabilities - reference).max(axis=0).mean()))
        same.append(float((probabilities.argmax(axis=0) == reference.argmax(axis=0)).mean()))
        far = max(far, abs(distance - reference_distance) / max(reference_distance, 1.0))
        if threshold is not None:
            known &= (distance <= threshold) == (reference_distance <= threshold)
    agreement = float(np.mean(same))
    tolerance, distance_tolerance = TOLERANCES[precision]
    faults = {
        f"probabilities differ by {off:.2g}, expected at most {tolerance:g}": not off <= tolerance,
        f"distances differ by {far:.2g}, expected at most {distance_tolerance:g}": not far
        <= distance_tolerance,
        f"{agreement:.1%} have the same class, expected {LEAST_AGREEMENT:.0%}": not agreement
        >= LEAST_AGREEMENT,
        "another image counts as known": not known,
    }
    return _Compared(off, agreement, "; ".join(fault for fault, there in faults.items() if there))


def _timed(model: Model, batch: Float32, seconds: float) -> tuple[list[float], float]:
    """Wall times of single runs, and processor time of them all; one run before warms up."""
    model.session.run({"image": batch})
    walls: list[float] = []
    processor, end = time.process_time(), time.perf_counter() + seconds
    while len(walls) < _LEAST_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        model.session.run({"image": batch})
        walls.append(time.perf_counter() - started)
    return walls, time.process_time() - processor


def _with_choice(rows: Sequence[Row]) -> list[Row]:
    """Gains, and the choice: what `auto` gives at FP32, unless another that may answer gains enough."""
    base = next(row.milliseconds for row in rows if (row.precision, row.device) == ("fp32", "cpu"))
    assert base is not None  # the reference ran
    rows = [replace(row, gain=base / row.milliseconds if row.milliseconds else None) for row in rows]
    able = [row for row in rows if row.parity and row.milliseconds]
    usual = [row for row in able if row.precision == "fp32" and row.device in ("cpu", "cuda")][-1]
    best = min(able, key=lambda row: row.milliseconds or 0.0)
    enough = (best.milliseconds or 0.0) * LEAST_GAIN <= (usual.milliseconds or 0.0)
    chosen = best if enough else usual
    return [replace(row, chosen=row is chosen) for row in rows]
