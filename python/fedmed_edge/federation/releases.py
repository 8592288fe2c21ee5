"""What this site has signed, and whether one more may follow: SITE/releases.jsonl.

One JSON line a contribution, on the disk before it is signed: what is signed has been counted, wherever a
process is killed. It stays at the site; `sequence` holds the lock under which it is read and written.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from fedmed_edge.atomic import sync_folder
from fedmed_edge.config import ROWS_A_COLUMN, Policy
from fedmed_edge.errors import InputError, StoreError, Withheld
from fedmed_edge.statistics.accounting import composed_multiplier, epsilon_of, noise_multiplier
from fedmed_edge.statistics.header import ContributionHeader

__all__ = [
    "FILE_NAME",
    "Release",
    "Spent",
    "read_releases",
    "record",
    "refuse",
    "refuse_exhausted",
    "spent",
]

FILE_NAME: Final = "releases.jsonl"
_SLACK: Final = 1e-6
_MANY: Final = 1 << 20


@dataclass(frozen=True)
class Release:
    """One contribution that was signed.

    Attributes:
        when: UTC, as ISO 8601.
        generation, task: What it is for.
        parts: What is in it.
        noise: Noise multiplier; None of one that left without noise.
        cohort: The patients behind it by digest and class (`hospital.cohort`), sorted.
    """

    when: str
    sequence: int
    generation: str
    task: str
    parts: tuple[str, ...]
    noise: float | None
    cohort: tuple[str, ...]


@dataclass(frozen=True)
class Spent:
    """Where a site's privacy budget stands.

    Attributes:
        epsilon: Of all noisy contributions together, at the policy's δ.
        left: How many more of the policy's kind may follow; None where it asks for no noise.
        exact: Contributions that left without noise: no ε bounds what they tell.
    """

    epsilon: float
    left: int | None
    noisy: int
    exact: int


def read_releases(folder: Path) -> list[Release]:
    """What was signed in a site folder, oldest first; the file is missing where nothing was.

    A last line that a power cut left unfinished is passed over: its contribution was never signed.

    Raises:
        StoreError: The file is damaged: what was spent is not known.
    """
    path = folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        raise _damaged(path) from None
    whole, _, _ = text.rpartition("\n")
    found = []
    for line in whole.splitlines():
        try:
            values = json.loads(line)
            lists = {name: tuple(values[name]) for name in ("parts", "cohort")}
            found.append(Release(**{**values, **lists}))
        except (ValueError, TypeError, KeyError):
            raise _damaged(path) from None
    return found


def spent(releases: Sequence[Release], policy: Policy) -> Spent:
    """What the noisy contributions have spent, and how many more the budget allows."""
    noisy = [release.noise for release in releases if release.noise is not None]
    total = composed_multiplier(noisy)
    epsilon = epsilon_of(total, policy.delta)
    return Spent(epsilon, _left(total, policy), len(noisy), len(releases) - len(noisy))


def _left(total: float, policy: Policy) -> int | None:
    """The budget is a bound on Σ 1/m²; each contribution takes its own share of that."""
    if policy.epsilon is None:
        return None
    bound = noise_multiplier(policy.budget * (1 + _SLACK), policy.delta) ** -2
    one = noise_multiplier(policy.epsilon, policy.delta) ** -2
    return min(_MANY, max(0, math.floor((bound - total**-2) / one)))


def refuse(
    releases: Sequence[Release],
    policy: Policy,
    header: ContributionHeader,
    cohort: frozenset[str],
    now: datetime | None = None,
) -> None:
    """Refuse a contribution that the policy does not let follow those that were signed before.

    Args:
        cohort: Of the site's training images (`hospital.cohort`).

    Raises:
        Withheld: It lacks the noise that the policy asks for or the budget is exhausted; it comes too early;
            or it differs from an earlier one by so few patients that their difference shows them.
    """
    if header.parts == ("weights",):
        return
    if (policy.epsilon is None) != (header.privacy is None):
        raise Withheld("policy: `epsilon` is not what the contribution was made with", hint="make it again")
    before = [
        one for one in releases if one.generation == header.generation and set(one.parts) != {"weights"}
    ]
    _refuse_early(before, policy, now or datetime.now(UTC))
    if policy.epsilon is None:
        _refuse_difference(before, policy, header, told_of(header, cohort))
        return
    refuse_exhausted(releases, policy)


def refuse_exhausted(releases: Sequence[Release], policy: Policy) -> None:
    """Refuse another contribution that the privacy budget has no room for, before work goes into it.

    Raises:
        Withheld: As `refuse`.
    """
    if policy.epsilon is None:
        return
    stands = spent(releases, policy)
    if stands.left == 0:
        raise Withheld(
            f"privacy budget: ε {stands.epsilon:.3g} of {policy.budget:g} is spent, "
            f"another contribution takes {policy.epsilon:g}",
            hint="nothing leaves until `budget` in the policy is raised; what was spent stays spent",
        )


def _refuse_early(before: Sequence[Release], policy: Policy, now: datetime) -> None:
    if not before or policy.days_between <= 0:
        return
    allowed = datetime.fromisoformat(before[-1].when) + timedelta(days=policy.days_between)
    if now < allowed:
        raise Withheld(
            f"policy: the last contribution left on {before[-1].when[:10]}, expected `days_between` "
            f"{policy.days_between:g} between two",
            hint=f"contribute on {allowed.date()} or later",
        )


def _refuse_difference(
    before: Sequence[Release], policy: Policy, header: ContributionHeader, cohort: frozenset[str]
) -> None:
    """Sums are exact, so two of them show the sums of the patients in whom they differ.

    Their difference is a Gram like any other: where the policy refuses one that is too wide for its rows, it
    refuses such a difference.
    """
    least = policy.update_patients or policy.min_cohort
    if policy.width_rule == "refuse" and header.kind == "classification":
        least = max(least, ROWS_A_COLUMN * header.row_dim)
    for release in before:
        earlier = frozenset(release.cohort)
        for changed in (cohort - earlier, earlier - cohort):
            fewest = min(Counter(_class_of(one) for one in changed).values(), default=least)
            if release.noise is None and fewest < least:
                raise Withheld(
                    f"policy: a class differs by {fewest} patients from the contribution of "
                    f"{release.when[:10]}, whose difference would show them, expected 0 or at least {least}",
                    hint="wait for more patients; `update_patients` in the policy says how many",
                )


def _class_of(patient: str) -> str:
    return patient.partition(" ")[2]


def told_of(header: ContributionHeader, cohort: frozenset[str]) -> frozenset[str]:
    """Those patients whose class is in the contribution; all under a draft, where none has a class."""
    absent = set(header.absent)
    return frozenset(one for one in cohort if absent == {*header.classes} or _class_of(one) not in absent)


def record(folder: Path, header: ContributionHeader, cohort: frozenset[str]) -> None:
    """Write down what is about to be signed, and flush it to the disk.

    Raises:
        InputError: It cannot be written; then nothing may be signed.
    """
    release = Release(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        sequence=header.sequence,
        generation=header.generation,
        task=header.task,
        parts=header.parts,
        noise=None if header.privacy is None else header.privacy.noise,
        cohort=tuple(sorted(told_of(header, cohort))),
    )
    path = folder / FILE_NAME
    line = json.dumps(asdict(release), separators=(",", ":")).encode() + b"\n"
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            # behind the last whole line: what a power cut left of another one is written over
            file.seek(path.read_bytes().rfind(b"\n") + 1)
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(folder)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}",
            hint="nothing is signed that is not written down: make room and try again",
        ) from None


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path}: is damaged: what has left is not known",
        hint="restore it from a backup; without one, count the budget as spent and begin a new site",
    )
