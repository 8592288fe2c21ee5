"""What all verbs share: lazy loading, `--json`, `-v/-q`, errors with their exit codes, progress on stderr."""

import atexit
import gc
import importlib
import json
import keyword
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from fedmed_edge import __version__
from fedmed_edge.errors import FedmedError
from fedmed_edge.words import counted

log = logging.getLogger(__name__)

Advance = Callable[[str], None]

_SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Output:
    """How a verb answers: data on stdout, everything else on stderr."""

    as_json: bool = False
    quiet: bool = False

    def answer(self, document: Any, human: str | Iterable[str]) -> None:
        """Print `document` as JSON where `--json` was given, else the human lines."""
        if self.as_json:
            click.echo(json.dumps(document, sort_keys=False, allow_nan=False))
        else:
            for line in [human] if isinstance(human, str) else human:
                click.echo(line)

    @contextmanager
    def progress(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """A progress bar on stderr; a line a minute where that is no terminal, nothing with `-q`.

        Yields a function to call once a step with what the step is about.
        """
        if self.quiet or not sys.stderr.isatty():
            yield (lambda step: None) if self.quiet else _line_a_minute(title)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda step: bar.update(task, advance=1, description=f"{title}: {step}" if step else title)


def _line_a_minute(title: str) -> Advance:
    """For logs: hours of work in a file or a pipe are not silent."""
    began = told = time.monotonic()
    steps = 0

    def advance(step: str) -> None:
        nonlocal told, steps
        now, steps = time.monotonic(), steps + 1
        if now - told >= _SILENCE_SECONDS:
            told = now
            done = counted(steps, "step")
            log.info("%s: %s in %.0f s%s", title, done, now - began, f", {step}" if step else "")

    return advance


class Verb(click.Command):
    """A command that also takes `--json`, `-v` and `-q` and passes an `Output` as its context object."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="One JSON document on stdout."),
            click.Option(["-v", "--verbose"], is_flag=True, help="More log lines on stderr."),
            click.Option(["-q", "--quiet"], is_flag=True, help="No progress bars, warnings and errors only."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Take out the shared options, then run the verb."""
        as_json, verbose, quiet = (ctx.params.pop(name) for name in ("as_json", "verbose", "quiet"))
        level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s", force=True)
        logging.getLogger("fedmed_edge").setLevel(level)
        ctx.obj = Output(as_json=as_json, quiet=quiet)
        return super().invoke(ctx)


class LazyGroup(click.Group):
    """Verbs by name; the module of a verb is imported when it is called."""

    def __init__(self, package: str, verbs: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.package, self.verbs = package, verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of a user's day."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The verb's command, or None."""
        if name not in self.verbs:
            return None
        module = importlib.import_module(f"{self.package}.{_module_name(name)}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, naming the nearest verb where there is none of that name."""
        if args and args[0] not in self.verbs:
            import difflib

            near = difflib.get_close_matches(args[0], self.verbs, n=1)
            ctx.fail(f"no such command `{args[0]}`" + (f"; did you mean `{near[0]}`?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))


def _module_name(verb: str) -> str:
    return verb.replace("-", "_") + ("_" if keyword.iskeyword(verb) else "")


def run(group: click.Group, program: str) -> None:
    """Run a program and turn what went wrong into `error:` and `hint:` lines and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    atexit.register(gc.freeze)  # to search all that was loaded for garbage would be a tenth of a cold start
    try:
        code = group.main(prog_name=program, standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.UsageError as error:
        _show_usage(error)
        code = 2
    except (click.Abort, KeyboardInterrupt) as stop:
        if stop.__cause__ is None:  # the line of an unanswered question is still open
            click.echo(err=True)
        told = str(stop.__cause__ or stop)  # of a verb that keeps nothing before its end
        complain("interrupted", told or "what was finished is kept; run the same command again to go on")
        code = 130
    except FedmedError as error:
        complain(str(error), error.hint)
        code = error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        complain(f"{package} is not installed", f'pip install "fedmed-edge[{_EXTRAS[package]}]"')
        code = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{(error.strerror or str(error)).lower()}", _SYSTEM_HINTS.get(error.errno or 0))
        code = 1
    except Exception as error:
        log.debug("%s", program, exc_info=True)
        complain(f"unexpected {type(error).__name__}: {error}", "run it again with -v for where it happened")
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def version_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags `--version` and, beside it, `--json` of both programs."""
    option = partial(click.option, is_flag=True, expose_value=False)
    # eager: it is known when `--version` answers, in either order
    as_json = option("--json", callback=_remember_json, is_eager=True, help="With --version: as JSON.")
    return option("--version", callback=_show_version, help="Show the version.")(as_json(command))


def _remember_json(ctx: click.Context, _option: click.Parameter, given: bool) -> None:
    ctx.meta["fedmed.json"] = given


def _show_version(ctx: click.Context, _option: click.Parameter, given: bool) -> None:
    if not given:
        return
    program = ctx.find_root().info_name
    line = f"{program}, version {__version__}"
    if ctx.meta["fedmed.json"]:
        folder = Path(os.environ.get("FEDMED_FOLDER", "."))
        line = json.dumps(
            {
                "program": program,
                "version": __version__,
                "revision": os.environ.get("FEDMED_REVISION") or None,
                "model": _active_model(folder) if program == "fedmed-edge" else None,
            }
        )
    click.echo(line)
    ctx.exit()


def _active_model(folder: Path) -> str | None:
    """Digest of the model that answers in a site folder, where one does."""
    from fedmed_edge.inference.model_folder import ModelFolder

    try:
        return ModelFolder(folder).active().model
    except FedmedError:
        return None


_EXTRAS = {
    "dp_accounting": "privacy",
    "torch": "train",
    "monai": "train",
    "onnxscript": "train",
    "onnx": "server",
    "scipy": "study",
    "sqlalchemy": "server",
    "matplotlib": "server",
    "jinja2": "server",
    "onnxruntime": "cpu",
    "psycopg": "postgres",
    "fsspec": "s3",
    "nvflare": "federation",
    "psutil": "federation",
    "pynetdicom": "listen",
    "dicomweb_client": "listen",
    "prometheus_client": "listen",
}
_SYSTEM_HINTS = {
    13: "check who owns the folder and its permissions",
    28: "free some space; nothing half-written was left behind, so run the same command again",
    30: "the folder is read-only: choose another with the command's option",
}


def _show_usage(error: click.UsageError) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError) or error.ctx is None:
        error.show()
        return
    click.echo(error.ctx.get_usage(), err=True)
    message = error.format_message().rstrip(".")
    complain(message[:1].lower() + message[1:], f"see `{error.ctx.command_path} --help`")


def complain(message: str, hint: str | None) -> None:
    """An `error:` line, and a `hint:` line where there is one, on stderr."""
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def ends_on_signal() -> threading.Event:
    """For verbs that run until they are told to: set by Ctrl-C or SIGTERM, which is no error then."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: ended.set())
    return ended


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
