"""Changed files for every reader: each is read or refused in one line, and nothing crashes, hangs or grows.

    .venv/bin/python tests/attacks/fuzz.py [READER…] [--seconds 600] [--seed 0]

Each reader runs in a process of its own with 4 GiB of address space and a clock of ten seconds a file. What
goes wrong is kept as a file and named; exit code 1. Not part of `make test`.
"""

import argparse
import io
import json
import multiprocessing
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fedmed_edge.errors import FedmedError

REPOSITORY = Path(__file__).parents[2]
FORMATS = REPOSITORY / "tests" / "formats"
MEMORY = 4 << 30
SECONDS_A_FILE = 10
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)

Reader = tuple[Callable[[Path], list[bytes]], Callable[[Path], object]]


# --- readers -----------------------------------------------------------------------------------------------


def _contribution(path: Path) -> object:
    from fedmed_edge.statistics.contribution import read_contribution

    return read_contribution(path)


def _manifest(path: Path) -> object:
    from fedmed_edge.model.manifest import parse_manifest

    return parse_manifest(path.read_bytes().decode("utf-8", "replace"), "model")


def _model(path: Path) -> object:
    from fedmed_edge.model.global_model import read_model

    return read_model(path)


def _generation(path: Path) -> object:
    from fedmed_edge.generation import read_generation

    return read_generation(path)


def _recipe(path: Path) -> object:
    from fedmed_edge.recipe import read_recipe

    return read_recipe(path)


def _request(path: Path) -> object:
    from fedmed_edge.federation.engine.enrolment import read_request

    return read_request(path)


def _message(path: Path) -> object:
    from fedmed_edge.federation.wire import decode_request

    return decode_request(path.read_bytes())


def _image(path: Path) -> object:
    from fedmed_edge.images.image import read_image

    return read_image(path)


# --- what they are given -----------------------------------------------------------------------------------


def _golden(name: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [(FORMATS / name).read_bytes()]


def _manifests(folder: Path) -> list[bytes]:
    import onnx

    model = onnx.load(FORMATS / "exported_model_1.onnx")
    return [entry.value.encode() for entry in model.metadata_props if entry.key == "fedmed"]


def _stored(suffix: str) -> Callable[[Path], list[bytes]]:
    """Generations, or models, of the store that is kept for its format."""

    def seeds(folder: Path) -> list[bytes]:
        import zipfile

        key = f"fedmed_{suffix}".encode()
        with zipfile.ZipFile(FORMATS / "store_2.zip") as archive:
            contents = [archive.read(name) for name in archive.namelist()]
        return [content for content in contents if key in content[:4096]]

    return seeds


def _recipes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((REPOSITORY / "models").glob("*.toml"))]


def _requests(folder: Path) -> list[bytes]:
    from fedmed_edge.federation.engine.enrolment import make_tls_key, write_request
    from fedmed_edge.signing import generate_key

    write_request(folder / "seed.request", "alpha", generate_key(), make_tls_key(folder / "tls.key"))
    return [(folder / "seed.request").read_bytes()]


def _messages(folder: Path) -> list[bytes]:
    from fedmed_edge.federation.wire import Request, encode

    return [
        encode(Request("put", {"digest": "ab" * 32, "part": 0}, b"x" * 100)),
        encode(Request("hello", {})),
    ]


def _dicoms(folder: Path) -> list[bytes]:
    from pydicom.data import get_testdata_file

    names = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_small_odd.dcm")
    paths = [get_testdata_file(name, download=False) for name in names]
    return [Path(str(path)).read_bytes() for path in paths if path]


def _niftis(folder: Path) -> list[bytes]:
    import nibabel

    volume = nibabel.nifti1.Nifti1Image(np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7), np.eye(4))
    made = []
    for name in ("seed.nii", "seed.nii.gz"):
        nibabel.loadsave.save(volume, folder / name)
        made.append((folder / name).read_bytes())
    return made


