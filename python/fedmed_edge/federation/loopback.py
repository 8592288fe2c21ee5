"""Server and sites in one process: no engine, no network, the same bytes.

For tests, for the demo, and to measure what a server can bear without an engine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmed_edge.config import SiteConfig
from fedmed_edge.errors import Unreachable
from fedmed_edge.federation.outbox import Outbox
from fedmed_edge.federation.server_side import serve
from fedmed_edge.federation.site_side import sync
from fedmed_edge.federation.wire import Reply, Request, decode_reply, decode_request, encode
from fedmed_edge.store.store import Store

__all__ = ["Loopback", "LoopbackSites"]


class Loopback:
    """A channel of one site to a server in this process; every message goes through its bytes.

    Args:
        folder: `federation/` of the server's folder.
        site: What the certificate would say.
    """

    def __init__(self, store: Store, folder: Path, site: str) -> None:
        self._store, self._folder, self._site = store, folder, site

    def ask(self, op: str, fields: Mapping[str, Any], data: bytes = b"") -> Reply:
        """As `Channel.ask`; never unreachable."""
        request = decode_request(encode(Request(op, fields, data)))
        return decode_reply(encode(serve(self._store, self._folder, self._site, request)))


class LoopbackSites:
    """Sites of folders in this process.

    Args:
        folder: `federation/` of the server's folder.
        sites: Site → its folder and settings; who is in it is online.
    """

    def __init__(self, store: Store, folder: Path, sites: dict[str, tuple[Path, SiteConfig]]) -> None:
        self._store, self._folder = store, folder
        self.sites = sites

    def online(self) -> list[str]:
        """As `Sites.online`."""
        return sorted(self.sites)

    def news(self) -> list[str]:
        """As `Sites.news`."""
        return [site for site in sorted(self.sites) if Outbox(self.sites[site][0] / "outbox").waiting()]

    def sync(self, site: str, deadline_s: float) -> None:
        """As `Sites.sync`.

        Raises:
            Unreachable: The site is not there.
        """
        if site not in self.sites:
            raise Unreachable(f"site `{site}`: is not connected")
        folder, config = self.sites[site]
        sync(Loopback(self._store, self._folder, site), folder, config, patience_s=0)
