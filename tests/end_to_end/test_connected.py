"""Hospitals and server connected by real processes: what contributes, arrives, comes back and stops."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def network(tmp_path: Path, kit: ModuleType, net: ModuleType) -> Any:
    """A server and the hospitals a and b, which have a generation and have handed over nothing yet."""
    made = kit.Federation(tmp_path)
    for seed, name in enumerate("ab"):
        made.enrol(name, seed)
    made.learn("a", "b")
    with net.Network(made) as network:
        network.enrol("a", "b")
        yield network


def test_two_hospitals_contribute_and_the_server_rebuilds(
    network: Any, net: ModuleType, kit: ModuleType
) -> None:
    f, root = network.f, network.f.root
    network.up("a", "b")
    handed = [
        network.program("contribute", "-C", root / name, "--generation", f.generation, "--json")
        for name in "ab"
    ]
    for process in handed:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(out)["state"] == "taken"
    assert f.admin("rebuild")["sites"] == ["a", "b"]
    assert f.admin("status")["faults"] == []
    f.admin("publish")
    models = ("model", "list", "-C", root / "a")
    (model,) = net.until("the model came", lambda: f.ask(net.EDGE, *models)["models"], seconds=120)
    assert model["state"] == "waiting"
    engine = kit.run(kit.SERVER, "health", "-C", root / "server", "--json").json["running"]["server"]
    assert engine["answering"], engine
    health = kit.run(kit.EDGE, "health", "-C", root / "a")
    assert health.code == 0, health.out + health.err
    doctor = kit.run(kit.EDGE, "doctor", "-C", root / "a", "--json").json
    found = {check["name"]: check for check in doctor["checks"]}
    assert found["connection"]["level"] == "ok" and f"port {network.port}," in found["firewall"]["found"]
    # a service manager's stop
    assert network.stop("a") < 2.0
    assert network.stop("server") < 2.0
    for name in ("a", "server"):
        assert "Traceback" not in network.log(name), network.log(name)
