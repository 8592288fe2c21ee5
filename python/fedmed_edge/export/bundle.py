"""An exported model as a MONAI bundle: the ONNX file, what it is, and how MONAI prepares images for it.

Source: MONAI bundle specification (docs.monai.io, mb_specification).
"""

import json
from pathlib import Path
from typing import Any, Final

from fedmed_edge import __version__
from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.model.manifest import Manifest
from fedmed_edge.recipe import Intensity, Recipe

__all__ = ["MODEL_FILE", "write_bundle"]

MODEL_FILE: Final = Path("models", "model.onnx")

SCHEMA: Final = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
# What inference.json was written for, and is tested with later ones of.
VERSIONS: Final = {"monai_version": "1.4.0", "pytorch_version": "2.4.0", "numpy_version": "2.0.0"}
PACKAGES: Final = {"onnxruntime": "1.19.0", "nibabel": "5.2.0", "pillow": "10.3.0"}

# The answer has to know where its image lay.
_PREDICT = (
    "$lambda item: @postprocessing({**item, 'pred': monai.data.MetaTensor("
    "@inferer(item['image'][None], @network_def)[0], meta=item['image'].meta), "
    "'pred_meta_dict': item['image'].meta})"
)


def write_bundle(folder: Path, manifest: Manifest) -> None:
    """Write a bundle's folder; the model itself is written to `MODEL_FILE` in it by who signs it.

    Raises:
        InputError: The model classifies volumes, which no MONAI inferer does as it has to be done, or a file
            cannot be written.
    """
    recipe = manifest.recipe
    if recipe.kind == "classification" and recipe.dimensions == 3:
        raise InputError(
            "export: bundle: volumes are classified window by window, which no inferer of MONAI does",
            hint="export it with --to onnx",
        )
    for name, text in (
        ("configs/metadata.json", json.dumps(metadata(manifest), indent=4)),
        ("configs/inference.json", json.dumps(inference(recipe), indent=4)),
        ("docs/README.md", _readme(manifest)),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, (text.rstrip() + "\n").encode())
    (folder / MODEL_FILE).parent.mkdir(exist_ok=True)


def metadata(manifest: Manifest) -> dict[str, Any]:
    """The bundle's metadata.json."""
    recipe = manifest.recipe
    names = {str(number): name for number, name in enumerate(recipe.classes)}
    tensor = {"type": "image", "dtype": "float32", "is_patch_data": recipe.dimensions == 3}
    spatial = list(recipe.size) if recipe.kind == "segmentation" else []
    return {
        "schema": SCHEMA,
        "version": manifest.model[:12],
        "changelog": {manifest.model[:12]: manifest.provenance},
        **VERSIONS,
        "required_packages_version": PACKAGES,
        "name": recipe.name,
        "task": f"{recipe.kind} of {', '.join(recipe.classes)}",
        "description": f"{manifest.provenance} {manifest.withdrawn_notice}",
        "authors": f"a federation of {manifest.sites} site(s), made by FedMed Edge {__version__}",
        "copyright": "the sites of the federation",
        "data_source": "images that stayed at the sites",
        "data_type": "DICOM, NIfTI, PNG or JPEG",
        "intended_use": "research only",
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "format": "magnitude",
                    "num_channels": recipe.channels,
                    "spatial_shape": list(recipe.size),
                    "value_range": [] if recipe.intensity.rule == "zscore" else [0, 1],
                    "channel_def": {str(number): "image" for number in range(recipe.channels)},
                }
            },
            "outputs": {
                "pred": {
                    **tensor,
                    "type": "image" if spatial else "probabilities",
                    "format": "segmentation" if spatial else "classes",
                    "num_channels": len(recipe.classes),
                    "spatial_shape": spatial,
                    "value_range": [0, 1],
                    "channel_def": names,
                }
            },
        },
    }


