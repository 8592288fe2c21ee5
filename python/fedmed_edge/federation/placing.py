"""What came from the server among the site's models: verified, and waiting for `fedmed-edge model activate`.

The newest of every task is placed, once, or the global one where that does better than a newer, refined one
on the site's own images (`choosing`); which model answers is the hospital's to say. One that the server takes
back goes again where it only waits; one that answers stays, until the hospital says otherwise.
"""

import logging
from pathlib import Path

from fedmed_edge.config import SiteConfig
from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.federation.choosing import choose
from fedmed_edge.federation.inbox import Arrived, Inbox
from fedmed_edge.inference.model_folder import ModelFolder

__all__ = ["place_models", "to_place"]

log = logging.getLogger(__name__)


def to_place(inbox: Inbox) -> list[Arrived]:
    """Models that are to be placed among the site's, or taken away again."""
    models = [one for one in inbox.all() if one.kind == "model"]
    newest = {task: one.digest for one in models if one.state == "here" for task in one.tasks}
    gone = [one for one in models if one.state == "taken back" and one.placed]
    return gone + [one for one in models if one.digest in newest.values() and not one.placed]


def place_models(folder: Path, config: SiteConfig) -> list[str]:
    """Bring the site's models up to date with what came.

    Args:
        folder: The site's folder.

    Returns:
        Names of the models that wait now and did not before.

    Raises:
        InputError: A model cannot be read or kept; it is tried again, and the others are placed.
        StoreError: A record of the inbox is damaged, or the disk is full.
    """
    from fedmed_edge.inference.models import add_model

    inbox, models, placed = Inbox(folder / "inbox"), ModelFolder(folder), list[str]()
    failed: InputError | None = None
    for one in to_place(inbox):
        if one.state == "taken back":
            _take_away(models, one.digest[:16])
            inbox.note_placed(one.digest, False)
            continue
        try:
            chosen, before = choose(inbox, one, config).model, {entry.name for entry in models.entries()}
            entry = add_model(folder, inbox.path(chosen.digest), trust=config.server_key)
        except TrustError as error:  # it will not get better
            log.warning("model %s: is not placed among the models: %s", one.digest[:12], error)
        except InputError as error:  # that of another task may be well
            log.warning("model %s: is not placed yet: %s", one.digest[:12], error)
            failed = error
            continue
        else:
            tasks = ", ".join(entry.tasks)
            if entry.name in before:  # such as the global one, which does better than what came
                log.info("model %s of %s: stays; it is %s", entry.name, tasks, entry.state)
            else:
                log.info("model %s of %s: waits for `fedmed-edge model activate`", entry.name, tasks)
                placed.append(entry.name)
        inbox.note_placed(one.digest, True)
    if failed is not None:
        raise failed
    return placed


def _take_away(models: ModelFolder, name: str) -> None:
    with models.locked():
        for entry in models.entries():
            if entry.name == name and entry.state == "waiting":
                models.forget(name)
                log.info("model %s: was taken back by the server", name)
            elif entry.name == name:
                log.warning("model %s: was taken back by the server; it is %s here", name, entry.state)
