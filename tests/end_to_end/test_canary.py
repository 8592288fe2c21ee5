"""What names a patient is planted in a hospital's images, and no byte that leaves holds it, in any form."""

import base64
import io
import re
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image as Raster
from PIL import ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from fedmed_edge.config import ServerConfig, SiteConfig, read_config
from fedmed_edge.federation import duties
from fedmed_edge.federation.coordinator import FOLDER, Coordinator
from fedmed_edge.federation.loopback import Loopback, LoopbackSites
from fedmed_edge.federation.requests import Requests
from fedmed_edge.federation.site_side import sync
from fedmed_edge.federation.wire import Reply, Request, encode
from fedmed_edge.generation import read_generation
from fedmed_edge.recipe import read_recipe
from fedmed_edge.store.store import open_store

SITE = "c"
TEXTS = {
    "name": "Quixley^Zebadiah",
    "patient id": "PID-7731-XQ",
    "accession number": "ACC90417745",
    "birth date": "19310228",
    "study date": "19870304",
    "acquisition time": "131415.926535",
    "study uid": "1.2.826.0.1.3680043.9.7433.1.31337",
    "physician": "Vandersloot^Ottoline",
    "institution": "Saint Hildegard of Nowhere",
    "device": "SN-00X-44871",
    "private tag": "privateNote#8842",
    "comment": "seen w/ daughter Wilhelmina",
    "file name": "zquix_scan",
    "folder name": "ward_of_quixley",
    "table patient": "mrn-5550123",
}
BURNED_IN = "ZEB QUIXLEY 31"


def image_of(number: int) -> np.ndarray:
    """A dark or bright image with a name burned into it."""
    random = np.random.default_rng([77, number])
    pixels = np.clip(random.normal(60 + 110 * (number % 2), 25, (40, 90)), 0, 255).astype(np.uint8)
    canvas = Raster.fromarray(pixels)
    ImageDraw.Draw(canvas).text((2, 14), BURNED_IN, fill=255)
    return np.asarray(canvas)


def write_dicom(path: Path, number: int) -> None:
    ds, pixels = Dataset(), image_of(number)
    ds.SOPClassUID, ds.SOPInstanceUID = (
        SecondaryCaptureImageStorage,
        generate_uid(prefix=TEXTS["study uid"] + "."),
    )
    ds.StudyInstanceUID = ds.SeriesInstanceUID = TEXTS["study uid"]
    ds.PatientName, ds.PatientID = TEXTS["name"], TEXTS["patient id"]
    ds.PatientBirthDate, ds.StudyDate = TEXTS["birth date"], TEXTS["study date"]
    ds.AcquisitionTime, ds.AccessionNumber = TEXTS["acquisition time"], TEXTS["accession number"]
    ds.ReferringPhysicianName, ds.InstitutionName = TEXTS["physician"], TEXTS["institution"]
    ds.DeviceSerialNumber, ds.ImageComments = TEXTS["device"], TEXTS["comment"]
    ds.private_block(0x0011, TEXTS["private tag"], create=True).add_new(1, "LO", TEXTS["private tag"])
    ds.Modality, ds.SamplesPerPixel, ds.PhotometricInterpretation = "OT", 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.BurnedInAnnotation = 7, 0, "YES"
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)


