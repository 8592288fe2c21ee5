"""The universal encoder, measured: every task of a folder is one client, and all share one encoder.

Of each task some training patients are held out of everything else for the server's pool, their labels
unused. Stage 0 learns on the pool alone; before every later stage each client trains from the newest encoder,
then the server distils what they became. Asked of every encoder, task by task and on test patients alone: a
linear probe, and fine-tuning; at the last stage also heads in closed form.

A share of the labels counts for everything: where clients have a tenth, the local models that teach have
learned from a tenth too. Beside the stages stand `scratch` (random weights) and `mim`: stage 0 made anew, of
so many more steps that it takes as many measured seconds as all stages and all clients' training together.

Source: method §7.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedmed_edge import __version__
from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import FedmedError, InputError, Unwritable
from fedmed_edge.features.backbones import backbone_of, set_state, state_of
from fedmed_edge.features.extract import evaluate_heads, extract
from fedmed_edge.features.publish import draft_generation
from fedmed_edge.features.training import build_network, train
from fedmed_edge.features.weights import Weights
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.fingerprint import content_digest
from fedmed_edge.model.own_sums import own_model
from fedmed_edge.recipe import Backbone, Recipe
from fedmed_edge.study.networks import merged
from fedmed_edge.study.notebook import (
    Notebook,
    digest_of,
    images_digest,
    kept_document,
    read_document,
    tell_damaged,
)
from fedmed_edge.study.scores import Answers, answers_of_network, answers_of_predictions, recalls, score
from fedmed_edge.universal.local_models import LocalModel
from fedmed_edge.universal.pool import Pool, pool_recipe
from fedmed_edge.universal.stage import Plan, learn
from fedmed_edge.universal.standardise import standardise
from fedmed_edge.words import counted

__all__ = ["UNIVERSAL_BUDGETS", "Client", "UniversalBudget", "clients_of", "universal_rows"]

log = logging.getLogger(__name__)

POOL_SHARE = 0.3
"""Of each task's training patients: they are the pool's, and nobody's else."""

SHARES: Final = {10: 0.1, 100: 1.0}
"""Per cent of the labelled patients, and their share."""

PROTOCOLS: Final = ("probe", "tuned")

Watch = Callable[[str], None]
Row = dict[str, Any]


@dataclass(frozen=True)
class UniversalBudget:
    """Batches of everything that learns, and the encoder.

    Attributes:
        first: Of stage 0; `stage` of each later one.
        local: Of a client's training before a stage; `probe`, `tuned` of what is asked of an encoder.
    """

    side: int
    widths: tuple[int, ...]
    stages: int
    first: int
    stage: int
    local: int
    probe: int
    tuned: int
    batch: int


UNIVERSAL_BUDGETS: Final = {
    "tiny": UniversalBudget(32, (8, 16), 3, 6, 4, 4, 4, 4, 8),
    "small": UniversalBudget(64, (16, 32, 64, 128), 3, 600, 300, 120, 150, 150, 16),
    "full": UniversalBudget(128, (24, 48, 96, 192), 3, 4000, 2000, 600, 400, 400, 16),
}


@dataclass(frozen=True, eq=False)
class Client:
    """One task as one client.

    Attributes:
        pool: Unlabelled images of the patients that are the server's.
        train, test: Labelled images of the others; the recipe is the shared encoder's.
    """

    name: str
    pool: Dataset
    train: Dataset
    test: Dataset


