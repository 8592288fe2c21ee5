"""What `fedmed-server publish` offers: a file by its kind, or the newest model, exported for it."""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fedmed_edge.commands.server.export import chosen_model
from fedmed_edge.errors import InputError
from fedmed_edge.federation.coordinator import FOLDER
from fedmed_edge.federation.offers import Offers, OnOffer
from fedmed_edge.federation.publishing import publish_generation, publish_model, validate_model
from fedmed_edge.kinds import file_kind
from fedmed_edge.signing import PrivateKey, read_private_key

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
    def key(self) -> PrivateKey:
        """The server's."""
        return read_private_key(self.config.key)

    @property
    def offers(self) -> Offers:
        """What is on offer."""
        return Offers(self.folder / FOLDER / "offers")

    def file(self, path: Path, task: str, *, ask: bool, validate: bool, tolerance: float) -> OnOffer:
        """Offer a generation or an exported model.

        Raises:
            InputError: It is neither, or was not made by this server.
            StoreError: A site in the model has withdrawn.
        """
        kind = file_kind(path)
        if kind == "generation":
            from fedmed_edge.generation import read_generation

            digest, recipe = read_generation(path).digest, self.store.recipe(task)
            return publish_generation(
                self.store, self.offers, self.key, digest, recipe, sites=self.sites, ask=ask
            )
        if kind != "exported model":
            found = f"a {kind}" if kind else "no file of ours"
            raise InputError(f"{path}: is {found}, expected a generation or an exported model")
        if not validate:
            return publish_model(self.store, self.offers, self.key, path, sites=self.sites)
        rules, folder = self.config.federation, self.folder / FOLDER
        return validate_model(self.store, folder, self.key, path, rules, self.sites, tolerance)

    @contextmanager
    def newest_model(self, task: str, refined_for: str | None) -> Iterator[Path]:
        """The newest model of a task, global or refined for a site, exported; its file while the block runs.

        Raises:
            InputError: There is none.
        """
        from fedmed_edge.export.onnx_model import export_onnx
        from fedmed_edge.model.global_model import parse_model

        entry = chosen_model(self.store, task, None, refined_for)
        model = parse_model(self.store.model_content(entry.digest), f"model {entry.digest[:12]}")
        content = export_onnx(model, self.store.generation(model.generation))
        told = {"task": task, "file": hashlib.sha256(content).hexdigest()}
        self.store.ledger_append("exported", refined_for, entry.digest, told)
        with TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(content)
            yield path
