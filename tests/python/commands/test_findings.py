"""`evaluate` and `refine` by command: what the sums tell, drawn; a model for a hospital without labels."""

import csv
from pathlib import Path
from types import ModuleType
from typing import Any


def test_the_sums_are_told_and_drawn(copied: Any, kit: ModuleType) -> None:
    f = copied
    f.admin("import", f.root / "c.contribution")
    said = kit.run("fedmed-server", "evaluate", "-C", f.server, "--out", f.root / "sums.html")
    assert "tree of the sites, nearest first:" in said.out and f"drawn: {f.root / 'sums.html'}" in said.out
    assert "known-image threshold" in said.out
    page = (f.root / "sums.html").read_text()
    assert page.count("<svg") == 2 and all(f'<th scope="row">{name}</th>' in page for name in "abc")
    between = f.admin("evaluate")["distances"]
    assert between["sites"] == ["a", "b", "c"] and len(between["places"]) == 3 and len(between["merges"]) == 2
    said = kit.run("fedmed-server", "evaluate", "-C", f.server, "--out", f.root / "nowhere" / "sums.html")
    assert said.code == 1 and "nowhere" in said.err


def test_a_hospital_without_labels_gets_a_model_of_its_own_or_is_told_why_not(
    copied: Any, kit: ModuleType
) -> None:
    f = copied
    unlabel(f.root / "c-data" / "labels.csv")
    f.admin("import", f.contribute("c", file="bare.contribution"))
    header = f.ask("fedmed-edge", "inspect", f.root / "bare.contribution")["header"]
    assert set(header["parts"]) >= {"unlabelled", "images"} and "classes" not in header["parts"]
    told = f.admin("refine", "c")
    assert (told["kept"], told["refined_for"]) == ("global", "c")
    assert told["reason"] == "the site has no labels, and fewer than three sites have any to choose by"
    f.enrol("d", 7, gain=0.95)
    f.join("d")
    f.admin("rebuild")
    told = f.admin("refine", "c")
    assert told["kept"] in ("global", "refined") and "over 3 other sites, each left out" in told["reason"]
    assert "no generator: 3 other sites can be learned from, 4 are needed" in told["reason"]
    assert told["figures"]["refine"]["unit"] == "site"
    assert f.admin("evaluate")["sites"]["c"]["error"] is None
    for named in ((), ("--model", "")):  # a variable of a script that holds nothing names no model
        f.admin("export", *named, "--out", f.root / "all.onnx")
        assert f.ask("fedmed-edge", "inspect", f.root / "all.onnx")["refined_for"] is None
    assert f.admin("export", "--refined", "c", "--out", f.root / "c.onnx")["sites"] == ["a", "b", "c", "d"]
    said = kit.run("fedmed-edge", "model", "add", "-C", f.root / "b", f.root / "c.onnx")
    assert said.code == 1 and "c.onnx: was refined for c, expected b or the global model" in said.err


def unlabel(file: Path) -> None:
    """All images but those held out lose their label."""
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        row["label"] = row["label"] if row["split"] == "test" else ""
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0])
        writer.writeheader()
        writer.writerows(rows)
