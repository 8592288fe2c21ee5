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
    said = kit.run("fedmed-server", "rebuild", "-C", f.server, "--quarantine")
    assert "c is left out, its contribution stays stored: classes:" in said.out
    assert {one["site"] for one in f.admin("status")["contributions"]} == {"a", "b", "c"}
    f.contribute("c")  # with the number that the swapped one had
    f.admin("import", f.contribute("c"))
    assert f.admin("evaluate")["stands_out"] == {}
