"""A server's store: who may contribute, what they contributed, and the models made of it.

    STORE/index.sqlite          sites, recipes, generations, contributions, tombstones, models
    STORE/objects/ab/abcdef…    their files, named by SHA-256

A file is written before the row that names it and deleted after it, so a process may be killed at any point:
what no row names is swept when the store is opened next. Every change is one transaction under SQLite's write
lock, files included, so two writers take turns.
"""

import contextlib
import json
import logging
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import delete, func, insert, select, update

from fedmed_edge.errors import StoreError
from fedmed_edge.generation import Generation, parse_generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PublicKey, public_pem
from fedmed_edge.statistics.contribution import Contribution, parse_contribution
from fedmed_edge.statistics.reading import parse_envelope, read_content
from fedmed_edge.store import admission, enrolment, holdings, models
from fedmed_edge.store import index as tables
from fedmed_edge.store.entries import (
    ContributionEntry,
    Holds,
    Import,
    ModelEntry,
    SiteEntry,
    Withdrawal,
)
from fedmed_edge.store.index import Index
from fedmed_edge.store.objects import Objects
from fedmed_edge.store.verification import faults

log = logging.getLogger(__name__)

__all__ = ["ContributionEntry", "Import", "ModelEntry", "SiteEntry", "Store", "Withdrawal"]

INDEX_NAME = "index.sqlite"


