"""Whether a site gets through to its server, and what is in the way; needs no engine.

Speaks TLS as the agent does, up to the first answer of HTTP/2; of the site it sends the certificate alone.
"""

import logging
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fedmed_edge.errors import FedmedError, TrustError, Unreachable
from fedmed_edge.federation.engine.certificates import issuer
from fedmed_edge.federation.engine.site_kit import CERTIFICATE, ROOT, TLS_KEY

__all__ = ["Watch", "Way", "try_connection"]

log = logging.getLogger(__name__)

PATIENCE_S: Final = 20.0
WAIT_S: Final = 10.0
# the client's preface and an empty SETTINGS frame (RFC 9113, section 3.4)
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@dataclass(frozen=True)
class Way:
    """How a site reaches its server; `proxy` is `host:port` or None."""

    host: str
    port: int
    proxy: str | None = None

    @classmethod
    def of(cls, host: str, port: int, proxy: str | None) -> "Way":
        """By the setting, else by the environment, as the engine finds it."""
        named = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
        if proxy is None and named:
            proxy = urlsplit(named).netloc.rpartition("@")[2]
        return cls(host, port, proxy)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" + (f" through the proxy {self.proxy}" if self.proxy else "")


class Watch:
    """Says in the log when the connection came and, where it does not, what is in the way; each once."""

    def __init__(self, site: Path, way: Way) -> None:
        self._site, self._way = site, way
        self._said, self._quiet_since = "", time.monotonic()
        self._looking: threading.Thread | None = None

    def see(self, connected: bool) -> None:
        """Whether there is a connection now; to be told again and again. Does not wait."""
        if connected:
            self._quiet_since = time.monotonic()
            self._say(f"{self._way}: connected")
        elif time.monotonic() - self._quiet_since > PATIENCE_S and not self._is_looking():
            self._quiet_since = time.monotonic()
            self._looking = threading.Thread(target=self._look, daemon=True)
            self._looking.start()

    def _is_looking(self) -> bool:
        return self._looking is not None and self._looking.is_alive()

    def _look(self) -> None:
        try:
            try_connection(self._site, self._way)
        except FedmedError as error:
            self._say(f"{error}\nhint: {error.hint}")
        except OSError as error:
            self._say(str(error))
        else:
            self._say(f"{self._way}: does not take this site in\nhint: {_LEFT_OUT}")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            log.warning("%s", text)


def try_connection(site: Path, way: Way) -> str:
    """Connect once, and close; the version of TLS.

    Raises:
        Unreachable: Nothing answers there.
        TrustError: Somebody else answers, or the server does not let this site in.
    """
    context = ssl.create_default_context(cafile=site / ROOT)
    context.load_cert_chain(site / CERTIFICATE, site / TLS_KEY)
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(way) as plain, context.wrap_socket(plain, server_hostname=way.host) as secure:
            secure.sendall(_PREFACE)
            if not secure.recv(1):
                raise TrustError(f"{way}: closed the connection", hint=_LEFT_OUT)
            return secure.version() or "TLS"
    except ssl.SSLCertVerificationError as error:
        raise _somebody_else(way, error) from None
    except ssl.SSLError as error:
        raise TrustError(
            f"{way}: does not let this site in: {error.reason or error}", hint=_LEFT_OUT
        ) from None
    except ConnectionResetError:
        raise TrustError(f"{way}: closed the connection", hint=_LEFT_OUT) from None
    except OSError as error:
        raise Unreachable(
            f"{way}: does not answer: {error.strerror or error}",
            hint=f"let this machine reach {way.host}, TCP port {way.port}, outbound; is the server running?",
        ) from None


_LEFT_OUT: Final = "is the certificate of another federation, run out or revoked? The server's admin can tell"


def _connected(way: Way) -> socket.socket:
    if way.proxy is None:
        return socket.create_connection((way.host, way.port), WAIT_S)
    host, _, port = way.proxy.rpartition(":")
    plain = socket.create_connection((host, int(port)), WAIT_S)
    try:
        plain.sendall(
            f"CONNECT {way.host}:{way.port} HTTP/1.1\r\nHost: {way.host}:{way.port}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < 1 << 14:
            piece = plain.recv(4096)
            if not piece:
                break
            answer += piece
        status = answer.split(b"\r\n", 1)[0].decode(errors="replace")
        if " 200" not in status:
            raise OSError(f"the proxy says `{status[:80]}`")
    except BaseException:
        plain.close()
        raise
    return plain


def _somebody_else(way: Way, error: ssl.SSLCertVerificationError) -> FedmedError:
    """Who answered instead, or what is wrong with the server's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _connected(way) as plain, context.wrap_socket(plain, server_hostname=way.host) as secure:
            found = secure.getpeercert(binary_form=True)
        named = issuer(found) if found else "nobody"
    except (OSError, FedmedError):
        named = "nobody that could be read"
    return TrustError(
        f"{way}: answers with a certificate by {named}, not by this federation: {error.verify_message}",
        hint="a proxy that opens TLS stands between: have it exempt the server's host; or the clock is off",
    )
