"""The DICOM side: C-ECHO and C-STORE from those who may come, over TLS where certificates are named."""

import logging
import socket
import threading
from collections.abc import Callable
from socketserver import TCPServer
from typing import Any, cast

from pynetdicom import AE, _config, dimse_messages, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer

from fedmed_edge.errors import InputError
from fedmed_edge.listener.incoming import Incoming, Outcome
from fedmed_edge.listener.sockets import Prompt, server_context
from fedmed_edge.listening import Listen

log = logging.getLogger(__name__)

_VERIFICATION = "1.2.840.10008.1.1"
_SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"]
_HANDSHAKE_S = 10.0
_PDU_BYTES = 1 << 18

# C-STORE response status. Source: DICOM PS3.4 B.2.3.
_STATUS = {
    Outcome.STORED: 0x0000,
    Outcome.DUPLICATE: 0x0000,
    Outcome.CONFLICT: 0x0000,  # the first one stays, as in most archives
    Outcome.OURS: 0x0000,
    Outcome.UNREADABLE: 0xC000,
    Outcome.FULL: 0xA700,
}

Arrived = Callable[[Outcome, str], None]
Refused = Callable[[str, str], None]


class StorageScp:
    """The listening node; it stores and answers, and leaves everything else to others.

    Args:
        arrived: Called with the outcome and the SeriesInstanceUID of every C-STORE, before it is answered.
        refused: Called with `address`, `tls`, `aet` or `limit` and who it is, for each who may not come.
    """

    def __init__(self, settings: Listen, incoming: Incoming, arrived: Arrived, refused: Refused) -> None:
        self._settings, self._incoming = settings, incoming
        self._arrived, self._refused = arrived, refused
        self._ae = AE(ae_title=settings.aet)
        self._ae.add_supported_context(_VERIFICATION, _SYNTAXES)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = settings.associations
        self._ae.maximum_pdu_size = _PDU_BYTES
        self._ae.acse_timeout = _HANDSHAKE_S
        self._ae.dimse_timeout = self._ae.network_timeout = 60
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def well(self) -> bool:
        """Whether it listens."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> int:
        """Listen from now on.

        Returns:
            The TCP port.

        Raises:
            InputError: The address cannot be listened at, or a certificate cannot be read.
        """
        _config.LOG_HANDLER_LEVEL = "none"
        # Every storage class, private ones too, in whatever transfer syntax: bytes are kept, not understood.
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        # An instance goes to the disk as it comes, whatever its size: into a file of ours. The library's own
        # would lie on another disk, outlive a broken association, and break it where the disk is full.
        _config.STORE_RECV_CHUNKED_DATASET = True
        dimse_messages.NamedTemporaryFile = lambda **_: self._incoming.part()  # type: ignore
        address = (str(self._settings.bind), self._settings.port)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_REJECTED, self._on_reject),
            (evt.EVT_C_STORE, self._on_store),
        ]
        try:
            server = _Server(
                *(self._ae, address, self._settings.aet, self._ae.supported_contexts),
                *(server_context(self._settings.tls), handlers),
                admits=self._admits,
                refused=self._refused,
            )
        except OSError as error:
            raise InputError(
                f"listen: cannot listen at {address[0]} port {address[1]}: {(error.strerror or '').lower()}",
                hint="choose another `port` in [listen], or end what listens there",
            ) from None
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="scp", daemon=True)
        self._thread.start()
        return int(server.server_address[1])

    def stop(self) -> None:
        """Take nothing more; who is not answered yet sends again."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.closing = True
        for association in server.active_associations:
            association.abort(block=False)
        server.shutdown()

    def _admits(self, aet: str | None, address: str) -> bool:
        return any(peer.admits(aet, address) for peer in self._settings.peers)

    def _on_request(self, event: Event) -> None:
        association = event.assoc
        request = association.requestor.primitive
        if request is None or not self._admits(request.calling_ae_title, association.requestor.address):
            self._refused("aet", _peer(association))
            # rejected, permanent, by the service user: calling AE title not recognised (PS3.8 table 9-21)
            association.acse.send_reject(0x01, 0x01, 0x03)
            association.kill()

    def _on_reject(self, event: Event) -> None:
        request = event.assoc.requestor.primitive
        called_us = request is not None and request.called_ae_title == self._settings.aet
        self._refused("limit" if called_us else "aet", _peer(event.assoc))

    def _on_store(self, event: Event) -> int:
        request = cast(C_STORE, event.request)
        try:
            outcome, series_uid = self._incoming.take(
                event.dataset_path,
                str(event.assoc.requestor.ae_title).strip(),
                sop_uid=str(request.AffectedSOPInstanceUID),
            )
            self._arrived(outcome, series_uid)
        except Exception as error:
            log.error("an instance could not be kept: %s", type(error).__name__)
            log.debug("", exc_info=True)
            return 0xC211
        return _STATUS[outcome]


class _Server(ThreadedAssociationServer):
    """Who may not come is turned away before a byte is read; nobody's handshake holds up others."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any, admits: Callable[[str | None, str], bool], refused: Refused) -> None:
        self.admits, self.refused, self.closing = admits, refused, False
        super().__init__(*args)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if self.closing or not self.admits(None, client_address[0]):
            self.refused("address", client_address[0])
            return False
        # beyond the limit that is told in the protocol's own words
        if len(self.active_associations) > 4 * self.ae.maximum_associations:
            self.refused("limit", client_address[0])
            return False
        return True

    def get_request(self) -> tuple[socket.socket, Any]:
        assert self.socket is not None
        accepted, address = self.socket.accept()
        return Prompt(fileno=accepted.detach()), address

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.ssl_context:
            request.settimeout(_HANDSHAKE_S)
            request = self.ssl_context.wrap_socket(request, server_side=True)
        request.settimeout(self.ae.network_timeout)
        super().finish_request(request, client_address)

    def shutdown(self) -> None:
        TCPServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.refused("tls", client_address[0])


def _peer(association: Association) -> str:
    """Who calls, as `allow` writes it."""
    request = association.requestor.primitive
    return f"{request.calling_ae_title if request else '?'}@{association.requestor.address}"
