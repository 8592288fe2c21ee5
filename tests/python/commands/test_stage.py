"""`fedmed-server stage` on a real small store: hospitals of both kinds, killed and gone on with, all off."""

import json
import shutil
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image as Raster

from fedmed_edge import local_training
from fedmed_edge.commands import staging
from fedmed_edge.generation import read_generation
from fedmed_edge.statistics.contribution import read_contribution
from fedmed_edge.store.store import Store

EDGE, SERVER = "fedmed-edge", "fedmed-server"


def draw(folder: Path, images: int = 24) -> Path:
    """Bright squares on dark, of no hospital."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(99)
    for index in range(images):
        pixels = random.normal(70, 20, (40, 36))
        top, left = random.integers(4, 20, 2)
        pixels[top : top + 14, left : left + 12] += 100
        Raster.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def ready(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server after stage 0, and three hospitals, one with another kind of task, that trained from it."""
    f = kit.Federation(tmp_path_factory.mktemp("staged"))
    for seed, name in enumerate("ab"):
        f.enrol(name, seed)
    f.kind = "segmentation"
    f.recipe = f.root / "cells.toml"
    told = kit.RECIPE.format(kind="segmentation", network="unet").replace('"tiny"', '"cells"')
    f.recipe.write_text(told)
    f.enrol("c", 2)
    draw(f.root / "pool")
    f.first = stage(f, "--from-scratch", "--recipe", f.root / "cells.toml", file="cells.generation")
    f.first = stage(f, "--from-scratch", "--recipe", f.root / "tiny.toml", file="first.generation")
    f.generation = f.root / "first.generation"
    for name in "abc":
        train(f, name)
    return f


def stage(f: Any, *arguments: object, file: str = "next.generation", steps: int = 4) -> Any:
    return f.admin("stage", *given(f, *arguments, file=file, steps=steps))


def given(f: Any, *arguments: object, file: str = "next.generation", steps: int = 4) -> list[object]:
    pool = ("--pool", f.root / "pool", "--steps", steps, "--device", "cpu", "--out", f.root / file)
    return [*pool, *arguments]


def train(f: Any, name: str) -> Path:
    """A hospital trains from the newest generation and hands its weights over; the server takes them not."""
    backbone = f.root / f"{name}.backbone"
    start = ("--generation", f.generation)
    f.site(name, "train", *start, "--epochs", 0.5, "--device", "cpu", "--out", backbone)
    return Path(f.contribute(name, "--weights", backbone, file=f"{name}.weights"))


@pytest.fixture
def staged(ready: Any, tmp_path: Path) -> Any:
    """The same in a folder of this test's own."""
    made = ready.copy(tmp_path / "world")
    made.first = ready.first
    return made


def refused(said: Any, message: str, hint: str) -> None:
    assert said.code == 1 and said.out == "", said.err
    assert f"error: {message}" in said.err and "Traceback" not in said.err, said.err
    assert hint in said.err, said.err


def test_stage_0_makes_a_whole_generation_for_tasks_of_both_kinds(ready: Any) -> None:
    made = read_generation(ready.root / "first.generation")
    said = ready.first
    assert said["digest"] == made.digest and not said["draft"] and not made.draft
    assert said["teachers"] == {} and said["trained_by"] == [] and said["pool"]["images"] == 24
    header = made.header
    assert (header.kind, header.trained_by, header.measured_at) == ("classification", (), ())
    assert header.reference_images == 24
    assert (ready.root / "first.generation.sig").is_file()
    entries = [row for row in Store.open(ready.server / "store").ledger() if row.kind == "staged"]
    assert entries[-1].subject == made.digest and entries[-1].details["contributions"] == []


