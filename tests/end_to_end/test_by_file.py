"""The README's story, command by command: contributions travel as files, the server is asked alone."""

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedmed_edge.config import Policy
from fedmed_edge.federation.sequence import raise_sequence, settle_lost

KINDS = ["classification", "segmentation"]


@pytest.fixture(params=KINDS)
def federation(request: pytest.FixtureRequest, tmp_path: Path, kit: ModuleType) -> Any:
    """A server and the hospitals a, b and c, which differ in brightness."""
    made = kit.Federation(tmp_path, request.param)
    for seed, name in enumerate("abc"):
        made.enrol(name, seed, gain=1 - 0.1 * seed)
    return made


def sources(files: list[Path]) -> list[object]:
    return [part for file in files for part in ("--from", file)]


def answers(federation: Any, kit: ModuleType, model: Path, name: str) -> list[dict[str, Any]]:
    """`infer --json` of a site's held-out images."""
    rows = (federation.root / f"{name}-data" / "labels.csv").read_text().splitlines()
    images = [federation.root / f"{name}-data" / row.split(",")[0] for row in rows if row.endswith("test")]
    given = ("-o", federation.root / "results", "--model", model, "--trust", federation.trust)
    said = kit.run(kit.EDGE, "infer", *images, *given, "--json")
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def right(answer: dict[str, Any]) -> bool:
    """Whether an answer is that of the file's name: odd images are bright; a mask has a Dice above 0.8."""
    image = Path(answer["input"])
    if "label" in answer:
        return bool(answer["label"] == ("dark", "bright")[int(image.stem) % 2])
    truth = np.asarray(Image.open(image.with_name(f"{image.stem}_mask.png"))) == 1
    found = np.asarray(Image.open(answer["mask"])) == 1
    assert found.shape == truth.shape
    return bool(2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8)


def test_from_images_to_an_answer_beside_the_scanner(federation: Any, kit: ModuleType) -> None:
    f, root = federation, federation.root
    # the backbone: the same start, trained at each site, averaged
    start = f.publish("start.generation", "--recipe", f.recipe)
    assert start["draft"] and start["trained_by"] == []
    weights = []
    for name in "ab":
        backbone = root / f"{name}.backbone"
        trained = f.site(
            name, "train", "--generation", f.generation, "--epochs", 0.2, "--out", backbone, "--device", "cpu"
        )
        assert trained["images"] > 0 and np.isfinite(trained["loss"])
        weights.append(f.contribute(name, "--weights", backbone, file=f"{name}.weights"))
    assert [one["new"] for one in f.admin("import", *weights)["imported"]] == [True, True]
    draft = f.publish("draft.generation", *sources(weights))
    assert draft["draft"] and draft["trained_by"] == ["a", "b"] and draft["digest"] != start["digest"]
    # the standardisation: each site measures its features under the draft
    drafts = [f.contribute(name, file=f"{name}.draft") for name in "ab"]
    f.admin("import", *drafts)
    whole = f.publish("tiny.generation", *sources(drafts))
    assert not whole["draft"] and whole["row_dim"] > draft["row_dim"]
    # from here on everything is closed form
    listed = f.site("a", "contribute", "--generation", f.generation, "--dry-run")
    assert not (root / "a.contribution").exists()
    f.join("a", "b")
    sent = f.ask(kit.EDGE, "inspect", root / "a.contribution")
    assert sent["tensors"] == listed["tensors"] and sent["id"] == listed["id"]
    first = f.admin("rebuild")
    assert first["sites"] == ["a", "b"] and f.admin("rebuild")["digest"] == first["digest"]
    # a hospital joins: one contribution, one import, one rebuild
    before = {name: (root / name / "sequence").read_bytes() for name in "ab"}
    f.join("c")
    joined = f.admin("rebuild")
    assert joined["sites"] == ["a", "b", "c"] and joined["digest"] != first["digest"]
    assert before == {name: (root / name / "sequence").read_bytes() for name in "ab"}
    found = f.admin("evaluate")
    assert found["digest"] == joined["digest"] and set(found["sites"]) == {"a", "b", "c"}
    assert all(0 <= site["relative_error"] < 0.6 for site in found["sites"].values())
    refined = f.admin("refine", "c")
    assert refined["refined_for"] == "c" and refined["kept"] in ("global", "refined") and refined["reason"]
    model = f.export()
    told = answers(f, kit, model, "c")
    assert len(told) >= 2 and all(right(answer) for answer in told), told
    assert {answer["error"] for answer in told} == {None} and {answer["task"] for answer in told} == {"tiny"}
    assert (root / "results" / "results.csv").read_text().count("\n") == len(told) + 1
    assert all(right(answer) for answer in answers(f, kit, f.export("c.onnx", "--refined", "c"), "c"))
    # it leaves again: the same bytes as before it came
    left = f.admin("withdraw", "c", "--yes")
    assert left["digest"] == first["digest"] and left["sites"] == ["a", "b"] and left["faults"] == []
    assert joined["digest"] in left["withdrawn_models"] and refined["digest"] in left["withdrawn_models"]
    assert f.admin("rebuild")["digest"] == first["digest"]
    status = f.admin("status")
    assert status["faults"] == [] and {one["site"] for one in status["contributions"]} == {"a", "b"}
    old = kit.run(kit.SERVER, "export", "-C", f.server, "--model", joined["digest"], "--out", root / "x.onnx")
    assert old.code == 1 and "a site in model" in old.err and "has withdrawn" in old.err
    again = kit.run(kit.SERVER, "import", "-C", f.server, root / "c.contribution")
    assert again.code == 1 and "of site `c` was withdrawn" in again.err


