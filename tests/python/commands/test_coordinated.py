"""What the admin asks of connected hospitals, over a channel within this process: from rounds to a model."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed_edge.config import ServerConfig, SiteConfig, read_config
from fedmed_edge.federation.coordinator import FOLDER, Coordinator
from fedmed_edge.federation.duties import work
from fedmed_edge.federation.inbox import Inbox
from fedmed_edge.federation.loopback import LoopbackSites
from fedmed_edge.federation.placing import place_models
from fedmed_edge.federation.styles import parse_styles
from fedmed_edge.recipe import read_recipe
from fedmed_edge.signing import verify_trusted
from fedmed_edge.store.store import open_store

EDGE, SERVER = "fedmed-edge", "fedmed-server"
RULES = "[federation]\nmay_contribute = true\nmay_train = true\nmay_validate = true\n"

Meet = Callable[[Callable[[], bool]], None]


@pytest.fixture
def meet(copied: Any, monkeypatch: pytest.MonkeyPatch) -> Meet:
    """Let the coordinator meet the hospitals, and these do what they are asked, until something is so."""
    for name in "abc":
        settings = copied.root / name / "fedmed.toml"
        text = settings.read_text() + RULES
        consent = f"share_style = {str(name != 'c').lower()}"
        text = text.replace("share_style = false", consent).replace('"channels"', '"channels", "style"')
        settings.write_text(text)

    def until(done: Callable[[], bool], turns: int = 12) -> None:
        config = read_config(ServerConfig, copied.server)
        config = config.model_copy(
            update={"federation": config.federation.model_copy(update={"collect_s": 0.001})}
        )
        sites = {name: copied.root / name for name in "abc"}
        configs = {name: (folder, read_config(SiteConfig, folder)) for name, folder in sites.items()}
        store = open_store(config)
        coordinator = Coordinator(
            copied.server, config, store, LoopbackSites(store, copied.server / FOLDER, configs)
        )
        for _ in range(turns):
            coordinator.step()
            for folder, one in configs.values():
                work(folder, one)
            if done():
                return
        raise AssertionError("it did not come to that")

    return until


def test_from_rounds_of_training_to_a_validated_model(
    copied: Any, kit: ModuleType, meet: Meet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    f = copied
    begun = f.admin("train", "--rounds", 2, "--epochs", 0.2)["trainings"]
    assert (begun[0]["state"], begun[0]["sites"]) == ("running", ["a", "b", "c"])
    assert f.admin("train", "--rounds", 2, "--epochs", 0.2)["trainings"][0]["id"] == begun[0]["id"]

    def trainings() -> Any:
        return f.admin("train", "--list")["trainings"]

    meet(lambda: trainings()[0]["state"] == "finished")
    (training,) = trainings()
    assert [one["sites"] for one in training["ended"]] == [["a", "b", "c"]] * 2

    draft = f.admin(
        "generation", "publish", "--backbone", training["file"], "--out", tmp_path / "d.generation"
    )
    assert draft["trained_by"] == ["a", "b", "c"]
    f.admin("publish", tmp_path / "d.generation")
    meet(lambda: held(f, draft["digest"]) == ["a", "b", "c"])
    made = f.admin("generation", "publish", "--stored", "--out", tmp_path / "g.generation")
    assert not made["draft"]
    f.admin("publish", tmp_path / "g.generation")
    meet(lambda: held(f, made["digest"]) == ["a", "b", "c"])

    assert styles_at(f, "c") == 2  # of a and b, who consent
    caplog.set_level("INFO")
    f.admin("train", "--rounds", 1, "--epochs", 0.1)
    meet(lambda: {one["state"] for one in trainings()} == {"finished"})
    assert caplog.text.count("towards 2 styles") == 3
    given = ("--generation", tmp_path / "g.generation", "--epochs", 0.1, "--out", tmp_path / "c.backbone")
    assert f.site("c", "train", *given)["styles"] == 2
    for change, left in (("hold", 1), ("release", 2)):
        f.admin("site", change, "b")
        f.admin("publish", tmp_path / "g.generation", "--no-ask")
        meet(lambda left=left: styles_at(f, "c") == left)

    f.admin("rebuild")
    model = f.export("global.onnx")
    offered = f.admin("publish", model, "--validate")
    assert offered["kind"] == "candidate"
    meet(lambda: inbox(f, "a").newest("model") is not None)
    meet(lambda: inbox(f, "c").newest("model") is not None)
    came = inbox(f, "a").newest("model")
    assert came is not None and came.digest == offered["digest"]
    f.admin("refine", "a")
    said = kit.run(SERVER, "publish", "-C", f.server, "--refined", "a", "--validate")
    assert said.code == 1 and "was refined for `a`, which alone may have it" in said.err
    given = ("-o", tmp_path / "out", "--model", inbox(f, "a").path(came.digest), "--trust", f.trust)
    assert kit.run(EDGE, "infer", f.root / "a-data" / "23.png", *given).code == 0

    log = f.site("a", "log")
    rules = {row["rule"] for row in log["requests"] if row["op"] == "put"}
    assert rules == {
        "policy.parts: weights; min_cohort 2",
        "policy.parts: unlabelled, images, channels, style; min_cohort 2",
        "policy.parts: classes, images, channels, style, calibration; min_cohort 2",
    }
    assert log["bytes"] == sum(row["bytes"] for row in log["requests"])
    lines = kit.run(EDGE, "log", "-C", f.root / "a").out.splitlines()
    assert lines[-1] == f"{log['bytes']:,} bytes in {len(log['requests'])} requests"
    assert any("answer to a request" in line and "federation.may_validate" in line for line in lines)
    assert f.site("a", "log", "--since", "2999-01-01")["requests"] == []

    f.admin("withdraw", "b", "--yes")
    meet(lambda: inbox(f, "a").newest("model") is None)
    assert not (f.root / "a" / "inbox" / f"{offered['digest']}.model").exists()
    assert not list((f.root / "c" / "inbox").glob("*.styles"))


def held(f: Any, generation: str) -> list[str]:
    entries = open_store(read_config(ServerConfig, f.server)).contribution_entries("tiny")
    return sorted(one.site for one in entries if one.generation == generation and one.holds == "sums")


def styles_at(f: Any, name: str) -> int:
    arrived = inbox(f, name).newest("styles")
    assert arrived is not None
    content = verify_trusted(inbox(f, name).path(arrived.digest), f.trust)
    return len(parse_styles(content, "styles", read_recipe(f.recipe)))


def inbox(f: Any, name: str) -> Inbox:
    return Inbox(f.root / name / "inbox")


def place(f: Any, name: str) -> list[str]:
    return place_models(f.root / name, read_config(SiteConfig, f.root / name))


def states(f: Any, name: str) -> dict[str, str]:
    models = f.ask(EDGE, "model", "list", "-C", f.root / name)["models"]
    return {one["name"]: one["state"] for one in models}


def test_a_model_that_is_not_as_it_was_signed_is_not_placed_and_not_tried_again(
    copied: Any, meet: Meet, caplog: pytest.LogCaptureFixture
) -> None:
    f = copied
    f.admin("publish")
    meet(lambda: inbox(f, "a").newest("model") is not None)
    path = inbox(f, "a").path(inbox(f, "a").newest("model").digest)  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert place(f, "a") == [] and place(f, "a") == []
    assert caplog.text.count("is not placed among the models") == 1
    assert states(f, "a") == {}


def test_what_was_published_is_taken_back(copied: Any, kit: ModuleType, meet: Meet) -> None:
    f = copied
    first = f.admin("publish")
    f.admin("import", f.root / "c.contribution")
    f.admin("rebuild")
    second = f.admin("publish", f.export("second.onnx"))
    assert first["digest"] != second["digest"]
    meet(lambda: len([one for one in inbox(f, "a").all() if one.kind == "model"]) == 2)
    newest = inbox(f, "a").newest("model")
    assert newest is not None and newest.digest == second["digest"]
    # the newest is placed among the models of the site, and waits there
    assert place(f, "a") == [second["digest"][:16]] and place(f, "a") == []
    assert states(f, "a") == {second["digest"][:16]: "waiting"}
    taken = f.admin("rollback")
    assert (taken["digest"], taken["before"]) == (second["digest"], first["digest"])
    meet(lambda: inbox(f, "a").newest("model").digest == first["digest"])  # type: ignore[union-attr]
    # what was taken back waits no longer
    assert place(f, "a") == [first["digest"][:16]]
    assert states(f, "a") == {first["digest"][:16]: "waiting"}
    # what answers goes on until the hospital says otherwise
    f.ask(EDGE, "model", "activate", "-C", f.root / "a")
    f.admin("rollback")
    meet(lambda: inbox(f, "a").newest("model") is None)
    assert place(f, "a") == []
    assert states(f, "a") == {first["digest"][:16]: "active"}
    # and what is published again comes back
    f.admin("publish", f.root / "second.onnx")
    meet(lambda: inbox(f, "a").newest("model") is not None)
    assert place(f, "a") == [second["digest"][:16]]
    said = kit.run(SERVER, "rollback", "-C", f.server, "--digest", "ffff")
    assert said.code == 4 and "rollback: 0 objects on offer fit, expected 1" in said.err


def test_what_cannot_be_published_is_refused(copied: Any, kit: ModuleType) -> None:
    f = copied
    stranger = f.root / "stranger.onnx"
    stranger.write_bytes((f.root / "tiny.onnx").read_bytes() + b"\0")
    for file, why in (
        (f.root / "c.contribution", "is a contribution, expected a generation or an exported model"),
        (stranger, "was not exported from this store"),
        (f.root / "nothing.onnx", "is no file of ours"),
    ):
        said = kit.run(SERVER, "publish", "-C", f.server, file)
        assert said.code == 1 and why in said.err, said.err
    f.admin("withdraw", "a", "--yes")
    said = kit.run(SERVER, "publish", "-C", f.server, f.root / "tiny.onnx")
    assert said.code == 1 and "a site in model" in said.err
    said = kit.run(SERVER, "publish", "-C", f.server, f.generation, "--site", "nobody")
    assert said.code == 1 and "no site `nobody`" in said.err


def test_a_site_that_never_connected_has_nothing_in_its_log(copied: Any, kit: ModuleType) -> None:
    assert kit.run(EDGE, "log", "-C", copied.root / "a").out == "nothing left this site by its agent yet\n"


def test_a_refined_model_goes_to_its_own_hospital_alone(copied: Any, kit: ModuleType, meet: Meet) -> None:
    f = copied
    f.admin("refine", "a")
    offered = f.admin("publish", "--refined", "a")
    assert offered["sites"] == ["a"]
    meet(lambda: inbox(f, "a").newest("model") is not None)
    assert inbox(f, "b").newest("model") is None
    said = kit.run(SERVER, "publish", "-C", f.server, f.root / "tiny.onnx", "--refined", "a")
    assert said.code == 2 and "give either FILE or --refined SITE" in said.err
