"""`fedmed-edge budget`, and what an exhausted budget stops."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed_edge.config import USUAL_PARTS
from fedmed_edge.federation.sequence import raise_sequence

pytest.importorskip("dp_accounting")

EDGE = "fedmed-edge"


def with_policy(world: Any, name: str, **rules: object) -> Path:
    """The site's folder, its policy changed."""
    settings = world.root / name / "fedmed.toml"
    text = settings.read_text()
    for key, value in rules.items():
        text = re.sub(rf"^{key} = .*\n", "", text, flags=re.MULTILINE)
        text = text.replace("[policy]\n", f"[policy]\n{key} = {value}\n")
    settings.write_text(text)
    return Path(world.root / name)


def test_a_budget_is_spent_by_contributions_and_stops_them(copied: Any, kit: ModuleType) -> None:
    folder = with_policy(copied, "c", epsilon=80.0, delta=1e-3, budget=160.0)
    said = kit.run(EDGE, "budget", "-C", folder)
    assert said.code == 0 and "spent: ε 0 of 160 at δ 0.001, by 0 contributions" in said.out
    assert "left: 2 more of ε 80 each" in said.out and "1 contribution left without noise" in said.out
    given = ("-C", folder, "--generation", copied.generation)
    for number in (1, 2):
        target = copied.root / f"noisy-{number}.contribution"
        assert kit.run(EDGE, "contribute", *given, "--out", target).code == 0
        told = copied.ask(EDGE, "inspect", target)
        assert [row["name"] for row in told["tensors"]] == ["rest_grams"]
        assert "  noise: epsilon 80.0, delta 0.001, " in kit.run(EDGE, "inspect", target).out
        assert copied.admin("import", target)["imported"][0]["new"]
        stands = copied.site("c", "budget")
        assert (stands["noisy"], stands["left"]) == (number, 2 - number)
    assert 80 < stands["epsilon"] <= 160
    for more in (("--dry-run",), ("--out", copied.root / "x.contribution")):
        said = kit.run(EDGE, "contribute", *given, *more)
        assert said.code == 1 and "error: privacy budget: ε" in said.err and "hint: no sums leave" in said.err
    assert not (copied.root / "x.contribution").exists()
    said = kit.run(EDGE, "doctor", *given[:2]).out
    told = next(line for line in said.splitlines() if line.split()[1:2] == ["policy"])
    assert told.startswith("warning") and "noise: ε 80 and δ 0.001" in told
    assert "hint: privacy budget: ε" in said
    model = copied.admin("rebuild")
    assert model["sites"] == ["a", "b", "c"]
    said = kit.run(EDGE, "extract", *given, "--out", copied.root / "x.contribution")
    assert said.code == 1 and "extract: the policy asks for noise" in said.err


def test_a_training_with_noise_is_spent_once_however_often_its_weights_leave(
    copied: Any, kit: ModuleType
) -> None:
    folder = with_policy(copied, "c", epsilon=8.0, delta=1e-3, budget=8.0, sampling=0.5)
    given = ("-C", folder, "--generation", copied.generation)
    trained, plain = copied.root / "private.backbone", copied.root / "plain.backbone"
    said = copied.site(
        "c", "train", "--generation", copied.generation, "--epochs", 2, "--private", "--out", trained
    )
    assert said["privacy"]["steps"] == 4 and said["privacy"]["epsilon"] == 8.0
    stands = copied.site("c", "budget")
    assert (stands["noisy"], stands["trainings"]) == (0, 1) and 7.9 < stands["epsilon"] <= 8
    sent = copied.root / "c.weights"
    for _ in range(2):
        assert kit.run(EDGE, "contribute", *given, "--weights", trained, "--out", sent).code == 0
        assert copied.site("c", "budget") == stands
    header = copied.ask(EDGE, "inspect", sent)["header"]
    assert header["privacy"] == said["privacy"] and list(header["evidence"]["images"]) == []
    assert copied.admin("import", sent)["imported"][0]["new"]
    copied.publish("next.generation", "--from", sent)
    assert "and 1 training\n" in kit.run(EDGE, "budget", "-C", folder).out

    assert kit.run(EDGE, "train", *given, "--epochs", "0.1", "--out", plain).code == 0
    said = kit.run(EDGE, "contribute", *given, "--weights", plain, "--out", sent)
    assert said.code == 1 and "the weights were trained without noise" in said.err
    for name in ("releases.jsonl", "sequence"):
        (folder / name).unlink()
    said = kit.run(EDGE, "contribute", *given, "--weights", trained, "--out", sent)
    assert said.code == 1 and "releases.jsonl knows of no training that made these weights" in said.err
    with_policy(copied, "c", budget=1.0)
    said = kit.run(EDGE, "train", *given, "--private", "--out", plain)
    assert said.code == 1 and "error: privacy budget: ε 0 of 1 is spent, with this training" in said.err
    said = kit.run(EDGE, "train", "-C", copied.root / "a", "--private", "--from-scratch", "--out", plain)
    assert said.code == 1 and "training: the policy asks for no noise" in said.err


def test_a_training_that_is_killed_is_spent(copied: Any, kit: ModuleType) -> None:
    folder = with_policy(copied, "c", epsilon=8.0, delta=1e-3, sampling=0.5)
    given = ("-C", folder, "--generation", copied.generation, "--private", "--epochs", 5)
    said = kit.run_alone(
        EDGE,
        "train",
        *given,
        "--out",
        copied.root / "cut",
        stop="fedmed_edge.features.private_training:noisy_gradient",
        count=2,
        by="SIGKILL",
    )
    assert said.code == -9 and not (copied.root / "cut").exists()
    assert copied.site("c", "budget")["trainings"] == 1


