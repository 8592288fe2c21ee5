"""What is said between two nodes waits for nobody's system."""

import socket
from pathlib import Path

import pytest
from pynetdicom import AE, evt

from fedmed_edge.errors import InputError
from fedmed_edge.listener.sockets import Prompt, client_context, make_prompt, server_context
from fedmed_edge.listening import Tls

VERIFICATION = "1.2.840.10008.1.1"


def test_a_connection_to_a_peer_holds_nothing_back() -> None:
    peer = AE()
    peer.add_supported_context(VERIFICATION)
    server = peer.start_server(("127.0.0.1", 0), block=False)
    entity = AE()
    entity.add_requested_context(VERIFICATION)
    association = entity.associate(*server.server_address, evt_handlers=[(evt.EVT_CONN_OPEN, make_prompt)])
    try:
        assert association.is_established
        connection = association.dul.socket.socket
        assert isinstance(connection, Prompt)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert association.send_c_echo().Status == 0x0000
        association.release()
    finally:
        server.shutdown()


def test_without_a_certificate_there_is_no_tls_and_a_missing_one_is_named(tmp_path: Path) -> None:
    assert server_context(Tls()) is None
    gone = Tls(certificate=tmp_path / "node.crt", key=tmp_path / "node.key")
    for context in (server_context, client_context):
        with pytest.raises(InputError, match=r"listen\.tls\.certificate: .*node\.crt: no such file"):
            context(gone)
    for name in ("node.crt", "node.key"):
        (tmp_path / name).write_text("no certificate")
    with pytest.raises(InputError, match=r"listen\.tls: the certificates cannot be used"):
        server_context(gone)
