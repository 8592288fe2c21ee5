"""What a site tells the server beside every heartbeat: that it is there, and whether it has news.

Components of the engine's own processes, not of jobs. Heartbeats of the engine itself are not told from lost
ones, so a question of our own goes beside each, and its answer counts.
"""

import contextlib
import logging
import threading
from pathlib import Path
from typing import Any, Final

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import CellMessageAuthHeaderKey, FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message

from fedmed_edge.errors import StoreError
from fedmed_edge.federation.engine.identities import identities_of
from fedmed_edge.federation.engine.site_kit import CONNECTED
from fedmed_edge.federation.outbox import Outbox

__all__ = ["NEWS", "ServerPresence", "SitePresence"]

log = logging.getLogger(__name__)

NEWS: Final = Path("engine/news")
"""Folder of the server with an empty file for every site whose outbox is not empty."""

_CHANNEL, _TOPIC = "fedmed_presence", "here"
_SOMETHING, _NOTHING = b"1", b"0"
_ANSWER_S: Final = 5.0
_FIRST_SIGNS: Final = (EventType.CLIENT_REGISTER_RECEIVED, EventType.CLIENT_HEARTBEAT_RECEIVED)

_said: Final[dict[Path, str]] = {}
"""What is wrong with an outbox, so that it is not said at every heartbeat."""


class SitePresence(FLComponent):  # type: ignore[misc]  # the engine has no types
    """At a site: tells the server whether something waits in the outbox, and notes that it answers."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Called by the engine."""
        if event_type != EventType.BEFORE_CLIENT_HEARTBEAT:
            return
        kit = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT)).resolve()
        cell = fl_ctx.get_engine().get_cell()
        threading.Thread(target=_tell, args=(cell, kit), name="presence", daemon=True).start()


def _tell(cell: Any, kit: Path) -> None:
    due = _due(kit.parent / "outbox")
    answer = cell.send_request(
        channel=_CHANNEL,
        topic=_TOPIC,
        target=FQCN.ROOT_SERVER,
        request=Message({}, _SOMETHING if due else _NOTHING),
        timeout=_ANSWER_S,
        optional=True,
    )
    if answer.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK:
        with contextlib.suppress(OSError):
            (kit / CONNECTED).touch()


def _due(outbox: Path) -> bool:
    """Whether something waits; a damaged record must not keep the site from being heard of."""
    try:
        due = Outbox(outbox).due()
    except StoreError as error:
        if _said.get(outbox) != str(error):
            log.warning("%s", error)
        _said[outbox] = str(error)
        return False
    _said.pop(outbox, None)
    return due


class ServerPresence(FLComponent):  # type: ignore[misc]
    """At the server: answers sites whose certificates are good, and notes which have news."""

    def __init__(self) -> None:
        super().__init__()
        self._server: Path | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Called by the engine; it listens from the first time that a site is heard of."""
        if self._server is None and event_type in _FIRST_SIGNS:
            engine = fl_ctx.get_engine()
            self._server = Path(engine.get_workspace().get_root_dir()).resolve().parent.parent
            engine.get_cell().register_request_cb(channel=_CHANNEL, topic=_TOPIC, cb=self._answer)

    def _answer(self, request: Message) -> Message:
        """The name is the one that the engine compared with the token of a certificate's holder."""
        name = request.get_header(CellMessageAuthHeaderKey.CLIENT_NAME)
        assert self._server is not None
        identity = identities_of(self._server).find(str(name))
        if identity is None or identity.revoked:
            return Message({MessageHeaderKey.RETURN_CODE: ReturnCode.UNAUTHENTICATED}, b"")
        if request.payload == _SOMETHING:
            with contextlib.suppress(OSError):
                (self._server / NEWS).mkdir(exist_ok=True)
                (self._server / NEWS / identity.name).touch()
        return Message({MessageHeaderKey.RETURN_CODE: ReturnCode.OK}, b"")