def _rasters(folder: Path) -> list[bytes]:
    from PIL import Image

    pixels, made = np.random.default_rng(0).integers(0, 255, (12, 14, 3), np.uint8), []
    for kind in ("PNG", "JPEG"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        made.append(file.getvalue())
    return made


READERS: dict[str, Reader] = {
    "contribution": (_golden("contribution_1.safetensors"), _contribution),
    "generation": (_stored("generation"), _generation),
    "model": (_stored("model"), _model),
    "manifest": (_manifests, _manifest),
    "recipe": (_recipes, _recipe),
    "kit": (_requests, _request),
    "message": (_messages, _message),
    "dicom": (_dicoms, _image),
    "nifti": (_niftis, _image),
    "raster": (_rasters, _image),
}
ENDINGS = {"nifti": ".nii", "raster": ".png", "recipe": ".toml"}


# --- changing and reading ----------------------------------------------------------------------------------


def changed(seeds: list[bytes], random: np.random.Generator) -> bytes:
    """A seed with one to eight changes, most of them near its beginning, where headers are."""
    content = bytearray(seeds[random.integers(len(seeds))])
    for _ in range(int(random.integers(1, 9))):
        size = max(1, len(content))
        near = int(random.integers(min(size, 2048))) if random.random() < 0.7 else int(random.integers(size))
        match int(random.integers(7)):
            case 0:
                content[near : near + 1] = bytes([int(random.integers(256))])
            case 1:
                content[near:near] = random.bytes(int(random.integers(1, 16)))
            case 2:
                del content[near : near + int(random.integers(1, 64))]
            case 3:
                del content[near:]
            case 4:
                piece = content[near : near + int(random.integers(1, 256))]
                content[near:near] = piece * int(random.integers(1, 5))
            case 5:
                value, width = (
                    INTERESTING[random.integers(len(INTERESTING))],
                    int(random.choice([1, 2, 4, 8])),
                )
                order = "<" if random.random() < 0.5 else ">"
                packed = struct.pack(f"{order}Q", value)
                content[near : near + width] = packed[:width] if order == "<" else packed[-width:]
            case 6:
                digits = str(INTERESTING[random.integers(len(INTERESTING))]).encode()
                content[near : near + 1] = digits if random.random() < 0.5 else b'"' + digits + b'"'
    return bytes(content)


def fuzz(name: str, seconds: float, seed: int, kept: Path) -> Iterator[str]:
    """Faults of a reader, as they are found; the file of each is kept."""
    deadline, faults = time.monotonic() + seconds, 0
    while time.monotonic() < deadline and faults < 20:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(name, deadline - time.monotonic(), seed + faults, kept, theirs)
        )
        process.start()
        theirs.close()
        said = {"fault": None, "files": 0}
        try:
            while True:
                said = json.loads(ours.recv())
        except EOFError:
            process.join()
        if said["fault"] is None and process.exitcode == 0:
            yield f"{name}: {said['files']} files, {faults} faults"
            return
        faults += 1
        case = kept / f"{name}-{seed + faults}.case"
        current = kept / f"{name}.now"
        if current.exists():
            current.rename(case)
        yield f"{name}: {said['fault'] or f'ended with {process.exitcode}'}: {case}"
    yield f"{name}: {faults} faults"


def _work(
    name: str, seconds: float, seed: int, kept: Path, answer: "multiprocessing.connection.Connection"
) -> None:
    make, read = READERS[name]
    warnings.simplefilter("ignore")
    deadline, random, files = time.monotonic() + seconds, np.random.default_rng(seed), 0
    with tempfile.TemporaryDirectory() as folder:
        seeds = make(Path(folder))
        path, now = Path(folder) / f"case{ENDINGS.get(name, '')}", kept / f"{name}.now"
        for content in seeds:  # whatever is loaded late is loaded before the limit
            path.write_bytes(content)
            read(path)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.signal(signal.SIGALRM, _hangs)
        while time.monotonic() < deadline:
            content = changed(seeds, random)
            now.write_bytes(content)
            path.write_bytes(content)
            fault = _fault(read, path)
            files += 1
            if fault or files % 100 == 0:
                answer.send(json.dumps({"fault": fault, "files": files}))
            if fault:
                sys.exit(1)
        now.unlink(missing_ok=True)
        answer.send(json.dumps({"fault": None, "files": files}))


def _fault(read: Callable[[Path], object], path: Path) -> str | None:
    signal.alarm(SECONDS_A_FILE)
    try:
        read(path)
    except FedmedError as refusal:
        if not str(refusal).isprintable():
            return f"unprintable refusal {str(refusal)!r:.200}"
    except BaseException:
        return traceback.format_exc().strip().splitlines()[-1][:300]
    finally:
        signal.alarm(0)
    return None


def _hangs(number: int, frame: object) -> None:
    raise TimeoutError(f"no answer in {SECONDS_A_FILE} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--seconds", type=float, default=600, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fedmed-fuzz")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    bad = False
    for name in options.readers or READERS:
        for line in fuzz(name, options.seconds, options.seed, options.keep):
            print(line, flush=True)
            bad |= ".case" in line
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
