from pathlib import Path

import pytest

from fedmed_edge import machine


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a machine with two GPUs says of itself."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    for slot, name in (("0000:18:00.0", "NVIDIA H200"), ("0000:17:00.0", "NVIDIA L4")):
        folder = tmp_path / "driver" / "nvidia" / "gpus" / slot
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {name}\nIRQ: 7\n")
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed\nGCC version:  gcc 12.3.0\n"
    (tmp_path / "driver" / "nvidia" / "version").write_text(version)
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    return tmp_path


def test_reads_what_the_system_says(proc: Path) -> None:
    assert machine.processor() == "Some CPU @ 2 GHz"
    assert machine.gpus() == ("NVIDIA L4", "NVIDIA H200")
    assert machine.driver() == "570.124.06"


def test_a_machine_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    assert machine.processor() and machine.gpus() == () and machine.driver() == ""


def test_the_fingerprint_changes_with_driver_and_packages(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine.fingerprint()
    assert first == machine.fingerprint() and len(first) == 16
    monkeypatch.setattr(machine, "packages", lambda *names: {"onnxruntime-gpu": "9"})
    second = machine.fingerprint()
    (proc / "driver" / "nvidia" / "version").write_text("NVRM version: 575.1\n")
    assert len({first, second, machine.fingerprint()}) == 3


def test_packages_are_those_installed() -> None:
    assert list(machine.packages("numpy", "no-such-package")) == ["numpy"]
