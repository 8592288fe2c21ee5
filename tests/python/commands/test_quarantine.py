"""A hospital that swapped its labels: taken, named, left out where the admin says so, never unseen."""

from dataclasses import replace
from types import ModuleType
from typing import Any

from fedmed_edge.signing import read_private_key
from fedmed_edge.statistics.contribution import read_contribution, write_contribution


def test_a_site_that_stands_out_is_named_and_held_back_on_request(copied: Any, kit: ModuleType) -> None:
    f = copied
    honest = read_contribution(f.root / "c.contribution")
    assert honest.statistics is not None
    swapped = {(fold, 1 - index): gram for (fold, index), gram in honest.statistics.blocks.items()}
    header = honest.header.model_copy(update={"sequence": honest.header.sequence + 1})
    poisoned = replace(honest, header=header, statistics=replace(honest.statistics, blocks=swapped))
    poisoned.__dict__.pop("_tensors_digest", None)
    write_contribution(f.root / "bad", poisoned.sign(read_private_key(f.root / "c" / "site.key")))
    assert f.admin("import", f.root / "bad")["imported"][0]["new"]
    found = f.admin("evaluate")["stands_out"]
    assert list(found) == ["c"] and found["c"].startswith("classes: lie otherwise")
    said = kit.run("fedmed-server", "evaluate", "-C", f.server)
    assert "c stands out: classes: lie otherwise than at the others" in said.out
    plain = f.admin("rebuild")
    assert plain["sites"] == ["a", "b", "c"] and plain["quarantined"] == {}
    held = f.admin("rebuild", "--quarantine")
    assert held["sites"] == ["a", "b"] and held["quarantined"] == found
    said = kit.run("fedmed-server", "rebuild", "-C", f.server)
    assert "c is left out, its contribution stays stored: classes:" in said.out
    told = f.admin("log", "--verify", "--site", "c")["rows"][-1]
    assert (told["kind"], told["details"]) == (
        "held back",
        {"task": f.admin("status")["tasks"][0], "why": found["c"]},
    )
    assert {one["site"] for one in f.admin("status")["contributions"]} == {"a", "b", "c"}
    f.contribute("c")  # with the number that the swapped one had
    f.admin("import", f.contribute("c"))
    seen = f.admin("evaluate")
    assert seen["stands_out"] == {} and seen["held_back"] == found and "c" not in seen["sites"]


def test_who_is_held_back_stays_out_until_released(copied: Any, kit: ModuleType) -> None:
    f = copied
    f.admin("import", f.root / "c.contribution")
    every = f.admin("rebuild")
    assert every["sites"] == ["a", "b", "c"] and every["held_back"] == {}
    why = {"c": "labels are being checked"}
    done = f.admin("site", "hold", "c", "--why", why["c"])
    assert (done["new"], done["held_back"]) == (True, why)
    assert f.admin("status")["held_back"] == {done["task"]: why}
    said = kit.run("fedmed-server", "refine", "-C", f.server, "c")
    assert said.code == 1 and "site `c` is held back: labels are being checked" in said.err
    assert "`fedmed-server site release c` takes it in again" in said.err
    out = ("--from", f.root / "c.contribution", "--out", f.root / "x")
    said = kit.run("fedmed-server", "generation", "publish", "-C", f.server, *out)
    assert said.code == 1 and "c.contribution: site `c` is held back: labels are being checked" in said.err
    assert "`fedmed-server site release c` takes it in again" in said.err
    assert f.admin("rebuild")["sites"] == f.admin("refine", "a")["sites"] == ["a", "b"]
    left = f.admin("withdraw", "b", "--yes")
    assert left["back"] == {done["task"]: []} and left["held_back"] == {done["task"]: why}
    assert f.admin("rebuild")["sites"] == ["a"]
    assert f.admin("site", "release", "c")["held_back"] == {}
    assert not f.admin("site", "release", "c")["new"]
    assert f.admin("rebuild")["sites"] == ["a", "c"]
    kinds = [row["kind"] for row in f.admin("log", "--verify", "--site", "c")["rows"]]
    assert kinds[-2:] == ["held back", "released"]


def test_a_withdrawal_says_who_is_in_again(copied: Any, kit: ModuleType) -> None:
    f = copied
    f.admin("import", f.root / "c.contribution")
    assert f.admin("rebuild", "--without", "c")["sites"] == ["a", "b"]
    said = kit.run("fedmed-server", "withdraw", "-C", f.server, "b", "--yes")
    assert "now, of a, c; in it now and not before: c" in said.out
