"""Backbone rounds: sites train from common weights, the server takes the mean, and again.

    FEDERATION/trainings/ID.json            what is asked for, and how far it is
    FEDERATION/trainings/ID/NUMBER/         a round's weights while they are put together
    FEDERATION/trainings/ID/NUMBER.backbone what came of the round

Every round goes out from the weights of the round before (the first from the generation's own), and every
site hands over the difference of its weights to the generation's, as a contribution like any other. The mean
of the differences is made file by file by the streaming kernels, so the server holds some models, never one a
site. A round ends when every site has answered, or at its deadline once there is a quorum; who comes later
takes part in the next. A site that is held back is neither asked nor waited for nor averaged, until it is
released. A process may be killed anywhere: each step is made again with the same result.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from fedmed_edge import kernels
from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.features.weights import Weights, image_weights, moved_weights, write_backbone
from fedmed_edge.federation.messages import Digest
from fedmed_edge.federation.offers import Offers
from fedmed_edge.federation.records import Records
from fedmed_edge.federation.requests import Requested, Requests
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PrivateKey
from fedmed_edge.statistics.contribution import Contribution, parse_contribution
from fedmed_edge.store.encryption import FileCipher, erase_file
from fedmed_edge.store.store import Store
from fedmed_edge.tensorfile import Tensor, load_tensors, parse_layout, tensor_file
from fedmed_edge.words import counted

__all__ = ["Round", "Rounds", "Rule", "Training", "discard_unfinished"]

log = logging.getLogger(__name__)

Rule: TypeAlias = Literal["mean", "median", "trimmed_mean"]

_KEY: Final = "fedmed_weights"


class Round(BaseModel):
    """A round that ended: who took part, and what came of it."""

    model_config = ConfigDict(frozen=True)

    number: int
    sites: tuple[str, ...]
    missing: tuple[str, ...]
    backbone: Digest
    seconds: float


class Training(BaseModel):
    """A number of rounds from one generation.

    Attributes:
        generation: Whose backbone it starts from.
        rounds, epochs: How many, and the passes over a site's images in each.
        rule: How the sites' weights become one; `trim` of them at either end are left out by `trimmed_mean`.
        quorum, deadline_s: As of `ServerFederation`.
        opened: When the round that runs was opened; None between rounds.
        ended: Rounds that ended, in order.
        why: It stopped.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    task: str
    recipe: Digest
    generation: Digest
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0
    rule: Rule = "mean"
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    sites: tuple[str, ...]
    quorum: int
    deadline_s: float
    opened: float | None = None
    ended: tuple[Round, ...] = ()
    state: Literal["running", "finished", "stopped"] = "running"
    why: str = ""

    @property
    def number(self) -> int:
        """Of the round that runs, from 1."""
        return len(self.ended) + 1

    @property
    def backbone(self) -> str | None:
        """Digest of the newest weights, or None before the first round ended."""
        return self.ended[-1].backbone if self.ended else None

    @property
    def purpose(self) -> str:
        """What the sites are asked for in the round that runs."""
        return f"training {self.id} round {self.number}"


