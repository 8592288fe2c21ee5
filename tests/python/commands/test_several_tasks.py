"""One server with a classification and a segmentation: one signed file, and a hospital that it answers at."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed_edge.config import ServerConfig, read_config
from fedmed_edge.errors import InputError
from fedmed_edge.inference.predict import load_model
from fedmed_edge.model.global_model import parse_model
from fedmed_edge.store.store import open_store

EDGE, SERVER = "fedmed-edge", "fedmed-server"


def learn(fed: Any, task: str, *names: str) -> None:
    """From a random backbone to a rebuilt model of one task of a server that may have others."""
    fed.publish(f"{task}.draft", "--recipe", fed.recipe)
    files = [fed.contribute(name, file=f"{name}.measured") for name in names]
    fed.admin("import", *files)
    from_files = [part for file in files for part in ("--from", file)]
    fed.publish(f"{task}.generation", "--task", task, *from_files)
    fed.join(*names)
    fed.admin("rebuild", "--task", task)


@pytest.fixture(scope="module")
def both(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    root = tmp_path_factory.mktemp("both")
    tone = kit.Federation(root / "one")
    outline = kit.Federation(root / "other", "segmentation")
    outline.server, outline.trust = tone.server, tone.trust
    for fed, task, names in ((tone, "tone", "ab"), (outline, "outline", "cd")):
        fed.recipe.write_text(fed.recipe.read_text().replace('"tiny"', f'"{task}"'))
        for seed, name in enumerate(names):
            fed.enrol(name, seed, gain=1 - 0.1 * seed)
        learn(fed, task, *names)
    return tone, outline


def test_the_progress_bar_counts_inputs_whatever_tasks_answer_them(
    both: tuple[Any, Any], kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedmed_edge.commands.verbs import Output

    tone, _ = both
    steps: list[str] = []
    totals: list[int | None] = []

    @contextmanager
    def progress(self: Output, title: str, total: int | None = None) -> Iterator[Any]:
        totals.append(total)
        yield steps.append

    monkeypatch.setattr(Output, "progress", progress)
    file = tmp_path / "both.onnx"
    tone.admin("export", "--task", "tone", "--task", "outline", "--out", file)
    images = [tone.root / "a-data" / f"{number}.png" for number in (20, 22)]
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:45])
    given = (*images, broken, "--model", file, "-o", tmp_path / "out", "--trust", tone.trust)
    kit.run(EDGE, "infer", *given, "--device", "cpu")
    assert totals[-1] == 3 and steps == ["20.png", "22.png", "broken.png"]


def test_two_tasks_in_one_file_from_server_to_scanner(
    both: tuple[Any, Any], kit: ModuleType, tmp_path: Path
) -> None:
    tone, outline = both
    file = tmp_path / "both.onnx"
    made = tone.admin("export", "--task", "tone", "--task", "outline", "--out", file)
    assert [one["task"] for one in made["tasks"]] == ["outline", "tone"]
    alone = [tone.root / f"{task}.onnx" for task in ("tone", "outline")]
    for path in alone:
        tone.admin("export", "--task", path.stem, "--out", path)
    assert file.stat().st_size == made["bytes"] < sum(path.stat().st_size for path in alone) + 2000
    rows = [row for row in tone.admin("log")["rows"] if row["kind"] == "exported"]
    assert len({row["details"]["file"] for row in rows[:2]}) == 1
    assert {row["details"]["task"] for row in rows[:2]} == {"tone", "outline"}

    images = [tone.root / "a-data" / "22.png", outline.root / "c-data" / "9.png"]
    trust = ("--trust", tone.trust, "--device", "cpu", "--json")
    said = kit.run(EDGE, "infer", *images, "--model", file, "-o", tmp_path / "out", *trust)
    assert said.code == 0, said.err
    together = [json.loads(line) for line in said.out.splitlines()]
    assert {one["task"] for one in together} <= {"tone", "outline"} and together
    for path in alone:
        said = kit.run(EDGE, "infer", *images, "--model", path, "-o", tmp_path / path.stem, *trust)
        by_input = {(one["input"], one["task"]): one for one in map(json.loads, said.out.splitlines())}
        for one in (one for one in together if one["task"] == path.stem):
            own = by_input.pop((one["input"], one["task"]))
            assert one["probabilities"] == own["probabilities"] and one["model"] == own["model"]
            assert one["known"] is own["known"] is True or one["threshold"] is None
        assert all(one["known"] is False for one in by_input.values()), "left out as unlike, and only so"


def test_the_file_is_shown_and_kept(both: tuple[Any, Any], kit: ModuleType, tmp_path: Path) -> None:
    tone, _ = both
    file, images = tmp_path / "both.onnx", tone.root / "a-data"
    tone.admin("export", "--task", "tone", "--task", "outline", "--out", file)
    shown = kit.run(EDGE, "inspect", file, "--json").json
    assert [one["recipe"]["name"] for one in shown["tasks"]] == ["outline", "tone"]
    lines = kit.run(EDGE, "inspect", file).out
    assert "task outline" in lines and "recipe.name: tone" in lines
    said = kit.run(EDGE, "inspect", images, "--model", file, "--json")
    assert said.code == 0 and said.json["series"] == []
    entry = tone.ask(EDGE, "model", "add", "-C", tone.root / "a", file)
    assert (entry["task"], [one["task"] for one in entry["others"]]) == ("outline", ["tone"])
    done = tone.ask(EDGE, "model", "activate", "-C", tone.root / "a")
    assert done["state"] == "active" and done["images"] == 4 and done["score"] == 1.0
    checks = tone.ask(EDGE, "model", "verify", "-C", tone.root / "a")["checks"]
    assert [one["task"] for one in checks] == ["outline", "tone"]
    assert all("sample off by" in one["found"] for one in checks)
    line = kit.run(EDGE, "model", "list", "-C", tone.root / "a").out
    assert "outline, tone, 2 sites" in line
    refused = kit.run(EDGE, "bench", file, "--trust", tone.trust)
    assert refused.code == 1 and "answers 2 tasks, outline, tone, expected one" in refused.err
    refused = kit.run(SERVER, "publish", file, "-C", tone.server, "--validate")
    assert refused.code == 1 and "answers several tasks, expected one to be validated" in refused.err
    refused = kit.run(SERVER, "publish", file, "-C", tone.server, "--task", "other")
    assert refused.code == 1 and "both.onnx: answers outline, tone, expected other" in refused.err
    offered = tone.admin("publish", file, "--task", "tone")
    assert (offered["task"], list(offered["others"])) == ("outline", ["tone"])
    told = tone.admin("log")["rows"][-1]["details"]
    assert (told["model"], told["others"]) == (offered["model"], offered["others"])
    taken = tone.admin("rollback", "--task", "tone")
    assert (taken["digest"], taken["tasks"]) == (offered["digest"], ["outline", "tone"])
    told = tone.admin("log")["rows"][-1]
    assert (told["kind"], told["details"]["others"]) == ("taken back", offered["others"])


def test_tasks_of_both_kinds_on_one_generation(
    both: tuple[Any, Any], kit: ModuleType, tmp_path: Path
) -> None:
    tone, outline = both
    shade = kit.Federation(tmp_path / "shade")
    shade.server, shade.trust, shade.generation = tone.server, tone.trust, outline.generation
    shade.recipe.write_text(shade.recipe.read_text().replace('"tiny"', '"shade"'))
    taken = ("--recipe", shade.recipe, "--trust", shade.trust)
    shade.admin("generation", "import", shade.generation, *taken)
    for seed, name in enumerate("ef"):
        shade.enrol(name, seed)
    shade.join("e", "f")
    shade.admin("rebuild", "--task", "shade")
    file = shade.export("both.onnx", "--task", "shade", "--task", "outline")
    alone = [shade.export(f"{task}.onnx", "--task", task).stat().st_size for task in ("shade", "outline")]
    assert file.stat().st_size < max(alone) + min(alone) / 2
    image = shade.root / "e-data" / "21.png"
    trust = ("--trust", shade.trust, "--device", "cpu", "--json")
    said = kit.run(EDGE, "infer", image, "--model", file, "-o", tmp_path / "out", *trust)
    rows = {one["task"]: one for one in map(json.loads, said.out.splitlines())}
    assert said.code == 0 and rows["shade"]["label"] == "bright", said.err
    assert rows["shade"]["generation"] == shade.ask(EDGE, "inspect", shade.generation)["digest"]


def test_what_does_not_go_together(both: tuple[Any, Any], kit: ModuleType, tmp_path: Path) -> None:
    tone, _ = both
    tasks = ("--task", "tone", "--task", "outline", "-C", tone.server, "--out", tmp_path / "x.onnx")
    for more in (["--to", "bundle"], ["--precision", "fp16"], ["--model", "abc"]):
        said = kit.run(SERVER, "export", *tasks, *more)
        assert said.code == 2 and "--model, --to and --precision go with one task" in said.err
    said = kit.run(SERVER, "export", "-C", tone.server, "--out", tmp_path / "x.onnx")
    assert said.code == 1 and "expected one to be named" in said.err
    said = kit.run(SERVER, "export", *tasks, "--task", "tone")
    assert said.code == 1 and "expected each once" in said.err
    assert not (tmp_path / "x.onnx").exists()


def test_the_global_model_in_a_file_of_several_tasks_is_compared_with_a_refined_one(
    both: tuple[Any, Any], kit: ModuleType, tmp_path: Path, arrive: Callable[..., str]
) -> None:
    tone, store = both[0], open_store(read_config(ServerConfig, both[0].server))
    file, worse, site = tmp_path / "both.onnx", tmp_path / "worse.onnx", tone.root / "b"
    tone.admin("export", "--task", "tone", "--task", "outline", "--out", file)
    plain = parse_model(store.model_content(store.models("tone")[0].digest), "model")
    store.save_model(replace(plain, head=-plain.head, refined_for="b", kept="refined"))
    tone.admin("export", "--task", "tone", "--refined", "b", "--out", worse)
    digest = arrive(site, file, 1.0, task="outline", others={"tone": plain.digest})
    arrive(site, worse, 2.0, task="tone")
    pulled = tone.site("b", "pull")
    assert (pulled["digest"], pulled["kept"]) == (digest, "global")
    assert (pulled["task"], pulled["others"]) == ("outline", ["tone"])
    assert pulled["scores"] == {"refined": 0.0, "global": 1.0}
    assert f"{digest[:16]}  waiting  outline, tone, model" in kit.run(EDGE, "pull", "-C", site).out
    assert load_model(file, trust=tone.trust, device="cpu", task="tone").manifest.task == "tone"
    for given, wrong, message in (
        (file, "tiny", "answers outline, tone, expected tiny"),
        (worse, "outline", "answers tone, expected outline"),
        (file, None, "answers 2 tasks"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(given, trust=tone.trust, device="cpu", task=wrong)
