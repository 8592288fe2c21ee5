"""A CT volume from DICOM to DICOM: `infer` against torch and MONAI on the same network and input.

    python tests/bench/volume.py [--size 300 512 512] [--spacing 1.0] [--classes 2] [--no-peer] [--json]

Makes a phantom CT and a MONAI UNet of 64³ windows (untrained: its answer is looked at for agreement alone),
runs `fedmed-edge infer` on it in a process of its own, then the same network in torch eager with MONAI's
transforms, sliding window and inversion and highdicom's segmentation, the way a MONAI bundle in a deployment
application goes. Processor seconds are user and system of the whole process with its start; one thread each.

Goals: processor time at least 3 times less; all but the network, start included, at most 25 % of it; peak
memory above the idle process at most 1.5 × (larger of source and model grid, float32) + the model file.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from harness import SINGLE_THREAD, Cost, cost_of, end_with

WINDOW = 64
GOAL_RATIO, GOAL_SHARE, GOAL_MEMORY = 3.0, 0.25, 1.5
SPACING_MM = (1.0, 0.8, 0.8)
# Wide enough that air keeps its noise: an instance norm makes rounding errors of a flat window large.
LOW, HIGH = -1100.0, 300.0

# What a process holds that has loaded all that `infer` needs for DICOM, and no model.
IDLE = """
import json
from pathlib import Path
import fedmed_edge, onnxruntime, highdicom, nibabel, PIL.ImageFont
from fedmed_edge.inference import batch, dicom_objects, inputs, predict
from fedmed_edge.images import dicom, slabs
print(json.dumps(int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024))
"""

# Processor seconds of the network for one window.
NETWORK = """
import json, sys, time
import numpy as np
from fedmed_edge.inference.predict import load_model
model = load_model(sys.argv[1], trust=sys.argv[2], device="cpu")
window = np.random.default_rng(0).random((1, 1, *model.recipe.size), np.float32)
model.session.run({"image": window})
started = time.process_time()
for _ in range(30):
    model.session.run({"image": window})
print(json.dumps((time.process_time() - started) / 30))
"""

INFER = """
from importlib.metadata import entry_points
(entry,) = entry_points(group="console_scripts", name="fedmed-edge")
entry.load()()
"""


def write_phantom(folder: Path, size: tuple[int, int, int]) -> None:
    """A body of soft tissue with balls in it, air around, noise; axial slices from feet to head."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    slices, rows, columns = size
    random = np.random.default_rng(0)
    balls = random.uniform(0.25, 0.75, (12, 3)) * size
    y, x = np.mgrid[:rows, :columns]
    body = ((y / rows - 0.5) / 0.42) ** 2 + ((x / columns - 0.5) / 0.45) ** 2 < 1
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(slices):
        values = np.where(body, 40, -1000) + random.normal(0, 12, (rows, columns))
        for centre in balls:
            reach = 0.06 * rows
            near = (k - centre[0]) ** 2 * 1.6 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < reach**2
            values[near] = 140
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"2.25.77.{k + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.7", "2.25.77", "2.25.70"
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P", "Phantom", "", "O"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240101", "101010", "1", "A"
        ds.ReferringPhysicianName, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "", "CT", 1, k + 1
        ds.ImageType, ds.SliceThickness = ["ORIGINAL", "PRIMARY", "AXIAL"], SPACING_MM[0]
        ds.ImagePositionPatient = [-columns * SPACING_MM[2] / 2, -rows * SPACING_MM[1] / 2, k * SPACING_MM[0]]
        ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], list(SPACING_MM[1:])
        ds.Rows, ds.Columns, ds.SamplesPerPixel = rows, columns, 1
        ds.PhotometricInterpretation, ds.BitsAllocated, ds.BitsStored = "MONOCHROME2", 16, 16
        ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = 15, 1, 1, 0
        ds.PixelData = values.astype(np.int16).tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / f"{k:04}.dcm", enforce_file_format=True)


def network(classes: int):  # type: ignore[no-untyped-def]
    """The UNet of both sides, the same weights each time."""
    import torch
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    return UNet(3, 1, classes, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2).eval()