class Rounds:
    """Trainings of a server.

    Args:
        folder: `federation/` of the server's folder.
        key: The server's, which weights are signed with.
    """

    def __init__(self, store: Store, folder: Path, key: PrivateKey) -> None:
        self._store, self._key = store, key
        self._folder = folder / "trainings"
        self._records = Records(self._folder, Training)
        self._offers, self._requests = Offers(folder / "offers"), Requests(folder / "requests")

    def begin(self, recipe: Recipe, generation: str, **asked: Any) -> Training:
        """Ask for a training; the same one again changes nothing, unless it stopped: then it goes on.

        The round that it stopped in is opened anew, and the sites that did not hand over weights for it are
        asked once more.

        Args:
            generation: Digest; it must be on offer to the sites.
            asked: Fields of `Training` from `rounds` to `deadline_s`.

        Raises:
            InputError: Fewer sites than the quorum.
        """
        said = {"task": recipe.name, "recipe": recipe.digest, "generation": generation, **asked}
        id = hashlib.sha256(repr(sorted(said.items())).encode()).hexdigest()[:32]
        held = self._records.read(id)
        if held is not None:
            return self._go_on(held) if held.state == "stopped" else held
        training = Training(id=id, **said)
        left_out = self._held_back(training)
        if len(training.sites) - len(left_out) < training.quorum:
            raise InputError(
                f"training: has {counted(len(training.sites) - len(left_out), 'site')}, "
                f"expected at least the quorum {training.quorum}"
                + "".join(f"; {site} is held back: {why}" for site, why in left_out.items())
            )
        self._records.write(id, training)
        return training

    def _go_on(self, training: Training) -> Training:
        requests = self._asked(training)
        came = self._came(training, requests)
        for one in requests:
            if one.site not in came:
                self._requests.forget(one)
        return self._kept(training, state="running", why="", opened=None)

    def all(self) -> list[Training]:
        """Every training, by id."""
        return self._records.all()

    def step(self, training: Training, now: float | None = None) -> Training:
        """Go on as far as the sites' answers allow.

        Raises:
            InputError: The weights that came cannot be put together, or the disk is full.
            StoreError: A file of the store is damaged.
        """
        now = time.time() if now is None else now
        if training.state != "running":
            return training
        if training.opened is None:
            training = self._open(training, now)
        self._leave_out(training)
        requests = self._asked(training)
        came = self._came(training, requests)
        answered = sum(one.state != "open" for one in requests)
        late = now >= (training.opened or now) + training.deadline_s
        if answered < len(requests) and not (late and len(came) >= training.quorum):
            return training
        if len(came) < training.quorum:
            return self._stop(training, requests, came)
        return self._close(training, requests, came, now)

    def _open(self, training: Training, now: float) -> Training:
        left_out = self._held_back(training)
        for site, why in left_out.items():
            log.info("training %s: does not ask %s, which is held back: %s", training.id[:12], site, why)
        for site in sorted(set(training.sites) - set(left_out)):
            self._requests.make(
                site,
                training.purpose,
                kind="train",
                recipe=training.recipe,
                generation=training.generation,
                object=training.backbone,
                training=training.id,
                epochs=training.epochs,
                deadline=now + training.deadline_s,
            )
        return self._kept(training, opened=now)

    def _held_back(self, training: Training) -> dict[str, str]:
        """Sites of the training that have no part in it until they are released, and why."""
        held = self._store.held_back.of(training.task)
        return {site: why for site, why in held.items() if site in training.sites}

    def _leave_out(self, training: Training) -> None:
        """Go on without those that were held back after they had been asked."""
        for site, why in self._held_back(training).items():
            request = self._requests.expect(site, training.purpose)
            if request is not None:
                log.info("training %s: leaves out %s, which is held back: %s", training.id[:12], site, why)
                self._requests.forget(request)

    def _asked(self, training: Training) -> list[Requested]:
        """What the sites are asked for in the round that runs."""
        asked = (self._requests.expect(site, training.purpose) for site in training.sites)
        return [one for one in asked if one is not None]

    def _came(self, training: Training, requests: list[Requested]) -> dict[str, str]:
        """Site → id of the weights that it handed over for this round, by name."""
        held = {
            entry.id
            for entry in self._store.contribution_entries(training.task)
            if entry.current and entry.holds == "weights" and entry.generation == training.generation
        }
        told = {one.site: one.report.contribution for one in requests if one.report is not None and one.done}
        return {site: id for site, id in sorted(told.items()) if id is not None and id in held}

    def _stop(self, training: Training, requests: list[Requested], came: Mapping[str, str]) -> Training:
        """All have answered, and too few with weights: somebody has to look."""
        reports = {one.site: one.report for one in requests if one.site not in came}
        told = [f"{site}: {report.why or report.state}" for site, report in reports.items() if report]
        told += [f"{site}: is held back: {why}" for site, why in self._held_back(training).items()]
        why = (
            f"{counted(len(came), 'site')} handed over weights, expected {training.quorum}; {'; '.join(told)}"
        )
        self._clear(training)
        log.warning("training %s stopped in round %d: %s", training.id[:12], training.number, why)
        return self._kept(training, state="stopped", why=why[:1000])

    def _close(
        self, training: Training, requests: list[Requested], came: Mapping[str, str], now: float
    ) -> Training:
        backbone = self._aggregate(training, came)
        for one in requests:
            self._requests.close(one)
        missing = tuple(site for site in training.sites if site not in came)
        ended = Round(
            number=training.number,
            sites=tuple(came),
            missing=missing,
            backbone=backbone,
            seconds=round(now - (training.opened or now), 3),
        )
        last = training.number == training.rounds
        kept = self._kept(
            training,
            ended=(*training.ended, ended),
            opened=None,
            state="finished" if last else "running",
        )
        told = {
            "training": training.id,
            "round": ended.number,
            "contributions": dict(came),
            "rule": training.rule,
        }
        self._store.ledger_append("averaged", subject=backbone, details=told)
        if training.backbone is not None:
            self._offers.forget(training.backbone)
        for one in requests:
            self._requests.forget(one)
        self._clear(training)
        log.info("training %s: round %d ended with %s", training.id[:12], ended.number, ", ".join(came))
        return kept

    def _aggregate(self, training: Training, came: Mapping[str, str]) -> str:
        """Put the sites' weights together and offer what came of it; its digest."""
        recipe = self._recipe(training)
        place = self._clear(training)
        try:
            place.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{place}: cannot be made: {error.strerror}") from None
        files, images = [], []
        for site, id in came.items():
            contribution = self._contribution(id)
            files.append(place / f"{site}.safetensors")
            write_atomic(files[-1], tensor_file(contribution.weights or {}, _KEY, "{}"))
            images.append(contribution.header.evidence.images.get("train", 0))
        mean = place / "mean.safetensors"
        combine(files, image_weights(images), mean, training.rule, training.trim)
        start = self._store.generation(training.generation)
        moved = _moved(start.weights, mean)
        taught = {site for one in training.ended for site in one.sites} | set(came)
        path = self._backbone_path(training)
        write_backbone(
            path,
            moved,
            recipe,
            architecture=start.header,
            trained_by=[*start.header.trained_by, *taught],
            images=sum(images),
        )
        offer = self._offers.publish(
            path,
            self._key,
            kind="backbone",
            sites=training.sites,
            task=training.task,
            generation=training.generation,
        )
        return offer.digest

    def _clear(self, training: Training) -> Path:
        """Delete the weights of sites that were put together, or were when a process was killed."""
        place = self._place(training)
        _erase(place, self._store.cipher)
        return place

    def backbone_file(self, training: Training) -> Path:
        """File of the weights of the last round that ended.

        Raises:
            InputError: None has ended.
        """
        if not training.ended:
            raise InputError(f"training {training.id[:12]}: no round has ended yet")
        return self._folder / training.id / f"{len(training.ended)}.backbone"

    def _backbone_path(self, training: Training) -> Path:
        return self._folder / training.id / f"{training.number}.backbone"

    def _place(self, training: Training) -> Path:
        return self._folder / training.id / str(training.number)

    def _recipe(self, training: Training) -> Recipe:
        recipe = self._store.recipe(training.task)
        if recipe.digest != training.recipe:
            raise InputError(
                f"training {training.id[:12]}: `recipe` has {training.recipe[:12]}, "
                f"expected {recipe.digest[:12]}, the newest of task {training.task}"
            )
        return recipe

    def _contribution(self, id: str) -> Contribution:
        content = self._store.contribution_content(id)
        # the store checked the numbers when it took it
        return parse_contribution(content, f"contribution {id[:12]}", thorough=False)

    def _kept(self, training: Training, **changed: Any) -> Training:
        kept = training.model_copy(update=changed)
        self._records.write(training.id, kept)
        return kept


