"""A server's store: who may contribute, what they contributed, and the models made of it.

    STORE/index.sqlite       sites, recipes, generations, contributions, models, tombstones, journal, ledger
    STORE/objects/ab/abcdef… their files, named by SHA-256

Either may be elsewhere: the index in a PostgreSQL database, the files where an fsspec URL says.

Every change is one transaction under the index's write lock, files included, so two writers take turns;
`files` says why a process may be killed at any point.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select

from fedmed_edge.config import ServerConfig
from fedmed_edge.errors import InputError, StoreError, TrustError
from fedmed_edge.generation import Generation, encoder_of, parse_generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PublicKey, public_pem
from fedmed_edge.statistics.contribution import Contribution, parse_contribution
from fedmed_edge.statistics.reading import parse_envelope
from fedmed_edge.store import admission, at_rest, enrolment, holdings, ledger, models, tables
from fedmed_edge.store.encryption import FileCipher, plain_content, read_store_key
from fedmed_edge.store.entries import (
    ContributionEntry,
    GenerationEntry,
    Holds,
    Import,
    ModelEntry,
    SiteEntry,
    Withdrawal,
)
from fedmed_edge.store.files import Files
from fedmed_edge.store.held_back import HeldBack, sites_of
from fedmed_edge.store.index import INDEX_NAME, Index, database_of
from fedmed_edge.store.ledger import LedgerEntry, LedgerHead
from fedmed_edge.store.objects import digest_of, objects_of
from fedmed_edge.store.verification import faults
from fedmed_edge.tensorfile import Content

log = logging.getLogger(__name__)

__all__ = ["Store", "open_store"]


class Store:
    """A store in a folder; make one with `Store.create`, use it with `Store.open`.

    Args:
        index: URL of the PostgreSQL database that keeps its index; default a file in the folder.
        objects: fsspec URL of the place that keeps its files; default a folder in the folder.
        cipher: What its files are encrypted with; default they are plain.

    Example:
        >>> import tempfile
        >>> from fedmed_edge.signing import generate_key
        >>> store = Store.create(Path(tempfile.mkdtemp()) / "store")
        >>> store.add_site("alpha", generate_key().public_key())
        >>> [site.name for site in store.sites()], store.verify()
        (['alpha'], [])
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        index: str | None = None,
        objects: str | None = None,
        cipher: FileCipher | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._index = Index(database_of(self.folder, index))
        self._objects = objects_of(self.folder, objects, cipher or FileCipher())
        self._files = Files(self._index, self._objects)

    @classmethod
    def create(cls, folder: str | Path, **place: Any) -> "Store":
        """Make an empty store; `place` as of the class.

        Raises:
            StoreError: There is one already, the folder holds something else, or it cannot be made.
        """
        store = cls(folder, **place)
        try:
            store.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            strange = sorted({path.name for path in store.folder.iterdir()} - _OWN_NAMES)
            if strange:
                raise StoreError(
                    f"{folder}: holds `{strange[0]}`, expected an empty folder", hint="choose another folder"
                )
            store._objects.create()
        except OSError as error:
            raise StoreError(f"{folder}: cannot be made: {error.strerror}") from None
        store._index.create()
        with store._index.write() as connection:
            at_rest.hold_key(connection, store._objects.cipher)
        return store

    @classmethod
    def exists(cls, folder: str | Path, **place: Any) -> bool:
        """Whether there is a store, made to the end; `place` as of the class.

        Raises:
            StoreError: Its index cannot be read.
        """
        return cls(folder, **place)._index.finished()

    @classmethod
    def open(cls, folder: str | Path, **place: Any) -> "Store":
        """Open a store, and sweep what killed processes left where no other process is writing.

        Raises:
            StoreError: There is none, it is of a newer version, its index is damaged or cannot be read, or it
                is encrypted with another key.
        """
        store = cls(folder, **place)
        store._index.open()
        with store._index.read() as connection:
            at_rest.check_key(connection, store._objects.cipher)
        try:
            store._files.sweep_leftovers(wait_s=0)
        except StoreError as error:  # it is read-only, or another process is writing; `verify` tells
            log.debug("not swept: %s", error)
        return store

    # --- sites -------------------------------------------------------------------------------------

    def add_site(self, name: str, key: PublicKey) -> None:
        """Enrol a hospital under a name, with the key that its contributions will be signed with.

        Raises:
            StoreError: The name is none, or it or the key is enrolled otherwise.
        """
        with self._index.write() as connection:
            enrolment.enrol(connection, name, key)

    def revoke_site(self, name: str) -> None:
        """Refuse the site's contributions from now on; what it contributed stays until `withdraw`.

        Raises:
            StoreError: No such site.
        """
        with self._index.write() as connection:
            enrolment.revoke(connection, name)

    def site(self, name: str) -> SiteEntry:
        """An enrolled site.

        Raises:
            StoreError: No such site; names those that are.
        """
        with self._index.read() as connection:
            enrolment.require_site(connection, name)
            return next(entry for entry in enrolment.entries(connection) if entry.name == name)

    def sites(self) -> list[SiteEntry]:
        """Every enrolled site, in order of name."""
        with self._index.read() as connection:
            return enrolment.entries(connection)

    # --- recipes and generations -------------------------------------------------------------------

    def add_recipe(self, recipe: Recipe) -> str:
        """Keep a recipe, which becomes the newest of its task; its digest."""
        with self._index.write() as connection:
            holdings.record_recipe(connection, recipe)
        return recipe.digest

    def tasks(self) -> list[str]:
        """Names of the tasks that the store has a recipe for, sorted."""
        with self._index.read() as connection:
            query = select(tables.recipes.c.task).distinct().order_by(tables.recipes.c.task)
            return list(connection.scalars(query))

    def recipe(self, task: str) -> Recipe:
        """Newest recipe of a task.

        Raises:
            StoreError: No such task.
        """
        with self._index.read() as connection:
            return holdings.newest_recipe(connection, task)

    def publish_generation(self, content: bytes) -> str:
        """Keep a generation file, which becomes the newest unless it is there already; its digest.

        Raises:
            InputError: The bytes are no generation.
            StoreError: The disk is full.
        """
        generation = parse_generation(content, "generation")
        digest = digest_of(content)
        with self._files.adding(digest) as connection:
            holdings.record_generation(connection, generation, self._objects.write(content, digest))
        return digest

    def generations(self) -> list[str]:
        """Digests of the published generations, newest first."""
        return [entry.digest for entry in self.generation_entries()]

    def generation_entries(self) -> list[GenerationEntry]:
        """What the published generations are, newest first."""
        with self._index.read() as connection:
            return holdings.generation_entries(connection)

    def generation(self, digest: str | None = None) -> Generation:
        """A generation by its digest, or the newest.

        Raises:
            StoreError: There is no such generation, or its file is damaged.
        """
        known = self.generations()
        digest = digest or (known[0] if known else "")
        if digest not in known:
            raise StoreError(f"store: no generation {digest[:12] or 'is published'}")
        return parse_generation(self._objects.read(digest), f"generation {digest[:12]}")

    def encoder(self, digest: str) -> bytes:
        """The encoder of a generation, which a draft shares with what completes it; no more is parsed."""
        return encoder_of(self._objects.read(digest), f"generation {digest[:12]}")

    # --- contributions -----------------------------------------------------------------------------

    def import_contribution(
        self,
        given: str | Path | Content,
        *,
        where: str = "",
        details: Mapping[str, Any] | None = None,
        recipe: Recipe | None = None,
    ) -> Import:
        """Take a contribution: its file, which nobody else may write to meanwhile, or its bytes.

        The very same contribution again changes nothing, but mends its file where that is damaged or missing.
        One that the site signed anew with a higher sequence becomes its newest. What is refused, once it is
        a contribution, is told in the ledger too, under the site that it claims to be of.

        Args:
            where: Names it in messages; default the file's path.
            details: What the ledger shall tell beside, such as how it came.
            recipe: Kept with a contribution under it, without becoming its task's newest.

        Raises:
            InputError: The file is not as it must be, or is of another generation or recipe, or older than
                what the site handed over before, or was withdrawn.
            TrustError: Unknown or revoked signer, wrong signature, or the key of another site.
            StoreError: Another process kept the lock, or the disk is full.
        """
        content = plain_content(Path(given), self.cipher) if isinstance(given, str | Path) else given
        where = where or str(given)
        envelope, digest = parse_envelope(content, where), digest_of(content)
        try:
            return self._take(content, digest, where, details or {}, recipe)
        except (InputError, TrustError) as refusal:
            why = {"file": digest, "why": str(refusal).removeprefix(f"{where}: "), "signer": envelope.signer}
            self._refuse(envelope.header.site, holdings.told(envelope.header) | why | dict(details or {}))
            raise

    def _take(
        self, content: Content, digest: str, where: str, details: Mapping[str, Any], given: Recipe | None
    ) -> Import:
        envelope = parse_envelope(content, where)
        with self._index.read() as connection:
            key = enrolment.signing_key(connection, envelope.signer, envelope.header.site, where)
            recipe = admission.check_known(connection, envelope.header, where, given)
        # outside a transaction: it takes a while, and a reader would hold up every writer's commit
        contribution = parse_contribution(content, where, verify_key=key)
        with self._index.read() as connection:
            verdict = admission.admit(connection, contribution, recipe, where)
        if verdict == "same":  # its file may be damaged or missing
            self._files.mend(content, digest)
        else:
            with self._files.adding(digest) as connection:
                verdict = admission.admit(connection, contribution, recipe, where)
                if verdict != "same":  # another process may have taken it meanwhile
                    stored = self._objects.write(content, digest)
                    holdings.keep_recipe(connection, recipe)
                    holdings.record(connection, contribution, stored, len(content), public_pem(key), details)
        if verdict == "renewed":
            self._files.sweep()
        header = contribution.header
        log.info("contribution %s of %s: %s", contribution.id[:12], header.site, verdict)
        return Import(contribution.id, header.site, header.task, header.sequence, verdict != "same")

    def _refuse(self, site: str, details: Mapping[str, Any]) -> None:
        try:
            self.ledger_append("refused", site, details=details)
        except StoreError as error:  # the refusal itself is what the caller has to hear
            log.warning("refusal not in the ledger: %s", error)

    def contribution_entries(self, task: str | None = None) -> list[ContributionEntry]:
        """Contributions that the store holds, of one task or all, by site and sequence."""
        with self._index.read() as connection:
            return holdings.entries(connection, task)

    def contributions(
        self,
        task: str,
        *,
        without: Collection[str] = (),
        held_back: bool = False,
        generation: str | None = None,
        holds: Holds = "sums",
        recipe: Recipe | None = None,
    ) -> list[Contribution]:
        """What a rebuild takes: each site's newest contribution for the task's newest recipe, by site name.

        Args:
            without: Sites to leave out.
            held_back: Take those that are held back all the same.
            generation: Digest; default the newest complete one that holds a contribution for the recipe.
            holds: `sums` for a rebuild; `weights` for the next backbone.
            recipe: Default the task's newest.

        Raises:
            StoreError: No such task, or a file is damaged or went away while it was read.
        """
        with self._index.read() as connection:
            entries, stored = holdings.current(connection, task, generation, holds, recipe)
            left_out = {*without, *(() if held_back else sites_of(connection, task))}
        # the numbers were checked at import, and a file's content is what its digest says
        return [
            parse_contribution(
                self._files.read(stored[entry.id]), f"contribution {entry.id[:12]}", thorough=False
            )
            for entry in entries
            if entry.site not in left_out
        ]

    def contribution_content(self, contribution_id: str) -> bytes:
        """Bytes of a contribution's file, as its site signed it.

        Raises:
            StoreError: There is no such contribution, or its file is damaged.
        """
        table = tables.contributions
        with self._index.read() as connection:
            stored = connection.scalar(select(table.c.object).where(table.c.id == contribution_id))
        if stored is None:
            raise StoreError(f"store: no contribution {contribution_id[:12]}")
        return self._files.read(stored)

    @property
    def held_back(self) -> HeldBack:
        """Sites that a task's models leave out."""
        return HeldBack(self._index)

    def next_sequence(self, site: str) -> int:
        """The least sequence that the site's next contribution may have."""
        with self._index.read() as connection:
            return admission.last_sequence(connection, site) + 1

    def withdraw(self, site: str) -> Withdrawal:
        """Delete everything that a site contributed, and mark the models that hold it.

        Files and rows go; what stays is that the site is enrolled, and for every contribution its id and
        sequence, so that it cannot come back. Running it again changes nothing.

        Raises:
            StoreError: No such site, another process kept the lock, or a file cannot be deleted: the rows are
                gone then, and running it again goes on with the files.
        """
        with self._index.write() as connection:
            enrolment.require_site(connection, site)
            rows = holdings.bury(connection, site)
            ids = [row.id for row in rows]
            marked = models.mark_withdrawn(connection, ids)
            if ids:
                told = {"contributions": sorted(ids), "models": list(marked)}
                ledger.append(connection, "withdrew", site=site, details=told)
        self._files.sweep()
        log.info("withdrew %s: contributions %d, models marked %d", site, len(ids), len(marked))
        return Withdrawal(site, tuple(sorted(ids)), marked, tuple(sorted({row.task for row in rows})))

    # --- models ------------------------------------------------------------------------------------

    def save_model(self, model: models.StoredModel) -> str:
        """Keep a model, which becomes the newest of its task; its digest.

        Raises:
            StoreError: A site in it withdrew meanwhile, or the disk is full.
        """
        digest = digest_of(model.content)
        with self._files.adding(digest) as connection:
            models.record(connection, model, self._objects.write(model.content, digest))
        return model.digest

    def models(self, task: str | None = None) -> list[ModelEntry]:
        """Models of one task or all, newest first, withdrawn ones included."""
        with self._index.read() as connection:
            return models.entries(connection, task)

    def model_content(self, digest: str) -> bytes:
        """Bytes of a model.

        Raises:
            StoreError: There is no such model, or its file is damaged.
        """
        with self._index.read() as connection:
            query = select(tables.models.c.object).where(tables.models.c.digest == digest)
            stored = connection.scalar(query)
        if stored is None:
            raise StoreError(f"store: no model {digest[:12]}")
        return self._objects.read(stored)

    # --- ledger ------------------------------------------------------------------------------------

    def ledger_append(
        self,
        kind: str,
        site: str | None = None,
        subject: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> LedgerEntry:
        """Add a row of something that the store itself does not change, such as an export.

        Args:
            subject: Digest or id of what it is about.
            details: Values that JSON knows.

        Raises:
            StoreError: Another process kept the lock, or the index cannot be written.
        """
        with self._index.write() as connection:
            return ledger.append(connection, kind, site=site, subject=subject, details=details)

    def ledger(self) -> list[LedgerEntry]:
        """Every row, oldest first, as it stands: `verify_ledger` says whether it may be believed."""
        with self._index.read() as connection:
            return list(ledger.entries(connection))

    def ledger_head(self) -> LedgerHead:
        """Number and hash of the last row, unchecked.

        Raises:
            StoreError: They are missing.
        """
        with self._index.read() as connection:
            return ledger.head(connection)

    def verify_ledger(self, known: str | None = None) -> LedgerHead:
        """Check the chain of the ledger; where it ends.

        Args:
            known: Hash (or its beginning) of a head that was written down before.

        Raises:
            InputError: `known` is no hash.
            StoreError: The chain is broken, at the row that is named, or no row has the hash `known`.
        """
        with self._index.read() as connection:
            return ledger.verify(connection, known)

    # --- upkeep ------------------------------------------------------------------------------------

    @property
    def cipher(self) -> FileCipher:
        """What files are encrypted with, or not."""
        return self._objects.cipher

    def key_ids(self) -> dict[str, str | None]:
        """Id of the key that each file is encrypted with, by its digest; None for a plain one."""
        return at_rest.key_ids(self._index, self._objects)

    def rewrite(self, advance: Callable[[str], None] = lambda digest: None) -> int:
        """Bring every file under the key that the store was opened with, or make it plain; how many were not.

        May be stopped and run again; `advance` is called for each file. A `StoreError` where one fails.
        """
        return at_rest.rewrite_all(self._index, self._objects, advance)

    def verify(self) -> list[str]:
        """Check every file and row against each other and every signature again; faults, none if sound.

        A file that the index does not name, and that no process of the store left, is a fault.
        """
        found = []
        try:
            self._files.sweep_leftovers()
        except StoreError as error:
            found.append(f"what a killed process or a withdrawal left is not swept: {error}")
        return found + faults(self._index, self._objects)


def open_store(config: ServerConfig) -> Store:
    """The store of a server.

    Raises:
        InputError: Its key file is missing, or none.
        StoreError: As `Store.open`.
    """
    cipher = FileCipher(read_store_key(config.store_key) if config.store_key else None)
    return Store.open(config.store, index=config.index, objects=config.objects, cipher=cipher)


_OWN_NAMES = {INDEX_NAME, f"{INDEX_NAME}-journal", "objects", "lost+found"}