def write_model(folder: Path, classes: int, spacing: float) -> None:
    """The network as an exported, signed model: softmax inside, a distance that says nothing."""
    import onnx
    import torch

    from fedmed_edge.model.manifest import METADATA_KEY, Manifest
    from fedmed_edge.recipe import Intensity, Recipe
    from fedmed_edge.signing import generate_key, write_public_key, write_signed

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(classes)

        def forward(self, image):  # type: ignore[no-untyped-def]
            return torch.softmax(self.network(image), dim=1), image.mean().reshape(1)

    recipe = Recipe(
        name="phantom",
        kind="segmentation",
        classes=tuple(f"class {number}" for number in range(classes)),
        modality=("CT",),
        size=(WINDOW,) * 3,
        spacing_mm=(spacing,) * 3,
        intensity=Intensity(rule="range", low=LOW, high=HIGH),
    )
    manifest = Manifest(
        recipe=recipe,
        recipe_digest=recipe.digest,
        generation="0" * 64,
        model="1" * 64,
        known_threshold=None,
        priors=(1 / classes,) * classes,
        temperature=1.0,
        ridge=1e-2,
        sites=1,
        contributions=("2" * 64,),
        provenance="a benchmark's",
        withdrawn_notice="none",
    )
    torch.onnx.export(
        Exported(),
        (torch.zeros(1, 1, WINDOW, WINDOW, WINDOW),),
        folder / "raw.onnx",
        input_names=["image"],
        output_names=["probabilities", "distance"],
        opset_version=17,
        dynamo=False,
    )
    model = onnx.load(folder / "raw.onnx")
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.text})
    key = generate_key()
    write_signed(folder / "model.onnx", model.SerializeToString(), key)
    write_public_key(folder / "server.pub", key.public_key())


def with_monai(folder: Path, classes: int, spacing: float) -> None:
    """The peer's whole way, in a process of its own: prints seconds by stage."""
    import highdicom
    import monai.transforms as mt
    import numpy as np
    import pydicom
    import torch
    from monai.data import MetaTensor, PydicomReader
    from monai.inferers import sliding_window_inference
    from pydicom.sr.codedict import codes

    torch.set_num_threads(1)
    seconds, since = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal since
        now = time.perf_counter()
        seconds[name], since = now - since, now

    prepare = mt.Compose(
        [
            mt.LoadImaged("image", reader=PydicomReader(), ensure_channel_first=True),
            # before resampling, as a recipe's rule is, so that both sides compute the same
            mt.ScaleIntensityRanged("image", a_min=LOW, a_max=HIGH, b_min=0, b_max=1, clip=True),
            mt.Orientationd("image", axcodes="RAS"),
            mt.Spacingd("image", pixdim=(spacing,) * 3, mode="bilinear"),
        ]
    )
    data = prepare({"image": str(folder / "series")})
    lap("prepare")
    unet = network(classes)
    with torch.inference_mode():
        answer = sliding_window_inference(
            data["image"][None],
            (WINDOW,) * 3,
            1,
            lambda window: torch.softmax(unet(window), dim=1),
            overlap=0.25,
            mode="gaussian",
        )[0]
    lap("network")
    data["pred"] = MetaTensor(answer, meta=data["image"].meta)
    after = mt.Compose(
        [
            mt.Invertd("pred", prepare, "image", nearest_interp=False, to_tensor=True),
            mt.AsDiscreted("pred", argmax=True),
        ]
    )
    labels = after(data)["pred"][0].numpy().astype(np.uint8)
    lap("blend")
    headers = [
        pydicom.dcmread(path, stop_before_pixels=True) for path in sorted((folder / "series").iterdir())
    ]
    algorithm = highdicom.AlgorithmIdentificationSequence("net", codes.DCM.ArtificialIntelligence, "1")
    described = [
        highdicom.seg.SegmentDescription(
            number,
            f"class {number}",
            codes.SCT.Tissue,
            codes.SCT.Tissue,
            highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm,
        )
        for number in range(1, classes)
    ]
    frames = np.ascontiguousarray(labels.T)
    seg = highdicom.seg.Segmentation(
        headers, frames, "BINARY", described, "2.25.1", 1, "2.25.2", 1, "M", "N", "1", "2"
    )
    seg.save_as(folder / "peer.dcm")
    lap("write")
    np.save(folder / "peer.npy", labels)
    print(json.dumps(seconds))


