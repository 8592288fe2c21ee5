"""The number that rises with every contribution of a site: SITE/sequence, taken under SITE/sequence.lock."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from fedmed_edge.atomic import locked, write_atomic
from fedmed_edge.config import Policy
from fedmed_edge.errors import InputError
from fedmed_edge.federation.releases import read_releases, record, refuse
from fedmed_edge.signing import PrivateKey
from fedmed_edge.statistics.contribution import Contribution

__all__ = ["SEQUENCE_FILE", "next_sequence", "raise_sequence", "signed_as_next"]

SEQUENCE_FILE: Final = "sequence"
_LOCK: Final = "sequence.lock"


def next_sequence(folder: Path) -> int:
    """One more than the sequence of the last contribution that was signed in this site folder.

    Raises:
        InputError: The file that keeps it is damaged.
    """
    path = folder / SEQUENCE_FILE
    try:
        return int(path.read_text()) + 1
    except FileNotFoundError:
        return 1
    except ValueError:
        raise InputError(
            f"{path}: not a number", hint="write the highest sequence that `fedmed-server status` shows"
        ) from None


def raise_sequence(folder: Path, least: int) -> None:
    """A site whose folder was restored from a backup goes on behind what the server has of it.

    Raises:
        InputError: As `next_sequence`, or it cannot be written.
    """
    with locked(folder / _LOCK):
        if next_sequence(folder) < least:
            _keep(folder, least - 1)


@contextmanager
def signed_as_next(
    folder: Path, contribution: Contribution, key: PrivateKey, *, policy: Policy, cohort: frozenset[str]
) -> Iterator[Contribution]:
    """A contribution, signed with the site's next sequence; put it where it waits within the block.

    Until the block ends nobody else gets a number, or a newer one might be handed over first, and the server
    refuse this one. What it spends of the privacy budget is spent before the block begins.

    Args:
        policy: What may be signed after what was signed before (`releases.refuse`).
        cohort: Of the site's training images (`hospital.cohort`).

    Raises:
        InputError: As `next_sequence`, or it cannot be written.
        Withheld: The policy does not let it leave.
        StoreError: What has left is not known.
    """
    with locked(folder / _LOCK):
        refuse(read_releases(folder), policy, contribution.header, cohort)
        sequence = next_sequence(folder)
        _keep(folder, sequence)  # first: a gap does no harm, a number used twice does
        header = contribution.header.model_copy(update={"sequence": sequence})
        record(folder, header, cohort)
        yield replace(contribution, header=header).sign(key)


def _keep(folder: Path, sequence: int) -> None:
    write_atomic(folder / SEQUENCE_FILE, f"{sequence}\n".encode())
