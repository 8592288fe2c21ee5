"""What a verb loads, in a process of its own: next to nothing for `--help`, torch only for training."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

HEAVY = {"numpy", "pydantic", "torch", "monai", "onnx", "onnxruntime", "pydicom", "nibabel", "PIL"}
HEAVY |= {"sqlalchemy", "cryptography", "matplotlib", "jinja2", "scipy", "sklearn", "rich", "safetensors"}

# Runs a program as its entry point does and then tells what was loaded.
LOADED = """
import sys
program, *sys.argv = sys.argv[5], *sys.argv[5:]
from importlib.metadata import entry_points
(entry,) = entry_points(group="console_scripts", name=program)
try:
    entry.load()()
finally:
    print("loaded", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""

# Verb: what it is given, and packages that it must do without.
LEAN: dict[str, tuple[Callable[[Any], list[object]], set[str]]] = {
    "fedmed-edge infer": (
        lambda f: [
            *(f.root / "a-data" / "1.png", "-o", f.root / "out"),
            *("--model", f.root / "tiny.onnx", "--trust", f.trust),
        ],
        {"torch", "monai", "onnx", "pydicom", "nibabel", "sqlalchemy", "matplotlib", "scipy", "rich"},
    ),
    "fedmed-edge doctor": (lambda f: ["-C", f.root / "a"], {"torch", "monai", "onnx", "sqlalchemy"}),
    "fedmed-edge contribute": (
        lambda f: ["-C", f.root / "a", "--generation", f.generation, "--dry-run"],
        {"torch", "monai", "onnx", "sqlalchemy", "pydicom", "nibabel"},
    ),
    "fedmed-edge inspect": (lambda f: [f.root / "a.contribution"], {"torch", "monai", "onnxruntime"}),
    "fedmed-server init": (lambda f: [f.root / "new"], {"torch", "monai", "onnx", "pydicom"}),
    "fedmed-server site list": (lambda f: ["-C", f.server], {"torch", "monai", "onnx", "pydicom"}),
    "fedmed-server import": (
        lambda f: ["-C", f.server, f.root / "a.contribution"],
        {"torch", "monai", "onnx", "onnxruntime", "pydicom"},
    ),
    "fedmed-server status": (
        lambda f: ["-C", f.server],
        {"torch", "monai", "onnx", "onnxruntime", "pydicom"},
    ),
    "fedmed-server rebuild": (lambda f: ["-C", f.server], {"torch", "monai", "onnx", "pydicom", "scipy"}),
    "fedmed-server refine": (lambda f: ["-C", f.server, "a"], {"torch", "monai", "onnx", "pydicom"}),
    "fedmed-server evaluate": (lambda f: ["-C", f.server], {"torch", "monai", "onnx", "pydicom"}),
    "fedmed-server withdraw": (lambda f: ["-C", f.server, "b", "--yes"], {"torch", "monai", "pydicom"}),
    "fedmed-server export": (
        lambda f: ["-C", f.server, "--out", f.root / "x.onnx"],
        {"torch", "monai", "pydicom"},
    ),
}


def loaded(kit: ModuleType, *words: object) -> set[str]:
    said = kit.run_alone(*words, code=LOADED)
    assert said.code == 0, said.err
    return set(said.err.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("program", ["fedmed-edge", "fedmed-server"])
def test_help_loads_none_of_the_rooms(program: str, kit: ModuleType) -> None:
    assert not loaded(kit, program, "--help") & HEAVY


@pytest.mark.parametrize("name", LEAN)
def test_a_verb_loads_no_more_than_it_needs(name: str, copied: Any, kit: ModuleType) -> None:
    arguments, without = LEAN[name]
    got = loaded(kit, *name.split(), *arguments(copied))
    assert "fedmed_edge" in got
    assert not got & without