def test_what_a_restored_folder_does_not_know_stops_all_until_it_is_settled(
    copied: Any, kit: ModuleType
) -> None:
    folder, target = with_policy(copied, "c", epsilon=80.0, delta=1e-3, budget=160.0), copied.root / "x"
    raise_sequence(folder, 9)
    given = ("contribute", "-C", folder, "--generation", copied.generation, "--out", target)
    said = kit.run(EDGE, *given)
    assert said.code == 1 and "releases.jsonl: lacks contributions that this site signed" in said.err
    assert "fedmed-edge budget --settle" in said.err and not target.exists()
    said = kit.run(EDGE, "doctor", "-C", folder)
    assert said.code == 1 and "hint: releases.jsonl: lacks contributions" in said.out
    said = kit.run(EDGE, "budget", "-C", folder)
    assert "no sums leave before --settle" in said.out
    said = kit.run(EDGE, "budget", "-C", folder, "--settle", "80")
    assert "spent: ε 80 of 160" in said.out and "left: 1 more" in said.out
    assert kit.run(EDGE, *given).code == 0


def test_a_folder_that_goes_by_files_is_told_that_it_is_an_older_copy(copied: Any, kit: ModuleType) -> None:
    folder, target = with_policy(copied, "c", epsilon=80.0, delta=1e-3, budget=320.0), copied.root / "x"
    given = ("contribute", "-C", folder, "--generation", copied.generation, "--out", target)
    older = {name: (folder / name).read_bytes() for name in ("releases.jsonl", "sequence")}
    assert kit.run(EDGE, *given).code == 0
    last = copied.admin("import", target)["imported"][0]["sequence"]
    for name, content in older.items():
        (folder / name).write_bytes(content)
    assert copied.site("c", "budget")["noisy"] == 0
    assert kit.run(EDGE, *given).code == 0
    said = kit.run("fedmed-server", "import", "-C", copied.root / "server", target)
    assert said.code == 1 and f"fedmed-edge budget --restored {last}" in said.err
    for name, content in older.items():
        (folder / name).write_bytes(content)
    assert copied.site("c", "budget", "--restored", last)["lost"]
    assert kit.run(EDGE, *given).code == 1
    said = kit.run(EDGE, "budget", "-C", folder, "--settle", "160")
    assert "spent: ε 160 of 320" in said.out
    assert kit.run(EDGE, *given).code == 0
    assert copied.admin("import", target)["imported"][0]["sequence"] == last + 1
    # what the folder knows of already changes nothing
    assert not copied.site("c", "budget", "--restored", last)["lost"]


def test_without_noise_no_budget_bounds_what_is_told(copied: Any, kit: ModuleType) -> None:
    said = kit.run(EDGE, "budget", "-C", copied.root / "c")
    assert said.code == 0 and "policy: no noise (`epsilon` is not set)" in said.out


def test_dry_run_and_doctor_show_the_policy(copied: Any, kit: ModuleType) -> None:
    given = ("-C", copied.root / "c", "--generation", copied.generation)
    said = kit.run(EDGE, "contribute", *given, "--dry-run")
    for line in (
        f"policy: parts: {', '.join(USUAL_PARTS)}; withheld: style",
        "policy: min_cohort: 2 patients in every class and fold",
        "policy: width: Grams of any width leave",
        "policy: noise: none",
        "policy: updates: 0 days apart, a class by at least 2 patients, or not at all",
    ):
        assert line in said.out
    told = copied.site("c", "contribute", "--generation", copied.generation, "--dry-run")["header"][
        "evidence"
    ]
    assert f"  images: train {told['images']['train']}\n" in said.out
    assert f"  patients: {', '.join(f'{name} {n}' for name, n in told['patients'].items())}\n" in said.out
    assert f"  versions: fedmed_edge {told['versions']['fedmed_edge']}, " in said.out
    assert "noise: none; updates: 0 days apart" in kit.run(EDGE, "doctor", "-C", copied.root / "c").out
    with_policy(copied, "c", epsilon=80.0, delta=1e-3, budget=100.0, days_between=7)
    said = kit.run(EDGE, "contribute", *given, "--dry-run")
    assert said.code == 1 and "error: policy: the last contribution left on" in said.err
    noisy = kit.run(EDGE, "doctor", "-C", copied.root / "c").out
    assert "noise: ε 80 and δ 0.001 a contribution or training, ε 100 in all; updates: 7 days apart" in noisy
    assert (
        "parts: classes, weights; withheld: unlabelled, shifts, images, channels, style, calibration" in noisy
    )


def test_doctor_finds_what_is_spent_where_the_key_lies_elsewhere(copied: Any, kit: ModuleType) -> None:
    folder = with_policy(copied, "c", epsilon=80.0, delta=1e-3, budget=80.0)
    given = ("-C", folder, "--generation", copied.generation, "--out", copied.root / "noisy")
    assert kit.run(EDGE, "contribute", *given).code == 0
    elsewhere, settings = copied.root / "keys" / "c.key", folder / "fedmed.toml"
    elsewhere.parent.mkdir()
    (folder / "site.key").rename(elsewhere)
    settings.write_text(
        re.sub("^key = .*$", f'key = "{elsewhere}"', settings.read_text(), flags=re.MULTILINE)
    )
    assert "privacy budget: ε" in kit.run(EDGE, "doctor", "-C", folder).out
