"""Files that wait to be handed over, and what became of them.

    OUTBOX/DIGEST.contribution   the signed file, until the server has taken or refused it
    OUTBOX/DIGEST.json           what it is and where it stands

The record is written after the file and changed before the file goes, so a process may be killed anywhere: a
file without a waiting record is swept.
"""

import hashlib
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmed_edge.atomic import TEMPORARY, locked, write_atomic
from fedmed_edge.backoff import wait_s
from fedmed_edge.federation.messages import Digest, Id
from fedmed_edge.federation.policy import let_out
from fedmed_edge.federation.records import Records
from fedmed_edge.statistics.contribution import Contribution, contribution_file

__all__ = ["Outbox", "Parcel"]

_ENDING = ".contribution"
_REMEMBERED = 200
_FIRST_WAIT_S, _LONGEST_WAIT_S = 30.0, 3600.0


class Parcel(BaseModel):
    """One file of the outbox.

    Attributes:
        digest: SHA-256 of the file.
        id: Of the contribution.
        rule: Of the policy that let it out, in words.
        request: That it answers, if one.
        state: `waiting`, or what the server made of it.
        why: Of a refusal.
        tries: How often the server could not take it, and `not_before` when to try again (seconds since
            1970, by the site's clock).
    """

    model_config = ConfigDict(frozen=True)

    digest: Digest
    id: Digest
    bytes: Annotated[int, Field(ge=1)]
    sequence: int
    task: str
    rule: str
    request: Id | None = None
    made: float
    state: Literal["waiting", "taken", "refused"] = "waiting"
    why: str = ""
    tries: int = 0
    not_before: float = 0.0


class Outbox:
    """The outbox of a site.

    Args:
        folder: `outbox/` of the site's folder; made when the first file comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = Records(folder, Parcel)

    def path(self, digest: str) -> Path:
        """Where the file of a digest lies."""
        return self._records.path(digest).with_suffix(_ENDING)

    def add(self, signed: Contribution, *, request: str | None = None) -> Parcel:
        """Put a signed contribution into the outbox; the same one again changes nothing.

        Args:
            request: Of the server, that it answers.

        Raises:
            InputError: It would pass 1 GiB, the disk is full, or the folder cannot be written.
            StoreError: The same of the record beside the file.
        """
        content, header = contribution_file(signed), signed.header
        parcel = Parcel(
            digest=hashlib.sha256(content).hexdigest(),
            id=signed.id,
            bytes=len(content),
            sequence=header.sequence,
            task=header.task,
            rule=let_out(header.parts, header.min_cohort),
            request=request,
            made=time.time(),
        )
        with locked(self.folder / "lock"):  # a sync that sweeps must not meet the file without its record
            held = self._records.read(parcel.digest)
            if held is not None:
                return held
            write_atomic(self.path(parcel.digest), content)
            self._records.write(parcel.digest, parcel)
        return parcel

    def all(self) -> list[Parcel]:
        """Everything that was ever put here, in order of sequence.

        Raises:
            StoreError: A record is damaged.
        """
        return sorted(self._records.all(), key=lambda parcel: parcel.sequence)

    def waiting(self) -> list[Parcel]:
        """What is to be handed over still, oldest first: the server refuses a contribution after a newer."""
        return [parcel for parcel in self.all() if parcel.state == "waiting"]

    def due(self) -> bool:
        """Whether a file waits that may be handed over now; only records beside a file are read.

        Raises:
            StoreError: A record is damaged.
        """
        found = (self._records.read(path.stem) for path in self.folder.glob(f"*{_ENDING}"))
        now = time.time()
        return any(one is not None and one.state == "waiting" and one.not_before <= now for one in found)

    def settle(self, parcel: Parcel, state: Literal["taken", "refused"], why: str = "") -> None:
        """The server has taken or refused it for good; the file goes."""
        self._records.write(parcel.digest, parcel.model_copy(update={"state": state, "why": why}))
        self.path(parcel.digest).unlink(missing_ok=True)

    def put_off(self, parcel: Parcel, why: str) -> None:
        """The server could not take it now: try again later, and later still each time."""
        wait = wait_s(parcel.tries, _FIRST_WAIT_S, _LONGEST_WAIT_S)
        later = {"tries": parcel.tries + 1, "not_before": time.time() + wait, "why": why}
        self._records.write(parcel.digest, parcel.model_copy(update=later))

    def sweep(self) -> None:
        """Delete files that no waiting record names, as a killed process leaves them, and old records."""
        if not self.folder.is_dir():
            return
        with locked(self.folder / "lock"):
            parcels = self.all()
            waiting = {self.path(parcel.digest) for parcel in parcels if parcel.state == "waiting"}
            settled = [parcel for parcel in parcels if parcel.state != "waiting"]
            for parcel in settled[:-_REMEMBERED]:
                self._records.delete(parcel.digest)
            for path in list(self.folder.iterdir()):
                ours = path.suffix == _ENDING or path.name.startswith(TEMPORARY)
                if ours and path not in waiting:
                    path.unlink(missing_ok=True)
