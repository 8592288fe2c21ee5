"""The walls between the rooms, and the conventions that a machine can hold."""

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits import run_python

import fedmed_edge

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "python" / "fedmed_edge"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Every room may import these, numpy and pydantic, and nothing else that the tables do not name.
ROOT = {
    *("errors", "atomic", "backoff", "recipe", "listening", "config", "signing", "generation", "kinds"),
    *("validation", "words"),
    *("protobuf", "onnx_file", "encoder_graph", "tensorfile", "heartbeat", "machine", "metrics"),
}
SHARED_PACKAGES = {"numpy", "pydantic"}
EVERY_ROOM = {
    *("kernels", "runtime", "images", "features", "statistics", "model", "store", "federation", "universal"),
    *("hospital", "local_training", "export", "inference", "listener", "report", "study"),
}

# Room: rooms it may import, packages it may import.
WALLS: dict[str, tuple[set[str], set[str]]] = {
    "kernels": ({"_kernels", "_kernels_cuda"}, set()),
    "runtime": ({"kernels"}, {"onnxruntime"}),
    "images": ({"kernels"}, {"pydicom", "nibabel", "PIL", "dicomweb_client", "requests"}),
    "features": (
        {"images", "kernels", "statistics", "runtime"},
        {"torch", "monai", "onnx", "onnxscript"},
    ),
    "statistics": ({"kernels"}, {"dp_accounting"}),
    # One site's own work: its folder through features and statistics to a contribution.
    "hospital": ({"images", "features", "statistics", "model"}, set()),
    "local_training": ({"images", "features", "statistics", "model"}, set()),
    "model": ({"statistics", "kernels"}, {"threadpoolctl"}),
    "store": ({"statistics", "model"}, {"sqlalchemy", "fsspec", "cryptography"}),
    # Its site's side asks `hospital`; its server's side loads neither that nor torch: see below.
    "federation": (
        {"statistics", "store", "model", "kernels", "images", "features", "inference"}
        | {"hospital", "local_training"},
        {"nvflare", "psutil", "cryptography"},
    ),
    "universal": (
        {"features", "model", "kernels", "images", "statistics"},
        {"torch"},
    ),
    "export": ({"features", "model", "runtime"}, {"onnx", "onnxscript", "onnxruntime", "google"}),
    "inference": ({"images", "kernels", "model", "runtime"}, {"PIL", "nibabel", "highdicom", "pydicom"}),
    "listener": (
        {"images", "inference"},
        {"pynetdicom", "pydicom", "dicomweb_client", "requests", "prometheus_client"},
    ),
    "report": ({"images", "statistics", "model"}, {"jinja2", "matplotlib", "PIL"}),
    "study": (
        EVERY_ROOM - {"study"},
        {
            *("torch", "monai", "pydicom", "nibabel", "PIL", "safetensors", "matplotlib"),
            *("threadpoolctl", "scipy"),
        },
    ),
    "commands": (EVERY_ROOM, {"click", "rich"}),
}

# Root modules import each other downward only.
ROOT_MODULES: dict[str, tuple[set[str], set[str]]] = {
    "__init__": (EVERY_ROOM | ROOT, set()),
    "errors": (set(), set()),
    "atomic": ({"errors", "kinds"}, set()),
    "validation": (set(), {"pydantic_core"}),
    "words": (set(), set()),
    "recipe": ({"errors", "atomic", "validation", "kinds"}, set()),
    "listening": ({"recipe", "validation"}, set()),
    "backoff": (set(), set()),
    "config": ({"errors", "atomic", "recipe", "listening", "validation"}, set()),
    "signing": ({"errors", "atomic", "kinds"}, {"cryptography"}),
    "tensorfile": ({"errors", "kinds"}, {"safetensors"}),
    "protobuf": (set(), set()),
    "onnx_file": ({"errors", "protobuf", "kinds"}, set()),
    "encoder_graph": ({"errors", "protobuf"}, set()),
    "generation": ({"errors", "atomic", "recipe", "tensorfile", "encoder_graph"}, set()),
    "kinds": (set(), set()),
    "metrics": (set(), set()),
    "machine": (set(), set()),
    "heartbeat": ({"errors", "atomic"}, set()),
}

TRAINING = {
    *(
        f"features/{name}.py"
        for name in ("backbones", "encoder_export", "feed", "local_norms", "objectives", "shifts", "training")
    ),
    "features/private_training.py",
    "study/",
    "universal/",
}

