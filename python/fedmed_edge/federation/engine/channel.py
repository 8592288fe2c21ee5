"""A site's way to the server: requests of the sync job, each waited for, repeated with growing pauses."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message

from fedmed_edge.errors import InputError, Unreachable
from fedmed_edge.federation.wire import Reply, Request, decode_reply, encode

__all__ = ["CHANNEL", "TOPIC", "EngineChannel"]

CHANNEL: Final = "fedmed"
TOPIC: Final = "ask"

REPLY_S: Final = 20.0
"""How long a reply may take while nothing at all moves."""

PATIENCE_S: Final = 180.0
"""How long one request is repeated before the sync is given up; the next one goes on."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0

log = logging.getLogger(__name__)


class EngineChannel:
    """`wire.Channel` over the cell of a site's job process; any number of threads may ask.

    Args:
        cell: The job's cell.
        server: Address of the job's cell at the server.
        stopped: Whether the job is to end.
    """

    def __init__(self, cell: Any, server: str, stopped: Callable[[], bool], abort_signal: Any = None) -> None:
        self._cell, self._server = cell, server
        self._stopped, self._abort_signal = stopped, abort_signal

    def ask(self, op: str, fields: Mapping[str, Any], data: bytes = b"") -> Reply:
        """Ask and wait for the reply.

        Raises:
            Unreachable: No reply came in time, or the job was ended.
        """
        content = encode(Request(op, fields, data))
        began, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            answer = self._cell.send_request(
                channel=CHANNEL,
                topic=TOPIC,
                target=self._server,
                request=Message({}, content),
                timeout=REPLY_S,
                optional=True,
                abort_signal=self._abort_signal,
            )
            code = answer.get_header(MessageHeaderKey.RETURN_CODE)
            if code == ReturnCode.OK and isinstance(answer.payload, bytes | bytearray | memoryview):
                try:
                    return decode_reply(bytes(answer.payload))
                except InputError as error:
                    log.warning("%s: %s", op, error)
            if self._stopped() or time.monotonic() - began > PATIENCE_S:
                raise Unreachable(f"server: no reply to `{op}`: {code}", hint="it is tried again later")
            log.info("%s: %s, again in %.1f s", op, code, pause)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
