"""What this site has signed, and whether one more may follow: SITE/releases.jsonl.

One JSON line a contribution, on the disk before it is signed and before its noise is drawn, and one a
training with noise, before its first step: what is signed, and what was drawn in vain, has been counted,
wherever a process is killed. It stays at the site; `sequence` holds the lock under which it is read and
written.
"""

import math
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, ValidationError

from fedmed_edge.atomic import read_regular, sync_folder
from fedmed_edge.config import PATIENTS_A_COLUMN, Policy
from fedmed_edge.errors import InputError, StoreError, Withheld
from fedmed_edge.features.patients import Leaving
from fedmed_edge.statistics.accounting import Steps, composed_multiplier, epsilon_of, noise_multiplier
from fedmed_edge.words import counted

__all__ = ["FILE_NAME", "SEQUENCE_FILE", "Release", "Releases", "Spent"]

FILE_NAME: Final = "releases.jsonl"
SEQUENCE_FILE: Final = "sequence"
"""Number of the last contribution; it follows the line that tells of it."""

_SLACK: Final = 1e-6
"""Part of the budget by which rounding may pass it."""

_NUMBER_CAP: Final = 64
_LINES_CAP: Final = 1 << 32

_MANY: Final = 1 << 20
"""More contributions than this are not told apart."""


class Release(Leaving):
    """One line of the file.

    Attributes:
        when: UTC.
        sequence: Of the contribution; of a `lost` line the highest one that is not known here; of a training
            0.
        state: `lost`: contributions that this folder knows nothing of; `settled`: what those before spent;
            `trained`: a training with noise, written down before it began.
        sampling, steps: Of a training, as of `Privacy`.
        request: Of the server, that it was for; none where somebody began it by hand.
    """

    when: AwareDatetime
    sequence: Annotated[int, Field(ge=0)]
    state: Literal["signed", "lost", "settled", "trained"] = "signed"
    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    sampling: Annotated[float, Field(gt=0, le=1)] = 1.0
    steps: Annotated[int, Field(ge=1)] = 1
    request: str = ""

    @property
    def sums(self) -> bool:
        """A contribution of sums that this folder knows."""
        return self.state == "signed" and self.parts != ("weights",)

    @property
    def exact(self) -> bool:
        """Sums that left without noise."""
        return self.sums and self.noise is None


@dataclass(frozen=True)
class Spent:
    """Where a site's privacy budget stands.

    Attributes:
        epsilon: Of all noisy contributions and trainings together, at the policy's δ.
        left: How many more contributions of the policy's kind may follow; None where it asks for no noise.
        trainings: With noise; whether their weights left, and how often, spends nothing.
        exact: Contributions that left without noise: no ε bounds what they tell.
        lost: Contributions may have left that this folder knows nothing of.
    """

    epsilon: float
    left: int | None
    noisy: int
    trainings: int
    exact: int
    lost: bool


