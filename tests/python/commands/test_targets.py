"""Where results cannot be written, a verb says so before its work."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EDGE = "fedmed-edge"
Listing = Callable[[Path], dict[str, bytes]]


@pytest.fixture(autouse=True)
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test where images are read."""

    def read(path: Path) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("fedmed_edge.images.dataset.read_image", read)


@pytest.mark.parametrize("verb", ["train", "extract", "contribute"])
@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("none/x", "none/x: cannot be written: No such file or directory", "check that the folder"),
        ("tiny.onnx/x", "tiny.onnx/x: cannot be written: Not a directory", "check that the folder"),
        ("b/site.key", "b/site.key: is a private key and is not written over", "choose another file"),
    ],
)
def test_a_file_that_could_not_be_written(
    verb: str, target: str, message: str, hint: str, copied: Any, kit: ModuleType, listing: Listing
) -> None:
    f, before = copied, listing(copied.root)
    site = ("-C", f.root / "a", "--generation", f.generation)
    said = kit.run(EDGE, verb, *site, "--out", f.root / target)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"error: {f.root}") and message in said.err and f"\nhint: {hint}" in said.err
    assert listing(f.root) == before


def test_a_site_folder_that_cannot_keep_the_sequence(
    copied: Any, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    f, touch = copied, Path.touch

    def read_only(path: Path, **kwargs: Any) -> None:
        if path.parent == f.root / "a":
            raise OSError(30, "Read-only file system", str(path))
        touch(path, **kwargs)

    monkeypatch.setattr(Path, "touch", read_only)
    site = ("-C", f.root / "a", "--generation", f.generation)
    said = kit.run(EDGE, "contribute", *site, "--out", f.root / "x")
    assert said.code == 1 and "a/sequence: cannot be written: Read-only file system" in said.err


def test_a_report_and_a_demo(copied: Any, kit: ModuleType) -> None:
    from fedmed_edge.report.data import ReportData, save_data

    f = copied
    (f.root / "demo").mkdir()
    save_data(f.root / "demo" / "report.json", ReportData("demo", "no task", (), {}, ()))
    said = kit.run(EDGE, "report", f.root / "demo", "--out", f.root / "none" / "x.html")
    assert said.code == 1 and "x.html: cannot be written: No such file or directory" in said.err
    said = kit.run(EDGE, "demo", "--out", f.root / "tiny.onnx" / "out")
    assert said.code == 1 and "tiny.onnx/out: not a directory" in said.err
    for there in (False, True):  # an empty folder goes again only where it was made for it
        if there:
            (f.root / "out").mkdir()
        said = kit.run(EDGE, "demo", "--data", f.root / "none", "--out", f.root / "out")
        assert said.code == 1 and (f.root / "out").exists() == there