def inference(recipe: Recipe) -> dict[str, Any]:
    """The bundle's inference.json: answers every file of `dataset_dir`."""
    classify = recipe.kind == "classification"
    inferer: dict[str, Any] = {"_target_": "SimpleInferer"}
    if recipe.dimensions == 3:
        inferer = {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(recipe.size),
            "sw_batch_size": 1,
            "overlap": 0.25,
            "mode": "gaussian",
        }
    return {
        "imports": [
            "$__import__('os').environ.setdefault('ORT_DISABLE_TELEMETRY', '1')",
            "$import monai",
            "$import onnxruntime",
            "$import torch",
            "$from pathlib import Path",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cpu')",
        "session": f"$onnxruntime.InferenceSession(@bundle_root + '/{MODEL_FILE}', "
        "providers=['CPUExecutionProvider'])",
        "network_def": "$lambda image: torch.from_numpy("
        "@session.run(['probabilities'], {'image': image.cpu().numpy()})[0])",
        "datalist": "$[{'image': str(f)} for f in sorted(Path(@dataset_dir).iterdir()) if f.is_file()]",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(recipe)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "inferer": inferer,
        "saver": {"_target_": "CSVSaver", "output_dir": "@output_dir", "filename": "probabilities.csv"},
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(recipe)},
        "predict": _PREDICT,
        "run": ["$[@predict(item) for item in @dataset]", *(["$@saver.finalize()"] if classify else [])],
    }


def _preprocessing(recipe: Recipe) -> list[dict[str, Any]]:
    """As `images.preprocess.prepare`: intensity first, then geometry."""
    load: dict[str, Any] = {"_target_": "LoadImaged", "keys": "image", "image_only": True}
    if recipe.dimensions == 2:
        load["reader"] = "PILReader"
        if recipe.channels == 1:
            load["converter"] = "$lambda image: image.convert('L')"
    steps = [load, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
    if recipe.dimensions == 2:  # its reader gives columns first
        steps.append({"_target_": "Transposed", "keys": "image", "indices": [0, 2, 1]})
    steps.append(_intensity(recipe.intensity))
    if recipe.spacing_mm is None:
        return [
            *steps,
            {
                "_target_": "Resized",
                "keys": "image",
                "spatial_size": list(recipe.size),
                "mode": "bilinear",
                "anti_aliasing": True,
            },
        ]
    return [
        *steps,
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": list(recipe.spacing_mm), "mode": "bilinear"},
        {
            "_target_": "SpatialPadd",
            "keys": "image",
            "spatial_size": list(recipe.size),
            "method": "end",
            "mode": "edge",
        },
    ]


def _intensity(intensity: Intensity) -> dict[str, Any]:
    if intensity.rule == "zscore":
        return {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}
    bounds = {"b_min": 0, "b_max": 1, "clip": True}
    if intensity.rule == "range":
        limits = {"a_min": intensity.low, "a_max": intensity.high}
        return {"_target_": "ScaleIntensityRanged", "keys": "image", **limits, **bounds}
    limits = {"lower": intensity.low, "upper": intensity.high}
    return {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", **limits, **bounds}


def _postprocessing(recipe: Recipe) -> list[dict[str, Any]]:
    if recipe.kind == "classification":
        return [{"_target_": "SaveClassificationd", "keys": "pred", "saver": "@saver"}]
    return [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_ext": ".nii.gz" if recipe.dimensions == 3 else ".png",
            "output_dtype": "$__import__('numpy').uint8",
            "resample": False,
        },
    ]


def _readme(manifest: Manifest) -> str:
    recipe = manifest.recipe
    return "\n".join(
        [
            f"# {recipe.name}",
            "",
            f"{recipe.kind.capitalize()} of {', '.join(recipe.classes)}. Research use only.",
            "",
            manifest.provenance,
            manifest.withdrawn_notice,
            "",
            f"The model file and its signature are those that `fedmed-edge infer --model {MODEL_FILE}` runs; "
            "MONAI checks no signature. MONAI's own way:",
            "",
            "    python -m monai.bundle run --config_file configs/inference.json --dataset_dir DIR",
            "",
            f"Model {manifest.model}, generation {manifest.generation}.",
        ]
    )
