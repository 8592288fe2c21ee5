"""The server's end of the wire: one request in, one reply out; everything it knows lies on the disk."""

from pathlib import Path

from fedmed_edge.federation.wire import Reply, Request
from fedmed_edge.store.store import Store

__all__ = ["serve"]


def serve(store: Store, folder: Path, site: str, request: Request) -> Reply:
    """Answer a request of a site; a refusal is a reply, too, and nothing is raised.

    Any number of processes may serve at once: what came and what is there lies in `store` and `folder`.

    Args:
        folder: `federation/` of the server's folder: what arrives, what is on offer, what is asked.
        site: Name in the certificate that the request came with; nothing in the request can change it.
    """
    raise NotImplementedError
