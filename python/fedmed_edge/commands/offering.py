"""What `fedmed-server publish` offers: a file by its kind, or the newest model, exported for it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed_edge.atomic import read_regular
from fedmed_edge.commands.exporting import chosen_model, exported
from fedmed_edge.commands.server.rebuild import task_of
from fedmed_edge.errors import InputError
from fedmed_edge.federation.coordinator import FOLDER
from fedmed_edge.federation.offers import OnOffer
from fedmed_edge.federation.publishing import Publisher
from fedmed_edge.kinds import file_kind
from fedmed_edge.signing import FILE_CAP, read_private_key
from fedmed_edge.store.exports import note_exported

if TYPE_CHECKING:
    from fedmed_edge.config import ServerConfig
    from fedmed_edge.store.store import Store


@dataclass(frozen=True)
class Offering:
    """A server's folder, settings and store.

    Attributes:
        sites: Who may have what is offered; None is every site.
    """

    folder: Path
    config: "ServerConfig"
    store: "Store"
    sites: Collection[str] | None

    @property
    def publisher(self) -> Publisher:
        """With the server's key."""
        return Publisher(self.store, self.folder / FOLDER, read_private_key(self.config.key))

    def file(self, path: Path, task: str | None, *, ask: bool, validate: bool, tolerance: float) -> OnOffer:
        """Offer a generation, for a task, or an exported model.

        Raises:
            InputError: It is neither, was not made by this server, or is a model of another task.
            StoreError: A site in the model has withdrawn.
        """
        kind = file_kind(path)
        if kind == "generation":
            from fedmed_edge.generation import read_generation

            digest, recipe = read_generation(path).digest, self.store.recipe(task_of(self.store, task))
            return self.publisher.generation(digest, recipe, sites=self.sites, ask=ask)
        if kind != "exported model":
            found = f"a {kind}" if kind else "no file of ours"
            raise InputError(f"{path}: is {found}, expected a generation or an exported model")
        if task is not None:
            from fedmed_edge.inference.survey import recipes_of

            names = [recipe.name for recipe in recipes_of(path)]
            if task not in names:
                raise InputError(f"{path}: answers {', '.join(names)}, expected {task}")
        return self.model(read_regular(path, FILE_CAP), str(path), validate=validate, tolerance=tolerance)

    def model(self, content: bytes, name: str, *, validate: bool, tolerance: float) -> OnOffer:
        """Offer an exported model, or ask hospitals about it first; `name` is its file's in messages.

        Raises:
            InputError: It was not exported from this server.
            StoreError: A site in it has withdrawn.
        """
        if not validate:
            return self.publisher.model(content, name, sites=self.sites)
        rules = self.config.federation
        return self.publisher.candidate(content, name, rules, sites=self.sites, tolerance=tolerance)

    def newest_model(self, task: str | None, refined_for: str | None) -> tuple[bytes, str]:
        """The newest model of a task, global or refined for a site, exported; and its name.

        Raises:
            InputError: There is none.
        """
        entry = chosen_model(self.store, task_of(self.store, task), None, refined_for)
        model, _, content = exported(self.store, entry)
        note_exported(self.store, model, content)
        return content, f"model {entry.digest[:12]}"
