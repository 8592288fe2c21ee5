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


def test_one_file_of_two_tasks_is_published_answers_both_and_goes_with_who_withdraws(
    network: Any, net: ModuleType, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    f, root = network.f, network.f.root
    f.join("a", "b")
    f.admin("rebuild")
    f.kind, f.recipe = "segmentation", root / "outline.toml"
    f.recipe.write_text(kit.RECIPE.format(kind=f.kind, network="unet").replace('"tiny"', '"outline"'))
    f.enrol("c", 2)  # whose contributions come as files
    f.publish("outline.draft", "--recipe", f.recipe)
    measured = f.contribute("c", file="c.measured")
    f.admin("import", measured)
    f.publish("outline.generation", "--task", "outline", "--from", measured)
    f.join("c")
    f.admin("rebuild", "--task", "outline")
    both, alone = ("--task", "tiny", "--task", "outline"), ("--task", "tiny")
    files = [f.export(f"{len(tasks) // 2}.onnx", *tasks) for tasks in (both, alone)]

    def models() -> dict[str, str]:
        listed = f.ask(net.EDGE, "model", "list", "-C", root / "a")["models"]
        return {one["name"]: one["state"] for one in listed}

    network.up("a")
    offered = f.admin("publish", files[0])
    assert (offered["task"], list(offered["others"])) == ("outline", ["tiny"])
    name = offered["digest"][:16]
    net.until("the model came", lambda: models() == {name: "waiting"}, seconds=120)
    done = f.ask(net.EDGE, "model", "activate", "-C", root / "a")
    assert (done["state"], done["score"]) == ("active", 1.0)
    for task in ("tiny", "outline"):
        assert f.site("a", "pull", "--task", task)["digest"] == offered["digest"]
    images = (root / "a-data" / "22.png", root / "c-data" / "8.png")
    monkeypatch.chdir(root / "a")
    said = kit.run(kit.EDGE, "infer", *images, "-o", root / "out", "--json")
    assert said.code == 0, said.err
    assert {json.loads(line)["task"] for line in said.out.splitlines()} == {"tiny", "outline"}

    f.admin("withdraw", "c", "--yes")  # of the other task: what holds it must not answer anywhere
    later = f.admin("publish", files[1])["digest"][:16]
    net.until("it is known", lambda: models() == {name: "withdrawn", later: "waiting"}, seconds=120)
    refused = kit.run(kit.EDGE, "infer", *images, "-o", root / "out")
    assert refused.code == 5 and "was withdrawn" in refused.err
    assert f.site("a", "pull")["digest"][:16] == later
    assert "Traceback" not in network.log("a") + network.log("server")
