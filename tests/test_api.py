"""The public names of the package: complete, documented, and cheap until they are asked for."""

import ast
import doctest
import os
import sys
from pathlib import Path

import pytest
from kits import run_python

import fedmed_edge

ROOT = Path(fedmed_edge.__file__)

# The names that the first release promises.
PROMISED = {
    *("Image", "Recipe", "FeatureStatistics", "Contribution", "rebuild", "evaluate", "refine", "GlobalModel"),
    "predict",
}
BESIDE_THEM = {"FedmedError", "load_model", "read_contribution", "read_image", "read_recipe"}


def without_ci(code: str, **environment: str) -> str:
    """What a process prints in whose environment CI is not set."""
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    return run_python(code, environment=kept | environment)


def typed_names() -> dict[str, str]:
    """Public name → module, as the type checker sees them."""
    tree = ast.parse(ROOT.read_text(encoding="utf-8"))
    blocks = (node for node in tree.body if isinstance(node, ast.If))
    block = next(node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING")
    return {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_all_lists_the_public_names() -> None:
    assert set(fedmed_edge.__all__) == PROMISED | BESIDE_THEM
    assert fedmed_edge.__all__ == sorted(set(fedmed_edge.__all__))


def test_dir_lists_the_public_names_and_the_version() -> None:
    assert dir(fedmed_edge) == sorted([*fedmed_edge.__all__, "__version__"])


def test_what_is_loaded_is_what_the_type_checker_sees() -> None:
    typed = typed_names()
    assert set(typed) == set(fedmed_edge.__all__)
    for name, module in typed.items():
        assert getattr(fedmed_edge, name).__module__ == module, name


@pytest.mark.parametrize("name", fedmed_edge.__all__)
def test_a_public_name_has_a_docstring_with_an_example(name: str) -> None:
    text = getattr(fedmed_edge, name).__doc__ or ""
    assert text.splitlines()[0].strip()
    # That the examples run is checked where they stand, by pytest's own doctests.
    assert doctest.DocTestParser().get_examples(text), f"`{name}` has no example"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module `fedmed_edge` has no attribute `rebuilt`"):
        _ = fedmed_edge.rebuilt  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'rebuilt'"):
        exec("from fedmed_edge import rebuilt")


def test_a_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from fedmed_edge import *", names)
    assert set(names) - {"__builtins__"} == set(fedmed_edge.__all__)


def test_importing_the_package_loads_nothing_but_the_standard_library() -> None:
    code = "import sys; import fedmed_edge; print(*sys.modules)"
    # Without what a development install puts into every process.
    bare = set(without_ci("import sys; print(*sys.modules)").split())
    loaded = {name.split(".")[0] for name in set(without_ci(code).split()) - bare}
    assert loaded - set(sys.stdlib_module_names) == {"fedmed_edge"}


@pytest.mark.parametrize(
    ("name", "never"),
    [
        ("Recipe", {"numpy", "torch", "onnxruntime"}),
        ("Image", {"torch", "onnxruntime", "pydicom", "nibabel", "PIL"}),
        ("rebuild", {"torch", "monai", "onnxruntime", "pydicom", "sqlalchemy"}),
        ("predict", {"torch", "monai", "onnx", "onnxruntime", "pydicom", "cryptography"}),
    ],
)
def test_a_name_loads_its_own_room_alone(name: str, never: set[str]) -> None:
    code = f"import sys; from fedmed_edge import {name}; print(*sys.modules)"
    assert not {module.split(".")[0] for module in without_ci(code).split()} & never


@pytest.mark.parametrize("asked", ["", "0", "1"])
def test_telemetry_is_off_once_the_package_is_imported(asked: str) -> None:
    code = "import os, fedmed_edge; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert without_ci(code, ORT_DISABLE_TELEMETRY=asked).strip() == "1"