def test_a_stage_uses_who_came_and_says_who_is_awaited(staged: Any, kit: ModuleType) -> None:
    f = staged
    f.admin("import", f.root / "a.weights", f.root / "c.weights")
    said = kit.run(SERVER, "stage", "-C", f.server, *given(f))
    assert said.code == 0, said.err
    assert "learned from a/tiny: " in said.out and "learned from c/cells: " in said.out
    assert "no local model yet of b" in said.out
    made = read_generation(f.root / "next.generation")
    assert made.header.trained_by == ("a", "c") and not made.draft
    assert made.header.backbone == read_generation(f.root / "first.generation").header.backbone
    # what comes of it serves both kinds, without anybody but the one who asks
    f.generation = f.root / "next.generation"
    for name in "abc":
        f.admin("import", f.contribute(name))
    models = {task: f.admin("rebuild", "--task", task) for task in ("tiny", "cells")}
    assert {model["generation"] for model in models.values()} == {made.digest}
    assert models["tiny"]["sites"] == ["a", "b"] and models["cells"]["sites"] == ["c"]
    # one file of one encoder and both heads
    alone = [
        f.admin("export", "--task", task, "--out", f.root / f"{task}.onnx") for task in ("tiny", "cells")
    ]
    both = f.admin("export", "--task", "tiny", "--task", "cells", "--out", f.root / "both.onnx")
    encoder = len(made.encoder)
    assert both["bytes"] < sum(one["bytes"] for one in alone) - 0.8 * encoder
    images = [f.root / "a-data" / "22.png", f.root / "c-data" / "8.png"]
    trust = ("--trust", f.trust, "--device", "cpu", "--json")
    infer = kit.run(EDGE, "infer", *images, "--model", f.root / "both.onnx", "-o", f.root / "out", *trust)
    assert infer.code == 0, infer.err
    assert {json.loads(line)["task"] for line in infer.out.splitlines()} == {"tiny", "cells"}


def test_with_every_site_off_stored_models_of_older_generations_teach(staged: Any) -> None:
    f = staged
    f.admin("import", f.root / "a.weights", f.root / "b.weights")
    second = stage(f, file="second.generation")
    assert set(second["teachers"]) == {"a/tiny", "b/tiny"}
    # c joined late, with weights of the generation before
    f.admin("import", f.root / "c.weights")
    third = stage(f, "--stored", "--merge", "none", file="third.generation")
    assert set(third["teachers"]) == {"a/tiny", "b/tiny", "c/cells"} and third["awaited"] == []
    assert third["trained_by"] == ["a", "b", "c"] and third["left_out"] == {}
    again = stage(f, "--stored", "--merge", "none", "--generation", second["digest"][:12], file="again")
    assert again["digest"] == third["digest"]
    assert (f.root / "again").read_bytes() == (f.root / "third.generation").read_bytes()


def test_a_site_that_withdrew_or_is_left_out_does_not_teach(staged: Any, kit: ModuleType) -> None:
    f = staged
    f.admin("import", *(f.root / f"{name}.weights" for name in "abc"))
    f.admin("withdraw", "a", "--yes")
    said = stage(f, "--without", "b", "--stored")
    assert set(said["teachers"]) == {"c/cells"} and said["awaited"] == ["a"]
    one = kit.run(SERVER, "stage", "-C", f.server, *given(f, "--without", "nobody"))
    refused(one, "store: no site `nobody`", "")


def test_a_site_that_is_held_back_does_not_teach(staged: Any, kit: ModuleType) -> None:
    f = staged
    f.admin("import", f.root / "a.weights", f.root / "b.weights")
    f.admin("site", "hold", "a", "--task", "tiny", "--why", "labels are being checked")
    said = stage(f)
    assert set(said["teachers"]) == {"b/tiny"} and said["trained_by"] == ["b"]
    assert said["left_out"] == {"a/tiny": "is held back: labels are being checked"}
    assert said["awaited"] == ["c"]


