"""The process beside the node that answers: `python -m fedmed_edge.listener.worker`; see `worker_process`.

It reads lines of JSON from stdin, first its settings, then one series a line, and writes one line for each to
what was stdout. Whatever a model does to it (a crash, a loop, too much memory) meets this process alone. When
its stdin ends, so does it.
"""

import contextlib
import json
import os
import queue
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from fedmed_edge.errors import FedmedError, NothingMatched
from fedmed_edge.inference.choice import load_active
from fedmed_edge.inference.model_folder import ModelFolder
from fedmed_edge.inference.options import Options
from fedmed_edge.inference.predict import Model, load_models
from fedmed_edge.inference.study import Result, answer_study

Document = dict[str, Any]


def main() -> None:
    """Answer until stdin ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    # what libraries print does not belong among the answers
    os.dup2(2, 1)
    # A service manager tells every process of the service; the node decides when this one ends.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    settings = json.loads(lines.get())
    _confine(settings["memory_bytes"])
    try:
        worker = Worker(**settings["worker"])
    except FedmedError as error:
        _say(out, _error(error))
        return
    _say(out, {"ready": worker.describe()})
    # Before the first study comes, what it would else wait for.
    import fedmed_edge.inference.dicom_objects  # noqa: F401
    from fedmed_edge.inference.dicom_sc import load_tables

    load_tables()
    while True:
        request = json.loads(lines.get())
        _say(out, worker.answer(Path(request["input"]), Path(request["output"]), request["missing"]))


class Worker:
    """A model that stays loaded; one that takes its place, as a file or as the active one, is loaded then.

    Args:
        site: Site folder, whose active model answers.
        path: Model file that answers instead, where there is one.
        trust: The server's public key.
        options: `Options` of what is written.

    Raises:
        FedmedError: As `load_model` and `ModelFolder.active`.
    """

    def __init__(
        self, site: str, path: str | None, trust: str | None, device: str, options: Document
    ) -> None:
        self._site, self._path = Path(site), Path(path) if path else None
        self._trust, self._device = trust, device
        self._options = Options(**{**options, "formats": frozenset(options["formats"])})
        self._loaded: tuple[Path, int, int] | None = None
        self._load()

    def _load(self) -> None:
        models = ModelFolder(self._site)
        path = self._path or models.active().path
        stamp = path.stat() if path.exists() else None
        wanted = (path, stamp.st_ino, stamp.st_mtime_ns) if stamp else None
        if wanted is None or wanted != self._loaded:
            self._models: tuple[Model, ...] = (
                load_models(path, trust=self._trust, device=self._device)
                if self._path
                else load_active(self._site, trust=self._trust, device=self._device)
            )
            self._loaded = wanted
        models.refuse_withdrawn([one.digest for one in self._models], path)

    def describe(self) -> Document:
        """Task, digest and device of the model; tasks and digests of one that answers several."""
        return {
            "task": ", ".join(one.manifest.task for one in self._models),
            "model": self._digests,
            "device": self._models[0].device,
        }

    @property
    def _digests(self) -> str:
        return "+".join(one.digest for one in self._models)

    def answer(self, folder: Path, out: Path, missing: int = 0) -> Document:
        """Answer the series in a folder; results go to `out`.

        Args:
            missing: Instances of it that are no longer here: of a volume the rest is not answered.

        Returns:
            `state` (`done`, `skipped`, `failed`) and `reason`; `answers`, of a label and `known` each;
            `objects`, one map for each image of kind (`seg`, `sr`, `sc`) to `path` and `uid`; `model`;
            `seconds`. Where the model that took this one's place cannot be loaded: `error`, as at the start.
        """
        started = time.perf_counter()
        document: Document = {"reason": None, "answers": [], "objects": [], "model": None}
        try:
            try:
                self._load()
            except FedmedError as error:
                return _error(error)
            document["model"] = self._digests
            fit = [one for one in self._models if not missing or one.recipe.dimensions == 2]
            if not fit:
                raise NothingMatched(f"{missing} of its images are no longer here: send the series again")
            document |= self._told(answer_study(fit, [folder], out, self._options))
        except NothingMatched as error:
            document |= {"state": "skipped", "reason": str(error)}
        except FedmedError as error:
            document |= {"state": "failed", "reason": str(error)}
        except MemoryError:
            document |= {"state": "failed", "reason": "needs more memory than there is"}
        except Exception as error:  # a broken series costs itself alone
            document |= {"state": "failed", "reason": f"{type(error).__name__} while it was answered"}
        if document["reason"]:
            document["reason"] = _without_paths(document["reason"], folder, out)
        return document | {"seconds": time.perf_counter() - started}

    def _told(self, results: list[Result]) -> Document:
        answered = [one for one in results if one.error is None]
        reasons = [one.error for one in results if one.error is not None]
        reasons += [f"no {kind}: {why}" for one in answered for kind, why in one.not_written.items()]
        unlike = all(one.known is False for one in results)
        return {
            "state": "done" if answered else "skipped" if unlike else "failed",
            "reason": reasons[0] if reasons else None,
            "answers": [{"label": self._label(one), "known": one.known} for one in answered],
            "objects": [
                {one.kind: {"path": str(one.path), "uid": one.sop_instance_uid} for one in result.objects}
                for result in answered
            ],
        }

    def _label(self, result: Result) -> str:
        """The label, or the classes that a mask holds; the first class where it holds none."""
        found = [name for name, size in result.sizes.items() if size > 0]
        recipe = next(one.recipe for one in self._models if one.manifest.task == result.task)
        label = result.label or "+".join(found) or recipe.classes[0]
        return label if len(self._models) == 1 else f"{result.task}: {label}"


def _error(error: FedmedError) -> Document:
    return {"error": str(error), "hint": error.hint, "exit_code": error.exit_code}


def _without_paths(reason: str, folder: Path, out: Path) -> str:
    """Where files lay says nothing to anybody, and names the series by its UIDs."""
    reason = re.sub(rf"{re.escape(str(folder))}(/[^\s:/]+)?:", "series:", reason)
    return re.sub(rf"({re.escape(str(folder))}|{re.escape(str(out))})/(\S*/)?", "", reason)


def _read(lines: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    # The node is gone: nobody waits for the answer.
    os._exit(0)


def _confine(memory_bytes: int | None) -> None:
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    # Where the machine runs out of memory this process goes first, and the node stays.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _say(out: TextIO, document: Document) -> None:
    out.write(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