# Package: the only modules that may import it.
SOLE_IMPORTERS = {
    "pynetdicom": {"listener/"},
    "prometheus_client": {"listener/"},
    "nvflare": {"federation/engine/"},
    "psutil": {"federation/engine/"},
    "onnxruntime": {"runtime.py", "export/precision.py"},
    "dp_accounting": {"statistics/accounting.py"},
    "safetensors": {"tensorfile.py", "study/"},
    "torch": TRAINING,
    "monai": TRAINING,
}


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(module: Path) -> Iterator[str]:
    """Dotted names that a module imports anywhere in its text, also inside functions."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sides_of(module: Path) -> tuple[set[str], set[str]]:
    """Rooms and root modules that a module imports, and packages of others."""
    rooms, packages = set(), set()
    for imported in imports_of(module):
        top, *rest = imported.split(".")
        if top != "fedmed_edge":
            packages.add(top)
        elif rest and not rest[0].startswith("__"):
            rooms.add(rest[0])
    return rooms, packages - set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_stays_within_the_walls_of_its_room(module: Path) -> None:
    room = room_of(module)
    rooms, packages = sides_of(module)
    if room in ROOT_MODULES:
        may_rooms, may_packages = ROOT_MODULES[room]
    else:
        assert room in WALLS, f"`{room}` is a new room: give it a line in WALLS"
        may_rooms, may_packages = WALLS[room][0] | ROOT | {room}, WALLS[room][1]
    assert rooms <= may_rooms, f"{name_of(module)} imports the rooms {sorted(rooms - may_rooms)}"
    extra = packages - may_packages - SHARED_PACKAGES
    assert not extra, f"{name_of(module)} imports the packages {sorted(extra)}"


@pytest.mark.parametrize("package", SOLE_IMPORTERS)
def test_a_package_has_its_sole_importers(package: str) -> None:
    importers = {name_of(module) for module in MODULES if package in sides_of(module)[1]}
    allowed = tuple(SOLE_IMPORTERS[package])
    assert not {name for name in importers if not name.startswith(allowed)}


def test_only_kernels_imports_the_compiled_module() -> None:
    importers = {name_of(module) for module in MODULES if "_kernels" in sides_of(module)[0]}
    assert importers
    assert all(name.startswith("kernels/") for name in importers)


def test_only_one_module_imports_the_twins() -> None:
    importers = {name_of(module) for module in MODULES if "_kernels_cuda" in sides_of(module)[0]}
    assert importers == {"kernels/device.py"}


def test_inference_reads_only_the_manifest_of_a_model() -> None:
    for module in MODULES:
        if room_of(module) in ("inference", "listener"):
            parts = [name.split(".") for name in imports_of(module) if name.startswith("fedmed_edge.model")]
            assert all(part[2:3] == ["manifest"] for part in parts), name_of(module)


# --- what importing loads --------------------------------------------------------------------------------


def loaded_by(modules: list[str]) -> set[str]:
    """Top-level packages that a fresh process has loaded after importing `modules`."""
    code = f"import {', '.join(modules)}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return set(run_python(code, environment=os.environ | {"PYTHONWARNINGS": "ignore"}).split())


def modules_of(room: str) -> list[str]:
    return [
        "fedmed_edge." + name_of(module).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for module in MODULES
        if room_of(module) == room
    ]


@pytest.mark.parametrize("room", ["inference", "listener", "images", "statistics"])
def test_what_runs_beside_the_scanner_loads_neither_torch_nor_monai(room: str) -> None:
    if not modules_of(room):
        pytest.skip(f"there is no room `{room}` yet")
    assert not loaded_by(modules_of(room)) & {"torch", "monai"}


@pytest.mark.parametrize("room", ["store", "model", "statistics", "export"])
def test_what_runs_on_the_server_loads_neither_torch_nor_monai_nor_pydicom(room: str) -> None:
    if not modules_of(room):
        pytest.skip(f"there is no room `{room}` yet")
    assert not loaded_by(modules_of(room)) & {"torch", "monai", "pydicom"}


def test_the_servers_side_of_the_federation_loads_neither_torch_nor_monai_nor_pydicom() -> None:
    ends = ("server_side", "offers", "requests", "rounds", "candidates", "coordinator", "publishing")
    loaded = loaded_by([f"fedmed_edge.federation.{name}" for name in ends])
    assert not loaded & {"torch", "monai", "pydicom", "nvflare"}


def test_importing_the_package_and_its_rooms_is_cheap() -> None:
    rooms = [f"fedmed_edge.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")]
    heavy = {"torch", "monai", "onnx", "onnxruntime", "pydicom", "nibabel", "sqlalchemy", "matplotlib", "PIL"}
    assert not loaded_by(["fedmed_edge", *rooms]) & heavy


def test_public_names_resolve_and_are_documented() -> None:
    names = list(getattr(fedmed_edge, "__all__", []))
    assert names == sorted(names)
    for name in names:
        assert getattr(fedmed_edge, name).__doc__ or name.startswith("__"), name


@pytest.mark.parametrize("asked", [None, "0"])
def test_telemetry_is_off_and_nothing_is_written_to_the_home_folder(
    tmp_path: Path, asked: str | None
) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    file, home = tmp_path / "model.onnx", tmp_path / "home"
    file.write_bytes(model.SerializeToString())
    home.mkdir()
    # onnxruntime keeps quiet by itself where CI is set.
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    kept = {k: v for k, v in kept.items() if not k.startswith("XDG_")} | {"HOME": str(home)}
    code = (
        "import os, pathlib, numpy; from fedmed_edge.runtime import open_session\n"
        f"session = open_session(pathlib.Path({str(file)!r}), device='cpu')\n"
        "answer = session.run({'x': numpy.ones(1, numpy.float32)})[0].item()\n"
        "print(answer, os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    if asked is not None:
        kept["ORT_DISABLE_TELEMETRY"] = asked
    said = run_python(code, environment=kept)
    assert said.split() == ["-1.0", "1"]
    assert not list(home.rglob("*"))


# --- conventions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_has_at_most_500_lines_and_a_name_that_says_what_it_does(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 500
    assert not {"utils", "util", "common", "base", "manager", "core"} & set(name_of(module)[:-3].split("/"))


@pytest.mark.parametrize("room", [path for path in MODULES if path.name == "__init__.py"], ids=name_of)
def test_a_room_says_in_at_most_six_lines_what_comes_in_and_goes_out(room: Path) -> None:
    text = ast.get_docstring(ast.parse(room.read_text(encoding="utf-8")))
    assert text is not None
    assert 1 <= len(text.splitlines()) <= 6


def included_by(source: Path) -> list[str]:
    return re.findall(r"^\s*#\s*include\s*[<\"]([^>\"]+)", source.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_library_knows_neither_python_nor_torch() -> None:
    for folder in ("src", "include"):
        sources = (path for path in (REPOSITORY / "cpp" / folder).rglob("*.*") if path.is_file())
        for source in sources:
            foreign = [
                name for name in included_by(source) if re.match("Python|pybind11|torch|ATen|c10", name)
            ]
            assert not foreign, f"{source.name} includes {foreign}"


def test_a_tile_includes_no_library_code() -> None:
    # It is compiled for several instruction sets: the linker might keep an inline function of the wrong one.
    tiles = list((REPOSITORY / "cpp" / "src").glob("*_tile.[ch]pp"))
    allowed = {"stddef.h", "stdint.h", *(source.name for source in tiles if source.suffix == ".hpp")}
    for source in tiles:
        assert set(included_by(source)) <= allowed, source.name


def _text_of(folder: Path, pattern: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob(pattern)))


def test_every_kernel_has_its_parts() -> None:
    listed = re.findall(
        r"^fedmed_add_kernel\((\w+)",
        (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    bound = {path.stem.removeprefix("bind_") for path in (REPOSITORY / "cpp" / "bindings").glob("bind_*.cpp")}
    assert bound == set(listed)
    tests = _text_of(REPOSITORY / "tests" / "python" / "kernels", "test_*.py")
    called = _text_of(PACKAGE / "kernels", "*.py")
    stub = (PACKAGE / "_kernels.pyi").read_text()
    assert all(f"_kernels.{name}" in called and f"def {name}" in stub for name in listed)
    assert all(f"def {name}_definition(" in tests for name in listed)


def test_every_twin_has_its_parts() -> None:
    twins = {path.stem for path in (REPOSITORY / "cpp" / "src").glob("*.cu")}
    assert twins
    assert {path.stem for path in (REPOSITORY / "cpp" / "include" / "fedmed" / "cuda").glob("*.hpp")} == twins
    bound = {path.stem for path in (REPOSITORY / "cpp" / "bindings" / "cuda").glob("bind_*.cpp")}
    assert bound == {f"bind_{name}" for name in twins}
    tested = {path.stem for path in (REPOSITORY / "tests" / "cpp" / "cuda").glob("test_*.cpp")}
    assert tested == {f"test_{name}" for name in twins}
    compared = (REPOSITORY / "tests" / "bench" / "cuda_twins.py").read_text(encoding="utf-8")
    assert all(f"kernels.{name}" in compared for name in twins)


def test_twins_never_sum_in_whatever_order_or_precision() -> None:
    for source in (REPOSITORY / "cpp" / "src").glob("*.cu*"):
        text = source.read_text(encoding="utf-8")
        assert "atomicAdd" not in text, source.name
        assert not re.search("tf32[^,]*[.;]row|wmma::precision", text), source.name


def test_nothing_is_built_for_this_machine_alone_or_with_openmp() -> None:
    for path in [
        REPOSITORY / "CMakeLists.txt",
        *(REPOSITORY / "cmake").glob("*"),
        REPOSITORY / "pyproject.toml",
    ]:
        assert not re.search(
            "march=native|mtune=native|openmp|ffast-math", path.read_text(), re.IGNORECASE
        ), path
