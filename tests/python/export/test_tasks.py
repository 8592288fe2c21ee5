"""Several tasks in one file: each answers as its own file does, and what they share is there once."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from fedmed_edge import signing
from fedmed_edge.errors import InputError
from fedmed_edge.export.onnx_model import export_onnx
from fedmed_edge.export.tasks import export_tasks
from fedmed_edge.inference.predict import load_models
from fedmed_edge.model.manifest import METADATA_KEY, parse_manifest, parse_manifests
from fedmed_edge.onnx_file import graph_part, model_metadata
from fedmed_edge.recipe import Recipe
from fedmed_edge.runtime import open_session


def named(made: SimpleNamespace, generation: Any, name: str, kind: str = "", **fields: Any) -> Any:
    """A model of a task; of another kind than the generation's backbone where one is named."""
    model = made.model(generation)
    recipe = Recipe.model_validate(
        {**model.recipe.model_dump(), "name": name, "kind": kind or model.recipe.kind}
    )
    return made.model(generation, recipe=recipe, **fields)


def two(made: SimpleNamespace) -> list[tuple[Any, Any]]:
    """A classification of small grey images and a segmentation of larger colour ones."""
    grey = made.generation()
    colour = made.generation("segmentation", (20, 28), channels=3, widths=(6, 10), features=9)
    return [(named(made, colour, "organs"), colour), (named(made, grey, "lesion"), grey)]


def constants(content: bytes) -> list[bytes]:
    return [one.raw_data for one in onnx.load_model_from_string(content).graph.initializer]


def test_each_task_answers_as_its_own_file_does(made: SimpleNamespace) -> None:
    pairs = two(made)
    content = export_tasks(pairs)
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    told = parse_manifests(model_metadata(content, "m")[METADATA_KEY], "m")
    assert [(manifest.task, ports.image) for manifest, ports in told] == [
        ("lesion", "image0"),
        ("organs", "image1"),
    ]
    for (model, generation), (manifest, ports) in zip(pairs[::-1], told, strict=True):
        alone = open_session(export_onnx(model, generation), device="cpu")
        part = open_session(graph_part(content, ports[1:], "m"), device="cpu")
        assert part.outputs == [*ports[1:]] and part.metadata == {}
        image = np.random.default_rng(7).random(alone.inputs["image"], np.float32)
        wanted, got = alone.run({"image": image}), part.run({ports.image: image})
        for one, other in zip(wanted, got, strict=True):
            np.testing.assert_array_equal(one, other)
        own = parse_manifest(alone.metadata[METADATA_KEY], "m")
        assert manifest == own and manifest.sample is not None


def test_the_whole_file_runs_as_one_graph(made: SimpleNamespace) -> None:
    session = open_session(export_tasks(two(made)), device="cpu")
    assert session.inputs == {"image0": (1, 1, 16, 24), "image1": (1, 3, 20, 28)}
    answers = session.run({name: np.zeros(shape, np.float32) for name, shape in session.inputs.items()})
    shapes = {name: answer.shape for name, answer in zip(session.outputs, answers, strict=True)}
    assert shapes["lesion/probabilities"] == (1, 3) and shapes["organs/probabilities"] == (1, 3, 20, 28)


def test_tasks_of_one_generation_share_its_encoder(made: SimpleNamespace) -> None:
    generation = made.generation("segmentation", (20, 28), channels=3, widths=(6, 10))
    kinds = {"lesion": "classification", "organs": "segmentation", "side": "classification"}
    pairs = [(named(made, generation, name, kind), generation) for name, kind in kinds.items()]
    content = export_tasks(pairs)
    graph = onnx.load_model_from_string(content).graph
    assert [one.name for one in graph.input] == ["image0"]
    encoder = [node.op_type for node in onnx.load_model_from_string(generation.encoder).graph.node]
    shared = [node.op_type for node in graph.node if node.output[0].startswith("image0/")]
    assert shared == encoder
    assert len(set(constants(content))) == len(constants(content)), "every constant once"
    alone = [len(export_onnx(*pair)) for pair in pairs]
    assert len(content) < sum(alone) - 2 * len(generation.encoder)


def test_images_tasks_of_one_encoder_run_on_one_session(made: SimpleNamespace, tmp_path: Path) -> None:
    generation, key = made.generation("segmentation", (20, 28), widths=(6, 10)), signing.generate_key()
    kinds = {"lesion": "classification", "organs": "segmentation", "side": "classification"}
    pairs = [(named(made, generation, name, kind), generation) for name, kind in kinds.items()]
    signing.write_signed(tmp_path / "m.onnx", export_tasks(pairs), key)
    signing.write_public_key(tmp_path / "m.pub", key.public_key())
    lesion, organs, side = load_models(tmp_path / "m.onnx", trust=tmp_path / "m.pub", device="cpu")
    assert lesion.session is side.session and organs.session is not side.session
    image = np.random.default_rng(7).random((1, 20, 28), np.float32)
    for (model, _), one in zip(pairs, (lesion, organs, side), strict=True):
        alone = open_session(export_onnx(model, generation), device="cpu")
        probabilities, distance = one.run(image)
        wanted, far = alone.run({"image": image[None]})
        np.testing.assert_array_equal(probabilities, wanted[0])
        assert distance == pytest.approx(float(far[0]), rel=1e-6)


