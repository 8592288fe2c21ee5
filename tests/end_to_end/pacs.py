"""A hospital's network on this machine: a PACS (Orthanc), senders (dcmtk), and the node between them.

All at the loopback address, at ports that the system chose.
"""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from kits import free_port, load
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

# The environment's pynetdicom brings programs of the same names.
DCMTK = Path("/usr/bin")
PROGRAM = Path(sys.executable).parent / "fedmed-edge"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("FEDMED_")} | {
    "OMP_NUM_THREADS": "1",
    "FEDMED_THREADS": "1",
}


def until(found: Any, seconds: float = 60.0, step: float = 0.02) -> Any:
    """What `found()` returns once it is true; False where it never is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(step)
    return False


# --- images ----------------------------------------------------------------------------------------------


def write_series(folder: Path, slices: int = 4, *, side: int = 16, value: int = 100, **tags: Any) -> str:
    """Write a CT series, a file a slice; returns its SeriesInstanceUID."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    random = np.random.default_rng(value)
    for number in range(slices):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "Doe^Jane", "P-17", "", ""
        one.StudyDate = one.SeriesDate = one.ContentDate = time.strftime("%Y%m%d")
        one.StudyTime = one.SeriesTime = one.ContentTime = "120000"
        one.AccessionNumber, one.StudyID, one.ReferringPhysicianName = "A-1", "1", ""
        one.Modality, one.Manufacturer, one.SeriesNumber, one.InstanceNumber = "CT", "Acme", 1, number + 1
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness, one.PositionReferenceIndicator = [1, 1], 1, ""
        one.Rows = one.Columns = side
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, 0, "HU"
        one.KVP, one.AcquisitionNumber = 120, 1
        one.PixelData = (value + random.integers(0, 8, (side, side))).astype("<i2").tobytes()
        for keyword, given in tags.items():
            setattr(one, keyword, given)
        pydicom.dcmwrite(folder / f"{number:04}.dcm", one, enforce_file_format=True)
    return str(one.SeriesInstanceUID)


def dataset_bytes(path: Path) -> bytes:
    """What of a file goes over the network: everything behind its meta information."""
    meta = pydicom.filereader.read_file_meta_info(path)
    return path.read_bytes()[144 + int(meta.FileMetaInformationGroupLength) :]


# --- dcmtk -----------------------------------------------------------------------------------------------


def dcmtk(program: str, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [str(DCMTK / program), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
    )


def send(
    port: int, *paths: Path, aet: str = "CT1", to: str = "FEDMED", options: Sequence[object] = ()
) -> int:
    """storescu of files and folders; returns its exit code."""
    return dcmtk(
        "storescu", "+sd", "+r", *options, "-aet", aet, "-aec", to, "127.0.0.1", port, *paths
    ).returncode


class Orthanc:
    """A PACS over a folder; `peers` may be moved to, by AE title and port."""

    def __init__(self, folder: Path, peers: Mapping[str, int] = {}, **settings: Any) -> None:
        folder.mkdir(parents=True)
        self.folder, self.port, self.http = folder, free_port(), free_port()
        self.destination = f"ORTHANC@127.0.0.1:{self.port}"
        self.dicomweb = f"http://127.0.0.1:{self.http}/dicom-web"
        (folder / "orthanc.json").write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "HttpPort": self.http,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomPort": self.port,
                    "DicomAet": "ORTHANC",
                    "DicomModalities": {aet: [aet, "127.0.0.1", port] for aet, port in peers.items()},
                    "DicomAlwaysAllowFind": True,
                    "DicomAlwaysAllowMove": True,
                    "Plugins": [str(DICOMWEB_PLUGIN)],
                    "DicomWeb": {"Root": "/dicom-web/"},
                    **settings,
                }
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["Orthanc", str(self.folder / "orthanc.json")], stdout=log, stderr=log
            )
        assert until(self._answers), (self.folder / "log").read_text()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.get("/system"))
        return False

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=20) as answer:
            return json.loads(answer.read())

    def series(self) -> list[dict[str, Any]]:
        """Main tags of every series."""
        return [one["MainDicomTags"] for one in self.get("/series?expand")]

    def instances(self) -> set[str]:
        """SOPInstanceUIDs of all that is stored."""
        return {one["MainDicomTags"]["SOPInstanceUID"] for one in self.get("/instances?expand")}


# --- the node --------------------------------------------------------------------------------------------


