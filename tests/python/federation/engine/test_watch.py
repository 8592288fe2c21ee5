"""What an agent says in its log while there is no connection."""

import logging
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from fedmed_edge.federation.engine import reachability
from fedmed_edge.federation.engine.reachability import Watch, Way
from fedmed_edge.federation.engine.site_kit import CERTIFICATE, ROOT, TLS_KEY


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a certificate and its key."""
    (tmp_path / CERTIFICATE).parent.mkdir(parents=True)
    made = ("-keyout", tmp_path / TLS_KEY, "-out", tmp_path / CERTIFICATE, "-subj", "/CN=a", "-nodes")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ed25519", *made], check=True, capture_output=True)
    shutil.copy(tmp_path / CERTIFICATE, tmp_path / ROOT)
    return tmp_path


def test_it_says_once_what_is_in_the_way_and_when_the_connection_comes(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reachability, "PATIENCE_S", 0.05)
    caplog.set_level(logging.WARNING)
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        watch = Watch(site, Way("127.0.0.1", port))
        for _ in range(40):
            watch.see(False)
            time.sleep(0.01)
        watch.see(True)
        watch.see(True)
    assert caplog.messages == [
        f"127.0.0.1:{port}: does not answer: Connection refused\n"
        f"hint: let this machine reach 127.0.0.1, TCP port {port}, outbound; is the server running?",
        f"127.0.0.1:{port}: connected",
    ]
