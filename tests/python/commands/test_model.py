"""A hospital's models from the server's export to `infer`, by command."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed_edge.config import ServerConfig, SiteConfig, read_config
from fedmed_edge.federation.inbox import Inbox
from fedmed_edge.federation.placing import place_models
from fedmed_edge.inference.choice import read_choice
from fedmed_edge.inference.model_folder import ModelFolder
from fedmed_edge.model.global_model import parse_model
from fedmed_edge.signing import signature_path
from fedmed_edge.store.store import open_store


@pytest.fixture
def exported(copied: Any) -> Path:
    """A model with both variants; INT8 was calibrated on the images of c."""
    file: Path = copied.root / "lesion.onnx"
    variants = ("--precision", "fp16", "--precision", "int8", "--calibration", copied.root / "c-data")
    answer = copied.admin("export", *variants, "--out", file)
    assert answer["variants"] == [str(copied.root / f"lesion.{name}.onnx") for name in ("fp16", "int8")]
    return file


def test_from_export_to_answer(copied: Any, exported: Path, kit: ModuleType, tmp_path: Path) -> None:
    site, image = copied.root / "a", copied.root / "a-data" / "1.png"
    ours = {"FEDMED_FOLDER": str(site)}

    def infer(*more: object) -> Any:
        return kit.run_alone("fedmed-edge", "infer", image, "-o", tmp_path / "out", "--json", *more, **ours)

    refused = infer()
    assert refused.code == 1 and "error: models: none is active, expected one" in refused.err
    added = kit.run("fedmed-edge", "model", "add", "-C", site, exported, "--json").json
    assert (added["state"], added["precisions"]) == ("waiting", ["fp32", "fp16", "int8"])
    active = kit.run("fedmed-edge", "model", "activate", "-C", site, "--json").json
    assert active["state"] == "active" and active["images"] == 4 and 0 <= active["score"] <= 1
    listed = kit.run("fedmed-edge", "model", "list", "-C", site)
    assert listed.out.startswith(f"{added['name']}  active") and "fp32 fp16 int8" in listed.out
    verified = kit.run("fedmed-edge", "model", "verify", "-C", site, "--json").json
    assert [check["precision"] for check in verified["checks"]] == ["fp32", "fp16", "int8"]

    answered = infer()
    assert answered.code == 0, answered.err
    answer = answered.json
    by_file = infer("--model", exported).json
    assert answer["model"] == by_file["model"] == active["model"]
    assert answer["probabilities"] == by_file["probabilities"]

    measured = kit.run("fedmed-edge", "bench", "-C", site, "--seconds", 0, "--json")
    rows = [json.loads(line) for line in measured.out.splitlines()]
    assert {(row["precision"], row["device"]) for row in rows if row["milliseconds"]} >= {
        ("fp32", "cpu"),
        ("fp16", "cpu"),
        ("int8", "cpu"),
    }
    (chosen,) = (row for row in rows if row["chosen"])
    choice = read_choice(ModelFolder(site).active())
    assert choice is not None and (choice.precision, choice.device) == (chosen["precision"], chosen["device"])
    assert all(row["images"] == 16 for row in rows)
    assert infer().json["label"] == answer["label"]
    told = kit.run("fedmed-edge", "bench", "-C", site, "--seconds", 0, exported, "--images", 0)
    assert told.code == 0 and "fp32  cpu" in told.out and "chosen" in told.out

    ModelFolder(site).mark_withdrawn([active["model"]])
    for more in ((), ("--model", exported)):
        refused = infer(*more)
        assert refused.code == 5 and "was withdrawn" in refused.err
    again = kit.run("fedmed-edge", "model", "add", "-C", site, exported)
    assert again.code == 5 and "was withdrawn" in again.err
    gone = kit.run("fedmed-edge", "model", "rollback", "-C", site)
    assert gone.code == 1 and "none was active before" in gone.err
    assert "withdrawn" in kit.run("fedmed-edge", "model", "list", "-C", site).out


def test_what_is_refused_goes_by_the_name_that_was_given(
    copied: Any, exported: Path, kit: ModuleType, tmp_path: Path
) -> None:
    site, variant = copied.root / "a", exported.with_name("lesion.int8.onnx")
    add = ("fedmed-edge", "model", "add", "-C", site, exported)
    variant.write_bytes(variant.read_bytes()[:-1])
    said = kit.run(*add)
    assert said.code == 5 and said.err.splitlines()[-1].startswith(f"error: {variant}: wrong signature")
    exported.write_bytes(exported.read_bytes()[:-1])
    said = kit.run(*add)
    assert said.code == 5 and said.err.splitlines()[-1].startswith(f"error: {exported}: wrong signature")
    assert not list((site / "models").glob("[!.]*")) and not list((site / "models").glob(".part*"))
    said = kit.run("fedmed-edge", "bench", "-C", site, "nothing.onnx")
    assert said.code == 1 and said.err.splitlines()[-1] == "error: nothing.onnx: no such file"
    said = kit.run("fedmed-edge", "model", "list", "-C", tmp_path / "nowhere")
    assert said.code == 1 and f"error: {tmp_path / 'nowhere'}: has no fedmed.toml" in said.err


def test_without_a_model_and_a_site_folder_infer_says_what_is_missing(
    kit: ModuleType, copied: Any, tmp_path: Path
) -> None:
    said = kit.run("fedmed-edge", "infer", copied.root / "a-data" / "1.png", "-o", tmp_path / "out")
    assert said.code == 2 and "missing option `--model`, as there is no site folder here" in said.err


def test_a_device_that_does_not_come_up_is_exit_6_and_auto_falls_back(
    kit: ModuleType, copied: Any, exported: Path, tmp_path: Path
) -> None:
    given = (copied.root / "a-data" / "1.png", "-o", tmp_path / "out", "--model", exported, "--json")
    trusted = (*given, "--trust", copied.trust)
    for device in ("cuda", "tensorrt"):
        said = kit.run("fedmed-edge", "infer", *trusted, "--device", device)
        if said.code:
            assert said.code == 6 and f"`device` has {device}, expected one that comes up" in said.err
            assert "hint: " in said.err
    said = kit.run("fedmed-edge", "infer", *trusted, "--device", "auto")
    assert said.code == 0 and said.json["device"] in ("cpu", "cuda")


def test_forms_of_export(kit: ModuleType, copied: Any) -> None:
    bundle = copied.admin("export", "--to", "bundle", "--precision", "fp16", "--out", copied.root / "bundle")
    found = {
        str(path.relative_to(copied.root / "bundle"))
        for path in (copied.root / "bundle").rglob("*")
        if path.is_file()
    }
    assert found == {
        *("configs/metadata.json", "configs/inference.json", "docs/README.md"),
        *(
            "models/model.onnx",
            "models/model.onnx.sig",
            "models/model.fp16.onnx",
            "models/model.fp16.onnx.sig",
        ),
    }
    assert bundle["out"].endswith("models/model.onnx")
    given = ("-C", copied.server, "--out", copied.root / "x.onnx")
    said = kit.run("fedmed-server", "export", "--to", "tensorrt", *given)
    if said.code:
        assert said.code == 6 and "`device` has tensorrt, expected one that comes up" in said.err
        assert not (copied.root / "x.onnx").exists()
    said = kit.run("fedmed-server", "export", "--precision", "int8", *given)
    assert said.code == 1 and "int8 has 0 images to calibrate on" in said.err and "--calibration" in said.err
    said = kit.run("fedmed-server", "export", "-C", copied.server, "--out", copied.root / "bundle")
    assert said.code == 1 and "is a folder, expected a file to write" in said.err


def test_of_refined_and_global_the_one_that_does_better_here_is_kept(
    kit: ModuleType, copied: Any, arrive: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    f, store = copied, open_store(read_config(ServerConfig, copied.server))
    plain = parse_model(store.model_content(store.models("tiny")[0].digest), "model")
    for name, head in (("even", plain.head), ("worse", -plain.head)):
        store.save_model(replace(plain, head=head, refined_for="a", kept="refined"))
        f.export(f"{name}.onnx", "--refined", "a")
    digests = {
        name: arrive(f.root / "a", f.root / f"{name}.onnx", made)
        for name, made in (("tiny", 1.0), ("even", 2.0))
    }
    pulled = kit.run("fedmed-edge", "pull", "-C", f.root / "a", "--json").json
    assert (pulled["digest"], pulled["kept"], pulled["images"]) == (digests["even"], "refined", 4)
    assert pulled["scores"] == {"refined": 1.0, "global": 1.0}
    digests["worse"] = arrive(f.root / "a", f.root / "worse.onnx", 3.0)
    pulled = kit.run("fedmed-edge", "pull", "-C", f.root / "a", "--json").json
    assert (pulled["digest"], pulled["kept"]) == (digests["tiny"], "global")
    assert pulled["scores"] == {"refined": 0.0, "global": 1.0}
    said = kit.run("fedmed-edge", "pull", "-C", f.root / "a").out
    assert "the global model is kept: on 4 test images of this site refined 0.000, global 1.000" in said
    with caplog.at_level("INFO"):  # nothing new waits: the hospital has the global one already
        assert place_models(f.root / "a", read_config(SiteConfig, f.root / "a")) == []
    assert f"model {digests['tiny'][:16]} of tiny: stays; it is waiting" in caplog.text
    assert "waits for" not in caplog.text
    names = [one["name"] for one in f.ask("fedmed-edge", "model", "list", "-C", f.root / "a")["models"]]
    assert sorted(names) == sorted(digests[name][:16] for name in ("tiny", "even"))
    older = Inbox(f.root / "a" / "inbox").path(digests["tiny"])
    signed = older.read_bytes()
    older.write_bytes(signed[:-1])  # what is damaged is no reason not to take the newest
    pulled = kit.run("fedmed-edge", "pull", "-C", f.root / "a")
    assert f"model {digests['worse'][:12]}: is not compared with {digests['tiny'][:12]}: " in pulled.err
    assert pulled.code == 0 and digests["worse"][:12] in pulled.out
    older.write_bytes(signed)
    (f.root / "a-data" / "labels.csv").unlink()  # nothing to choose by: the server's choice stands
    pulled = kit.run("fedmed-edge", "pull", "-C", f.root / "a", "--json").json
    assert (pulled["digest"], pulled["kept"], pulled["scores"]) == (digests["worse"], None, {})


def test_what_the_agent_fetched_waits_after_pull(
    kit: ModuleType, copied: Any, arrive: Callable[..., str]
) -> None:
    site, content = copied.root / "a", (copied.root / "tiny.onnx").read_bytes()
    arrive(site, copied.root / "tiny.onnx")
    pulled = kit.run("fedmed-edge", "pull", "-C", site, "--json").json
    assert (pulled["state"], pulled["task"]) == ("waiting", "tiny")
    assert kit.run("fedmed-edge", "model", "activate", "-C", site).code == 0
    copy = copied.root / "copy.onnx"
    assert kit.run("fedmed-edge", "pull", "-C", site, "--out", copy).code == 0
    assert copy.read_bytes() == content and signature_path(copy).exists()
    said = kit.run("fedmed-edge", "pull", "-C", site, "--generation")
    assert said.code == 2 and "--generation needs --out" in said.err