class Site:
    """A site folder with a signed toy model and a table [listen]; its node runs in a process of its own."""

    def __init__(
        self, folder: Path, *, dimensions: int = 2, kind: str = "", window: int = 16, **listen: Any
    ) -> None:
        from fedmed_edge import signing
        from fedmed_edge.recipe import Intensity, Recipe

        folder.mkdir(parents=True)
        self.folder, self.base = folder, folder / "listen"
        self._key = signing.generate_key()
        self.trust = folder / "server.pub"
        signing.write_public_key(self.trust, self._key.public_key())
        self._toys = load("python/inference/conftest.py")
        self._recipe = Recipe(
            name="toy",
            kind=kind or ("classification" if dimensions == 2 else "segmentation"),
            classes=self._toys.CLASSES,
            size=(window,) * dimensions,
            spacing_mm=(1.0, 1.0, 1.0) if dimensions == 3 else None,
            intensity=Intensity(rule="range", low=0, high=255),
        )
        self.write_model("model.onnx")
        self.listen: dict[str, Any] = {
            "port": 0,
            "metrics_port": 0,
            "model": "model.onnx",
            "settle_s": 0.5,
            "watermark_gb": 0.01,
            **listen,
        }
        self.process: subprocess.Popen[str] | None = None
        self.said: dict[str, Any] = {}

    def write_model(self, name: str, digest: str = "1" * 64) -> Path:
        """Write a toy model, signed, that says of itself to be `digest`."""
        from fedmed_edge import signing

        manifest = self._toys.manifest_of(self._recipe).model_copy(update={"model": digest})
        content = self._toys.toy_onnx(self._recipe, manifest.text)
        signing.write_signed(self.folder / name, content, self._key)
        return self.folder / name

    def configure(self, **listen: Any) -> None:
        """Change settings; they count from the next start."""
        self.listen |= listen
        tables = {name: table for name, table in self.listen.items() if isinstance(table, dict)}
        lines = ['site = "alpha"', 'server_key = "server.pub"', 'device = "cpu"', "[listen]"]
        lines += [f"{k} = {json.dumps(v)}" for k, v in self.listen.items() if k not in tables]
        for name, table in tables.items():
            inner = {k: v for k, v in table.items() if isinstance(v, dict)}
            lines += [f"[listen.{name}]"]
            lines += [f"{k} = {json.dumps(v)}" for k, v in table.items() if k not in inner]
            for title, keys in inner.items():
                lines += [f"[listen.{name}.{title}]", *(f"{k} = {json.dumps(v)}" for k, v in keys.items())]
        (self.folder / "fedmed.toml").write_text("\n".join(lines) + "\n")

    def start(self) -> "Site":
        """Start the node and wait until it listens."""
        line = self._start()
        assert line, self.stderr
        self.said = json.loads(line)
        return self

    def refused(self) -> int:
        """Start a node that is to refuse; returns its exit code."""
        assert not self._start()
        assert self.process is not None and self.process.stdout is not None
        code = self.process.wait(20)
        self.process.stdout.close()
        self.process = None
        return code

    def _start(self) -> str:
        self.configure()
        with (self.folder / "stderr").open("a") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "listen", "-C", str(self.folder), "--json", "-v"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=ENVIRONMENT,
            )
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    @property
    def port(self) -> int:
        return int(self.said["port"])

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def kill(self) -> None:
        """kill -9, as a power switch would."""
        self._end(signal.SIGKILL)

    def stop(self) -> float:
        """SIGTERM; returns how many seconds it took to end."""
        started = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - started

    def _end(self, number: int) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(20)
            assert process.stdout is not None
            process.stdout.close()
            if number == signal.SIGTERM:
                assert process.returncode == 0, self.stderr

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the metrics server."""
        url = f"http://127.0.0.1:{self.said['metrics_port']}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    def metric(self, name: str) -> float:
        """A sample, by its name with labels."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query finds in the journal."""
        with contextlib.closing(sqlite3.connect(self.base / "journal.sqlite", timeout=10)) as journal:
            return journal.execute(query, values).fetchall()

    def states(self) -> list[str]:
        """State of every job, in order."""
        return [state for (state,) in self.rows("SELECT state FROM jobs ORDER BY job")]

    def idle(self, seconds: float = 120.0) -> bool:
        """Wait until nothing is to be done; whether that came."""
        busy = (
            "SELECT (SELECT count(*) FROM series WHERE fresh) +"
            " (SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')) +"
            " (SELECT count(*) FROM deliveries WHERE state = 'pending')"
        )
        return bool(until(lambda: self.rows(busy) == [(0,)], seconds, 0.05))

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """A verb of `fedmed-edge` over this folder."""
        command = [PROGRAM, arguments[0], "-C", str(self.folder), *map(str, arguments[1:])]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env=ENVIRONMENT
        )

    def clear(self) -> None:
        """Forget all that was received."""
        shutil.rmtree(self.base, ignore_errors=True)


@contextlib.contextmanager
def running(site: Site) -> Iterator[Site]:
    """A site whose node runs in this block."""
    site.start()
    try:
        yield site
    finally:
        site.kill()
