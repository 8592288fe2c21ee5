"""A site's way to the server: requests of the sync job, each waited for once."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message

from fedmed_edge.errors import InputError, Unreachable
from fedmed_edge.federation.wire import Reply, Request, decode_reply, encode

__all__ = ["ALIVE", "CHANNEL", "TOPIC", "EngineChannel", "take_content"]

CHANNEL: Final = "fedmed"
TOPIC: Final = "ask"

ALIVE: Final = "alive"
ALIVE_S: Final = 5.0

REPLY_S: Final = 20.0
"""How long a reply may take while nothing at all moves."""

_LONGER_S: Final = {"commit": 120.0}
"""The server reads a whole file and checks every number in it."""


def take_content(message: Message) -> bytes | None:
    """Bytes of a message, which loses them; None where it holds something else.

    The engine keeps messages for a minute after they were answered, in case they come again. With their bytes
    that would be all that came in a minute.
    """
    content = message.payload
    if not isinstance(content, bytes | bytearray | memoryview):
        return None
    taken, message.payload = bytes(content), None
    if isinstance(content, memoryview) and isinstance(content.obj, bytearray):
        held = content.obj
        content.release()
        with suppress(BufferError):  # somebody reads it still
            held.clear()
    return taken


class EngineChannel:
    """`wire.Channel` over the cell of a site's job process; any number of threads may ask.

    Args:
        cell: The job's cell.
        server: Address of the job's cell at the server.
        abort_signal: The engine's, which ends a request that is waited for.
    """

    def __init__(self, cell: Any, server: str, abort_signal: Any) -> None:
        self._cell, self._server, self._abort_signal = cell, server, abort_signal

    def ask(self, op: str, fields: Mapping[str, Any], data: bytes = b"") -> Reply:
        """Ask once and wait for the reply; who asks decides whether it is asked again.

        Raises:
            Unreachable: No reply came in time, or the job was ended.
        """
        answer = self._cell.send_request(
            channel=CHANNEL,
            topic=TOPIC,
            target=self._server,
            request=Message({}, encode(Request(op, fields, data))),
            timeout=_LONGER_S.get(op, REPLY_S),
            optional=True,
            abort_signal=self._abort_signal,
        )
        code, content = answer.get_header(MessageHeaderKey.RETURN_CODE), take_content(answer)
        if code != ReturnCode.OK or content is None:
            raise Unreachable(f"server: no reply to `{op}`: {code}", hint="it is tried again later")
        try:
            return decode_reply(content)
        except InputError as error:
            raise Unreachable(f"server: {error}") from None

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Tell the server every few seconds that this job lives, also while nothing is asked."""
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(ALIVE_S):
                self._cell.fire_and_forget(
                    channel=CHANNEL,
                    topic=ALIVE,
                    targets=self._server,
                    message=Message({}, b""),
                    optional=True,
                )

        thread = threading.Thread(target=tell, name="alive", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
