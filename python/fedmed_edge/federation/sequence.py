"""From data set to signed contribution, whose number rises: SITE/sequence, taken under SITE/sequence.lock.

A training with noise spends under the same lock.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fedmed_edge.atomic import locked, write_atomic
from fedmed_edge.config import Policy, SiteConfig
from fedmed_edge.errors import InputError
from fedmed_edge.features.patients import Leaving, Patients, PrivateTraining
from fedmed_edge.federation.releases import SEQUENCE_FILE, Releases
from fedmed_edge.generation import Generation
from fedmed_edge.hospital import Prepared, Progress, expected, plan_training, prepare
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.signing import PrivateKey
from fedmed_edge.statistics.accounting import Steps
from fedmed_edge.statistics.contribution import Contribution

__all__ = [
    "FOLLOWED",
    "prepare_allowed",
    "private_training",
    "raise_sequence",
    "settle_lost",
    "signed_as_next",
]

_LOCK: Final = "sequence.lock"

FOLLOWED: Final = 10_000
"""Numbers that a server may be ahead: more than a backup misses, and nothing of the 2⁵³ that there are."""


def raise_sequence(folder: Path, least: int, *, by_hand: bool = False) -> None:
    """A site whose folder was restored from a backup goes on behind what the server has of it.

    What was signed meanwhile is not in the folder, which is written down first: what it told and spent is not
    known. A number cannot be taken back, so one that a server makes up would leave none to contribute with.

    Args:
        by_hand: Somebody at the site says so, who is believed however far it is.

    Raises:
        InputError: As `Releases`, it cannot be written, or the server is more than `FOLLOWED` ahead.
        StoreError: What has left is not known.
    """
    with locked(folder / _LOCK):
        releases = Releases(folder)
        most = releases.sequence + 1 + FOLLOWED
        if least > most and not by_hand:
            raise InputError(
                f"server: `sequence` has {least}, expected at most {most}, {FOLLOWED} beyond this folder's",
                hint="if this folder is an older copy: `fedmed-edge budget --restored` with the number that "
                "the server's admin sees in `fedmed-server status`",
            )
        if releases.sequence + 1 < least:
            releases.record_lost(least - 1)
            _keep(folder, least - 1)


def settle_lost(folder: Path, epsilon: float, policy: Policy) -> Releases:
    """Count contributions that were lost, as `Releases.settle`; an agent that signs meanwhile is waited for.

    Raises:
        InputError: As `Releases.settle`.
        StoreError: What has left is not known.
    """
    with locked(folder / _LOCK):
        releases = Releases(folder)
        releases.settle(epsilon, policy)
        return releases


def prepare_allowed(
    folder: Path,
    dataset: Dataset,
    generation: Generation,
    config: SiteConfig,
    *,
    progress: Progress | None = None,
) -> Prepared:
    """Prepare a contribution of sums, unless the policy would not let it leave anyway.

    Raises:
        Withheld: As `Releases.refuse` or `hospital.prepare`.
        InputError: As `hospital.prepare` or `Releases`.
        StoreError: What has left is not known.
    """
    releases, policy = Releases(folder), config.policy
    releases.refuse_any(policy)
    patients = None if policy.epsilon is not None else Patients(dataset, policy.min_cohort)
    releases.refuse(expected(dataset, generation, policy, patients), policy)
    return prepare(dataset, generation, config, patients=patients, progress=progress)


def private_training(
    folder: Path,
    dataset: Dataset,
    start: Generation | None,
    policy: Policy,
    epochs: float,
    *,
    request: str = "",
) -> PrivateTraining:
    """The noise of a training, for which the privacy budget has room; it is spent when the training begins.

    Args:
        dataset: The site's whole data set.
        start: What training starts from, if anything.
        request: Of the server, that it is for.

    Raises:
        InputError: As `hospital.plan_training`.
        Withheld: As `hospital.plan_training` or `Releases.refuse_training`; so does `spend`.
        StoreError: What has left is not known.
    """
    privacy, id = plan_training(dataset, policy, epochs), secrets.token_hex(16)
    noise = Steps(privacy.noise, privacy.sampling, privacy.steps)
    generation = start.digest if start is not None else ""
    leaving = Leaving(generation=generation, task=dataset.recipe.name, parts=("weights",), training=id)

    def spend() -> None:
        with locked(folder / _LOCK):
            releases = Releases(folder)
            releases.refuse_training(noise, policy)
            releases.record_training(leaving, noise, request)

    Releases(folder).refuse_training(noise, policy)
    return PrivateTraining(id, privacy, spend)


@contextmanager
def signed_as_next(
    folder: Path, prepared: Prepared, key: PrivateKey, *, policy: Policy, request: str = ""
) -> Iterator[Contribution]:
    """A contribution, signed with the site's next sequence; put it where it waits within the block.

    Until the block ends nobody else gets a number, or a newer one might be handed over first, and the server
    refuse this one. What it spends of the privacy budget is spent before its noise is drawn: a draw of which
    nothing stands out has been one all the same.

    Args:
        policy: What may be signed after what was signed before (`Releases.refuse`).
        request: Of the server, that it answers.

    Raises:
        InputError: As `Releases`, or it cannot be written.
        Withheld: The policy does not let it leave, or no class stands out of the noise.
        StoreError: What has left is not known.
    """
    with locked(folder / _LOCK):
        releases = Releases(folder)
        releases.refuse(prepared.leaving, policy)
        sequence = releases.sequence + 1
        releases.record(prepared.leaving, sequence, request)
        _keep(folder, sequence)  # last: where it counts more than is written down, something was lost
        yield prepared.contribution(sequence).sign(key)


def _keep(folder: Path, sequence: int) -> None:
    write_atomic(folder / SEQUENCE_FILE, f"{sequence}\n".encode())