class Releases:
    """What was signed in a site folder, as it stood when this was made; oldest first.

    The file is missing where nothing was. A last line that a power cut left unfinished is passed over: its
    contribution was never signed.

    Raises:
        StoreError: The file is damaged: what was spent is not known.
        InputError: The file of the sequence is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._counted = _read_sequence(folder / SEQUENCE_FILE)  # before the lines: who signs writes it behind
        self.lines = _read(self._path)

    @property
    def sequence(self) -> int:
        """Number of the last contribution, as far as either file knows."""
        return max(self._counted, self._told)

    @property
    def _told(self) -> int:
        return max((one.sequence for one in self.lines), default=0)

    @property
    def lost(self) -> bool:
        """Whether contributions may have left that are not in the file: the server or the sequence knows."""
        states = [one.state for one in self.lines if one.state in ("lost", "settled")]
        return states[-1:] == ["lost"] or self._told < self._counted

    def spent(self, policy: Policy) -> Spent:
        """What noisy contributions and trainings have spent, and how many more the budget allows."""
        noisy, trainings = self._noise()
        total = composed_multiplier(noisy)
        exact = [
            one for one in self.lines if one.state == "signed" and one.noise is None and not one.training
        ]
        epsilon, left = epsilon_of(total, policy.delta, trainings), _left(total, trainings, policy)
        return Spent(epsilon, left, len(noisy), len(trainings), len(exact), self.lost)

    def spent_for(self, request: str) -> bool:
        """Whether noise of a contribution or training was counted for a request of the server."""
        return any(one.noise is not None and one.request == request for one in self.lines)

    def _noise(self) -> tuple[list[float], list[Steps]]:
        """Multipliers of the contributions, and the trainings."""
        told = [(one, one.noise) for one in self.lines if one.noise is not None]
        trainings = [Steps(noise, one.sampling, one.steps) for one, noise in told if one.state == "trained"]
        return [noise for one, noise in told if one.state != "trained"], trainings

    def refuse(self, leaving: Leaving, policy: Policy) -> None:
        """Refuse a contribution that the policy does not let follow those before.

        To be asked before the work that goes into it (`hospital.expected`), and again when it is signed.

        Raises:
            Withheld: Some that left are not known here; it lacks the noise that the policy asks for or the
                budget is exhausted; weights are of a training whose noise is not written down; it comes too
                early; or it differs from an earlier one by so few patients that their difference shows them.
        """
        if leaving.parts == ("weights",):
            trained = {one.training for one in self.lines if one.state == "trained"}
            if policy.epsilon is not None and leaving.training not in trained:
                raise Withheld(
                    f"policy: `epsilon` asks for noise, and {FILE_NAME} knows of no training that made these "
                    "weights",
                    hint="train with `--private` in this folder, and hand over what comes of it",
                )
            return
        if (policy.epsilon is None) != (leaving.noise is None):
            raise Withheld(
                "policy: `epsilon` is not what the contribution was made with", hint="make it again"
            )
        self.refuse_any(policy)
        self._refuse_early(leaving, policy)
        if policy.epsilon is None:
            self._refuse_difference(leaving, policy)

    def refuse_any(self, policy: Policy) -> None:
        """Refuse where no contribution of sums may follow, whatever is in it.

        Raises:
            Withheld: Some that left are not known here, or the privacy budget has no room for another.
        """
        self._refuse_lost()
        if policy.epsilon is None:
            return
        stands = self.spent(policy)
        if stands.left == 0:
            raise Withheld(
                f"privacy budget: ε {stands.epsilon:.3g} of {policy.budget:g} is spent, "
                f"another contribution takes {policy.epsilon:g}",
                hint="no sums leave until `budget` in the policy is raised; what was spent stays spent",
            )

    def refuse_training(self, noise: Steps, policy: Policy) -> None:
        """Refuse a training with noise for which the privacy budget has no room.

        Raises:
            Withheld: As said; or some contributions that left are not known here.
        """
        self._refuse_lost()
        noisy, trainings = self._noise()
        total = composed_multiplier(noisy)
        after = epsilon_of(total, policy.delta, [*trainings, noise])
        if after > policy.budget * (1 + _SLACK):
            raise Withheld(
                f"privacy budget: ε {epsilon_of(total, policy.delta, trainings):.3g} of {policy.budget:g} is "
                f"spent, with this training it would be {after:.3g}",
                hint="fewer epochs spend as much: raise `budget` in the policy, or lower `epsilon`",
            )

    def _refuse_lost(self) -> None:
        if self.lost:
            raise Withheld(
                f"{FILE_NAME}: lacks contributions that this site signed, so what has left is not known",
                hint="restore a newer copy; or say what they spent: `fedmed-edge budget --settle`",
            )

    def _refuse_early(self, leaving: Leaving, policy: Policy) -> None:
        before = [one.when for one in self.lines if one.sums and one.generation == leaving.generation]
        if not before or not policy.days_between:
            return
        allowed = before[-1] + timedelta(days=policy.days_between)
        if datetime.now(UTC) < allowed:
            raise Withheld(
                f"policy: the last contribution left on {before[-1].date()}, expected `days_between` "
                f"{policy.days_between:g} between two",
                hint=f"contribute on {allowed.date()} or later",
            )

    def _refuse_difference(self, leaving: Leaving, policy: Policy) -> None:
        """Sums are exact, so two of them show the sums of the patients in whom they differ.

        Their difference is a Gram like any other: where the policy refuses one that is too wide for its
        patients, it refuses such a difference.
        """
        least = policy.least_update
        if policy.width_rule == "refuse" and leaving.width is not None:
            least = max(least, PATIENTS_A_COLUMN * leaving.width)
        now = frozenset(leaving.cohort)
        for release in self.lines:
            if not release.exact or not _can_be_subtracted(release, leaving):
                continue
            earlier = frozenset(release.cohort)
            for changed in (now - earlier, earlier - now):
                fewest = min(Counter(_class_of(one) for one in changed).values(), default=least)
                if fewest < least:
                    raise Withheld(
                        f"policy: a class differs by {counted(fewest, 'patient')} from the contribution of "
                        f"{release.when.date()}, whose difference would show them, expected 0 or at least "
                        f"{least}",
                        hint=_hint(release, leaving),
                    )

    def record(self, leaving: Leaving, sequence: int, request: str = "") -> None:
        """Write down what is about to be signed, and flush it to the disk.

        Args:
            request: As of `Release`.

        Raises:
            InputError: It cannot be written; then nothing may be signed.
        """
        self._append(Release(**leaving.model_dump(), when=_now(), sequence=sequence, request=request))

    def record_training(self, leaving: Leaving, noise: Steps, request: str = "") -> None:
        """Write down a training that is about to begin, and flush it to the disk.

        Args:
            leaving: What its weights would tell.
            request: As of `Release`.

        Raises:
            InputError: As `record`; then it may not begin.
        """
        told = leaving.model_dump(exclude={"noise"})
        self._append(
            Release(
                **told,
                noise=noise.multiplier,
                sampling=noise.sampling,
                steps=noise.steps,
                request=request,
                when=_now(),
                sequence=0,
                state="trained",
            )
        )

    def record_lost(self, sequence: int) -> None:
        """Write down that contributions up to a sequence left of which nothing is known here.

        Raises:
            InputError: As `record`.
        """
        self._append(Release(generation="", task="", parts=(), when=_now(), sequence=sequence, state="lost"))

    def settle(self, epsilon: float, policy: Policy) -> None:
        """Count those that were lost as an ε that they spent together, at the policy's δ; 0 for no noise.

        Raises:
            InputError: As `record`; ε is none; or nothing is lost.
        """
        if not self.lost:
            raise InputError(f"budget: {FILE_NAME} lacks nothing, so there is nothing to settle")
        noise = noise_multiplier(epsilon, policy.delta) if epsilon else None
        self._append(
            Release(
                generation="",
                task="",
                parts=(),
                noise=noise,
                when=_now(),
                sequence=self.sequence,
                state="settled",
            )
        )

    def _append(self, release: Release) -> None:
        line = release.model_dump_json(exclude_defaults=True).encode() + b"\n"
        try:
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
                # behind the last whole line: what a power cut left of another one is written over
                file.seek(self._path.read_bytes().rfind(b"\n") + 1)
                file.truncate()
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._path.parent)
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be written: {error.strerror}",
                hint="nothing is signed that is not written down: make room and try again",
            ) from None
        self.lines.append(release)


def _read_sequence(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        return int(read_regular(path, _NUMBER_CAP))
    except ValueError:
        raise InputError(
            f"{path}: not a number", hint="write the highest sequence that `fedmed-server status` shows"
        ) from None


def _read(path: Path) -> list[Release]:
    if not path.exists():
        return []
    try:
        whole, _, _ = read_regular(path, _LINES_CAP).decode().rpartition("\n")
        return [Release.model_validate_json(line) for line in whole.splitlines()]
    except InputError as error:
        raise StoreError(str(error), hint="check what it is, who owns it and its permissions") from None
    except (UnicodeDecodeError, ValidationError):
        raise StoreError(
            f"{path}: is damaged: what has left is not known",
            hint="restore it from a backup; without one, count the budget as spent and begin a new site",
        ) from None


def _left(total: float, trainings: Collection[Steps], policy: Policy) -> int | None:
    """Beside trainings the budget is a bound on Σ 1/m²; each contribution takes its own share of that."""
    if policy.epsilon is None:
        return None
    bound = noise_multiplier(policy.budget * (1 + _SLACK), policy.delta, trainings) ** -2
    one = noise_multiplier(policy.epsilon, policy.delta) ** -2
    return min(_MANY, max(0, math.floor((bound - total**-2) / one)))


def _can_be_subtracted(release: Release, leaving: Leaving) -> bool:
    """Sums of one task go together where their features are of one backbone; a style knows no backbone.

    Whatever a generation adds to its backbone is a map that everybody knows. Lines of older versions do not
    name the backbone.
    """
    styles = "style" in release.parts and "style" in leaving.parts
    return release.task == leaving.task and (styles or release.backbone in ("", leaving.backbone))


def _hint(release: Release, leaving: Leaving) -> str:
    hint = "wait for more patients; `update_patients` in the policy says how many"
    if release.backbone in ("", leaving.backbone):
        return hint
    return f"{hint}. Their styles alone can be subtracted: or take `style` out of `parts`"


def _class_of(patient: str) -> str:
    return patient.partition(" ")[2]


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
