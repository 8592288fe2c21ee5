"""Toy models that are real exported files: an ONNX graph with a manifest, signed by a server key."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image as Picture

from fedmed_edge import signing
from fedmed_edge.model.manifest import Manifest, TasksManifest
from fedmed_edge.recipe import Intensity, Recipe

CLASSES = ("dark", "bright")


def manifest_of(recipe, threshold=4.0):
    return Manifest(
        recipe=recipe,
        recipe_digest=recipe.digest,
        generation="0" * 64,
        model="1" * 64,
        known_threshold=threshold,
        priors=tuple(1 / len(recipe.classes) for _ in recipe.classes),
        temperature=1.0,
        ridge=1e-2,
        sites=3,
        contributions=("2" * 64,),
        provenance="made by a test",
        withdrawn_notice="none",
    )


def toy_onnx(recipe, text, *, outputs=("probabilities", "distance")):
    """Two classes: the second has probability sigmoid(20 (x - 1/2)), of the mean or of each pixel.

    The distance is 100 (mean - 1/2)².
    """
    shape = [1, recipe.channels, *recipe.size]
    spatial = list(range(1, len(shape)))
    constants = {
        "half": np.float32(0.5),
        "steep": np.float32(20),
        "hundred": np.float32(100),
        "axes": np.array(spatial, np.int64),
        "channel": np.array([1], np.int64),
        "one": np.array([1], np.int64),
        "pair": np.array([1, 1], np.int64),
    }
    classify = recipe.kind == "classification"
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("ReduceMean", ["image", "channel"], ["grey"], keepdims=1),
        helper.make_node("Reshape", ["mean", "pair"], ["column"]),
        helper.make_node("Sub", ["column" if classify else "grey", "half"], ["off"]),
        helper.make_node("Mul", ["off", "steep"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["second"]),
        helper.make_node("Neg", ["score"], ["other"]),
        helper.make_node("Sigmoid", ["other"], ["first"]),
        helper.make_node("Concat", ["first", "second"], ["probabilities"], axis=1),
        helper.make_node("Sub", ["mean", "half"], ["away"]),
        helper.make_node("Mul", ["away", "away"], ["square"]),
        helper.make_node("Mul", ["square", "hundred"], ["distance"]),
    ]
    kinds = {"probabilities": [1, 2, *([] if classify else recipe.size)], "distance": [1]}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, kinds[name]) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if text:
        helper.set_model_props(model, {"fedmed": text})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def toy_tasks(manifests):
    """The toy graphs of several tasks side by side, each with an input of its own."""
    several = TasksManifest(tasks=manifests)
    parts = []
    for manifest, ports in zip(several.tasks, several.ports, strict=True):
        names = dict(zip(("image", "probabilities", "distance"), ports, strict=True))
        graph = onnx.load_model_from_string(toy_onnx(manifest.recipe, "")).graph
        for node in graph.node:
            node.input[:] = [names.get(name, f"{manifest.task}/{name}") for name in node.input]
            node.output[:] = [names.get(name, f"{manifest.task}/{name}") for name in node.output]
        for one in (*graph.input, *graph.output, *graph.initializer):
            one.name = names.get(one.name, f"{manifest.task}/{one.name}")
        parts.append(graph)
    fields = ("node", "input", "output", "initializer")
    nodes, inputs, outputs, constants = ([one for g in parts for one in getattr(g, f)] for f in fields)
    graph = helper.make_graph(nodes, "toys", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"fedmed": several.text})
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Folder with the server's two keys."""
    folder = tmp_path_factory.mktemp("server")
    key = signing.generate_key()
    signing.write_key(folder / "server.key", key)
    signing.write_public_key(folder / "server.pub", key.public_key())
    return folder


@pytest.fixture
def recipe_of():
    def make(kind="classification", size=(16, 16), **changes):
        settings = {
            "name": "toy",
            "kind": kind,
            "classes": CLASSES,
            "size": size,
            "spacing_mm": (1.0, 1.0, 1.0) if len(size) == 3 else None,
            "intensity": Intensity(rule="range", low=0, high=255),
        }
        return Recipe(**{**settings, **changes})

    return make


@pytest.fixture
def write_model(server, tmp_path):
    """Write and sign a toy model; returns its path."""

    def write(recipe, *, threshold=4.0, name="model.onnx", text=None, **graph):
        path = tmp_path / name
        content = toy_onnx(recipe, manifest_of(recipe, threshold).text if text is None else text, **graph)
        signing.write_signed(path, content, signing.read_private_key(server / "server.key"))
        return path

    return write


@pytest.fixture
def write_tasks(server, tmp_path):
    """Write and sign one file of several toy tasks, given as recipe and threshold; returns its path."""

    def write(*tasks, name="tasks.onnx", change=lambda number, manifest: {}):
        made = []
        for number, (recipe, threshold) in enumerate(tasks):
            fields = {"generation": f"{number:064x}", "model": f"{number + 1:064x}"}
            manifest = manifest_of(recipe, threshold).model_copy(update=fields)
            made.append(manifest.model_copy(update=change(number, manifest)))
        path = tmp_path / name
        signing.write_signed(path, toy_tasks(made), signing.read_private_key(server / "server.key"))
        return path

    return write


@pytest.fixture
def models_of(write_tasks, server):
    """The toy tasks of one file, loaded."""
    from fedmed_edge.inference.predict import load_models

    return lambda *tasks: load_models(write_tasks(*tasks), trust=server / "server.pub", device="cpu")


@pytest.fixture
def model_of(write_model, server):
    """A toy model, loaded."""
    from fedmed_edge.inference.predict import load_model

    return lambda recipe, **how: load_model(
        write_model(recipe, **how), trust=server / "server.pub", device="cpu"
    )


@pytest.fixture
def manifest():
    """The manifest that a toy model of a recipe has."""
    return manifest_of


@pytest.fixture
def scan(write_series, write_dicom, tmp_path):
    """One folder with a stack, its localizer, a shorter stack, a broken file, a report and a picture."""
    slices = np.zeros((4, 6, 5), np.int16)
    write_series(slices, SeriesInstanceUID="1.1", Modality="MR", SeriesDescription="t1")
    place = {"PixelSpacing": [1, 1], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
    write_dicom(
        "series/loc.dcm",
        slices[0],
        SeriesInstanceUID="1.1",
        Modality="MR",
        ImagePositionPatient=[0, 0, 0],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        **place,
    )
    for k in range(3):
        write_dicom(
            f"series/short{k}.dcm",
            slices[0],
            SeriesInstanceUID="1.2",
            Modality="MR",
            ImagePositionPatient=[k, 0, 0],
            **place,
        )
    (tmp_path / "series" / "cut.dcm").write_bytes(b"")
    (tmp_path / "series" / "notes.txt").write_text("a note")
    Picture.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "series" / "picture.png", "PNG")
    return tmp_path / "series"
