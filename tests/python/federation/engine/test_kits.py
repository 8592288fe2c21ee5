"""The server's kits: what the engine is told, and when they are made anew."""

import json
import socket
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from fedmed_edge.config import ServerConfig, ServerFederation
from fedmed_edge.errors import InputError
from fedmed_edge.federation.engine import processes
from fedmed_edge.federation.engine.certificates import names_of
from fedmed_edge.federation.engine.kits import ensure_server_kits
from fedmed_edge.federation.engine.settings import ADMIN_ROLE, site_files


def read(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_text()))


def test_kits_are_made_once_and_anew_for_another_host(tmp_path: Path) -> None:
    ensure_server_kits(tmp_path, "federation.example.org", 8002)
    kit = tmp_path / "engine" / "server"
    before = (kit / "startup" / "server.crt").read_bytes()
    ensure_server_kits(tmp_path, "federation.example.org", 8002)
    assert (kit / "startup" / "server.crt").read_bytes() == before
    root = (kit / "startup" / "rootCA.pem").read_bytes()
    ensure_server_kits(tmp_path, "other.example.org", 8003)
    after = (kit / "startup" / "server.crt").read_bytes()
    assert names_of(after) == ["other.example.org", "localhost"]
    assert (kit / "startup" / "rootCA.pem").read_bytes() == root
    for path in (tmp_path / "engine").rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_the_engine_may_do(tmp_path: Path) -> None:
    ensure_server_kits(tmp_path, "localhost", 8002)
    local = tmp_path / "engine" / "server" / "local"
    text = (local / "resources.json").read_text()
    assert '"/tmp' not in text.replace(str(tmp_path.resolve()), "") and str(tmp_path.resolve()) in text
    site = site_files("a-1", "localhost", 8002, "fedmed-server")
    for resources in (json.loads(text), site["local/resources.json"]):
        assert resources["class_list_enforcement_mode"] == "enforce"
        assert resources["class_allow_list"] == ["fedmed_edge.federation.engine.apps."]
        assert not [one for one in resources["components"] if "log" in one["path"]]
    for rights in (read(local / "authorization.json"), site["local/authorization.json"]):
        (role, may) = next(iter(rights["permissions"].items()))
        assert role == ADMIN_ROLE and len(rights["permissions"]) == 1
        assert {may[name] for name in ("byoc", "shell_commands", "download_job", "clone_job")} == {"none"}
    for limits in (read(local / "comm_config.json"), site["local/comm_config.json"]):
        assert limits["max_message_size"] == limits["streaming_max_blob_size"] == 64 << 20
    assert site["local/resources.json"]["allow_log_streaming"] is False
    server = read(tmp_path / "engine" / "server" / "startup" / "fed_server.json")["servers"][0]  # type: ignore[index]
    assert server["service"] == {"target": "127.0.0.1:8002", "scheme": "grpc"}
    assert server["connection_security"] == "mtls"


def test_a_name_listens_on_every_address(tmp_path: Path) -> None:
    ensure_server_kits(tmp_path, "federation.example.org", 8002)
    settings = read(tmp_path / "engine" / "server" / "startup" / "fed_server.json")
    assert settings["servers"][0]["service"]["target"] == "0.0.0.0:8002"  # type: ignore[index]


def test_a_port_that_is_taken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FREED_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = ServerConfig(federation=ServerFederation(host="localhost", port=port))
        with pytest.raises(InputError, match=f"port {port}: cannot be listened on: Address already in use"):
            processes.run_server(tmp_path, config, lambda alive: None, lambda: True)
    assert not (tmp_path / "engine" / "server").exists()
