"""A site's end of the wire: hand over what lies in the outbox, fetch what is on offer, take requests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedmed_edge.config import SiteConfig
from fedmed_edge.federation.wire import Channel

__all__ = ["SyncResult", "sync"]


@dataclass(frozen=True)
class SyncResult:
    """What a sync did.

    Attributes:
        sent: Digests of the files that the server took.
        received: Digests of the objects that came, whole and with the server's signature.
        asked: Ids of the requests that the server made anew; `duties.work` does them, not the sync.
        refused: Why the server refused a file, by its digest; it is not sent again.
        waiting: Files that lie in the outbox still.
    """

    sent: tuple[str, ...] = ()
    received: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    waiting: int = 0


def sync(
    channel: Channel, folder: Path, config: SiteConfig, *, stop: Callable[[], bool] = lambda: False
) -> SyncResult:
    """Bring site and server up to date with each other; does no training and no extraction.

    It may be cut off anywhere and run again: at most the parts that were on their way are sent again.

    Args:
        folder: The site's folder, which holds `outbox/` and `inbox/`.
        stop: Asked between parts; True ends the sync as a lost connection would.

    Raises:
        Unreachable: The server did not answer; what was done until then is kept.
        InputError: The site's disk is full.
    """
    raise NotImplementedError