def test_contributions_are_read_one_by_one_and_generations_nobody_taught_under_not_at_all(
    staged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    f, read, alive = staged, staging.Staging._contribution, list[weakref.ref[Any]]()
    f.admin("import", *(f.root / f"{name}.weights" for name in "abc"))
    other = read_generation(f.root / "cells.generation").digest
    (file,) = (f.server / "store").rglob(other)
    file.chmod(0o600)
    file.write_bytes(b"damaged")

    def counted(*arguments: Any) -> Any:
        assert sum(one() is not None for one in alive) <= 1
        contribution = read(*arguments)
        alive.append(weakref.ref(contribution))
        return contribution

    monkeypatch.setattr(staging.Staging, "_contribution", counted)
    assert set(stage(f)["teachers"]) == {"a/tiny", "b/tiny", "c/cells"} and len(alive) == 3


def test_nothing_is_published_that_learned_from_who_withdrew_meanwhile(
    staged: Any, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    f, original = staged, staging.Staging.learn
    f.admin("import", f.root / "a.weights", f.root / "b.weights")

    def left(*arguments: Any, **named: Any) -> Any:
        learned = original(*arguments, **named)
        f.admin("withdraw", "a", "--yes")
        return learned

    before = f.admin("status")["generations"]
    with monkeypatch.context() as patch:
        patch.setattr(staging.Staging, "learn", left)
        said = kit.run(SERVER, "stage", "-C", f.server, *given(f))
    refused(
        said, "stage: learned from a, whose weights were withdrawn meanwhile", "run the same command again"
    )
    assert not (f.root / "next.generation").exists() and f.admin("status")["generations"] == before
    assert not list((f.server / "stages").iterdir())  # nor does anything stay that learned from a
    assert set(stage(f)["teachers"]) == {"b/tiny"}


def test_an_unfinished_stage_goes_with_who_taught_in_it(
    staged: Any, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = staged
    f.admin("import", f.root / "a.weights", f.root / "b.weights")

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging.Staging, "generation", stopped)
        for more in (("--without", "b"), ("--without", "a")):
            assert kit.run(SERVER, "stage", "-C", f.server, *given(f, *more)).code == 130
    places = sorted((f.server / "stages").iterdir())
    assert len(places) == 2 and all((place / "checkpoint").is_file() for place in places)
    said = f.admin("withdraw", "a", "--yes")
    (left,) = (f.server / "stages").iterdir()
    assert said["stages"] == [place.name for place in places if place != left]
    assert f.admin("withdraw", "a", "--yes")["stages"] == []
    assert set(stage(f, "--without", "a")["teachers"]) == {"b/tiny"} and not left.exists()


def test_a_draft_is_completed_by_the_sites_of_all_tasks(staged: Any) -> None:
    f = staged
    f.admin("import", *(f.root / f"{name}.weights" for name in "abc"))
    said = stage(f, "--draft", file="universal.draft")
    assert said["draft"]
    f.generation = f.root / "universal.draft"
    f.admin("import", *(f.contribute(name, file=f"{name}.sums") for name in "abc"))
    whole = f.publish("universal.generation", "--stored")
    made = read_generation(f.generation)
    assert not whole["draft"] and made.header.measured_at == ("a", "b", "c")
    # local models of the draft are those of what completed it
    train(f, "b")
    f.admin("import", f.root / "b.weights")
    assert set(stage(f)["teachers"]) == {"b/tiny"}


@pytest.fixture(scope="module")
def uninterrupted(ready: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, bytes]:
    """A server with weights of a and b, and the generation that a stage on one thread makes of them."""
    f = ready.copy(tmp_path_factory.mktemp("whole") / "world")
    f.admin("import", f.root / "a.weights", f.root / "b.weights")
    before = f.copy(f.root.parent / "before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDMED_THREADS", "1")
        stage(f, steps=8)
    return before, (f.root / "next.generation").read_bytes()


@pytest.mark.parametrize(
    ("where", "count", "by"),
    [
        ("fedmed_edge.universal.stage:_Learner._step", 5, "SIGINT"),
        ("fedmed_edge.universal.stage:_Learner.save", 1, "SIGKILL"),
        ("fedmed_edge.universal.standardise:standardise", 1, "SIGKILL"),
        ("fedmed_edge.store.store:Store.publish_generation", 1, "SIGKILL"),
    ],
)
@pytest.mark.slow
def test_killed_anywhere_the_same_command_goes_on_to_the_same_file(
    uninterrupted: tuple[Any, bytes],
    kit: ModuleType,
    where: str,
    count: int,
    by: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEDMED_THREADS", "1")
    f = uninterrupted[0].copy(tmp_path / "world")
    command = (SERVER, "stage", "-C", f.server, *given(f, steps=8))
    said = kit.run_alone(*command, stop=where, count=count, by=by)
    assert "stopped" in said.err and said.code in (130, -9), said.err
    if by == "SIGINT":
        assert "run the same command again to go on" in said.err
    # another hospital's weights come meanwhile; the stage goes on with those that it began with
    f.admin("import", f.root / "c.weights")
    done = stage(f, steps=8)
    assert set(done["teachers"]) == {"a/tiny", "b/tiny"}
    assert (f.root / "next.generation").read_bytes() == uninterrupted[1]
    assert not list((f.server / "stages").iterdir())
    assert f.admin("status")["faults"] == []


def test_what_cannot_be_used_of_a_pool_is_listed_and_told_by_the_exit_code(
    staged: Any, kit: ModuleType
) -> None:
    f = staged
    f.admin("import", f.root / "a.weights")
    (f.root / "pool" / "cut.png").write_bytes((f.root / "pool" / "0.png").read_bytes()[:90])
    shutil.copy(f.root / "pool" / "1.png", f.root / "pool" / "copy.png")
    said = kit.run(SERVER, "stage", "-C", f.server, *given(f))
    assert said.code == 3, said.err
    assert "pool: 24 images; 1 cannot be used, 1 copy, 0 other files" in said.out
    assert f"not used: {f.root / 'pool' / 'cut.png'}: " in said.out


def test_the_same_stage_does_not_run_twice_at_once(
    staged: Any, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    f, said = staged, []
    f.admin("import", f.root / "a.weights")
    original = staging.Staging.learn

    def again(*arguments: Any, **named: Any) -> Any:
        said.append(kit.run(SERVER, "stage", "-C", f.server, *given(f)))
        return original(*arguments, **named)

    monkeypatch.setattr(staging.Staging, "learn", again)
    stage(f)
    refused(said[0], "stage: the very same one is running", "")
    assert len(said) == 1 and not list((f.server / "stages").iterdir())


def test_refusals_say_what_to_do(staged: Any, kit: ModuleType, tmp_path: Path) -> None:
    f = staged

    def asked(*arguments: object) -> Any:
        return kit.run(SERVER, "stage", "-C", f.server, *arguments)

    where = f"generation {f.first['digest'][:12]}"
    waits = f"stage: {where} has no local model to learn from, expected weights of a, b, c"
    refused(asked(*given(f)), waits, "hint: hospitals run `fedmed-edge train` and `contribute --weights`")
    refused(
        asked(*given(f, "--stored")), "stage: the store has no local model to learn from", "--from-scratch"
    )
    empty = tmp_path / "none"
    empty.mkdir()
    out = ("--out", f.root / "x", "--steps", 2)
    refused(asked("--pool", empty, *out), f"{empty}: pool has 0 images", "of no patient of a site")
    refused(asked("--pool", empty / "gone", *out), f"{empty / 'gone'}: no such folder", "")
    refused(asked(*given(f, "--generation", "ffff")), "store: no generation ffff", "--from-scratch")
    refused(asked(*given(f, "--task", "none")), "store: no task `none`", "")
    f.admin("import", f.root / "a.weights", f.root / "b.weights")
    refused(
        asked(*given(f, "--merge", "krum")), "stage: `krum` has 2 local models, expected at least 3", "rule"
    )
    usage = asked(*given(f, "--epochs", 2))
    assert usage.code == 2 and "give either --steps or --epochs" in usage.err
    for endless in (("--steps", 10**20), ("--epochs", 1e20)):
        usage = kit.run(SERVER, "stage", "-C", f.server, "--pool", f.root / "pool", *out[:2], *endless)
        assert usage.code == 2 and "is not in the range" in usage.err
    other = f.root / "other.toml"
    other.write_text((f.root / "tiny.toml").read_text().replace("classes = [", 'classes = ["third", '))
    before = f.admin("log")
    failed = asked("--from-scratch", "--recipe", other, "--pool", f.root / "none", "--out", f.root / "x")
    refused(failed, f"{f.root / 'none'}: no such folder", "")
    assert f.admin("log") == before  # no recipe took the place of another
    new = kit.run(SERVER, "init", tmp_path / "server")
    assert new.code == 0
    nothing = kit.run(SERVER, "stage", "-C", tmp_path / "server", *given(f))
    refused(nothing, "stage: the store has no task", "--recipe FILE")


# --- how old a generation is --------------------------------------------------------------------------------


def test_status_tells_for_whom_a_generation_has_grown_too_old(
    staged: Any, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = staged
    told = {"a": (0.401, 0.1), "b": (0.12, 0.1)}
    for name, (head, tuned) in told.items():
        monkeypatch.setattr(local_training, "head_error", lambda *_, value=head, **__: value)
        monkeypatch.setattr(local_training, "network_error", lambda *_, value=tuned, **__: value)
        train(f, name)
        f.admin("import", f.root / f"{name}.weights")
    digest = f.first["digest"]
    rows = {row.pop("site"): row for row in f.admin("status")["ages"]}
    common = {"task": "tiny", "generation": digest, "tuned_error": 0.1}
    assert rows == {
        "a": {**common, "head_error": 0.4, "too_old": True},
        "b": {**common, "head_error": 0.12, "too_old": False},
    }
    said = kit.run(SERVER, "status", "-C", f.server).out
    assert f"generation {digest[:12]}  has grown too old for a (tiny): a head on it errs by 0.40" in said
    assert f"generation {digest[:12]}  still does at b (tiny): a head on it errs by 0.12" in said


def test_both_errors_are_measured_on_held_out_images_and_travel_as_evidence(staged: Any) -> None:
    f = staged
    for name in "ac":
        held = read_contribution(f.root / f"{name}.weights").header.evidence.metrics
        assert set(held) == {"head_error", "tuned_error"}
        assert all(0 <= value <= 1 and round(value, 2) == value for value in held.values())
    settings = f.root / "b" / "fedmed.toml"
    settings.write_text(settings.read_text().replace("min_cohort = 2", "min_cohort = 5"))
    # four patients are held out
    assert not read_contribution(train(f, "b")).header.evidence.metrics