def test_a_withdrawal_leaves_the_bytes_of_a_federation_that_never_had_the_site(
    federation: Any, kit: ModuleType
) -> None:
    f = federation
    f.learn("a", "b")
    never, other = f.root / "never", f.root / "other"
    shutil.copytree(f.server, never)
    f.join("c", "b", "a")
    f.admin("rebuild")
    f.admin("refine", "a")
    left = f.admin("withdraw", "c", "--yes")
    model = f.export()
    # fresh keys of everybody, other times and sequences, another order
    f.server = never
    (never / "server.key").unlink()
    kit.run(kit.SERVER, "init", other)
    for name in ("server.key", "server.pub"):
        shutil.copyfile(other / name, never / name)
    for name in "ab":
        folder = f.root / f"new-{name}"
        given = ("--recipe", f.recipe, "--server-key", f.trust)
        f.ask(kit.EDGE, "init", folder, "--site", name, "--data", f.root / f"{name}-data", *given)
        shutil.copyfile(f.root / name / "fedmed.toml", folder / "fedmed.toml")
        raise_sequence(folder, 51)
        settle_lost(folder, 0.0, Policy())
        f.admin("site", "revoke", name)
        f.admin("site", "add", name, "--key", folder / f"{name}.pub")
        f.admin("import", f.contribute(f"new-{name}"))
    rebuilt = f.admin("rebuild")
    assert rebuilt["sites"] == ["a", "b"] and rebuilt["digest"] == left["digest"]
    same = f.export("never.onnx")
    assert same.read_bytes() == model.read_bytes()
    signatures = [path.with_name(path.name + ".sig").read_bytes() for path in (same, model)]
    assert signatures[0] != signatures[1]


def test_a_site_without_labels_still_gets_a_model_refined_to_its_scanner(
    federation: Any, kit: ModuleType
) -> None:
    f = federation
    f.learn("a", "b")
    f.join("a", "b")
    table = f.root / "c-data" / "labels.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    blank = [[row[0], "", "", row[3], "train"] for row in rows[1:]]
    table.write_text("\n".join(",".join(row) for row in [rows[0], *blank]) + "\n")
    f.join("c")
    sent = f.ask(kit.EDGE, "inspect", f.root / "c.contribution")
    assert "unlabelled" in sent["header"]["parts"] and "classes" not in sent["header"]["parts"]
    assert "c" in f.admin("rebuild")["sites"]
    refined = f.admin("refine", "c")
    assert refined["refined_for"] == "c" and refined["kept"] in ("global", "refined")
    table.write_text("\n".join(",".join(row) for row in rows) + "\n")
    told = answers(f, kit, f.export("c.onnx", "--refined", "c"), "c")
    assert told and all(right(answer) for answer in told)