def clients_of(
    tasks: Mapping[str, Mapping[str, Dataset]], budget: UniversalBudget, seed: int
) -> list[Client]:
    """Tasks of 2-D images as clients of one encoder.

    Args:
        tasks: Name → site → images.
        seed: Of the patients that go to the pool.

    Raises:
        InputError: Fewer than two tasks of 2-D images have labelled images to learn from and be asked about.
    """
    flat = {name: _together(sites) for name, sites in tasks.items()}
    flat = {name: data for name, data in flat.items() if data.recipe.dimensions == 2}
    channels = max((data.recipe.channels for data in flat.values()), default=1)
    made = []
    for name, data in sorted(flat.items()):
        shared = {
            "channels": channels,
            "size": (budget.side, budget.side),
            "backbone": Backbone(widths=budget.widths),
        }
        whole = replace(data, recipe=data.recipe.model_copy(update=shared))
        ours, theirs = _by_patient(whole.train, POOL_SHARE, seed)
        bare = replace(ours, items=tuple(replace(item, label=None, mask=None) for item in ours))
        client = Client(name, bare, theirs.labelled, whole.test.labelled)
        if len(bare) and len(client.train) and len(client.test):
            made.append(client)
    if len(made) < 2:
        raise InputError(
            f"universal: {counted(len(made), 'task')} of 2-D images with labelled training and test images, "
            "expected at least 2"
        )
    return made


def _together(sites: Mapping[str, Dataset]) -> Dataset:
    """All sites of a task; a patient is one of its site."""
    named = {
        site: replace(
            data, items=tuple(replace(item, patient=f"{site}/{item.patient}") for item in data.items)
        )
        for site, data in sites.items()
    }
    # what lies where is told from there
    above = os.path.commonpath([data.folder for data in sites.values()])
    return replace(merged(named), folder=Path(above))


