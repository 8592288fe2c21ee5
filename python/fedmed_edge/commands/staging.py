"""What a stage of the universal encoder takes from the server's store, and what it puts back."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed_edge.atomic import locked, read_regular, write_atomic
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.generation import Architecture, Generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PrivateKey, write_signed
from fedmed_edge.statistics.contribution import Contribution, parse_contribution
from fedmed_edge.store.entries import named_by
from fedmed_edge.universal.local_models import LocalModel, local_models
from fedmed_edge.universal.pool import Pool
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.store.entries import ContributionEntry
    from fedmed_edge.store.store import Store
    from fedmed_edge.universal.merging import Merge
    from fedmed_edge.universal.stage import Learned, Plan

__all__ = ["FOLDER", "Staging", "Teachers", "forget_stages", "plan_of", "staging_of", "told"]

log = logging.getLogger(__name__)

FOLDER = "stages"
"""In the server's folder: one folder for each stage that is not finished."""

EPOCHS = 50

_BEGUN, _CHECKPOINT = "stage.json", "checkpoint"


@dataclass(frozen=True)
class Teachers:
    """Local models that a stage learns from.

    Attributes:
        left_out: Site and task → why its local model does not teach.
        awaited: Enrolled sites of which the store holds none.
    """

    models: list[LocalModel] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    awaited: tuple[str, ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that teach, by name."""
        return tuple(sorted({one.site for one in self.models}))


@dataclass(frozen=True)
class Staging:
    """A stage over a store: from a generation, or from nothing.

    Attributes:
        folder: The server's.
        start: A generation, most often the newest; None: stage 0, from random weights.
        recipes: Of the tasks that share the encoder.
        stored: Take local models of every generation, not of the newest alone.
        without: Sites that do not teach.
        given: Recipe that comes with the stage; the store keeps it, in the place of the task's one before,
            once the generation is made.
    """

    folder: Path
    store: "Store"
    start: Generation | None
    recipes: Sequence[Recipe]
    stored: bool
    without: Sequence[str] = ()
    given: Recipe | None = None

    @contextmanager
    def place(self, pool: Pool, plan: "Plan") -> Iterator[Path]:
        """Where the stage keeps what it needs to go on, the same for the same arguments; in the end it goes.

        However it ends, nothing stays that has learned from who withdrew meanwhile.

        Raises:
            InputError: The same stage is running.
        """
        place, done = self.folder / FOLDER / self._identity(pool, plan), False
        try:
            with locked(place / "lock", busy="stage: the very same one is running"):
                try:
                    yield place
                    done = True
                finally:
                    if done or not {_BEGUN, _CHECKPOINT} & {one.name for one in place.iterdir()}:
                        shutil.rmtree(place, ignore_errors=True)
        finally:  # behind the lock: a withdrawal from here on finds the folder free
            forget_stages(self.folder, self.store)

    def _identity(self, pool: Pool, plan: "Plan") -> str:
        said = {
            "start": self.start and self.start.digest,
            "pool": [pool.digest, pool.recipe.digest],
            "stored": self.stored,
            "without": sorted(self.without),
            "plan": [plan.steps, plan.merge, plan.seed, plan.batch],
        }
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

    def teachers(self, place: Path) -> Teachers:
        """The local models that the stage began with, else those that the store holds now.

        Raises:
            InputError: There is none, or a site that is left out is not enrolled.
        """
        if self.start is None:
            return Teachers()
        enrolled = {site.name for site in self.store.sites() if not site.revoked}
        for site in self.without:
            self.store.site(site)
        held = {f"{entry.site}/{entry.task}": entry for entry in self._held()}
        left_out = {
            name: f"is held back: {why}"
            for name, entry in held.items()
            if (why := self.store.held_back.of(entry.task).get(entry.site))
        }
        found = [entry for name, entry in held.items() if name not in left_out]
        began = _begun(place)
        if began is not None and set(began) <= {entry.id for entry in found}:
            later = [f"{one.site}/{one.task}" for one in found if one.id not in began]
            found = [one for one in found if one.id in began]
            if later:
                log.info("stage goes on with those it began with; came since: %s", ", ".join(later))
        contributions = map(self._contribution, found)  # their files are read one after the other
        models, unfit = local_models(contributions, self.store.generation, self.start.header)
        here = {*self.without, *(one.site for one in models), *(held[name].site for name in left_out)}
        left_out, awaited = left_out | unfit, tuple(sorted(enrolled - here))
        if not models:
            raise self._nobody(left_out, awaited)
        write_atomic(place / _BEGUN, json.dumps(sorted(one.contribution for one in models)).encode())
        return Teachers(models, left_out, awaited)

    def _held(self) -> "list[ContributionEntry]":
        """Each site's newest weights of every task."""
        assert self.start is not None
        entries = [
            entry
            for entry in self.store.contribution_entries()
            if entry.holds == "weights" and entry.site not in self.without
        ]
        now = {entry.generation for entry in entries}
        if not self.stored:  # a draft and what completes it are one backbone
            now = {digest for digest in now if self.store.encoder(digest) == self.start.encoder}
        newest = {
            (entry.site, entry.task): entry  # by site and sequence
            for entry in entries
            if entry.generation in now
        }
        return list(newest.values())

    def _contribution(self, entry: "ContributionEntry") -> Contribution:
        content = self.store.contribution_content(entry.id)
        # the numbers were checked at import
        return parse_contribution(content, f"contribution {entry.id[:12]}", thorough=False)

    def _nobody(self, left_out: dict[str, str], awaited: Sequence[str]) -> InputError:
        assert self.start is not None
        told = "".join(f"; {name} {why}" for name, why in left_out.items())
        where = "the store" if self.stored else f"generation {self.start.digest[:12]}"
        return InputError(
            f"stage: {where} has no local model to learn from, "
            f"expected weights of {', '.join(awaited) or 'an enrolled site'}{told}",
            hint="hospitals run `fedmed-edge train` and `contribute --weights`; --stored takes those of "
            "older generations, --from-scratch begins with the pool alone",
        )

    def publish(
        self, generation: Generation, teachers: Teachers, pool: Pool, plan: "Plan", key: PrivateKey, out: Path
    ) -> Path:
        """File and signature first, then the store: a stage that is killed in between is not lost.

        Returns:
            The signature's file.

        Raises:
            StoreError: A site that taught has withdrawn meanwhile; nothing is written.
        """
        held = {entry.id for entry in self.store.contribution_entries()}
        if gone := sorted({one.site for one in teachers.models if one.contribution not in held}):
            raise StoreError(
                f"stage: learned from {', '.join(gone)}, whose weights were withdrawn meanwhile",
                hint="run the same command again: it begins anew with those who are left",
            )
        signature = write_signed(out, generation.content, key)
        if self.given is not None:
            self.store.add_recipe(self.given)
        self.store.publish_generation(generation.content)
        details = {
            "start": self.start and self.start.digest,
            "contributions": sorted(one.contribution for one in teachers.models),
            "pool": pool.digest,
            "images": len(pool),
            "steps": plan.steps,
            "merge": plan.merge if teachers.models else "none",
            "seed": plan.seed,
        }
        self.store.ledger_append("staged", subject=generation.digest, details=details)
        return signature

    @property
    def _made(self) -> Architecture:
        """What the encoder is built from."""
        return self.recipes[0] if self.start is None else self.start.header

    def learn(
        self,
        pool: Pool,
        plan: "Plan",
        teachers: Teachers,
        place: Path,
        *,
        device: str,
        progress: Callable[[str], None] | None = None,
    ) -> "Learned":
        """Learn, from the checkpoint on where there is one."""
        from fedmed_edge.universal.stage import learn

        start = None if self.start is None else self.start.weights
        return learn(
            pool,
            self._made,
            start,
            teachers.models,
            plan,
            device=device,
            checkpoint=place / _CHECKPOINT,
            progress=progress,
        )

    def generation(
        self, learned: "Learned", teachers: Teachers, pool: Pool, *, draft: bool, seed: int, device: str
    ) -> Generation:
        """The weights as a draft, or standardised on the pool."""
        from fedmed_edge.features.publish import draft_generation
        from fedmed_edge.universal.standardise import standardise

        before = () if self.start is None else self.start.header.trained_by
        sites = [*before, *teachers.sites]
        made = draft_generation(self._made, learned.weights, trained_by=sites, seed=seed)
        return made if draft else standardise(made, pool, self.recipes, device=device, seed=seed)


def staging_of(
    folder: Path,
    store: "Store",
    *,
    tasks: Sequence[str],
    recipe: Recipe | None,
    stored: bool,
    generation: str,
    from_scratch: bool,
    without: Sequence[str],
) -> Staging:
    """What a stage works from.

    Args:
        tasks: That share the encoder; none: all whose images fit the generation.
        generation: Digest or its beginning; empty for the newest.
        recipe: Of one task more, or of the first.

    Raises:
        InputError: The store has no task, or no generation to start from.
        StoreError: There is no task of a name.
    """
    given = {} if recipe is None else {recipe.name: recipe}
    known = sorted({*store.tasks(), *given})
    if not known:
        raise InputError("stage: the store has no task", hint="give the recipe of one with --recipe FILE")
    start = None if from_scratch else _start(store, generation)
    named = [*tasks, *given] if tasks else known
    recipes = [given.get(task) or store.recipe(task) for task in dict.fromkeys(named)]
    if start is not None and not tasks:
        header = start.header
        recipes = [one for one in recipes if (one.channels, one.size) == (header.channels, header.size)]
        if not recipes:
            raise InputError(
                f"stage: no task has images for generation {start.digest[:12]}: "
                f"{header.channels} channels of size {header.size}"
            )
    if recipe is not None:
        recipes.sort(key=lambda one: one.name != recipe.name)
    return Staging(folder, store, start, recipes, stored, without, recipe)


def _start(store: "Store", generation: str) -> Generation:
    digest = named_by(generation, store.generations(), "generations")
    if digest is None:
        raise StoreError(
            f"store: no generation {generation[:12] or 'is published'}",
            hint="--from-scratch begins with the pool alone; or `fedmed-server generation publish`",
        )
    return store.generation(digest)


def _begun(place: Path) -> list[str] | None:
    """Contributions that a stage began with."""
    try:
        told: Any = json.loads(read_regular(place / _BEGUN, 1 << 24))
    except (InputError, ValueError):
        return None
    return [str(one) for one in told] if isinstance(told, list) else None


def forget_stages(folder: Path, store: "Store") -> list[str]:
    """Delete what unfinished stages keep that have learned from weights which the store no longer holds.

    A stage that is running is left alone: it publishes nothing, and does this itself when it ends.

    Args:
        folder: The server's.

    Returns:
        Names of their folders.
    """
    held, gone = {entry.id for entry in store.contribution_entries()}, []
    for place in sorted((folder / FOLDER).glob("*")):
        if set(_begun(place) or ()) <= held:
            continue
        with suppress(InputError), locked(place / "lock", busy="stage: is running"):
            shutil.rmtree(place, ignore_errors=True)
            gone.append(place.name)
    return gone


def plan_of(pool: Pool, steps: int | None, epochs: float | None, merge: "Merge", seed: int) -> "Plan":
    """How a stage learns; `epochs` are passes over the pool, 50 where neither is given."""
    from fedmed_edge.universal.stage import BATCH, Plan

    batch = min(BATCH[pool.recipe.dimensions], len(pool))
    return Plan(steps or max(1, round((epochs or EPOCHS) * len(pool) / batch)), merge, seed)


def told(
    out: Path,
    signature: Path,
    generation: Generation,
    teachers: Teachers,
    pool: Pool,
    plan: "Plan",
    learned: "Learned",
) -> tuple[dict[str, Any], list[str]]:
    """What became of a stage, as JSON values and as lines for people."""
    explained, last = learned.explained(), learned.mim[-max(1, len(learned.mim) // 10) :]
    document = {
        "out": str(out),
        "signature": str(signature),
        "digest": generation.digest,
        "draft": generation.draft,
        "row_dim": generation.row_dim,
        "trained_by": list(generation.header.trained_by),
        "teachers": {one.name: explained[one.name] for one in teachers.models},
        "left_out": teachers.left_out,
        "awaited": list(teachers.awaited),
        "pool": {
            "images": len(pool),
            "digest": pool.digest,
            "copies": pool.copies,
            "other_files": pool.passed_over,
            "refused": [{"file": name, "reason": reason} for name, reason in pool.refused],
        },
        "steps": plan.steps,
        "merge": plan.merge if teachers.models else "none",
        "mim": round(float(last.mean()), 6),
        "seconds": round(learned.seconds, 3),
    }
    what = f"draft {generation.digest[:12]}" if generation.draft else f"generation {generation.digest[:12]}"
    lines = [
        f"pool: {counted(len(pool), 'image')}; {len(pool.refused)} cannot be used, "
        f"{counted(pool.copies, 'copy', 'copies')}, {counted(pool.passed_over, 'other file')}",
        *(f"not used: {name}: {reason}" for name, reason in pool.refused),
        *(
            f"learned from {name}: {share:.0%} of its features' variance is told"
            for name, share in explained.items()
        ),
        *(f"left out: {name} {why}" for name, why in teachers.left_out.items()),
        *([f"no local model yet of {', '.join(teachers.awaited)}"] if teachers.awaited else []),
        f"{counted(plan.steps, 'step')} in {learned.seconds:.0f} s; "
        f"hidden pixels are missed by {last.mean():.3f}",
        f"{out}: {what}, rows of {generation.row_dim}; hand it over with its signature {signature}",
        "next: hospitals contribute under it, then train from it and contribute --weights for the next stage",
    ]
    return document, lines
