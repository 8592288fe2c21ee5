"""Tiny hospitals on disk, and the two programs: run in this process, or in one of their own."""

import contextlib
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from kits import Said
from PIL import Image as Raster

import fedmed_edge  # turns telemetry off in this process, before its environment is kept and put back

EDGE, SERVER, PACKAGE = "fedmed-edge", "fedmed-server", fedmed_edge.__name__

RECIPE = """
name = "tiny"
kind = "{kind}"
classes = ["dark", "bright"]
size = [32, 32]
pixel_stride = 4

[intensity]
rule = "range"
low = 0
high = 255

[backbone]
network = "{network}"
widths = [8, 16]

[lift]
lift_dim = 32
feature_dim = 64

[training]
amplitude = 1.0
"""


def run(program: str, *arguments: object) -> Said:
    """Run a program's installed entry point in this process, so that torch is loaded once for all tests."""
    (entry,) = entry_points(group="console_scripts", name=program)
    out, err, argv, environment = io.StringIO(), io.StringIO(), sys.argv, dict(os.environ)
    root, own, terminate = logging.getLogger(), logging.getLogger(PACKAGE), signal.getsignal(signal.SIGTERM)
    handlers, levels = root.handlers[:], (root.level, own.level)
    try:
        sys.argv = [program, *map(str, arguments)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            entry.load()()
        raise AssertionError("a program ends with an exit code")
    except SystemExit as end:
        return Said(int(end.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv, root.handlers[:] = argv, handlers
        root.setLevel(levels[0])
        own.setLevel(levels[1])
        signal.signal(signal.SIGTERM, terminate)
        os.environ.clear()
        os.environ.update(environment)


# A child stops itself at the n-th call of one function: by a signal, or because a file may grow no further.
CHILD = """
import importlib, os, resource, signal, sys
where, count, name, room, *sys.argv = sys.argv[1:]
left = int(count)
def stopping(original):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            print("stopped", file=sys.stderr, flush=True)
            os.kill(os.getpid(), getattr(signal, name))
        return original(*args, **kwargs)
    return call
if where:
    module, path = where.split(":")
    *outer, last = path.split(".")
    holder = importlib.import_module(module)
    for part in outer:
        holder = getattr(holder, part)
    setattr(holder, last, stopping(getattr(holder, last)))
from importlib.metadata import entry_points
(entry,) = entry_points(group="console_scripts", name=sys.argv[0])
main = entry.load()
# ignored where the tests run in the background of a shell
signal.signal(signal.SIGINT, signal.default_int_handler)
if int(room):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), int(room)))
main()
"""


def run_alone(
    program: str,
    *arguments: object,
    stop: str = "",
    count: int = 1,
    by: str = "SIGINT",
    room: int = 0,
    code: str = CHILD,
    **environment: str,
) -> Said:
    """Run a program in a process of its own, warnings as in a user's shell.

    Args:
        stop: `module:function` at whose `count`-th call the process gets the signal `by`.
        room: Bytes that no file may grow beyond, as on a full disk; 0 sets no limit.
    """
    settings = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100"} | environment
    # of its own: what it does not clean up as it is killed goes with it
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, stop, str(count), by, str(room), program, *map(str, arguments)],
            env=os.environ | {"TMPDIR": folder} | settings,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    return Said(done.returncode, done.stdout, done.stderr)


class Federation:
    """A server and its hospitals in one folder; every step is a command that must succeed.

    Attributes:
        server: The server's folder.
        generation: File of the newest generation that was published.
    """

    def __init__(self, root: Path, kind: str = "classification") -> None:
        self.root, self.kind = root, kind
        self.server, self.generation = root / "server", root / "start.generation"
        self.recipe, self.trust = root / "tiny.toml", root / "server" / "server.pub"
        network = "residual_encoder" if kind == "classification" else "unet"
        root.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(RECIPE.format(kind=kind, network=network))
        self.ask(SERVER, "init", self.server)

    def copy(self, root: Path) -> "Federation":
        """The same federation in another folder, as it stands now."""
        made = object.__new__(type(self))
        for name, value in self.__dict__.items():
            setattr(made, name, root / value.relative_to(self.root) if isinstance(value, Path) else value)
        shutil.copytree(self.root, root)
        for settings in root.glob("*/fedmed.toml"):
            settings.write_text(settings.read_text().replace(str(self.root), str(root)))
        return made

    def ask(self, program: str, *arguments: object) -> Any:
        """The answer of a command that succeeds, with --json."""
        said = run(program, *arguments, "--json")
        assert said.code == 0, said.err
        return said.json

    def admin(self, *arguments: object) -> Any:
        """As `ask`, of `fedmed-server` in its folder; the verb comes first."""
        return self.ask(SERVER, *arguments, "-C", self.server)

    def site(self, name: str, verb: str, *arguments: object) -> Any:
        """As `ask`, of `fedmed-edge` in the site's folder."""
        return self.ask(EDGE, verb, "-C", self.root / name, *arguments)

    def enrol(self, name: str, seed: int, gain: float = 1.0) -> Path:
        """A hospital with images, a folder and a key that the server knows; its folder."""
        make = classification if self.kind == "classification" else segmentation
        make(self.root / f"{name}-data", seed, gain)
        given = ("--data", self.root / f"{name}-data", "--recipe", self.recipe, "--server-key", self.trust)
        self.ask(EDGE, "init", self.root / name, "--site", name, *given)
        settings = self.root / name / "fedmed.toml"
        text = settings.read_text().replace("min_cohort = 10", "min_cohort = 2")
        settings.write_text(text.replace('width_rule = "warn"', 'width_rule = "off"'))
        self.admin("site", "add", name, "--key", self.root / name / f"{name}.pub")
        return self.root / name

    def contribute(self, name: str, *arguments: object, file: str = "") -> Path:
        """Contribution of a site under the newest generation; its file."""
        path = self.root / (file or f"{name}.contribution")
        self.site(name, "contribute", "--generation", self.generation, "--out", path, *arguments)
        return path

    def publish(self, file: str, *arguments: object) -> Any:
        """Publish a generation, which becomes the newest."""
        self.generation = self.root / file
        return self.admin("generation", "publish", "--out", self.generation, *arguments)

    def learn(self, *names: str) -> None:
        """From a random backbone to a completed generation, by these sites; without local training."""
        self.publish("start.generation", "--recipe", self.recipe)
        files = [self.contribute(name, file=f"{name}.draft") for name in names]
        self.admin("import", *files)
        self.publish("tiny.generation", *(part for file in files for part in ("--from", file)))

    def join(self, *names: str) -> None:
        """These sites contribute and the server takes it."""
        self.admin("import", *(self.contribute(name) for name in names))

    def export(self, file: str = "tiny.onnx", *arguments: object) -> Path:
        """The newest model as one signed file."""
        self.admin("export", "--out", self.root / file, *arguments)
        return self.root / file


def classification(folder: Path, seed: int, gain: float = 1.0, images: int = 24) -> None:
    """Dark and bright images of noise, one a patient; the last four are held out."""
    folder.mkdir(parents=True)
    random, lines = np.random.default_rng(seed), ["image,label,mask,patient,split"]
    for index in range(images):
        level = gain * (60 + 110 * (index % 2))
        pixels = np.clip(random.normal(level, 25, (40, 36)), 0, 255).astype(np.uint8)
        Raster.fromarray(pixels).save(folder / f"{index}.png")
        split = "test" if index >= images - 4 else "train"
        lines.append(f"{index}.png,{('dark', 'bright')[index % 2]},,p{index},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def segmentation(folder: Path, seed: int, gain: float = 1.0, images: int = 10) -> None:
    """A bright square on a dark ground, one image a patient; the last two are held out."""
    folder.mkdir(parents=True)
    random, lines = np.random.default_rng(seed), ["image,label,mask,patient,split"]
    for index in range(images):
        mask = np.zeros((40, 44), np.uint8)
        top, left = random.integers(4, 20, 2)
        mask[top : top + 16, left : left + 16] = 1
        pixels = np.clip(gain * (60 + 110 * mask) + random.normal(0, 15, mask.shape), 0, 255)
        Raster.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
        Raster.fromarray(mask).save(folder / f"{index}_mask.png")
        split = "test" if index >= images - 2 else "train"
        lines.append(f"{index}.png,,{index}_mask.png,p{index},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
