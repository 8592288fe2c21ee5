"""The documents say what the code does: commands, options, links, fields, and the README's story itself."""

import contextlib
import io
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from kits import load
from PIL import Image

import fedmed_edge
from fedmed_edge.commands.edge import edge
from fedmed_edge.commands.server import server
from fedmed_edge.config import PARTS, Policy, SiteConfig
from fedmed_edge.features.weights import BackboneHeader
from fedmed_edge.generation import GenerationHeader
from fedmed_edge.images.dataset import TaskFile
from fedmed_edge.images.labels import COLUMNS
from fedmed_edge.model.global_model import ModelHeader
from fedmed_edge.model.manifest import Manifest
from fedmed_edge.recipe import (
    Backbone,
    ClassCode,
    Frozen,
    Intensity,
    Lift,
    Recipe,
    SeriesRules,
    Training,
)
from fedmed_edge.statistics.header import ContributionHeader, Evidence
from fedmed_edge.statistics.tensors import tensor_rules

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "python" / "fedmed_edge"
DOCUMENTS = [
    *(REPOSITORY / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "models" / "README.md",
]
SHARED_OPTIONS = {"--json", "--verbose", "-v", "--quiet", "-q", "--set"}


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def leaves(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every verb of a program by its whole name, groups taken apart."""
    context = click.Context(group)
    for verb in group.list_commands(context):
        command = group.get_command(context, verb)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, f"{name} {verb}")
        else:
            yield f"{name} {verb}", command


VERBS = dict([*leaves(edge, "fedmed-edge"), *leaves(server, "fedmed-server")])


def options_of(command: click.Command) -> set[str]:
    named = [param for param in command.params if isinstance(param, click.Option)]
    return {name for option in named for name in (*option.opts, *option.secondary_opts)}


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands_in(text: str) -> list[list[str]]:
    """Command lines of ours in a shell block, comments taken off."""
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(("fedmed-edge ", "fedmed-server "))]


def resolve(words: list[str]) -> tuple[str, list[str]]:
    """Name of the verb at the beginning of a command line, and what is left of the line."""
    for count in (3, 2):
        if " ".join(words[:count]) in VERBS:
            return " ".join(words[:count]), words[count:]
    raise AssertionError(f"no such command: {' '.join(words)}")


# --- commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_help_with_an_example_that_names_options_of_it(verb: str) -> None:
    command = VERBS[verb]
    text = " ".join((command.help or "").split())
    assert text.split(".")[0], verb
    example = text.rpartition("Example: ")[2]
    name, rest = resolve(shlex.split(example))
    assert name == verb
    assert {word for word in rest if word.startswith("-")} <= options_of(command)
    assert all(
        option.help or option.show_default or option.name in ("device", "target")
        for option in command.params
        if isinstance(option, click.Option)
    )


@pytest.mark.parametrize("verb", VERBS)
def test_the_reference_names_every_option_of_a_verb_and_no_other(verb: str) -> None:
    sections = dict(
        re.findall(r"^### (fedmed-[^\n]+)\n(.*?)(?=^##|\Z)", text_of("docs/commands.md"), re.M | re.S)
    )
    assert verb in sections, f"docs/commands.md has no section `{verb}`"
    cells = re.findall(r"^\| (`-.*?) \|", sections[verb], re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(--?[A-Za-z-]+)", cell)}
    assert named == options_of(VERBS[verb]) - SHARED_OPTIONS


def test_the_reference_names_no_verb_that_is_not_there() -> None:
    headings = re.findall(r"^### (fedmed-.+)$", text_of("docs/commands.md"), re.MULTILINE)
    assert set(headings) == set(VERBS)
    assert all(option in text_of("docs/commands.md") for option in SHARED_OPTIONS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_changelog_names_every_verb(verb: str) -> None:
    assert re.search(rf"`({verb}|{verb.partition(' ')[2]})`", text_of("CHANGELOG.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shell_blocks_name_commands_and_options_that_exist(document: Path) -> None:
    for block in blocks(document, "sh"):
        for words in commands_in(block):
            verb, rest = resolve(words)
            unknown = {word for word in rest if re.match(r"--?[a-z]", word)} - options_of(VERBS[verb])
            assert not unknown, f"{verb} has no {sorted(unknown)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_within_sentences_exist(document: Path) -> None:
    for line in re.findall(r"`((?:fedmed-edge|fedmed-server) [^`]+)`", document.read_text(encoding="utf-8")):
        verb, rest = resolve(line.replace("|", " ").split())
        assert {word for word in rest if word.startswith("--")} <= options_of(VERBS[verb]), line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    text = "\n".join([*blocks(document, "sh"), *re.findall(r"`([^`\n]+)`", document.read_text("utf-8"))])
    asked = [words.split() for words in re.findall(r"^make((?: [a-z]+\b(?!=))+)", text, re.MULTILINE)]
    assert {target for words in asked for target in words} <= targets


# --- text ------------------------------------------------------------------------------------------------


def anchors_of(document: Path) -> set[str]:
    """Anchors that a forge makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_into_the_repository_resolve(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_no_place_of_one_machine(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    # Examples in README and help may name a hospital's own /data; a container's places are no machine's.
    if document.name != "containers.md":
        assert not re.search(r"(?<![\w.])/(work|tmp|home|root|usr|mnt|opt|Users)\b", text)
    assert not re.search(r"https?://\S*(index|simple|/whl)\b|--(extra-)?index-url|localhost", text)


def test_the_changelog_has_an_unreleased_section() -> None:
    text = text_of("CHANGELOG.md")
    assert re.search(r"^## Unreleased\n\n### Added\n- ", text, re.MULTILINE)
    assert all(f"`{name}`" in text for name in fedmed_edge.__all__)


def test_the_readme_names_what_it_must() -> None:
    text = text_of("README.md")
    assert text.count("<!-- figures -->") == 1
    assert all(f"`{name}`" in text for name in fedmed_edge.__all__)
    assert all(f"| `{column}` |" in text for column in COLUMNS)
    extras = re.findall(
        r"^([a-z]+) = \[", text_of("pyproject.toml").partition("optional-dep")[2], re.MULTILINE
    )
    for extra in extras[: extras.index("dev") + 1]:
        assert re.search(rf"^\| .*`{extra}`.* \|", text, re.MULTILINE), extra
    stated = set(TaskFile.model_fields) - {"source", "licence", "mask_classes"}
    assert all(f"`{name}`" in text for name in stated)


def test_the_reference_names_every_setting_of_a_site() -> None:
    section = text_of("docs/commands.md")
    assert all(
        f"`{name}`" in section for name in {*SiteConfig.model_fields, *Policy.model_fields} - {"policy"}
    )


def test_the_models_readme_names_every_field_of_a_recipe() -> None:
    text = text_of("models/README.md")
    tables: dict[str, type[Frozen]] = {"intensity": Intensity, "backbone": Backbone, "lift": Lift}
    tables |= {"series": SeriesRules, "codes": ClassCode, "training": Training}
    for name in set(Recipe.model_fields) - set(tables):
        assert f"| `{name}` |" in text, name
    for name, table in tables.items():
        assert f"`[{name}]`" in text
        assert all(f"`{key}`" in text for key in table.model_fields), name


# --- formats ---------------------------------------------------------------------------------------------


def section(heading: str) -> str:
    found = re.search(
        rf"^## {heading}\n(.*?)(?=^## |\Z)", text_of("docs/formats.md"), re.MULTILINE | re.DOTALL
    )
    assert found, heading
    return found[1]


@pytest.mark.parametrize(
    ("heading", "models"),
    [
        ("Contribution", (ContributionHeader, Evidence)),
        ("Generation", (GenerationHeader,)),
        ("Backbone", (BackboneHeader,)),
        ("Model", (ModelHeader,)),
        ("Exported model", (Manifest,)),
    ],
)
def test_formats_name_every_field(heading: str, models: tuple[Any, ...]) -> None:
    text = section(heading)
    for model in models:
        assert not [name for name in model.model_fields if f"`{name}`" not in text]


def test_formats_state_every_tensor_of_a_contribution_with_its_dtype() -> None:
    header = ContributionHeader(
        generation="0" * 64,
        recipe="0" * 64,
        task="t",
        kind="classification",
        classes=("a", "b"),
        row_dim=4,
        feature_dim=2,
        site="s",
        sequence=1,
        parts=PARTS,
        folds=5,
    )
    rows = re.findall(
        r"^\|[^|]*\| `([a-z_]+)` \| (\w+) \| \((.*?)\) \|", section("Contribution"), re.MULTILINE
    )
    stated = {name: (dtype, len(shape.replace("P(F + 1)", "P").split(","))) for name, dtype, shape in rows}
    dtypes = {"F64": "float64", "I64": "int64"}
    rules = tensor_rules(header)
    assert stated == {name: (dtypes[rule.dtype], len(rule.shape)) for name, rule in rules.items()}
    assert all(f"`{part}`" in section("Contribution") for part in PARTS)


def test_formats_state_every_tensor_of_generation_and_model() -> None:
    from fedmed_edge.generation import _ARRAYS
    from fedmed_edge.model.global_model import _TENSORS

    generation, model = section("Generation"), section("Model")
    for name, dtype in _ARRAYS.items():
        row = next(line for line in generation.splitlines() if line.startswith("|") and f"`{name}`" in line)
        assert f"| {np.dtype(dtype)} |" in row
    assert all(f"| `{name}` | float64 |" in model for name in _TENSORS)


# --- architecture ----------------------------------------------------------------------------------------


def test_the_architecture_lists_the_rooms_and_what_they_may_import() -> None:
    structure = load("test_structure.py")
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text_of("ARCHITECTURE.md"), re.MULTILINE)
    listed = {room: set(re.findall(r"`(\w+)`", may)) for room, may in rows if "every room" not in may}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {room for room, _ in rows} == folders - {"kernels"} | {"hospital", "local_training"}
    for room, may in listed.items():
        modules = [module for module in structure.MODULES if structure.room_of(module) == room]
        used = set().union(*(structure.sides_of(module)[0] for module in modules)) - structure.ROOT - {room}
        assert used <= may <= structure.WALLS[room][0] | used, room


def test_contributing_counts_the_files_of_a_kernel_as_they_are() -> None:
    text = text_of("CONTRIBUTING.md").partition("## Add a kernel")[2].partition("## Add a backbone")[0]
    stem = "resample"  # one without a tile
    named = [name.replace("NAME", stem) for name in re.findall(r"^\d+\. `([^`]+)`", text, re.MULTILINE)]
    assert all((REPOSITORY / name).exists() for name in named)
    skipped = {".venv", "build", "docs", ".git"}
    holding = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("cpp", "tests/cpp", "tests/python", "cmake", "python/fedmed_edge")
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in {".cpp", ".hpp", ".py", ".pyi", ".txt"} and not skipped & set(path.parts)
        if re.search(rf"\b(bind_)?{stem}\b", path.read_text(encoding="utf-8"))
        and "statistics" not in path.parts
    }
    files = {name for name in named if not name.endswith("/")}
    assert files - {"CMakeLists.txt"} <= holding
    assert all(any(name.startswith(folder) for name in holding) for folder in set(named) - files)
    assert not {name for name in holding if name.startswith(("cpp/", "tests/cpp/"))} - set(named)


# --- the README's story ----------------------------------------------------------------------------------

RECIPE = """
name = "lesion"
kind = "classification"
classes = ["benign", "malignant"]
channels = 3
size = [32, 32]
[intensity]
rule = "range"
low = 0
high = 255
[backbone]
network = "residual_encoder"
widths = [8, 16]
[lift]
lift_dim = 8
feature_dim = 8
"""


def write_hospital(folder: Path, seed: int) -> None:
    """Twelve training patients a class: discs, small or large, on a noisy background."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    lines = ["image,label,mask,patient,split"]
    rows, columns = np.mgrid[:32, :32]
    for number in range(28):
        pixels = random.normal(90 + 10 * seed, 8, (32, 32, 3))
        pixels[np.hypot(rows - 16, columns - 16) < (10, 5)[number % 2]] += 80
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")
        label, split = ("benign", "malignant")[number % 2], "train" if number < 24 else "test"
        lines.append(f"{number:02}.png,{label},,p{number},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def story() -> list[list[str]]:
    """The README's commands in order; those of hospital-a are run for hospital-b, too."""
    told = []
    for block in blocks(REPOSITORY / "README.md", "sh"):
        for words in commands_in(block):
            told.append(words)
            if any("hospital-a" in word for word in words):
                told.append(
                    [re.sub(r"^a\.", "b.", re.sub(r"(hospital|lesions)-a", r"\1-b", w)) for w in words]
                )
    return told


@pytest.fixture
def _own_process() -> Iterator[None]:
    """Takes back what a command does to its process: environment and logging."""
    root, ours = logging.getLogger(), logging.getLogger("fedmed_edge")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.mark.usefixtures("_own_process")
def test_the_story_of_the_readme_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lesion.toml").write_text(RECIPE)
    for seed, name in enumerate("abc"):
        write_hospital(tmp_path / f"lesions-{name}", seed)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "one.png").write_bytes((tmp_path / "lesions-a" / "25.png").read_bytes())
    (tmp_path / "study" / "notes.txt").write_text("no image")
    done = set()
    for words in story():
        verb, rest = resolve(words)
        if verb.endswith(" train"):
            rest += ["--epochs", "2"]
        group = edge if verb.startswith("fedmed-edge") else server
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = group.main([*verb.split()[1:], *rest], standalone_mode=False)
        assert not code, (words, said.getvalue())
        done.add(verb)
    hospital = {f"fedmed-edge {verb}" for verb in ("init", "doctor", "train", "contribute", "infer")}
    admin = {"init", "site add", "generation publish", "import", "rebuild", "evaluate", "export", "refine"}
    assert hospital | {f"fedmed-server {verb}" for verb in (*admin, "withdraw", "status")} <= done
    assert (tmp_path / "results" / "one" / "result.json").is_file()
    (block,) = blocks(REPOSITORY / "README.md", "python")
    monkeypatch.setattr(sys, "argv", ["readme"])
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(block, "README.md", "exec"), {})
    digest, *_ = said.getvalue().split()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert "one.png malignant" in said.getvalue() or "one.png benign" in said.getvalue()
    assert "failed: study/notes.txt: not a PNG, JPEG, NIfTI or DICOM file" in said.getvalue()


def test_every_part_of_the_method_that_code_cites_is_there() -> None:
    told = set(re.findall(r"^\*\*§(\d) ", text_of("ARCHITECTURE.md"), re.MULTILINE))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert set(re.findall(r"method §(\d)", sources, re.IGNORECASE)) == told
