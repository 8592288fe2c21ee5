"""One stage: an encoder learns on the pool, by masked images and by what the local models see in it.

    L = MIM + Σ_s w_s ‖P_s φ(x) − φ_s(x)‖²,  w_s = 1 / S

Without local models it is stage 0, MIM alone. What is random at a step is drawn from the seed and the step's
number, and everything else that a step depends on is in the checkpoint: a stage may be stopped or killed
anywhere, and goes on to the same weights.

Source: method §7.
"""

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed_edge.atomic import read_regular, write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import MultiScale, backbone_of, seeded, set_state, state_of
from fedmed_edge.features.training import (
    cycle,
    half_precision,
    mixed,
    optimiser_of,
    session,
    set_rate,
)
from fedmed_edge.features.weights import Weights
from fedmed_edge.generation import Architecture
from fedmed_edge.images.windows import window_of
from fedmed_edge.universal.distillation import ROW_GRIDS, LinearMaps, Teacher, rows_of_maps, watched
from fedmed_edge.universal.local_models import LocalModel
from fedmed_edge.universal.merging import Merge, input_grams, merge, merge_by_gram
from fedmed_edge.universal.mim import MaskedModelling, draw_mask, scales_of
from fedmed_edge.universal.pool import Pool

__all__ = ["BATCH", "Learned", "Plan", "learn"]

log = logging.getLogger(__name__)

BATCH = {2: 32, 3: 4}
"""Images (windows) a step, by dimensions."""

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
LONGEST_STEP = 3.0
"""Norm that a step's gradients are clipped to."""

SAVE_S = 30.0
"""A checkpoint is written so often, and at the end."""