def measure(*arguments: object) -> Cost:
    """What a Python process of its own and of one thread costs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDMED_")}
    return cost_of([sys.executable, *arguments], kept | SINGLE_THREAD)


def figures(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Both sides, once each; ours first."""
    size, spacing, classes = tuple(options.size), options.spacing, options.classes
    # In processes of their own: a child's largest memory is never below what its parent had when it began.
    measure(__file__, "--make", folder, "--size", *size, "--spacing", spacing, "--classes", classes)
    idle = statistics.median(json.loads(measure("-c", IDLE).said) for _ in range(3))
    model = folder / "model.onnx"
    asked = ("-o", folder / "out", "--model", model, "--trust", folder / "server.pub", "--threads", 1)
    ours = measure("-c", INFER, "infer", folder / "series", *asked, "--json", "-q")
    result = json.loads(ours.said)
    if result["error"] or result["not_written"]:
        sys.exit(f"error: {result['error'] or result['not_written']}")
    grid = [round(side * own / spacing) for side, own in zip(size, SPACING_MM, strict=True)]
    largest = max(size[0] * size[1] * size[2], grid[0] * grid[1] * grid[2]) * 4 / 2**20
    from fedmed_edge.images.windows import OVERLAP, window_starts

    windows = len(window_starts(tuple(grid), (WINDOW,) * 3, OVERLAP))
    each = json.loads(measure("-c", NETWORK, model, folder / "server.pub").said)
    found: dict[str, object] = {
        "size": list(size),
        "grid": grid,
        "classes": classes,
        "cpu_seconds": round(ours.cpu_s, 1),
        "wall_seconds": round(ours.wall_s, 1),
        "wall_stages": result["stages"],
        "windows": windows,
        "network_cpu_seconds": round(windows * each, 1),
        "other_than_network": round(1 - windows * each / ours.cpu_s, 3),
        "idle_mib": round(idle),
        "peak_mib": round(ours.peak_mib),
        "model_mib": round(model.stat().st_size / 2**20, 1),
        "volume_mib": round(largest),
        "volumes_above_idle": round((ours.peak_mib - idle - model.stat().st_size / 2**20) / largest, 2),
    }
    if not options.no_peer:
        import nibabel
        import numpy as np

        peer = measure(__file__, "--peer", folder, "--spacing", spacing, "--classes", classes)
        labels = np.asarray(nibabel.load(result["mask"]).dataobj)
        theirs = json.loads(peer.said.splitlines()[-1])
        found |= {
            "peer_cpu_seconds": round(peer.cpu_s, 1),
            "peer_peak_mib": round(peer.peak_mib),
            "peer_stages": {name: round(value, 1) for name, value in theirs.items()},
            "cpu_ratio": round(peer.cpu_s / ours.cpu_s, 2),
            "memory_ratio": round((peer.peak_mib - idle) / (ours.peak_mib - idle), 2),
            "labels_that_agree": round(float(np.mean(labels == np.load(folder / "peer.npy"))), 5),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--size", type=int, nargs=3, default=[300, 512, 512], metavar=("SLICES", "ROWS", "COLS")
    )
    parser.add_argument("--spacing", type=float, default=1.0, help="of the model's grid, mm")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--no-peer", action="store_true", help="ours alone: time by stage and memory")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        write_phantom(options.make / "series", tuple(options.size))
        write_model(options.make, options.classes, options.spacing)
        return
    if options.peer:
        with_monai(options.peer, options.classes, options.spacing)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        found = figures(folder, options)
    finally:
        shutil.rmtree(folder)
    met = {
        "memory": found["volumes_above_idle"] <= GOAL_MEMORY,  # type: ignore[operator]
        "stages": found["other_than_network"] <= GOAL_SHARE,  # type: ignore[operator]
    }
    if "cpu_ratio" in found:
        met["speed"] = found["cpu_ratio"] >= GOAL_RATIO  # type: ignore[operator]
    if options.json:
        print(json.dumps({**found, "goals_met": met}))
        return
    for name, value in {**found, "goals_met": met}.items():
        print(f"{name:<20} {value}")


if __name__ == "__main__":
    end_with(main)