def plant(folder: Path, images: int = 24) -> None:
    """A dataset folder in which every canary stands."""
    inner = folder / TEXTS["folder name"]
    inner.mkdir(parents=True)
    lines = ["image,label,mask,patient,split"]
    for number in range(images):
        name = f"{TEXTS['folder name']}/{TEXTS['file name']}_{number}.dcm"
        write_dicom(folder / name, number)
        split = "test" if number >= images - 4 else "train"
        lines.append(f"{name},{('dark', 'bright')[number % 2]},,{TEXTS['table patient']}-{number},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


# --- looking for them --------------------------------------------------------------------------------------


def forms(text: str) -> Iterator[bytes]:
    """A text as it might stand in bytes, in lower case."""
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le"):
        plain = text.encode(encoding)
        yield plain.lower()
        yield plain[::-1].lower()
        yield plain.hex().encode()
        for offset in range(3):  # whatever stands before it within the same base64
            coded = base64.b64encode(b"\0" * offset + plain)
            yield coded[(8 * offset + 5) // 6 : len(coded) - 4].lower()


def pixel_forms() -> Iterator[bytes]:
    """Lines of the first image's burned-in text, as bytes and as numbers between 0 and 1."""
    for row in range(16, 24):
        line = image_of(0)[row, 4:60]
        yield line.tobytes()
        for dtype in ("<f4", "<f8"):
            yield line[:16].astype(dtype).tobytes()
            yield (line[:16] / np.array(255, dtype)).astype(dtype).tobytes()


def layers(content: bytes, depth: int = 2) -> Iterator[bytes]:
    """The bytes, and what is compressed in them: zip members, zlib and gzip streams."""
    yield content
    if not depth:
        return
    inner: list[bytes] = []
    if b"PK\x03\x04" in content:
        with zipfile.ZipFile(io.BytesIO(content[content.index(b"PK\x03\x04") :])) as archive:
            inner += [archive.read(name) for name in archive.namelist()]
    for found in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", content):
        try:
            inner.append(zlib.decompressobj(wbits=47).decompress(content[found.start() :], 1 << 24))
        except zlib.error:
            continue
    for one in inner:
        if len(one) > 8:
            yield from layers(one, depth - 1)


def held(content: bytes) -> set[str]:
    """Names of the canaries that stand in some bytes."""
    found = set()
    for layer in layers(content):
        lower = layer.lower()
        found |= {name for name, text in TEXTS.items() if any(form in lower for form in forms(text))}
        found |= {"burned-in text"} if any(form in layer for form in pixel_forms()) else set()
    return found


def test_a_canary_is_found_in_whatever_form_it_leaves() -> None:
    text, noise = TEXTS["name"], np.random.default_rng(0).bytes(4096)
    told = f'{{"error": "cannot read {text}"}}'
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("note", told)
    shapes = {
        "raw": told.encode(),
        "upper case": told.upper().encode(),
        "utf-16": told.encode("utf-16"),
        "hex": told.encode().hex().upper().encode(),
        **{f"base64 behind {n}": base64.b64encode(b"x" * n + told.encode()) for n in range(4)},
        "zlib": zlib.compress(told.encode(), 1),
        "base64 in zlib": zlib.compress(base64.b64encode(told.encode())),
        "zip": zipped.getvalue(),
    }
    for shape, content in shapes.items():
        assert "name" in held(noise + content + noise), shape
    assert held(noise + image_of(0).tobytes()) == {"burned-in text"}
    assert held(noise + (image_of(0) / np.float32(255)).astype("<f4").tobytes()) == {"burned-in text"}
    assert held(noise) == set()


# --- what leaves -------------------------------------------------------------------------------------------


class Recorded(LoopbackSites):
    """Sites in this process, whose every byte on the wire is kept."""

    sent: list[bytes]

    def sync(self, site: str, deadline_s: float) -> None:
        folder, config = self.sites[site]
        inner = Loopback(self._store, self._folder, site)

        class Channel:
            def ask(_, op: str, fields: Mapping[str, Any], data: bytes = b"") -> Reply:
                if site == SITE:
                    self.sent.append(encode(Request(op, fields, data)))
                return inner.ask(op, fields, data)

        sync(Channel(), folder, config, patience_s=0)


@pytest.fixture
def hospital(kit: ModuleType, tmp_path: Path) -> Any:
    """A server, the hospitals a and b, and c, whose images hold the canaries."""
    f = kit.Federation(tmp_path)
    for seed, name in enumerate("ab"):
        f.enrol(name, seed)
    plant(tmp_path / "planted")
    f.enrol(SITE, 2)
    settings = tmp_path / SITE / "fedmed.toml"
    text = settings.read_text().replace(str(tmp_path / "c-data"), str(tmp_path / "planted"))
    rules = "[federation]\nmay_contribute = true\nmay_train = true\nmay_validate = true\n"
    settings.write_text(text.replace('device = "auto"', 'device = "cpu"') + rules)
    assert "planted" in settings.read_text()
    return f


def meet(f: Any, turns: int = 4) -> tuple[list[bytes], list[Any]]:
    """Let the hospital do what it is asked; what went over the wire, and its reports."""
    config = read_config(ServerConfig, f.server)
    quick = config.federation.model_copy(update={"collect_s": 0.001, "quorum": 1})
    config = config.model_copy(update={"federation": quick})
    folder, store = f.root / SITE, open_store(config)
    sites = Recorded(store, f.server / FOLDER, {SITE: (folder, read_config(SiteConfig, folder))})
    sites.sent = []
    coordinator = Coordinator(f.server, config, store, sites)
    reports = []
    for _ in range(turns):
        coordinator.step()
        reports += duties.work(*sites.sites[SITE])
    return sites.sent, reports


def test_nothing_that_leaves_a_hospital_holds_a_canary(
    hospital: Any, kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    f, left = hospital, {}
    monkeypatch.setattr(duties, "TRIES", 1)
    caplog.set_level("DEBUG", "fedmed_edge")
    # by file: weights, a draft's sums, a generation's sums
    f.publish("start.generation", "--recipe", f.recipe)
    trained = ("--epochs", 0.2, "--out", tmp_path / "own.backbone", "--device", "cpu")
    f.site(SITE, "train", "--generation", f.generation, *trained)
    left["weights"] = f.contribute(SITE, "--weights", tmp_path / "own.backbone", file="c.weights")
    f.learn("a", "b", SITE)
    left["draft"] = tmp_path / "c.draft"
    f.join("a", "b", SITE)
    left["contribution"] = tmp_path / "c.contribution"
    left["request"] = tmp_path / SITE / "c.request"
    # what the server makes of it and hands to everybody
    f.admin("rebuild")
    left["exported model"] = f.export()
    left["generation"] = f.generation
    found = {name: held(path.read_bytes()) for name, path in left.items()}
    assert not any(found.values()), found
    # by the agent: what it is asked, done and failed
    f.admin("publish", f.generation)
    f.admin("publish", left["exported model"], "--validate")
    sent, reports = meet(f)
    assert {report.state for report in reports} == {"done"}
    assert {bool(report.figures) for report in reports} == {True, False}
    # past the policy: refused, and why stays here
    settings = tmp_path / SITE / "fedmed.toml"
    settings.write_text(settings.read_text().replace('width_rule = "off"', 'width_rule = "refuse"'))
    again = {"recipe": read_recipe(f.recipe).digest, "generation": read_generation(f.generation).digest}
    asked = Requests(f.server / FOLDER / "requests")
    asked.make(SITE, "once more", kind="contribute", deadline=time.time() + 3600, **again)
    refused, (report,) = meet(f, 2)
    assert (report.state, report.why) == ("refused", "policy")
    assert "width rule: " in caplog.text and b"width" not in b"".join(refused)
    # what cannot be read
    inner = tmp_path / "planted" / TEXTS["folder name"]
    for broken in inner.glob("*.dcm"):
        broken.write_bytes(broken.read_bytes()[:700])
    f.admin("train", "--rounds", 1, "--epochs", 0.1)
    more, failed = meet(f)
    assert [report.state for report in failed] == ["failed"]
    assert TEXTS["file name"] in caplog.text  # the hospital's own log may name the file
    sent += refused + more
    assert len(sent) > 10 and held(b"".join(sent)) == set()
    # logs stay, and name no patient all the same
    assert held(caplog.text.encode()) <= {"file name", "folder name"}
    key = (tmp_path / SITE / "site.key").read_bytes().splitlines()[1]
    everything = b"".join([*sent, *(path.read_bytes() for path in left.values())])
    assert key not in everything and base64.b64decode(key)[-32:] not in everything
