"""Sockets of both sides of DICOM: TLS, and neither end waits for the other's system."""

import contextlib
import socket
import ssl
from typing import Any

from pynetdicom.events import Event

from fedmed_edge.errors import InputError
from fedmed_edge.listening import Tls


class Prompt(socket.socket):
    """Confirms what it has read at once.

    Peers made with dcmtk write the head of a PDU, then wait for the system's confirmation before they write
    the rest. The system holds it back for 40 ms: with every instance, however small.
    """

    def recv(self, *arguments: Any) -> bytes:
        """As `socket.recv`."""
        content = super().recv(*arguments)
        _confirm(self)
        return content


class PromptTls(ssl.SSLSocket):
    """The same within TLS."""

    def recv(self, *arguments: Any) -> bytes:
        """As `SSLSocket.recv`."""
        content = super().recv(*arguments)
        _confirm(self)
        return content


def _confirm(connection: socket.socket) -> None:
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):  # closed meanwhile
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def make_prompt(event: Event) -> None:
    """For a connection that was just opened to a peer: what is written leaves at once, too."""
    transport = event.assoc.dul.socket
    assert transport is not None and transport.socket is not None
    transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not isinstance(transport.socket, ssl.SSLSocket):
        transport.socket = Prompt(fileno=transport.socket.detach())


def server_context(tls: Tls) -> ssl.SSLContext | None:
    """TLS as the node that is called; a client shows a certificate where there is an authority."""
    if tls.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return _with_files(context, tls)


def client_context(tls: Tls) -> ssl.SSLContext:
    """TLS as the node that calls; names in certificates are not compared, as DICOM has none (PS3.15 B.1)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _with_files(context, tls)


def _with_files(context: ssl.SSLContext, tls: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = PromptTls
    for name, path in tls:
        if path is not None and not path.is_file():
            raise InputError(f"listen.tls.{name}: {path}: no such file")
    try:
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
        if tls.authority is not None:
            context.load_verify_locations(tls.authority)
            context.verify_mode = ssl.CERT_REQUIRED
        elif context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            context.load_default_certs()
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"listen.tls: the certificates cannot be used: {error.strerror or error}",
            hint="`certificate`, `key` and `authority` are PEM files; the key has no password",
        ) from None
    return context