_CHECKPOINT_CAP = 1 << 33
_SOLVE_EVERY = 10
_LOOKED_AT = 256
_ZOOM = 0.3

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How a stage learns.

    Attributes:
        steps: Batches.
        merge: What it starts from: the local models merged, or with `none` the generation's own weights.
        seed: Of everything that is drawn.
        batch: Images a step; default `BATCH`.
    """

    steps: int
    merge: Merge = "mean"
    seed: int = 0
    batch: int | None = None


@dataclass(frozen=True, eq=False)
class Learned:
    """What came of it.

    Attributes:
        weights: Of the backbone, by name.
        mim: (steps,) float32 mean absolute error over hidden pixels, of every step.
        missed: (steps, S) float32 mean squared error of each teacher's standardised rows: 1 is nothing told.
        seconds: Of all its runs, where it was stopped and gone on with; what was lost is not in them.
    """

    weights: Weights = field(repr=False)
    teachers: tuple[str, ...]
    mim: np.ndarray = field(repr=False)
    missed: np.ndarray = field(repr=False)
    seconds: float

    def explained(self) -> dict[str, float]:
        """Teacher → share of its features' variance that the student tells, over the last tenth of steps."""
        last = self.missed[-max(1, len(self.missed) // 10) :]
        return {name: round(1.0 - float(last[:, k].mean()), 4) for k, name in enumerate(self.teachers)}


def learn(
    pool: Pool,
    made: Architecture,
    start: Weights | None,
    models: Sequence[LocalModel],
    plan: Plan,
    *,
    device: str = "auto",
    checkpoint: Path | None = None,
    save_s: float = SAVE_S,
    progress: Progress | None = None,
) -> Learned:
    """Learn an encoder on the pool.

    Args:
        made: What it is built from.
        start: The generation's weights; None draws them from the seed.
        models: Local models of the same architecture; none: stage 0.
        device: `auto`, `cpu` or `cuda`; mixed precision where the device multiplies bfloat16 faster.
        checkpoint: File to keep the state in, and to go on from where it is of this very stage.
        save_s: Seconds between two checkpoints.
        progress: Called after every step with what to show.

    Raises:
        InputError: A local model is of another backbone or gives values that are not finite, the loss is not
            finite, or the checkpoint cannot be written.
        DeviceError: `cuda` asked for where there is none.
    """
    began = time.perf_counter()
    backbone = backbone_of(made, seed=plan.seed)
    if start is not None:
        set_state(backbone, start, "stage: the generation")
    teachers = [(one.name, backbone_of(made)) for one in models]
    for (name, network), one in zip(teachers, models, strict=True):
        set_state(network, one.weights, f"stage: the local model of `{name}`")
    with seeded(plan.seed + 1):
        student = MaskedModelling(backbone, made.channels, tuple(made.size))
    networks = nn.ModuleList([student, *(network for _, network in teachers)])
    with session(networks, device, plan.seed, dimensions=len(made.size)) as place:
        for _, network in teachers:
            network.eval().requires_grad_(False)
        feed = partial(_batch, pool, plan)
        looked = partial(_looked_at, pool, plan, place)
        watching = [watched(name, one, looked()) for name, one in teachers]
        learner = _Learner(student, watching, plan, place, began)
        identity = _identity(pool, made, start, models, plan)
        if not (checkpoint and learner.resume(checkpoint, identity)):
            if models and plan.merge != "none":
                set_state(backbone, _merged(plan.merge, models, teachers, looked))
            learner.look(looked())
        learner.run(
            feed, progress, partial(learner.save, checkpoint, identity) if checkpoint else None, save_s
        )
    missed = np.array(learner.missed, np.float32).reshape(plan.steps, len(models))
    log.info("stage of %d steps on %d images in %.1f s", plan.steps, len(pool), learner.seconds)
    return Learned(
        state_of(backbone),
        tuple(name for name, _ in teachers),
        np.array(learner.mim, np.float32),
        missed,
        learner.seconds,
    )


class _Learner:
    """The student, its optimiser, the linear maps, and how far it is."""

    def __init__(
        self,
        student: MaskedModelling,
        teachers: list[Teacher],
        plan: Plan,
        place: torch.device,
        began: float,
    ) -> None:
        self.student, self.plan, self.place = student, plan, place
        self.began, self.before = began, 0.0
        self.teachers = teachers
        self.optimiser = optimiser_of(student, LEARNING_RATE, decay=WEIGHT_DECAY, betas=(0.9, 0.95))
        self.maps = [LinearMaps() for _ in ROW_GRIDS[len(student.size)]]
        self.done = 0
        self.mim: list[float] = []
        self.missed: list[list[float]] = []
        half = half_precision(place)
        self.precision = partial(mixed, place, half if half == torch.bfloat16 else None)

    @property
    def seconds(self) -> float:
        """Since this run began, and of the runs before it up to their last checkpoint."""
        return self.before + time.perf_counter() - self.began

    @torch.no_grad()
    def look(self, batches: Iterator[Tensor]) -> None:
        """Fill the running sums, so that the first maps are not fitted to one batch."""
        if not self.teachers:
            return
        for images in batches:
            self._add(rows_of_maps(scales_of(self.student.backbone, images)), self._targets(images))
        for maps in self.maps:
            maps.solve()

    def run(
        self,
        feed: Callable[[int], tuple[Tensor, torch.Generator]],
        progress: Progress | None,
        save: Callable[[], None] | None,
        save_s: float,
    ) -> None:
        """From where it is to the end of the plan."""
        saved = time.monotonic()
        while self.done < self.plan.steps:
            set_rate(self.optimiser, LEARNING_RATE * cycle(self.done / self.plan.steps))
            self._step(*feed(self.done))
            self.done += 1
            if save and (time.monotonic() - saved >= save_s or self.done == self.plan.steps):
                save()
                saved = time.monotonic()
            if progress:
                told = f", distillation {np.mean(self.missed[-1]):.3f}" if self.teachers else ""
                progress(f"MIM {self.mim[-1]:.3f}{told}")

    def _step(self, images: Tensor, random: torch.Generator) -> None:
        student = self.student
        mask = draw_mask(len(images), student.patches, student.size, random).to(self.place)
        images = images.to(self.place)
        seen = student.hide(images, mask)
        if self.teachers:
            seen = torch.cat([seen, images])
        with self.precision():
            maps = scales_of(student.backbone, seen)
            hidden = student.loss([one[: len(images)] for one in maps], images, mask)
            targets = self._targets(images)
        missed = self._missed([one[len(images) :] for one in maps], targets) if targets else []
        loss = torch.stack([hidden, *(one / len(missed) for one in missed)]).sum()
        self.mim.append(float(hidden.detach()))
        self.missed.append([float(one.detach()) for one in missed])
        if not bool(torch.isfinite(loss)):
            raise InputError(
                f"stage: `loss` has {float(loss)} at step {self.done + 1}, expected a finite number"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), LONGEST_STEP)
        self.optimiser.step()

    def _targets(self, images: Tensor) -> dict[str, list[Tensor]]:
        return {one.name: one.rows(images) for one in self.teachers}

    def _add(self, rows: Sequence[Tensor], targets: dict[str, list[Tensor]]) -> None:
        for grid, maps in enumerate(self.maps):
            maps.add(rows[grid].detach(), {name: wanted[grid] for name, wanted in targets.items()})

    def _missed(self, scales: Sequence[Tensor], targets: dict[str, list[Tensor]]) -> list[Tensor]:
        """Mean squared error of every teacher's rows, as the linear maps tell them from the student's."""
        rows = rows_of_maps(scales)
        self._add(rows, targets)
        if self.done % _SOLVE_EVERY == 0:
            for maps in self.maps:
                maps.solve()
        return [
            torch.stack(
                [
                    ((maps.of(name, own) - aim) ** 2).mean()
                    for maps, own, aim in zip(self.maps, rows, wanted, strict=True)
                ]
            ).mean()
            for name, wanted in targets.items()
        ]

    # --- checkpoint --------------------------------------------------------------------------------

    def save(self, path: Path, identity: str) -> None:
        """Write everything that the next step depends on, whole or not at all."""
        buffer = io.BytesIO()
        state = {
            "identity": identity,
            "done": self.done,
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "maps": [maps.state() for maps in self.maps] if self.teachers else [],
            "mim": self.mim,
            "missed": self.missed,
            "seconds": self.seconds,
        }
        torch.save(state, buffer)
        write_atomic(path, buffer.getvalue())

    def resume(self, path: Path, identity: str) -> bool:
        """Go on from a checkpoint of this very stage; whether there is one."""
        if not path.is_file():
            return False
        try:
            content = io.BytesIO(read_regular(path, _CHECKPOINT_CAP))
            state: dict[str, Any] = torch.load(content, map_location=self.place, weights_only=True)
        except (RuntimeError, EOFError, ValueError, UnpicklingError):
            log.warning("%s: is no checkpoint, the stage begins anew", path)
            return False
        if state.get("identity") != identity:
            return False
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        for maps, held in zip(self.maps, state["maps"], strict=bool(self.teachers)):
            maps.restore(held, self.place)
        self.done, self.mim, self.missed = state["done"], state["mim"], state["missed"]
        self.before = state.get("seconds", 0.0)  # an older checkpoint does not say
        log.info("stage goes on after step %d of %d", self.done, self.plan.steps)
        return True


def _identity(
    pool: Pool, made: Architecture, start: Weights | None, models: Sequence[LocalModel], plan: Plan
) -> str:
    """SHA-256 in hexadecimal of all that the result depends on."""
    said = {
        "pool": pool.digest,
        "recipe": pool.recipe.digest,
        "made": [made.kind, made.channels, list(made.size), made.backbone.model_dump(mode="json")],
        "models": [one.contribution for one in models],
        "plan": asdict(plan),
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, value in sorted((start or {}).items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _merged(
    rule: Merge,
    models: Sequence[LocalModel],
    teachers: Sequence[tuple[str, MultiScale]],
    looked: Callable[[], Iterator[Tensor]],
) -> Weights:
    weights, images = [one.weights for one in models], [one.images for one in models]
    if rule != "gram":
        return merge(rule, weights, images)
    grams = (input_grams(network, looked()) for _, network in teachers)  # one teacher's at a time
    return merge_by_gram(weights, grams, merge("mean", weights, images))


# --- batches ---------------------------------------------------------------------------------------------


def _batch(pool: Pool, plan: Plan, step: int) -> tuple[Tensor, torch.Generator]:
    """Images of a step, moved, and what the rest of the step's draws come from."""
    count = min(plan.batch or BATCH[len(pool.recipe.size)], len(pool))
    random = torch.Generator().manual_seed(_seed(plan.seed, 0, step))
    chosen = [_nth(len(pool), plan.seed, step * count + place) for place in range(count)]
    images = torch.stack([_window(pool, index, random) for index in chosen])
    return _moved(images, random), random


def _nth(count: int, seed: int, place: int) -> int:
    """Image at a place of an endless row of shuffled passes."""
    number, inside = divmod(place, count)
    return _shuffled(count, seed, number)[inside]


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, number: int) -> list[int]:
    order: list[int] = np.random.Generator(np.random.PCG64([seed, 1, number])).permutation(count).tolist()
    return order


def _looked_at(pool: Pool, plan: Plan, place: torch.device) -> Iterator[Tensor]:
    """The same few images for whatever is measured before the first step, as they are."""
    random = torch.Generator().manual_seed(_seed(plan.seed, 2, 0))
    first = torch.randperm(len(pool), generator=random)[:_LOOKED_AT].tolist()
    size = BATCH[len(pool.recipe.size)]
    for start in range(0, len(first), size):
        yield torch.stack([_window(pool, index, random) for index in first[start : start + size]]).to(place)


def _window(pool: Pool, index: int, random: torch.Generator) -> Tensor:
    """(channels, *size) of an image: all of it, or of a volume a window somewhere."""
    pixels, size = pool.pixels(index), pool.recipe.size
    if pixels.shape[1:] != size:
        starts = [
            int(torch.randint(0, side - window + 1, (1,), generator=random))
            for side, window in zip(pixels.shape[1:], size, strict=True)
        ]
        pixels = window_of(pixels, tuple(starts), size)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def _moved(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image turned over or not along every axis, zoomed in by up to 30 % and shifted within itself."""
    count, axes = len(images), images.ndim - 2
    shares = 1.0 - _ZOOM * torch.rand(count, generator=random)
    turns = 1.0 - 2.0 * torch.randint(0, 2, (count, axes), generator=random)
    shifts = (1.0 - shares[:, None]) * (2.0 * torch.rand(count, axes, generator=random) - 1.0)
    theta = torch.cat([torch.diag_embed(turns * shares[:, None]), shifts[:, :, None]], dim=2)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _seed(seed: int, use: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, use, step]).generate_state(1, np.uint64)[0] >> 1)
