"""Stopped in the middle of a step: nothing half-written is left, and running the step again goes on."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed_edge.report.data import ReportData, save_data

EDGE, SERVER = "fedmed-edge", "fedmed-server"
Listing = Callable[[Path], dict[str, bytes]]


def step(f: Any, verb: str) -> tuple[str, list[object]]:
    """A program and what it is given to run one step."""
    if verb == "report":
        (f.root / "demo-output").mkdir()
        save_data(f.root / "demo-output" / "report.json", ReportData("demo", "no task", (), {}, ()))
    site = ["-C", f.root / "c", "--generation", f.generation]
    images = [f.root / "a-data" / f"{number}.png" for number in (1, 2, 3)]
    return {
        "train": (EDGE, ["train", *site, "--epochs", 3, "--device", "cpu", "--out", f.root / "new"]),
        "extract": (EDGE, ["extract", *site, "--out", f.root / "new"]),
        "contribute": (EDGE, ["contribute", *site, "--out", f.root / "new"]),
        "import": (SERVER, ["import", "-C", f.server, f.root / "c.contribution"]),
        "rebuild": (SERVER, ["rebuild", "-C", f.server, "--without", "b"]),
        "withdraw": (SERVER, ["withdraw", "-C", f.server, "b", "--yes"]),
        "export": (SERVER, ["export", "-C", f.server, "--out", f.root / "new"]),
        "infer": (
            EDGE,
            [
                *("infer", *images, "-o", f.root / "out", "--preview"),
                *("--model", f.root / "tiny.onnx", "--trust", f.trust),
            ],
        ),
        "init": (EDGE, ["init", f.root / "new", "--site", "new", "--recipe", f.recipe]),
        "doctor": (EDGE, ["doctor", "-C", f.root / "c"]),
        "inspect": (EDGE, ["inspect", f.root / "tiny.onnx"]),
        "report": (EDGE, ["report", f.root / "demo-output", "--out", f.root / "new"]),
        "server init": (SERVER, ["init", f.root / "new"]),
    }[verb]


# Step, and the call at which the signal comes: in the midst of its work, and in the midst of writing.
POINTS = [
    ("train", "fedmed_edge.features.training:_Trainer._step", 3),
    ("train", "os:fsync", 1),
    ("extract", "fedmed_edge.features.encoder:Encoder.maps", 7),
    ("extract", "os:fsync", 1),
    ("contribute", "fedmed_edge.features.encoder:Encoder.maps", 7),
    ("contribute", "os:fsync", 3),
    ("import", "fedmed_edge.store.store:parse_contribution", 1),
    ("import", "fedmed_edge.store.holdings:record", 1),
    ("import", "os:fsync", 1),
    ("rebuild", "fedmed_edge.model.solve:solve_ridge", 1),
    ("rebuild", "os:fsync", 1),
    ("export", "os:fsync", 1),
    ("export", "os:fsync", 3),
    ("infer", "fedmed_edge.runtime:Session.run", 2),
    ("infer", "os:fsync", 6),
    ("init", "os:fsync", 3),
    ("init", "os:fsync", 7),
    ("doctor", "fedmed_edge.commands.checks:open_session", 1),
    ("inspect", "fedmed_edge.onnx_file:model_metadata", 1),
    ("report", "fedmed_edge.report.html:render", 1),
    ("report", "os:fsync", 1),
    ("server init", "os:fsync", 3),
]


def clean(f: Any) -> None:
    """A store without fault, once it has swept what a stopped process left; no temporary file anywhere."""
    assert f.admin("status")["faults"] == []
    assert not list(f.root.rglob(".part-*"))


@pytest.mark.parametrize(("verb", "where", "count"), POINTS)
def test_an_interrupted_step_leaves_nothing_half_written_and_goes_on(
    verb: str, where: str, count: int, copied: Any, kit: ModuleType, listing: Listing
) -> None:
    f = copied
    program, words = step(f, verb)
    before = listing(f.root)
    said = kit.run_alone(program, *words, stop=where, count=count)
    assert said.code == 130, said.err
    kept = "what was finished is kept; run the same command again to go on"
    if verb == "train":
        kept = "nothing of the training is kept; the same command begins it anew"
    assert f"\nerror: interrupted\nhint: {kept}\n" in said.err
    assert "stopped" in said.err and "Traceback" not in said.err
    clean(f)
    after = listing(f.root)
    new = {name for name in after if before.get(name) != after[name]}
    assert new <= set(_kept(verb)), new
    again = kit.run(program, *words)
    assert again.code == 0, again.err
    clean(f)


def _kept(verb: str) -> list[str]:
    """Files that a step may leave where it was interrupted: whole ones, that the next run takes up."""
    keys = ["new/site.key", "new/new.pub", "new/recipe.toml", "new/server.key", "new/server.pub"]
    keys += ["new/engine/startup/client.key", "new/new.request"]
    # The files of one answer appear together.
    answers = [f"out/{number}/{name}" for number in (1, 2) for name in ("result.json", "preview.png")]
    return {
        "contribute": ["c/sequence", "c/releases.jsonl"],
        "import": ["server/store/index.sqlite"],
        "rebuild": ["server/store/index.sqlite"],
        "export": ["new", "new.sig", "server/store/index.sqlite"],
        "infer": [*answers, "out/results.csv", "out/.results.lock"],
        "init": keys,
        "server init": keys,
    }.get(verb, [])


def test_an_interrupted_demo_goes_on(copied: Any, kit: ModuleType, listing: Listing) -> None:
    """In its first steps alone: the whole path takes minutes."""
    f, task = copied, copied.root / "task"
    task.mkdir()
    for name in "abc":
        (f.root / f"{name}-data").rename(task / name)
    for words, where, count in (
        (["--data", task], "fedmed_edge.features.training:_Trainer._step", 2),
        ([], "fedmed_edge.study.cohort:_write_labels", 2),
    ):
        kept: dict[str, bytes] = {}
        for _ in range(2):
            said = kit.run_alone(
                EDGE, "demo", *words, "--out", f.root / "demo", "--device", "cpu", stop=where, count=count
            )
            assert said.code == 130, said.err
            assert "\nerror: interrupted\n" in said.err and "Traceback" not in said.err
            found = listing(f.root / "demo")
            assert found and kept.items() <= found.items(), "what was finished is not made again"
            kept = found
    clean(f)


@pytest.mark.parametrize("verb", ["train", "extract", "contribute", "import", "rebuild", "infer"])
def test_sigterm_is_taken_as_an_interruption(
    verb: str, copied: Any, kit: ModuleType, listing: Listing
) -> None:
    f, before = copied, listing(copied.root)
    (where, count) = next(point[1:] for point in POINTS if point[0] == verb)
    program, words = step(f, verb)
    said = kit.run_alone(program, *words, stop=where, count=count, by="SIGTERM")
    assert said.code == 130 and "\nerror: interrupted\n" in said.err, said.err
    clean(f)
    after = listing(f.root)
    assert {name for name in after if before.get(name) != after[name]} <= set(_kept(verb))


def test_what_a_killed_infer_left_half_written_goes_when_it_is_run_again(
    copied: Any, kit: ModuleType
) -> None:
    program, words = step(copied, "infer")
    said = kit.run_alone(program, *words, stop="os:fsync", count=5, by="SIGKILL")
    assert said.code == -9 and list((copied.root / "out").rglob(".part-*"))
    assert kit.run(program, *words).code == 0
    assert not list((copied.root / "out").rglob(".part-*"))


def test_what_was_answered_before_an_interruption_is_kept(copied: Any, kit: ModuleType) -> None:
    program, words = step(copied, "infer")
    said = kit.run_alone(program, *words, "--json", stop="fedmed_edge.runtime:Session.run", count=3)
    assert said.code == 130 and said.out.count("\n") == 2
    table = (copied.root / "out" / "results.csv").read_text().splitlines()
    assert len(table) == 3 and "2.png" in table[2]


def test_an_interrupted_step_gives_in_the_end_what_it_would_have_given(
    copied: Any, kit: ModuleType, tmp_path: Path
) -> None:
    other = copied.copy(tmp_path / "undisturbed")
    for verb, where, count in POINTS:
        if verb in ("import", "rebuild", "withdraw"):
            program, words = step(copied, verb)
            assert kit.run_alone(program, *words, stop=where, count=count).code == 130
    for f in (copied, other):
        for verb in ("import", "rebuild"):
            program, words = step(f, verb)
            assert kit.run(program, *words).code == 0
    assert copied.admin("rebuild")["digest"] == other.admin("rebuild")["digest"]
    ids = [[one["id"] for one in f.admin("status")["contributions"]] for f in (copied, other)]
    assert ids[0] == ids[1] and len(ids[0]) == 5


@pytest.mark.parametrize("where", ["fedmed_edge.model.solve:solve_ridge", "os:fsync"])
def test_an_interrupted_withdrawal_is_finished_by_running_it_again(
    where: str, copied: Any, kit: ModuleType, tmp_path: Path
) -> None:
    other = copied.copy(tmp_path / "undisturbed")
    program, words = step(copied, "withdraw")
    said = kit.run_alone(program, *words, stop=where)
    assert said.code == 130, said.err
    assert copied.admin("status")["faults"] == []
    left = kit.run(program, *words, "--json").json
    assert left["digest"] == other.admin("withdraw", "b", "--yes")["digest"] and left["sites"] == ["a"]
    newest = copied.admin("status")["models"][0]
    assert newest["digest"] == left["digest"] and not newest["withdrawn"]


@pytest.mark.parametrize(
    ("where", "count"),
    [("os:fsync", 1), ("os:fsync", 2), ("fedmed_edge.store.holdings:record", 1), ("os:fsync", 3)],
)
def test_killed_during_an_import_the_store_is_whole(
    where: str, count: int, copied: Any, kit: ModuleType, tmp_path: Path
) -> None:
    other = copied.copy(tmp_path / "undisturbed")
    program, words = step(copied, "import")
    said = kit.run_alone(program, *words, stop=where, count=count, by="SIGKILL")
    assert said.code in (-9, 0)
    clean(copied)
    assert copied.admin(*words[:1], words[3])["imported"][0]["new"] is (said.code == -9)
    other.admin(*words[:1], words[3])
    assert copied.admin("rebuild")["digest"] == other.admin("rebuild")["digest"]
    clean(copied)


# --- a full disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["train", "extract", "contribute", "import", "export", "infer"])
def test_on_a_full_disk_nothing_half_written_is_left(
    verb: str, copied: Any, kit: ModuleType, listing: Listing
) -> None:
    f, before = copied, listing(copied.root)
    program, words = step(f, verb)
    said = kit.run_alone(program, *words, room=500)
    assert said.code == 1, said.err
    assert re.search("error: .*(File too large|cannot be written: disk I/O error)", said.err), said.err
    assert "Traceback" not in said.err
    assert "hint: " in said.err
    after = listing(f.root)
    assert {name for name in after if before.get(name) != after[name]} <= {"c/sequence", "out/.results.lock"}
    clean(f)
    again = kit.run(program, *words)
    assert again.code == 0, again.err
