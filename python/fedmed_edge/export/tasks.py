"""Several models, one ONNX file: every encoder and every constant in it once, an answer for each task.

A task's part of the graph, from its image to its two outputs, is what `export_onnx` writes for it alone.
"""

import logging
from collections.abc import Sequence

import onnx

from fedmed_edge.errors import InputError
from fedmed_edge.export.graph import PREFIX
from fedmed_edge.export.onnx_model import answering_graph, finished, manifest_of
from fedmed_edge.export.parity import check_parity, reference_answers, sample_of
from fedmed_edge.generation import Generation
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.manifest import ONE_TASK, TasksManifest
from fedmed_edge.onnx_file import graph_part
from fedmed_edge.recipe import parse_settings
from fedmed_edge.words import counted

__all__ = ["export_tasks"]

log = logging.getLogger(__name__)


def export_tasks(pairs: Sequence[tuple[GlobalModel, Generation]]) -> bytes:
    """Write the models of several tasks as one ONNX file, with a manifest for each.

    Models of one generation share its encoder; encoders of several share the constants that are equal. The
    bytes depend on neither the order nor anything else but the models and their generations.

    Args:
        pairs: Two models or more of different tasks, and the generation of each.

    Raises:
        InputError: As `export_onnx` of each; or a task is there twice, models are refined for different
            sites, or the encoders are of different operator sets.
    """
    pairs = sorted(pairs, key=lambda pair: pair[0].recipe.name)
    refined = {model.refined_for or "all" for model, _ in pairs}
    if len(refined) > 1:
        raise InputError(f"export: models are refined for {', '.join(sorted(refined))}, expected one of them")
    graphs = [answering_graph(model, generation) for model, generation in pairs]
    references = [reference_answers(model, generation) for model, generation in pairs]
    manifests = [
        manifest_of(model, generation, sample_of(own))
        for (model, generation), own in zip(pairs, references, strict=True)
    ]
    manifest = parse_settings(TasksManifest, {"tasks": manifests}, "export")
    content = finished(_merged(graphs, manifest), manifest.text)
    for own, ports in zip(references, manifest.ports, strict=True):
        check_parity(graph_part(content, ports[1:], "export"), own, image=ports.image)
    generations = counted(len({model.generation for model, _ in pairs}), "generation")
    log.info("exported %d tasks of %s: %.1f MB", len(pairs), generations, len(content) / 1e6)
    return content


def _merged(graphs: Sequence[onnx.ModelProto], manifest: TasksManifest) -> onnx.ModelProto:
    """One graph beside the other, without what an earlier one has already."""
    sets = {tuple((one.domain, one.version) for one in graph.opset_import) for graph in graphs}
    if len(sets) > 1:
        told = " and ".join(sorted(str(versions[0][1]) for versions in sets))
        raise InputError(f"export: the encoders have operator sets {told}, expected the same")
    made = onnx.ModelProto(ir_version=max(graph.ir_version for graph in graphs))
    made.opset_import.extend(graphs[0].opset_import)
    made.graph.name = "fedmed"
    constants: dict[bytes, str] = {}
    encoders: set[str] = set()
    for graph, task, ports in zip(graphs, manifest.tasks, manifest.ports, strict=True):
        names = dict(zip(ONE_TASK, ports, strict=True)) | {"": ""}
        for constant in graph.graph.initializer:
            names[constant.name] = _kept(made.graph, constant, constants)
        for node in graph.graph.node:
            tail = node.name.startswith(f"{PREFIX}node_")
            names |= {
                output: f"{task.task if tail else ports.image}/{output}"
                for output in node.output
                if output not in names
            }
            if tail or ports.image not in encoders:
                _add(made.graph, node, names)
        if ports.image not in encoders:
            _declare(made.graph.input, graph.graph.input[0], ports.image)
        encoders.add(ports.image)
        for output in graph.graph.output:
            _declare(made.graph.output, output, names[output.name])
    return made


def _kept(graph: onnx.GraphProto, constant: onnx.TensorProto, constants: dict[bytes, str]) -> str:
    """The name of the one copy of a constant, which is added where there is none yet."""
    plain = onnx.TensorProto()
    plain.CopyFrom(constant)
    plain.ClearField("name")
    plain.ClearField("doc_string")
    content = plain.SerializeToString(deterministic=True)
    if content not in constants:
        constants[content] = plain.name = f"constant{len(constants)}"
        graph.initializer.append(plain)
    return constants[content]


def _add(graph: onnx.GraphProto, node: onnx.NodeProto, names: dict[str, str]) -> None:
    added = graph.node.add()
    added.CopyFrom(node)
    added.input[:] = [names[name] for name in node.input]
    added.output[:] = [names[name] for name in node.output]
    added.name = added.output[0]


def _declare(ports: "Sequence[onnx.ValueInfoProto]", port: onnx.ValueInfoProto, name: str) -> None:
    added = ports.add()  # type: ignore[attr-defined]
    added.CopyFrom(port)
    added.name = name