def _by_patient(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Images of about so many of the patients, and of the others."""
    patients = sorted(data.patients)
    order = np.random.default_rng((seed, 2)).permutation(len(patients))
    first = {patients[index] for index in order[: round(share * len(patients))]}
    sides: tuple[list[int], list[int]] = ([], [])
    for index, item in enumerate(data):
        sides[item.patient not in first].append(index)
    return data.subset(sides[0]), data.subset(sides[1])


def _labelled(data: Dataset, share: float, seed: int) -> Dataset:
    """Images of a share of the labelled patients, one of every class among them at least."""
    if share >= 1:
        return data
    kept, _ = _by_patient(data, share, seed + 1)
    patients = set(kept.patients)
    present = {index for item in kept for index in data.classes_of(item)}
    for item in data:
        if not set(data.classes_of(item)) <= present:
            patients.add(item.patient)
            present |= set(data.classes_of(item))
    return data.subset([index for index, item in enumerate(data) if item.patient in patients])


def universal_rows(
    tasks: Mapping[str, Mapping[str, Dataset]],
    *,
    budget: str,
    seeds: int,
    policy: str,
    device: str,
    out: Path,
    watch: Watch,
) -> Iterator[Row]:
    """One row for each task, share of labels, encoder and protocol; what is finished is not made again.

    Settings are `universal_10_probe`, `universal_10_tuned` and the same with 100; `rebuilt` stands in both.

    Raises:
        InputError: As `clients_of`.
    """
    steps = UNIVERSAL_BUDGETS[budget]
    for seed in range(seeds):
        clients = clients_of(tasks, steps, seed)
        for percent, share in SHARES.items():
            learning = _Learning(clients, steps, share, seed, device, out / "kept", watch)
            for client in learning.clients:
                for encoder in (*learning.encoders(), "rebuilt"):
                    asked = PROTOCOLS if encoder != "rebuilt" else ("heads",)
                    for protocol in asked:
                        watch(f"universal {client.name} {percent} % {encoder} {protocol}")
                        named = {"task": client.name, "site": client.name, "method": encoder, "seed": seed}
                        named |= {"policy": policy, "budget": budget, "labels": None}
                        row = _row(learning, client, encoder, protocol, named, out)
                        for one in PROTOCOLS if encoder == "rebuilt" else (protocol,):
                            yield {**row, "setting": f"universal_{percent}_{one}"}


class _Learning:
    """The encoders of one seed and share of labels, each made when it is first asked for, and kept."""

    def __init__(
        self,
        clients: Sequence[Client],
        steps: UniversalBudget,
        share: float,
        seed: int,
        device: str,
        kept: Path,
        watch: Watch,
    ) -> None:
        self.clients = [replace(one, train=_labelled(one.train, share, seed)) for one in clients]
        self.steps, self.seed, self.device, self.watch = steps, seed, device, watch
        recipe = pool_recipe([_with_lift(one.train.recipe, self.clients[0].train.recipe) for one in clients])
        paths = {content_digest(item.image): item.image for one in clients for item in one.pool}
        order = sorted(paths)
        digest = hashlib.sha256("".join(order).encode()).hexdigest()
        self.pool = Pool(recipe, tuple(paths[one] for one in order), digest)
        self.recipe = self.clients[0].train.recipe
        common = {"version": __version__, "pool": digest, "recipe": recipe.digest, "seed": seed}
        own = {
            "clients": {
                one.name: [one.train.recipe.digest, images_digest({one.name: one.train})]
                for one in self.clients
            }
        }
        first = {name: getattr(steps, name) for name in ("side", "widths", "first", "batch")}
        self._common = Notebook.keyed(kept, "universal", common | first)
        everything = common | own | asdict(steps)
        self._own, self.identity = Notebook.keyed(kept, "universal", everything), digest_of(everything)
        self.last = f"stage{steps.stages}"

    def encoders(self) -> list[str]:
        """Names, controls first."""
        return ["scratch", "mim", *(f"stage{number}" for number in range(self.steps.stages + 1))]

    def weights(self, name: str) -> Weights:
        """Weights of an encoder."""
        return self._encoder(name)[0]

    def seconds(self, name: str) -> float:
        """What the server and the clients computed for an encoder, all that went before included."""
        return self._encoder(name)[1]

    def _encoder(self, name: str) -> tuple[Weights, float]:
        if name == "scratch":
            return state_of(backbone_of(self.recipe, seed=self.seed)), 0.0
        notebook = self._common if name == "stage0" else self._own
        path, paid = (notebook.folder / f"{name}{end}" for end in (".safetensors", "-cost.json"))
        cost = read_document(paid, ["seconds"])
        if path.exists() and cost is not None:
            try:
                return load(path.read_bytes()), float(cost["seconds"])
            except SafetensorError as error:
                tell_damaged(path, error)
        weights, seconds = self._made(name, notebook.folder / f"{name}.checkpoint")
        write_atomic(paid, json.dumps({"seconds": seconds}).encode())
        write_atomic(path, save({key: np.ascontiguousarray(value) for key, value in weights.items()}))
        return load(path.read_bytes()), seconds

    def _made(self, name: str, checkpoint: Path) -> tuple[Weights, float]:
        before, models, steps = None, [], self.steps.first
        spent = 0.0
        if name == "mim":
            spent_by_all = self.seconds(self.last)
            steps = max(steps, round(steps * spent_by_all / max(1e-9, self.seconds("stage0"))))
        elif name != "stage0":
            newest = f"stage{int(name.removeprefix('stage')) - 1}"
            before, spent = self._encoder(newest)
            began = time.perf_counter()
            models = [self._local(one, before, name) for one in self.clients]
            spent += time.perf_counter() - began
            steps = self.steps.stage
        plan = Plan(steps, "mean", self.seed, self.steps.batch)
        made = learn(
            self.pool,
            self.recipe,
            before,
            models,
            plan,
            device=self.device,
            checkpoint=checkpoint,
            progress=self.watch,
        )
        checkpoint.unlink(missing_ok=True)
        return made.weights, spent + made.seconds

    def _local(self, client: Client, start: Weights, stage: str) -> LocalModel:
        """What a client makes of the newest encoder before a stage."""
        network = build_network(client.train.recipe, seed=self.seed)
        set_state(network.backbone, start)
        train(
            network,
            client.train,
            steps=self.steps.local,
            batch=self.steps.batch,
            seed=self.seed,
            device=self.device,
            progress=self.watch,
        )
        weights, images = state_of(network.backbone), len(client.train)
        identity = digest_of([stage, client.name, self.seed])
        return LocalModel(client.name, client.name, identity, "", weights, images)

    # --- what is asked of an encoder ---------------------------------------------------------------

    def answers(self, client: Client, encoder: str, protocol: str) -> Answers:
        """Answers on the client's test images."""
        if protocol == "heads":
            return self._heads(client)
        network = build_network(client.train.recipe, seed=self.seed)
        set_state(network.backbone, self.weights(encoder))
        network.backbone.requires_grad_(protocol == "tuned")
        train(
            network,
            client.train,
            steps=self.steps.tuned if protocol == "tuned" else self.steps.probe,
            batch=self.steps.batch,
            seed=self.seed,
            device=self.device,
            progress=self.watch,
        )
        return answers_of_network(network, client.test, device=self.device, surface=True)

    def _heads(self, client: Client) -> Answers:
        recipe = client.train.recipe
        draft = draft_generation(recipe, self.weights(self.last), seed=self.seed)
        generation = standardise(draft, self.pool, [recipe], device=self.device, seed=self.seed)
        sums = extract(generation, client.train, min_cohort=1, device=self.device, progress=self.watch)
        head = own_model(sums, recipe)
        (found,) = evaluate_heads(generation, client.test, [head], device=self.device)
        return answers_of_predictions(client.test, found, surface=True)


def _with_lift(recipe: Recipe, first: Recipe) -> Recipe:
    """The recipe with the lift of the first: one pool serves all tasks."""
    return recipe.model_copy(update={"lift": first.lift})


def _row(learning: _Learning, client: Client, encoder: str, protocol: str, named: Row, out: Path) -> Row:
    """A row of the harness; one that fails says so."""
    asked = [learning.identity, learning.device, images_digest({client.name: client.test})]
    path = out / "rows" / f"universal-{digest_of([named, protocol, *asked])}.json"
    row = named | _empty(client, encoder)
    try:
        stored = kept_document(
            path, lambda: row | _measured(learning, client, encoder, protocol), [*row, "answers"]
        )
    except Unwritable:  # nothing that follows could be kept either
        raise
    except Exception as error:  # the others go on
        log.warning("universal: %s on %s failed: %s", encoder, client.name, error)
        log.debug("%s", encoder, exc_info=True)
        said = str(error) if isinstance(error, FedmedError) else f"{type(error).__name__}: {error}"
        return row | {"error": said}
    del stored["answers"]
    return {**stored, "file": f"rows/{path.name}"}


def _empty(client: Client, encoder: str) -> Row:
    """What the harness's tables read of a row, without a score."""
    segmentation = client.train.recipe.kind == "segmentation"
    return {
        "role": "peer" if encoder == "mim" else "control" if encoder in ("scratch", "stage0") else "ours",
        "metric": "Dice" if segmentation else "balanced accuracy",
        **dict.fromkeys(("score", "others", "all", "choice", "file", "error", "wall_seconds", "cpu_seconds")),
        "scores": {},
        "surface" if segmentation else "recall": {},
        "images": {client.name: len(client.test)},
        **dict.fromkeys(("bytes", "rounds"), 0),
        **dict.fromkeys(("seconds", "server_seconds"), 0.0),
        **{name: {} for name in ("sent", "received", "site_seconds", "before")},
        "notes": {"labelled": len(client.train)},
    }


def _measured(learning: _Learning, client: Client, encoder: str, protocol: str) -> Row:
    began, recipe = time.perf_counter(), client.train.recipe
    answers = learning.answers(client, encoder, protocol)
    value = score(recipe, answers)
    beside: Row = {"surface": {client.name: float(np.mean(answers.surface))}} if answers.surface else {}
    if recipe.kind == "classification":
        beside = {"recall": {client.name: recalls(recipe, answers)}}
    return {
        "score": value,
        "all": value,
        "scores": {client.name: value},
        **beside,
        "server_seconds": learning.seconds(learning.last if encoder == "rebuilt" else encoder),
        "wall_seconds": time.perf_counter() - began,
        "answers": {client.name: answers.document()},
    }
