"""An exported model as a TensorRT engine for the GPU of this machine, within a file that `infer` loads.

Never run where this was written: there was no GPU with TensorRT. The refusals are tested.
"""

import onnx
from onnx import helper

from fedmed_edge.errors import InputError
from fedmed_edge.export.parity import sample_fault
from fedmed_edge.machine import driver, gpus, packages
from fedmed_edge.model.manifest import METADATA_KEY, parse_manifest
from fedmed_edge.runtime import compile_engine

__all__ = ["to_engine"]


def to_engine(content: bytes) -> bytes:
    """Build the engine, and compare the sample that the model carries.

    Args:
        content: An exported model.

    Raises:
        DeviceError: TensorRT does not come up here, or does not take the whole model.
        InputError: The engine answers the sample otherwise than the model's precision allows.
    """
    (text,) = (entry.value for entry in onnx.load_model_from_string(content).metadata_props)
    manifest = parse_manifest(text, "export")
    engine = onnx.load_model_from_string(compile_engine(content, precision=manifest.precision))
    parts = [*gpus()[:1], f"driver {driver()}"]
    versions = packages("onnxruntime-gpu", "tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    built_for = ", ".join([*parts, *(f"{name} {version}" for name, version in versions.items())])
    manifest = manifest.model_copy(update={"built_for": built_for})
    helper.set_model_props(engine, {METADATA_KEY: manifest.text})
    made = bytes(engine.SerializeToString(deterministic=True))
    fault = sample_fault(made, manifest, device="tensorrt")
    if fault:
        raise InputError(f"export: tensorrt: {fault}")
    return made
