"""Every DICOM file there is: an image, a reason in one line, or a fault of ours.

    .venv/bin/python tests/bench/robustness.py ../shared/data/dicom [--json]

Each file is read as it lies there, each folder as a series, in a process of its own with a time limit, so
that a hang or a crash is an outcome like another. Without a folder, the files that pydicom brings. Exit code
1 where there is a traceback, a hang, a crash, or an image without numbers or a place.
"""

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from harness import end_with

SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """What became of one file or folder.

    Attributes:
        kind: `image`, `cine`, `refused`; or a fault: `traceback`, `hang`, `crash`, `several lines`.
    """

    name: str
    kind: str
    told: str
    seconds: float

    @property
    def fault(self) -> bool:
        return self.kind not in ("image", "cine", "refused")


def outcome(path: Path, name: str) -> Outcome:
    """Read `path` in a process of its own."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_reading, args=(path, theirs))
    started = time.monotonic()
    process.start()
    theirs.close()
    try:
        kind, told = ours.recv() if ours.poll(SECONDS) else ("hang", f"no answer in {SECONDS:.0f} s")
    except EOFError:
        process.join()
        kind, told = "crash", f"exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return Outcome(name, kind, told.replace(str(path), name), time.monotonic() - started)


def _reading(path: Path, answer: Connection) -> None:
    try:
        answer.send(read(path))
    except BaseException:
        answer.send(("traceback", traceback.format_exc().strip().splitlines()[-1]))


def read(path: Path) -> tuple[str, str]:
    """`image`, `cine` or `refused`, and what there is to tell of it."""
    from fedmed_edge.errors import FedmedError
    from fedmed_edge.images.image import read_image

    try:
        image = read_image(path)
    except FedmedError as refusal:
        whole = str(refusal) + (f" ({refusal.hint})" if refusal.hint else "")
        if "\n" in whole:
            return "several lines", whole
        frames = _cine(path) if path.is_file() else 0
        return ("cine", f"{frames} frames") if frames else ("refused", whole)
    _check(image)
    shape = "x".join(map(str, image.shape))
    place = f", {_corner(image)}" if image.affine_ras is not None else ""
    values = f"{image.pixels.min():g}..{image.pixels.max():g}"
    return "image", f"{image.channels}x{shape} {image.modality} {values}{place}"


def _cine(path: Path) -> int:
    """Frames of a file that is no single image, read one by one."""
    from fedmed_edge.errors import FedmedError
    from fedmed_edge.images.dicom import read_frames
    from fedmed_edge.images.grouping import group_files

    try:
        series = group_files([path]).series
        return sum(1 for one in series if not one.is_volume for image in read_frames(one) if _check(image))
    except FedmedError:
        return 0


def _check(image: object) -> bool:
    from fedmed_edge.images.image import Image

    assert isinstance(image, Image)
    assert image.pixels.dtype == np.float32 and np.isfinite(image.pixels).all(), "pixels are no numbers"
    assert image.channels in (1, 3) and min(image.shape) >= 2, "shape"
    assert (image.affine_ras is None) == (image.dimensions == 2), "place"
    if image.affine_ras is not None:
        assert abs(np.linalg.det(image.affine_ras[:3, :3])) > 1e-6, "affine"
    return True


def _corner(image: object) -> str:
    from fedmed_edge.images.geometry import world_axes
    from fedmed_edge.images.image import Image

    assert isinstance(image, Image) and image.affine_ras is not None
    axes, directions = world_axes(image.affine_ras)
    ends = zip(axes, directions, strict=True)
    return "".join(("LR", "PA", "IS")[axis][direction > 0] for axis, direction in ends)


def paths_of(folder: Path) -> Iterator[Path]:
    """Every file, then every folder that holds one."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    yield from files
    yield from sorted({path.parent for path in files} - {folder})


def outcomes(folder: Path) -> Iterator[Outcome]:
    for path in paths_of(folder):
        yield outcome(path, str(path.relative_to(folder)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="*", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not asked.folder:
        import pydicom.data

        asked.folder = [Path(pydicom.data.__file__).parent / "test_files"]
    import fedmed_edge.images.dicom  # noqa: F401  # once, not in every process

    found = []
    for folder in asked.folder:
        for one in outcomes(folder):
            found.append(one)
            line = f"{one.kind:<9} {one.seconds:6.2f} s  {one.name:<60} {one.told}"
            print(json.dumps(asdict(one)) if asked.json else line, flush=True)
    faults = [one for one in found if one.fault]
    counts = {kind: sum(one.kind == kind for one in found) for kind in sorted({one.kind for one in found})}
    slowest = max(one.seconds for one in found)
    print(f"{len(found)} files and folders: {counts}; slowest {slowest:.1f} s", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    end_with(main)