class Store:
    """A store in a folder; make one with `Store.create`, use it with `Store.open`.

    Example:
        >>> import tempfile
        >>> from fedmed_edge.signing import generate_key
        >>> store = Store.create(Path(tempfile.mkdtemp()) / "store")
        >>> store.add_site("alpha", generate_key().public_key())
        >>> [site.name for site in store.sites()], store.verify()
        (['alpha'], [])
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = Index(folder / INDEX_NAME)
        self._objects = Objects(folder / "objects")

    @classmethod
    def create(cls, folder: Path) -> "Store":
        """Make an empty store.

        Raises:
            StoreError: There is one already, or the folder cannot be made.
        """
        try:
            (folder / "objects").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be made: {error.strerror}") from None
        store = cls(folder)
        store._index.create()
        return store

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open a store, and sweep what killed processes left unless another process is writing.

        Raises:
            StoreError: There is none, or it is of another version or damaged.
        """
        store = cls(folder)
        store._index.check_version()
        with contextlib.suppress(tables.StoreBusy):
            store._sweep(wait_s=0)
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

    def sites(self) -> list[SiteEntry]:
        """Every enrolled site, in order of name."""
        with self._index.read() as connection:
            return enrolment.entries(connection)

    # --- recipes and generations -------------------------------------------------------------------

    def add_recipe(self, recipe: Recipe) -> str:
        """Keep a recipe, which becomes the newest of its task; its digest."""
        content = json.dumps(recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        with self._index.write() as connection:
            # the foreign key from contributions forbids to delete and insert; a rising number is set instead
            newest = (connection.scalar(select(func.max(tables.recipes.c.number))) or 0) + 1
            known = update(tables.recipes).where(tables.recipes.c.digest == recipe.digest)
            if connection.execute(known.values(number=newest)).rowcount == 0:
                values = {"number": newest, "digest": recipe.digest, "task": recipe.name, "content": content}
                connection.execute(insert(tables.recipes).values(**values))
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
        table = tables.generations
        with self._index.write() as connection:
            digest = self._objects.write(content)
            if connection.scalar(select(table.c.digest).where(table.c.digest == digest)) is None:
                values = {
                    "digest": digest,
                    "kind": generation.header.kind,
                    "row_dim": generation.row_dim,
                    "feature_dim": generation.feature_dim,
                    "channels": sum(generation.header.widths),
                    "draft": generation.draft,
                }
                connection.execute(insert(table).values(**values))
        return digest

    def generations(self) -> list[str]:
        """Digests of the published generations, newest first."""
        with self._index.read() as connection:
            return holdings.published_generations(connection)

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

    # --- contributions -----------------------------------------------------------------------------

    def import_contribution(self, path: Path) -> Import:
        """Take a contribution from its file.

        The very same contribution again changes nothing. One that the site signed anew with a higher
        sequence becomes its newest.

        Raises:
            InputError: The file is not as it must be, or is of another generation or recipe, or older than
                what the site handed over before, or was withdrawn.
            TrustError: Unknown or revoked signer, wrong signature, or the key of another site.
            StoreError: Another process kept the lock, or the disk is full.
        """
        content, where = read_content(path), str(path)
        envelope = parse_envelope(content, where)
        with self._index.read() as connection:
            key = enrolment.signing_key(connection, envelope.signer, envelope.header.site, where)
            recipe = admission.check_known(connection, envelope.header, where)
        # outside a transaction: it takes a while, and a reader would hold up every writer's commit
        contribution = parse_contribution(content, where, verify_key=key)
        with self._index.write() as connection:
            admission.check_shapes(connection, contribution, recipe, where)
            enrolment.signing_key(connection, contribution.signer, contribution.header.site, where)
            verdict = admission.judge(connection, contribution.header, contribution.id, where)
            if verdict != "same":
                stored = self._objects.write(content)
                holdings.record(connection, contribution, stored, len(content), public_pem(key))
        if verdict == "renewed":
            self._sweep()
        header = contribution.header
        log.info("contribution %s of %s: %s", contribution.id[:12], header.site, verdict)
        return Import(contribution.id, header.site, header.task, header.sequence, verdict != "same")

    def contribution_entries(self, task: str | None = None) -> list[ContributionEntry]:
        """Contributions that the store holds, of one task or all, by site and sequence."""
        with self._index.read() as connection:
            return holdings.entries(connection, task)

    def contributions(
        self,
        task: str,
        *,
        without: Collection[str] = (),
        generation: str | None = None,
        holds: Holds = "sums",
    ) -> list[Contribution]:
        """What a rebuild takes: each site's newest contribution for the task's newest recipe, by site name.

        Args:
            without: Sites to leave out.
            generation: Digest; default the newest complete one that holds a contribution for the recipe.
            holds: `sums` for a rebuild; `weights` for the next backbone.

        Raises:
            StoreError: No such task, or a file is damaged or went away while it was read.
        """
        with self._index.read() as connection:
            entries, stored = holdings.current(connection, task, generation, holds)
        # the numbers were checked at import, and a file's content is what its digest says
        return [
            parse_contribution(self._read(stored[entry.id]), f"contribution {entry.id[:12]}", thorough=False)
            for entry in entries
            if entry.site not in without
        ]

    def _read(self, digest: str) -> bytes:
        try:
            return self._objects.read(digest)
        except StoreError:
            with self._index.read() as connection:
                if digest in holdings.known_objects(connection):
                    raise
        raise StoreError("store: a contribution was withdrawn while it was read", hint="run it again")

    def next_sequence(self, site: str) -> int:
        """The least sequence that the site's next contribution may have."""
        with self._index.read() as connection:
            return admission.last_sequence(connection, site) + 1

    def withdraw(self, site: str) -> Withdrawal:
        """Delete everything that a site contributed, and mark the models that hold it.

        Files and rows go; what stays is that the site is enrolled, and for every contribution its id and
        sequence, so that it cannot come back. Running it again changes nothing.

        Raises:
            StoreError: No such site, or another process kept the lock.
        """
        table = tables.contributions
        with self._index.write() as connection:
            enrolment.require_site(connection, site)
            rows = connection.execute(select(table).where(table.c.site == site)).all()
            ids = [row.id for row in rows]
            if rows:
                moment = tables.now()
                buried = [
                    {"id": row.id, "site": site, "sequence": row.sequence, "withdrawn": moment}
                    for row in rows
                ]
                connection.execute(insert(tables.tombstones), buried)
                connection.execute(delete(table).where(table.c.site == site))
            marked = models.mark_withdrawn(connection, ids)
        self._sweep()
        log.info("withdrew %s: %d contributions, %d models marked", site, len(ids), len(marked))
        return Withdrawal(site, tuple(sorted(ids)), marked, tuple(sorted({row.task for row in rows})))

    # --- models ------------------------------------------------------------------------------------

    def save_model(self, model: models.StoredModel) -> str:
        """Keep a model, which becomes the newest of its task; its digest.

        Raises:
            StoreError: A site in it withdrew meanwhile, or the disk is full.
        """
        with self._index.write() as connection:
            models.record(connection, model, self._objects.write(model.content))
        return model.digest

    def models(self, task: str | None = None) -> list[ModelEntry]:
        """Models of one task or all, newest first, withdrawn ones included."""
        with self._index.read() as connection:
            return models.entries(connection, task)

    def newest(self, task: str, *, refined_for: str | None = None) -> ModelEntry | None:
        """The newest model that is not withdrawn: the global one, or the one refined for a site."""
        found = [entry for entry in self.models(task) if entry.refined_for == refined_for]
        return next((entry for entry in found if not entry.withdrawn), None)

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

    # --- upkeep ------------------------------------------------------------------------------------

    def verify(self) -> list[str]:
        """Check every file and row against each other and every signature again; faults, none if sound."""
        self._sweep()
        return faults(self._index, self._objects)

    def _sweep(self, *, wait_s: float = tables.WAIT_S) -> None:
        with self._index.write(wait_s=wait_s) as connection:
            for path in self._objects.sweep(holdings.known_objects(connection)):
                log.info("swept %s", path.name)
