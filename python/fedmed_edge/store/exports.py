"""Models that leave as files, noted in the ledger."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmed_edge.store.models import StoredModel
    from fedmed_edge.store.store import Store

__all__ = ["note_exported"]


def note_exported(store: "Store", model: "StoredModel", content: bytes) -> None:
    """Write into the ledger that a file of this content leaves; before it is there, whatever happens between.

    Raises:
        StoreError: Another process kept the lock, or the index cannot be written.
    """
    told = {"task": model.recipe.name, "file": hashlib.sha256(content).hexdigest()}
    store.ledger_append("exported", model.refined_for, model.digest, told)