def discard_unfinished(folder: Path, cipher: FileCipher) -> None:
    """Delete the sites' weights that a killed process left where it put a round together.

    Whoever goes on with the round reads them from the store anew.

    Args:
        folder: `federation/` of the server's folder.
    """
    for place in (folder / "trainings").glob("*/*"):
        if place.is_dir():
            _erase(place, cipher)


def _erase(place: Path, cipher: FileCipher) -> None:
    for path in place.glob("*") if place.is_dir() else ():
        erase_file(path, cipher)
    shutil.rmtree(place, ignore_errors=True)


def combine(files: list[Path], weights: list[int], out: Path, rule: Rule, trim: float) -> None:
    """One set of weights of several, file by file.

    Args:
        files: Safetensors of the same tensors.
        weights: Of each, as `image_weights` has them; `mean` alone asks.
        trim: Share of the files that `trimmed_mean` leaves out at either end, rounded down.

    Raises:
        InputError: The files differ in their tensors, or hold NaN or Inf.
    """
    if rule == "median":
        kernels.median(files, out)
    elif rule == "trimmed_mean":
        kernels.trimmed_mean(files, int(trim * len(files)), out)
    else:
        kernels.weighted_mean(files, weights, out)


def _moved(start: Weights, differences: Path) -> dict[str, Tensor]:
    """The generation's weights, moved by a file of differences."""
    content = differences.read_bytes()
    moves = load_tensors(content, parse_layout(content, None, "weights"), "weights")
    return moved_weights(start, moves, "training")
