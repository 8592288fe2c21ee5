"""What the two ends say of themselves with every heartbeat: at a site that it is connected and has news.

Components of the engine's own processes, not of jobs.
"""

import contextlib
import time
from pathlib import Path
from typing import Final

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext

from fedmed_edge.federation.engine.identities import identities_of
from fedmed_edge.federation.engine.site_kit import CONNECTED
from fedmed_edge.federation.outbox import Outbox

__all__ = ["NEWS", "ServerPresence", "SitePresence"]

NEWS: Final = Path("engine/news")
"""Folder of the server with an empty file for every site whose outbox is not empty."""

_PROPERTY: Final = "fedmed_news"


class SitePresence(FLComponent):  # type: ignore[misc]  # the engine has no types
    """At a site: notes that the server answers, and tells it whether something waits in the outbox."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Called by the engine."""
        if event_type == EventType.BEFORE_CLIENT_HEARTBEAT:
            due = [p for p in Outbox(_kit(fl_ctx).parent / "outbox").waiting() if p.not_before <= time.time()]
            fl_ctx.set_prop(_PROPERTY, bool(due), private=False, sticky=False)
        elif event_type in (EventType.AFTER_CLIENT_REGISTER, EventType.AFTER_CLIENT_HEARTBEAT):
            with contextlib.suppress(OSError):
                (_kit(fl_ctx) / CONNECTED).touch()


class ServerPresence(FLComponent):  # type: ignore[misc]
    """At the server: notes which sites have news. Anybody may claim it; then a site is asked for nothing."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Called by the engine."""
        if event_type != EventType.CLIENT_HEARTBEAT_RECEIVED:
            return
        peer = fl_ctx.get_peer_context()
        name = peer.get_identity_name() if peer else None
        if not peer or not isinstance(name, str) or peer.get_prop(_PROPERTY) is not True:
            return
        server = Path(fl_ctx.get_engine().get_workspace().get_root_dir()).resolve().parent.parent
        if Path(name).name == name and identities_of(server).find(name):
            with contextlib.suppress(OSError):
                (server / NEWS).mkdir(exist_ok=True)
                (server / NEWS / name).touch()


def _kit(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT)).resolve()
