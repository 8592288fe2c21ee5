"""Every verb of both programs, through the installed entry points."""

import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from fedmed_edge import __version__
from fedmed_edge.commands.edge import edge
from fedmed_edge.commands.server import server
from fedmed_edge.commands.verbs import Output

PROGRAMS = {"fedmed-edge": edge, "fedmed-server": server}
README = Path(__file__).parents[3] / "README.md"

# Verb: what it is given, and keys of its JSON document.
CASES: dict[str, tuple[Callable[[Any], list[object]], set[str]]] = {
    "fedmed-edge init": (
        lambda f: [f.root / "new", "--site", "new", "--recipe", f.recipe, "--server-key", f.trust],
        {"folder", "site", "public_key", "fingerprint"},
    ),
    "fedmed-edge doctor": (lambda f: ["-C", f.root / "a"], {"folder", "checks", "faults", "warnings"}),
    "fedmed-edge train": (
        lambda f: [
            *("-C", f.root / "a", "--generation", f.generation),
            *("--epochs", 0.1, "--device", "cpu", "--out", f.root / "x.backbone"),
        ],
        {"out", "images", "seconds", "loss"},
    ),
    "fedmed-edge extract": (
        lambda f: ["-C", f.root / "a", "--generation", f.generation, "--out", f.root / "x"],
        {"out", "id", "header", "tensors", "bytes"},
    ),
    "fedmed-edge contribute": (
        lambda f: ["-C", f.root / "c", "--generation", f.generation, "--out", f.root / "x"],
        {"out", "id", "header", "tensors", "bytes"},
    ),
    "fedmed-edge contribute --dry-run": (
        lambda f: ["-C", f.root / "c", "--generation", f.generation],
        {"dry_run", "id", "header", "tensors", "bytes"},
    ),
    "fedmed-edge inspect": (lambda f: [f.root / "a.contribution"], {"kind", "id", "header", "signer"}),
    "fedmed-edge infer": (
        lambda f: [f.root / "a-data" / "1.png", "-o", f.root / "out", *model_of(f)],
        {
            *("input", "output", "task", "label", "probabilities", "known", "model", "device", "seconds"),
            "error",
        },
    ),
    "fedmed-edge report": (lambda f: [report_of(f)], {"report"}),
    "fedmed-server init": (lambda f: [f.root / "new"], {"folder", "public_key", "fingerprint"}),
    "fedmed-server site add": (
        lambda f: ["-C", f.server, "c", "--key", f.root / "c" / "c.pub"],
        {"site", "fingerprint"},
    ),
    "fedmed-server site list": (lambda f: ["-C", f.server], {"sites"}),
    "fedmed-server site revoke": (lambda f: ["-C", f.server, "c"], {"site", "revoked"}),
    "fedmed-server generation publish": (
        lambda f: ["-C", f.server, "--backbone", f.root / "a.backbone", "--out", f.root / "x.generation"],
        {"out", "digest", "draft", "row_dim", "trained_by", "bytes"},
    ),
    "fedmed-server import": (lambda f: ["-C", f.server, f.root / "a.contribution"], {"imported", "refused"}),
    "fedmed-server status": (
        lambda f: ["-C", f.server],
        {"sites", "generations", "tasks", "contributions", "models", "faults"},
    ),
    "fedmed-server rebuild": (
        lambda f: ["-C", f.server, "--without", "b"],
        {"digest", "task", "generation", "sites", "ridge", "temperature", "known_threshold", "figures"},
    ),
    "fedmed-server refine": (
        lambda f: ["-C", f.server, "a"],
        {"digest", "sites", "refined_for", "kept", "reason"},
    ),
    "fedmed-server withdraw": (
        lambda f: ["-C", f.server, "b", "--yes"],
        {"site", "deleted", "withdrawn_models", "digest", "sites", "models", "not_rebuilt", "faults"},
    ),
    "fedmed-server evaluate": (
        lambda f: ["-C", f.server],
        {"digest", "task", "sites", "ridge", "fold_error", "known_threshold", "distances"},
    ),
    "fedmed-server export": (
        lambda f: ["-C", f.server, "--out", f.root / "x.onnx"],
        {"out", "signature", "digest", "sites", "bytes"},
    ),
}


def model_of(f: Any) -> tuple[object, ...]:
    return ("--model", f.root / "tiny.onnx", "--trust", f.trust)


