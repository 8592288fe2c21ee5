"""What came from the server, with its signature: generations, weights, models, styles.

INBOX/DIGEST.part, .have       what is coming
INBOX/DIGEST.KIND, .KIND.sig   what came
INBOX/DIGEST.json              what it is
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from fedmed_edge.atomic import TEMPORARY, locked, sync_folder, write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.federation.messages import PASSING, Offered
from fedmed_edge.federation.parts import Assembly
from fedmed_edge.federation.records import Records, on_disk
from fedmed_edge.signing import signature_path

__all__ = ["Arrived", "Inbox"]


class Arrived(Offered):
    """An object that came whole.

    Attributes:
        state: `here`; `taken back`: no longer published; `withdrawn`: must not be used any more.
        came: When, by the site's clock; which of two is newer tells `made`, by the server's.
        placed: Of a model: it was placed among the site's models, or refused there.
    """

    state: Literal["here", "taken back", "withdrawn"] = "here"
    came: float
    placed: bool = False


class Inbox:
    """The inbox of a site.

    Args:
        folder: `inbox/` of the site's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = Records(folder, Arrived)

    def all(self) -> list[Arrived]:
        """Everything that ever came, in the order that the server offered it last."""
        return sorted(self._records.all(), key=lambda one: (one.made, one.came, one.digest))

    def newest(self, kind: str, *, task: str | None = None) -> Arrived | None:
        """The object of a kind (and task) that was offered last and is published still, or None."""
        fits = [one for one in self.all() if one.kind == kind and one.state == "here"]
        return next((one for one in reversed(fits) if task is None or task in one.tasks), None)

    def path(self, digest: str) -> Path:
        """File of an object that is here; its signature stands beside it.

        Raises:
            InputError: It is not here, or not any more.
        """
        arrived = self._records.read(digest)
        if arrived is None or arrived.state == "withdrawn":
            state = "was withdrawn" if arrived else "has not come yet"
            raise InputError(f"inbox: object {digest[:12]} {state}", hint="`fedmed-edge pull` fetches it")
        return self._file(arrived)

    def _file(self, offered: Offered) -> Path:
        return self.folder / f"{offered.digest}.{offered.kind}"

    def assembly(self, offered: Offered) -> Assembly:
        """Where its parts come together."""
        return Assembly(self.folder, offered.digest)

    def take(self, offered: Offered) -> Arrived:
        """Keep an object whose parts have all come, and whose signature was checked.

        Raises:
            InputError: Its content is not what its digest says.
            StoreError: The disk is full.
        """
        assembly = self.assembly(offered)
        path, target = assembly.finish(), self._file(offered)
        arrived = Arrived(**offered.model_dump(), came=time.time())
        with on_disk("inbox"):
            write_atomic(signature_path(target), offered.signature.encode())
            path.replace(target)
            sync_folder(self.folder)
            self._records.write(offered.digest, arrived)
        assembly.discard()
        return arrived

    def has_as_other(self, offered: Offered) -> bool:
        """Whether the very object is here as another kind."""
        arrived = self._records.read(offered.digest)
        return arrived is not None and arrived.kind != offered.kind and self._file(arrived).is_file()

    def rename(self, offered: Offered) -> None:
        """The object that is here is of this kind now; its signature is the same."""
        arrived, target = self._records.read(offered.digest), self._file(offered)
        assert arrived is not None
        old = self._file(arrived)
        with on_disk("inbox"):
            write_atomic(signature_path(target), offered.signature.encode())
            if not target.exists():
                os.link(old, target)
            self._records.write(offered.digest, Arrived(**offered.model_dump(), came=time.time()))
        old.unlink(missing_ok=True)
        signature_path(old).unlink(missing_ok=True)

    def change(self, digest: str, state: Literal["taken back", "withdrawn"]) -> None:
        """The server takes an object back; a withdrawn one, and what nobody needs any more, is deleted."""
        with self._latest(digest) as arrived:
            if arrived is None or arrived.state in (state, "withdrawn"):
                return
            self._records.write(digest, arrived.model_copy(update={"state": state}))
            if state == "withdrawn" or arrived.kind in PASSING:
                path = self._file(arrived)
                path.unlink(missing_ok=True)
                signature_path(path).unlink(missing_ok=True)
            if arrived.kind in PASSING:
                self._records.delete(digest)

    def still_published(self, digest: str, made: float | None) -> None:
        """What is here is on offer, since `made` where it is told; also what was taken back meanwhile."""
        with self._latest(digest) as arrived:
            if arrived is None or arrived.state == "withdrawn":
                return
            made = arrived.made if made is None else made
            if arrived.state == "taken back" or made > arrived.made:
                again = arrived.model_copy(update={"state": "here", "made": max(made, arrived.made)})
                self._records.write(digest, again)

    def note_placed(self, digest: str, placed: bool) -> None:
        """A model stands among the site's now, or not any more."""
        with self._latest(digest) as arrived:
            if arrived is not None:
                self._records.write(digest, arrived.model_copy(update={"placed": placed}))

    @contextmanager
    def _latest(self, digest: str) -> Iterator[Arrived | None]:
        """A record as it stands, while nobody else changes one: connection and worker are two processes."""
        with locked(self.folder / "lock"):
            yield self._records.read(digest)

    def sweep(self, offered: set[str]) -> None:
        """Delete parts of what is no longer on offer, and what a killed process left."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            stale = path.suffix in (".part", ".have") and path.stem not in offered
            if stale or path.name.startswith(TEMPORARY):
                path.unlink(missing_ok=True)
