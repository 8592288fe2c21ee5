"""How a hospital joins, and what its verbs say before it has; no connection is made."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed_edge.config import SiteConfig, read_config
from fedmed_edge.federation.outbox import Outbox

EDGE, SERVER = "fedmed-edge", "fedmed-server"

pytest.importorskip("nvflare")


@pytest.fixture
def server(kit: ModuleType, tmp_path: Path) -> Any:
    """A server's folder and the fingerprint of its key."""
    said = kit.run(SERVER, "init", tmp_path / "server", "--host", "federation.example.org", "--json")
    assert said.code == 0 and said.json["connects"] is True, said.err
    return tmp_path / "server", said.json["fingerprint"]


@pytest.fixture
def answer(kit: ModuleType, server: Any, tmp_path: Path) -> Path:
    """The answer to the request of site a, whose folder lies beside it."""
    made = kit.run(EDGE, "init", tmp_path / "a", "--site", "a", "--json").json
    said = kit.run(
        *(SERVER, "site", "add", "-C", server[0], "a", "--request", made["request"]),
        *("--fingerprint", made["fingerprint"], "--out", tmp_path / "a.signed", "--json"),
    )
    assert said.code == 0, said.err
    return tmp_path / "a.signed"


def refused(said: Any, code: int, message: str, hint: str = "") -> None:
    assert said.code == code and message in said.err and hint in said.err, (said.code, said.err)
    assert "Traceback" not in said.err


def test_a_hospital_joins(kit: ModuleType, server: Any, answer: Path, tmp_path: Path) -> None:
    folder, mark = server
    site = tmp_path / "a"
    refused(
        kit.run(EDGE, "init", site, "--install", answer),
        1,
        "nothing to check its signature against",
        "--fingerprint",
    )
    refused(
        kit.run(EDGE, "init", site, "--install", answer, "--fingerprint", "SHA256:x"), 5, "expected SHA256:x"
    )
    before = (site / "engine" / "startup" / "client.key").read_bytes()
    said = kit.run(EDGE, "init", site, "--install", answer, "--fingerprint", mark, "--json")
    assert said.code == 0 and said.json["server"] == "federation.example.org:8002", said.err
    assert read_config(SiteConfig, site, environment={}).server_key == site / "server.pub"
    # again changes nothing, and the key is known now
    assert kit.run(EDGE, "init", site, "--install", answer).code == 0
    assert (site / "engine" / "startup" / "client.key").read_bytes() == before
    (listed,) = kit.run(SERVER, "site", "list", "-C", folder, "--json").json["sites"]
    assert listed["name"] == "a" and listed["certificate_until"] == said.json["certificate_until"]
    checks = kit.run(EDGE, "doctor", "-C", site, "--json").json["checks"]
    found = {check["name"]: check for check in checks}
    assert "outbound TCP from this machine to federation.example.org port 8002" in found["firewall"]["found"]
    assert found["certificate"]["level"] == "ok" and found["agent"]["level"] == "warning"
    assert found["connection"]["level"] == "fault"


def test_another_server_is_not_believed(kit: ModuleType, server: Any, answer: Path, tmp_path: Path) -> None:
    other = kit.run(SERVER, "init", tmp_path / "other", "--json").json
    kit.run(EDGE, "init", tmp_path / "b", "--site", "b", "--server-key", other["public_key"])
    refused(kit.run(EDGE, "init", tmp_path / "b", "--install", answer), 5, "signed by SHA256:")
    refused(
        kit.run(EDGE, "init", tmp_path / "b", "--install", answer, "--fingerprint", server[1]),
        1,
        "which one is the server's?",
    )


def test_an_answer_is_for_one_hospital(kit: ModuleType, server: Any, answer: Path, tmp_path: Path) -> None:
    kit.run(EDGE, "init", tmp_path / "b", "--site", "b")
    said = kit.run(EDGE, "init", tmp_path / "b", "--install", answer, "--fingerprint", server[1])
    refused(said, 5, "its certificate is of another site's key")


def test_requests_that_are_not_granted(kit: ModuleType, server: Any, answer: Path, tmp_path: Path) -> None:
    request, add = tmp_path / "a" / "a.request", (SERVER, "site", "add", "-C", server[0])
    out = ("--out", tmp_path / "x.signed")
    refused(
        kit.run(*add, "b", "--request", request, *out),
        1,
        f"{request}: `site` has a, expected b",
        "in its request",
    )
    own = server[0] / "server.pub"
    refused(kit.run(*add, "c", "--key", own), 1, f"{own}: is this server's own key, expected the hospital's")
    refused(
        kit.run(*add, "a", "--request", request, *out, "--fingerprint", "SHA256:x"), 5, "expected SHA256:x"
    )
    refused(kit.run(*add, "a", "--request", tmp_path / "a" / "a.pub", *out), 1, "")
    twin = tmp_path / "twin"
    kit.run(EDGE, "init", twin, "--site", "a")
    refused(
        kit.run(*add, "a", "--request", twin / "a.request", *out),
        1,
        "has a certificate for another key already",
        "revoke",
    )
    assert not (tmp_path / "x.signed").exists()
    assert kit.run(SERVER, "site", "revoke", "-C", server[0], "a").code == 0
    refused(kit.run(*add, "a", "--request", request, *out), 1, "its TLS key was revoked, expected a new one")
    assert kit.run(*add, "a", "--request", twin / "a.request", *out).code == 0


def test_verbs_of_a_site_that_does_not_connect(kit: ModuleType, copied: Any) -> None:
    site = ("-C", copied.root / "a")
    refused(kit.run(EDGE, "agent", *site), 1, "has no kit to connect with", "init --install")
    given = ("contribute", *site, "--generation", copied.generation)
    refused(kit.run(EDGE, *given), 1, "has no kit to connect with", "--out FILE writes a file")
    refused(
        kit.run(EDGE, "pull", *site, "--out", copied.root / "x.onnx"), 8, "no model came, and no agent runs"
    )
    # with a kit, and no agent that takes it
    answer = copied.root / "a.signed"
    copied.admin("site", "add", "a", "--request", copied.root / "a" / "a.request", "--out", answer)
    assert kit.run(EDGE, "init", copied.root / "a", "--install", answer).code == 0
    said = kit.run(EDGE, *given, "--json")
    assert said.code == 7 and said.json["state"] == "waiting", said.err
    said = kit.run(EDGE, *given, "--no-wait", "--json")
    assert said.code == 0 and said.json["state"] == "waiting"
    parcels = Outbox(copied.root / "a" / "outbox").all()
    assert [one.state for one in parcels] == ["waiting", "waiting"]
    assert parcels[0].rule.startswith("policy.parts: ")