def report_of(f: Any) -> Path:
    """Folder of a demo that has run, its figures left."""
    from fedmed_edge.report.data import ReportData, save_data

    folder: Path = f.root / "demo-output"
    folder.mkdir(exist_ok=True)
    save_data(folder / "report.json", ReportData("demo", "no task", (), {}, ()))
    return folder


def leaves(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None, name
        if isinstance(found, click.Group):
            yield from leaves(found, (*path, name))
        else:
            yield (*path, name), found


VERBS = {path: verb for name, group in PROGRAMS.items() for path, verb in leaves(group, (name,))}
GROUPS = [("fedmed-edge",), ("fedmed-server",), ("fedmed-server", "site"), ("fedmed-server", "generation")]


def parse(line: str) -> None:
    """Parse a command line as its program would, without running it.

    Raises:
        click.UsageError: A verb, an option or a value that is none.
    """
    program, *words = shlex.split(line)
    command: click.Command = PROGRAMS[program]
    context = click.Context(command, info_name=program)
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None, line
        command, context = found, click.Context(found, info_name=words[0] if words else "", parent=context)
    command.parse_args(context, words)


def test_every_verb_is_run_by_these_tests_or_others() -> None:
    run = {tuple(word for word in name.split() if not word.startswith("--")) for name in CASES}
    others = [path for path in Path(__file__).parents[2].rglob("*.py") if path != Path(__file__)]
    said = "\n".join(path.read_text(encoding="utf-8") for path in others)
    assert not {verb for verb in {*VERBS} - run if f'"{verb[-1]}"' not in said}


@pytest.mark.parametrize("name", CASES)
def test_a_verb_answers_people_and_programs(name: str, copied: Any, kit: ModuleType) -> None:
    program, *verb = name.split()
    arguments, keys = CASES[name]
    said = kit.run(program, *verb, *arguments(copied), "--json")
    assert said.code == 0, said.err
    assert said.out.endswith("\n") and said.out.count("\n") == 1
    assert keys <= set(said.json)
    assert not re.search(r"error:|Traceback", said.err)


@pytest.mark.parametrize("name", CASES)
def test_without_json_a_verb_answers_in_lines(name: str, copied: Any, kit: ModuleType) -> None:
    program, *verb = name.split()
    said = kit.run(program, *verb, *CASES[name][0](copied))
    assert said.code == 0, said.err
    assert said.out.strip() and not said.out.lstrip().startswith(("{", "["))
    assert "\x1b" not in said.out + said.err


@pytest.mark.parametrize("path", [*VERBS, *GROUPS], ids=" ".join)
def test_help_tells_what_a_verb_does(path: tuple[str, ...], kit: ModuleType) -> None:
    said = kit.run(*path, "--help")
    assert said.code == 0 and said.err == "" and said.out.startswith(f"Usage: {' '.join(path)}")
    if path in VERBS:
        assert "Example:" in said.out
        assert all(option in said.out for option in ("--json", "-v, --verbose", "-q, --quiet"))


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_the_example_of_a_verb_is_one_of_its_own(path: tuple[str, ...]) -> None:
    examples = re.findall(r"Example: (.+?)\s*(?:\n\n|\Z)", VERBS[path].help or "", re.DOTALL)
    assert len(examples) == 1
    assert examples[0].split()[: len(path)] == list(path)
    parse(examples[0])


def test_the_commands_of_the_readme_parse() -> None:
    lines = [line for line in README.read_text().splitlines() if line.startswith(tuple(PROGRAMS))]
    assert len(lines) >= 15
    for line in lines:
        parse(line.split(" #")[0])


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(program: str, kit: ModuleType) -> None:
    said = kit.run(program, "--version")
    assert (said.code, said.out) == (0, f"{program}, version {__version__}\n")


@pytest.mark.parametrize("order", [("--version", "--json"), ("--json", "--version")])
def test_version_as_json_names_revision_and_active_model(
    order: tuple[str, str], kit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDMED_REVISION", "0123abc")
    monkeypatch.setenv("FEDMED_FOLDER", str(tmp_path))
    said = kit.run("fedmed-edge", *order).json
    assert said == {"program": "fedmed-edge", "version": __version__, "revision": "0123abc", "model": None}


def test_infer_prints_one_line_an_input(copied: Any, kit: ModuleType) -> None:
    images = [copied.root / "a-data" / f"{n}.png" for n in (1, 2)]
    given = [*images, "-o", copied.root / "out", *model_of(copied)]
    said = kit.run("fedmed-edge", "infer", *given, "--json", "--preview")
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["input"] for row in rows] == [str(path) for path in images]
    assert [row["label"] for row in rows] == ["bright", "dark"]
    assert all(row["error"] is None and row["device"] == "cpu" for row in rows)
    assert all((Path(row["output"]) / "preview.png").is_file() for row in rows)
    assert (copied.root / "out" / "results.csv").read_text().count("\n") == 3


@pytest.mark.parametrize("file", ["a.contribution", "tiny.generation", "a.backbone", "tiny.onnx"])
def test_inspect_tells_what_each_kind_of_file_holds(file: str, world: Any, kit: ModuleType) -> None:
    said = kit.run("fedmed-edge", "inspect", world.root / file, "--json")
    assert said.json["kind"] == {"tiny.generation": "generation", "tiny.onnx": "exported model"}.get(
        file, file.split(".")[1]
    )
    assert str(world.root) in kit.run("fedmed-edge", "inspect", world.root / file).out


@pytest.mark.parametrize("weights", [False, True])
def test_a_dry_run_lists_every_tensor_and_writes_nothing(
    weights: bool, copied: Any, kit: ModuleType, listing: Callable[[Path], dict[str, bytes]]
) -> None:
    given = ["contribute", "-C", copied.root / "a", "--generation", copied.generation, "--dry-run"]
    given += ["--weights", copied.root / "a.backbone"] if weights else []
    before = listing(copied.root)
    document = kit.run("fedmed-edge", *given, "--json").json
    lines = kit.run("fedmed-edge", *given).out
    assert listing(copied.root) == before
    names = [row["name"] for row in document["tensors"]]
    if weights:
        assert len(names) > 5 and all(name.startswith("weights/") for name in names)
    else:
        assert {"class_counts", "class_grams", "class_sums", "image_gram"} <= set(names)
        assert not any(name.startswith("style") for name in names)
    assert all(f"  {name} " in lines for name in names)
    assert document["bytes"] == sum(row["bytes"] for row in document["tensors"])
    assert str(copied.root) not in json.dumps(document)


def test_a_draft_contribution_says_that_it_holds_no_class_statistics(world: Any, kit: ModuleType) -> None:
    assert "no class statistics" in kit.run("fedmed-edge", "inspect", world.root / "a.draft").out


def test_quiet_and_verbose(copied: Any, kit: ModuleType) -> None:
    given = ("contribute", "-C", copied.root / "a", "--generation", copied.generation, "--dry-run")
    assert kit.run("fedmed-edge", *given, "-q").err == ""
    usual, more = kit.run("fedmed-edge", *given).err, kit.run("fedmed-edge", *given, "-v").err
    assert "extracted 20 of 20 images" in usual
    assert "model loaded on cpu" in more and "model loaded on cpu" not in usual


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_drawn_on_a_terminal_alone_and_without_colour_where_asked(
    world: Any, quiet: bool
) -> None:
    pytest.importorskip("pty")
    import pty
    import subprocess

    given = ["contribute", "-C", world.root / "a", "--generation", world.generation, "--dry-run"]
    code = (
        "from importlib.metadata import entry_points as e\n"
        "e(group='console_scripts', name='fedmed-edge')['fedmed-edge'].load()()"
    )
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, given), *(["-q"] if quiet else [])],
        env=os.environ | {"NO_COLOR": "1", "TERM": "xterm-256color"},
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    ) as process:
        os.close(slave)
        drawn = read_all(master)
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == 0
    assert out.startswith("dry run: nothing was written\n") and "\x1b" not in out
    assert ("extracting" in drawn) is not quiet
    colours = re.findall(r"\x1b\[([\d;]*)m", drawn)
    assert all(int(part or 0) < 30 for colour in colours for part in colour.split(";"))


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    caplog.set_level("INFO")
    with Output().progress("demo") as advance:
        advance("reference")
    assert not caplog.records
    monkeypatch.setattr("fedmed_edge.commands.verbs._SILENCE_SECONDS", 0.0)
    for quiet in (True, False):
        with Output(quiet=quiet).progress("demo") as advance:
            advance("")
            advance("reference")
    told = [record.getMessage() for record in caplog.records]
    assert told == ["demo: 1 step in 0 s", "demo: 2 steps in 0 s, reference"]


def read_all(descriptor: int) -> str:
    """What comes through a terminal until its other end is closed."""
    parts = []
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:  # Linux says so when the last writer has gone
            part = b""
        if not part:
            os.close(descriptor)
            return b"".join(parts).decode()
        parts.append(part)
