"""Changed files for every reader: each is read or refused in one line, and nothing crashes, hangs or grows.

    .venv/bin/python tests/attacks/fuzz.py [READER…] [--minutes 10] [--seed 0] [--keep DIR]

Each reader runs in a process of its own with 4 GiB of address space and a clock of ten seconds of processor
time a file. What goes wrong is kept as a file and named; exit code 1. May be stopped at any time: how long
each reader ran is kept in DIR, and run again it goes on where it was, with other files, until it has run for
so many minutes in all. Not part of `make test`.
"""

import argparse
import contextlib
import io
import json
import logging
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
from dataclasses import dataclass
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


def _exported(path: Path) -> object:
    from fedmed_edge.commands.contents import tell

    return tell(path)


def _settings(path: Path) -> object:
    from fedmed_edge.config import ServerConfig, SiteConfig, read_config

    model = SiteConfig if b"site" in path.read_bytes() else ServerConfig
    return read_config(model, path, environment={})


def _request(path: Path) -> object:
    from fedmed_edge.federation.engine.enrolment import read_request

    return read_request(path)


def _answer(path: Path) -> object:
    from fedmed_edge.federation.engine.enrolment import make_tls_key, read_answer

    trusted = (path.parent / "trusted").read_text()
    return read_answer(path, trusted, make_tls_key(path.parent / "tls.key"))


def _message(path: Path) -> object:
    from fedmed_edge.federation.wire import decode_request

    return decode_request(path.read_bytes())


def _image(path: Path) -> object:
    from fedmed_edge.images.image import read_image

    return read_image(path)


def _images(path: Path) -> object:
    """A zip or a DICOMDIR: what is behind it, and every image of it."""
    from fedmed_edge.images.sources import find_sources

    with find_sources([path]) as sources:
        for source in sources.files:
            if source.kind is not None:
                with contextlib.suppress(FedmedError):
                    _image(source.path)
    return None


def _masks(path: Path) -> object:
    """A structure set or a segmentation."""
    from fedmed_edge.images.masks import mask_files

    return mask_files([path])


def _labels(path: Path) -> object:
    from fedmed_edge.images.labels import read_table, split_rows

    return split_rows(path, read_table(path))


def _spreadsheet(path: Path) -> object:
    from fedmed_edge.images.spreadsheet import read_labels

    return read_labels(path, by="AccessionNumber", label="label")


def _at_rest(path: Path) -> object:
    """A file of an encrypted store."""
    from fedmed_edge.store.encryption import FileCipher, read_store_key

    cipher = FileCipher(read_store_key(path.parent / "store.key"))
    with path.open("rb") as file:
        return cipher.decrypted(file, path.stat().st_size, "ab" * 32)


def _store_key(path: Path) -> object:
    from fedmed_edge.store.encryption import read_store_key

    return read_store_key(path)


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