def test_generations_of_one_backbone_share_its_weights(made: SimpleNamespace) -> None:
    small, large = made.generation(size=(16, 24)), made.generation(size=(32, 24))
    content = export_tasks([(named(made, small, "a"), small), (named(made, large, "b"), large)])
    graph = onnx.load_model_from_string(content).graph
    assert [one.name for one in graph.input] == ["image0", "image1"]
    for weights in constants(small.encoder):
        assert constants(content).count(weights) == 1


def test_bytes_depend_on_no_order(made: SimpleNamespace) -> None:
    pairs = two(made)
    assert export_tasks(pairs) == export_tasks(pairs[::-1])


Change = Callable[[dict[str, Any]], object]
HOSTILE: dict[str, tuple[Change, str]] = {
    "none": (lambda d: d.update(tasks=[]), "expected a length of at least 2"),
    "one": (lambda d: d["tasks"].pop(), "expected a length of at least 2"),
    "many": (lambda d: d.update(tasks=d["tasks"] * 40), "expected a length of at most 64"),
    "twice": (lambda d: d.update(tasks=[d["tasks"][0]] * 2), "expected each once, in their order"),
    "order": (lambda d: d["tasks"].reverse(), "expected each once, in their order"),
    "nested": (lambda d: d["tasks"][0].update(tasks=[]), "unknown key `tasks.0.tasks`"),
    "version": (lambda d: d.update(format_version=2), "`format_version`"),
    "path": (lambda d: d["tasks"][0]["recipe"].update(name="../x"), "`tasks.0.recipe.name`"),
    "precision": (lambda d: d["tasks"][0].update(precision="int8"), "one is not fp32 for any machine"),
    "engine": (lambda d: d["tasks"][1].update(built_for="a GPU"), "one is not fp32 for any machine"),
    "size": (
        lambda d: d["tasks"][0].update(generation=d["tasks"][1]["generation"]),
        "those of one generation have images of different size or channels",
    ),
    "recipe": (lambda d: d["tasks"][1].update(recipe_digest="0" * 64), "`recipe_digest` has 000000000000"),
    "priors": (lambda d: d["tasks"][1].update(priors=[1.0]), "`priors` has 1 values, expected 3"),
    "more": (lambda d: d.update(run="this"), "unknown key `run`"),
    "shape": (lambda d: d.update(tasks={"a": 1}), "`tasks`"),
}


@pytest.fixture(scope="module")
def honest(made: SimpleNamespace) -> str:
    return model_metadata(export_tasks(two(made)), "m")[METADATA_KEY]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests_are_refused(honest: str, name: str) -> None:
    change, message = HOSTILE[name]
    document = json.loads(honest)
    change(document)
    with pytest.raises(InputError, match=f"m: manifest: .*{message}"):
        parse_manifests(json.dumps(document), "m")


def test_a_manifest_of_several_tasks_is_none_of_one(honest: str) -> None:
    with pytest.raises(InputError, match="m: answers 2 tasks, lesion, organs, expected one"):
        parse_manifest(honest, "m")


def test_refusals(made: SimpleNamespace) -> None:
    (organs, colour), (lesion, grey) = two(made)
    with pytest.raises(InputError, match="have the names lesion, lesion, expected each once"):
        export_tasks([(lesion, grey), (lesion, grey)])
    with pytest.raises(
        InputError, match=r"export: `tasks` has a length of 1, expected a length of at least 2"
    ):
        export_tasks([(lesion, grey)])
    refined = named(made, colour, "organs", refined_for="alpha", kept="refined")
    with pytest.raises(InputError, match="models are refined for all, alpha, expected one of them"):
        export_tasks([(lesion, grey), (refined, colour)])
    with pytest.raises(InputError, match="`generation` of the model has"):
        export_tasks([(lesion, colour), (organs, colour)])
    older = onnx.load_model_from_string(colour.encoder)
    older.opset_import[0].version = 17
    other = made.generation(
        "segmentation",
        (20, 28),
        channels=3,
        widths=(6, 10),
        features=9,
        encoder=older.SerializeToString(deterministic=True),
    )
    with pytest.raises(InputError, match="the encoders have operator sets 17 and 18, expected the same"):
        export_tasks([(lesion, grey), (named(made, other, "organs"), other)])


def test_a_part_that_does_not_answer_as_the_reference_is_refused(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedmed_edge.export import tasks

    def spoilt(graphs: Any, manifest: Any) -> onnx.ModelProto:
        graph = merged(graphs, manifest)
        (end,) = [node for node in graph.graph.node if node.output[0] == "organs/distance"]
        end.input[0] = next(node.output[0] for node in graph.graph.node if node.op_type == "Sub")
        return graph

    merged, generation = tasks._merged, made.generation()
    pairs = [(named(made, generation, name), generation) for name in ("lesion", "organs")]
    monkeypatch.setattr(tasks, "_merged", spoilt)
    with pytest.raises(InputError, match="export: `distance` has"):
        export_tasks(pairs)