def _enrolment(name: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        from enrolling import enrol

        enrol(folder)
        return [(folder / name).read_bytes()]

    return seeds


def _settings_files(folder: Path) -> list[bytes]:
    from fedmed_edge.config import ServerConfig, SiteConfig, write_config
    from fedmed_edge.listening import Listen

    write_config(folder / "a", SiteConfig(site="alpha", listen=Listen(aet="FEDMED")))
    write_config(folder / "b", ServerConfig(store_key=Path("store.key")))
    return [(folder / name).read_bytes() for name in ("a", "b")]


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


def _zips(folder: Path) -> list[bytes]:
    import zipfile

    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for number, content in enumerate([*_dicoms(folder)[:1], *_rasters(folder)]):
                archive.writestr(f"study/{number}", content)
        made.append(file.getvalue())
    return made


def _directories(folder: Path) -> list[bytes]:
    from pydicom.data import get_testdata_file

    return [Path(str(get_testdata_file("DICOMDIR", download=False))).read_bytes()]


def _mask_files(folder: Path) -> list[bytes]:
    from pydicom.data import get_testdata_file

    names = ("liver_1frame.dcm", "rtstruct.dcm", "rtplan.dcm")
    paths = [get_testdata_file(name, download=False) for name in names]
    return [Path(str(path)).read_bytes() for path in paths if path]


def _label_tables(folder: Path) -> list[bytes]:
    return [b"image,label,mask,patient,split\na.png,benign,,p1,train\nb.dcm,malignant,m.png,p2,\n"]


def _spreadsheets(folder: Path) -> list[bytes]:
    text = "Accession Number;Label;split\nA1;benign;train\nA2;\u00fc;\n"
    return [text.encode(encoding) for encoding in ("utf-8-sig", "utf-16", "cp1252")]


def _encrypted(folder: Path) -> list[bytes]:
    from fedmed_edge.store.encryption import FileCipher, make_store_key

    cipher = FileCipher(make_store_key(folder / "store.key"))
    content = np.random.default_rng(0).bytes((1 << 20) + 5000)
    return [b"".join(cipher.encrypted([content[:size]], size, "ab" * 32)) for size in (5000, len(content))]


def _store_keys(folder: Path) -> list[bytes]:
    from fedmed_edge.store.encryption import make_store_key

    make_store_key(folder / "store.key")
    return [(folder / "store.key").read_bytes()]


READERS: dict[str, Reader] = {
    "contribution": (_golden("contribution_1.safetensors"), _contribution),
    "generation": (_stored("generation"), _generation),
    "model": (_stored("model"), _model),
    "manifest": (_manifests, _manifest),
    "recipe": (_recipes, _recipe),
    "exported": (_golden("exported_model_1.onnx"), _exported),
    "settings": (_settings_files, _settings),
    "request": (_enrolment("a.request"), _request),
    "kit": (_enrolment("a.signed"), _answer),
    "message": (_messages, _message),
    "dicom": (_dicoms, _image),
    "nifti": (_niftis, _image),
    "raster": (_rasters, _image),
    "masks": (_mask_files, _masks),
    "zip": (_zips, _images),
    "dicomdir": (_directories, _images),
    "labels": (_label_tables, _labels),
    "spreadsheet": (_spreadsheets, _spreadsheet),
    "at-rest": (_encrypted, _at_rest),
    "store-key": (_store_keys, _store_key),
}
ENDINGS = {"nifti": ".nii", "raster": ".png", "recipe": ".toml", "exported": ".onnx", "settings": ".toml"}


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
    """Faults of a reader as they are found, until it has run for so many seconds in all."""
    state = Progress.of(kept / f"{name}.json")
    faults = 0
    while state.seconds < seconds and faults < 20:
        process, ours = _started(name, seconds - state.seconds, [seed, state.files], kept)
        began, fault, files = time.monotonic(), None, state.files
        with contextlib.suppress(EOFError):
            while True:
                said = json.loads(ours.recv())
                fault, state.files = said["fault"], files + said["files"]
                state.seconds, began = state.seconds + time.monotonic() - began, time.monotonic()
                state.write()
        process.join()
        if fault is None and process.exitcode == 0:
            break
        faults += 1
        state.faults, state.files = state.faults + 1, state.files + 1
        state.write()
        case, current = kept / f"{name}-{seed}-{state.files}.case", kept / f"{name}.now"
        if current.exists():
            current.rename(case)
        yield f"{name}: {fault or f'ended with {process.exitcode}'}: {case}"
    yield f"{name}: {state.files} files in {state.seconds / 60:.1f} minutes, {state.faults} faults"


@dataclass
class Progress:
    """How far a reader is, in a file."""

    path: Path
    seconds: float = 0.0
    files: int = 0
    faults: int = 0

    @classmethod
    def of(cls, path: Path) -> "Progress":
        return cls(path, **(json.loads(path.read_text()) if path.exists() else {}))

    def write(self) -> None:
        said = {"seconds": self.seconds, "files": self.files, "faults": self.faults}
        self.path.write_text(json.dumps(said))


def _started(
    name: str, seconds: float, seed: list[int], kept: Path
) -> "tuple[multiprocessing.Process, multiprocessing.connection.Connection]":
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(name, seconds, seed, kept, theirs)
    )
    process.start()
    theirs.close()
    return process, ours


def _work(
    name: str, seconds: float, seed: list[int], kept: Path, answer: "multiprocessing.connection.Connection"
) -> None:
    make, read = READERS[name]
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    random, files = np.random.default_rng(seed), 0
    with tempfile.TemporaryDirectory() as folder:
        seeds = make(Path(folder))
        path, now = Path(folder) / f"case{ENDINGS.get(name, '')}", kept / f"{name}.now"
        for content in seeds:  # whatever is loaded late is loaded before the limit
            path.write_bytes(content)
            read(path)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.signal(signal.SIGPROF, _hangs)
        deadline = told = time.monotonic()
        deadline += seconds
        while time.monotonic() < deadline:
            content = changed(seeds, random)
            now.write_bytes(content)
            path.write_bytes(content)
            fault = _fault(read, path)
            files += 1
            if fault or time.monotonic() - told > 1:
                told = time.monotonic()
                answer.send(json.dumps({"fault": fault, "files": files}))
            if fault:
                sys.exit(1)
        now.unlink(missing_ok=True)
        answer.send(json.dumps({"fault": None, "files": files}))


def _fault(read: Callable[[Path], object], path: Path) -> str | None:
    # of the processor: on a busy machine the clock on the wall says nothing
    signal.setitimer(signal.ITIMER_PROF, SECONDS_A_FILE)
    try:
        read(path)
    except FedmedError as refusal:
        if not str(refusal).isprintable():
            return f"unprintable refusal {str(refusal)!r:.200}"
    except BaseException:
        return traceback.format_exc().strip().splitlines()[-1][:300]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _hangs(number: int, frame: object) -> None:
    raise TimeoutError(f"no answer in {SECONDS_A_FILE} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--minutes", type=float, default=10, help="for each reader, in all runs together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="forget how far the readers are")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fedmed-fuzz")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    bad = False
    for name in options.readers or READERS:
        if options.again:
            (options.keep / f"{name}.json").unlink(missing_ok=True)
        for line in fuzz(name, 60 * options.minutes, options.seed, options.keep):
            print(line, flush=True)
            bad |= ".case" in line
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
