"""From settled series to results: jobs one after another, each in the process beside the node."""

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedmed_edge.errors import FedmedError
from fedmed_edge.listener.incoming import Incoming, linked
from fedmed_edge.listener.journal import Answer, Job, Journal
from fedmed_edge.listener.worker_process import WorkerEnded, WorkerProcess
from fedmed_edge.listening import Listen
from fedmed_edge.words import counted

log = logging.getLogger(__name__)

_WAIT_S = 5.0
"""Until what keeps results from being made is looked at again."""


class Answering:
    """Settles series, takes jobs and records what became of them, in one thread.

    Args:
        finished: Called after every job with the seconds that it took.
    """

    def __init__(
        self,
        settings: Listen,
        journal: Journal,
        incoming: Incoming,
        worker: WorkerProcess,
        finished: Callable[[float], None],
    ) -> None:
        self._settings, self._journal, self._incoming = settings, journal, incoming
        self._worker, self._finished = worker, finished
        self._due: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name="answering", daemon=True)

    def start(self) -> None:
        """Go on where the journal stands."""
        self._journal.requeue()
        for series_uid in self._journal.fresh():
            self.arrived(series_uid)
        self._thread.start()

    def stop(self) -> None:
        """End at once; a series that is being answered is answered again after the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._worker.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=1)
        self._worker.stop()  # it may have been started again in between

    def arrived(self, series_uid: str) -> None:
        """An instance came: the series is complete once none has come for `settle_s`."""
        with self._changed:
            first = not self._due
            self._due[series_uid] = time.monotonic() + self._settings.settle_s
            if first:
                self._changed.notify()

    @property
    def well(self) -> bool:
        """Whether series are answered: nothing is in the way, and the model's process is there."""
        return self._thread.is_alive() and not self._fault and self._worker.alive

    def _run(self) -> None:
        while not self._stopping:
            try:
                busy = self._step()
                self._fault = ""
                if not busy:
                    self._wait()
            except FedmedError as error:
                self._hold(f"the model cannot be used, results wait: {error}")
            except Exception as error:
                log.debug("", exc_info=True)
                self._hold(f"a job could not be recorded: {type(error).__name__}")

    def _hold(self, fault: str) -> None:
        """Say once what is in the way, and wait a while."""
        with self._changed:
            if self._stopping:
                return
            if fault != self._fault:
                log.error("listen: %s", fault)
            self._fault = fault
            self._changed.wait(_WAIT_S)

    def _wait(self) -> None:
        with self._changed:
            if self._stopping:
                return
            due = min(self._due.values(), default=None)
            # at least so often, as the model's process may end while it has nothing to do
            self._changed.wait(_WAIT_S if due is None else min(_WAIT_S, max(0.0, due - time.monotonic())))

    def _step(self) -> bool:
        """Settle what is due and answer one series; False where there is none.

        Raises:
            FedmedError: The model cannot be loaded; what waits goes on waiting.
        """
        with self._changed:
            settled = {uid: due for uid, due in self._due.items() if due <= time.monotonic()}
        for uid, due in settled.items():
            self._journal.settle(uid)
            with self._changed:
                if self._due[uid] == due:
                    del self._due[uid]
        if self._incoming.free_bytes < self._incoming.watermark / 2:
            log.warning("listen: less than half of `watermark_gb` is free: results wait")
            with self._changed:
                self._changed.wait(0 if self._stopping else _WAIT_S)
            return True
        if not self._worker.alive and not self._stopping:
            self._worker.start()
        job = self._journal.take_job()
        if job is None:
            return False
        self._answer(job)
        return True

    def _answer(self, job: Job) -> None:
        base, started = self._settings.folder, time.perf_counter()
        out = base / "results" / str(job.job)
        shutil.rmtree(out, ignore_errors=True)
        try:
            with linked(job.files, base / "running") as folder:
                out.mkdir(parents=True)
                said = self._worker.answer(folder, out, self._settings.timeout_s, job.missing)
            if not self._record(job, out, said, time.perf_counter() - started):
                return  # the job runs again after the next start
        except Exception as ended:
            if self._stopping or isinstance(ended, FedmedError):
                self._note(partial(self._journal.give_back, job))
                if self._stopping:
                    return
                raise
            log.debug("", exc_info=True)
            said = {"state": "failed", "reason": _reason(ended)}
            if not self._record(job, out, said, time.perf_counter() - started):
                return
        seconds = time.perf_counter() - started
        files = counted(len(job.files), "file")
        log.info("listen: job %d %s, %s, %.1f s", job.job, said["state"], files, seconds)
        if said["state"] == "failed":
            log.warning("listen: job %d failed; its reason stands in the report", job.job)
        self._finished(seconds)

    def _record(self, job: Job, out: Path, said: dict[str, Any], seconds: float) -> bool:
        made = {Path(one["path"]): one["uid"] for image in said.get("objects", []) for one in image.values()}
        objects = [
            {kind: Path(one["path"]) for kind, one in image.items()} for image in said.get("objects", [])
        ]
        return self._note(
            partial(
                self._journal.finish_job,
                job,
                said["state"],
                reason=said.get("reason"),
                seconds=seconds,
                folder=out,
                model=said.get("model"),
                answers=[Answer(one["label"], one["known"]) for one in said.get("answers", [])],
                made=made,
                deliveries=[
                    (to, path, fallback)
                    for to in (self._settings.destination if self._settings.send else ())
                    for one in objects
                    for path, fallback in to_send(one, self._settings.objects)
                ],
            )
        )

    def _note(self, change: Callable[[], None]) -> bool:
        """Have the journal take it, as soon as it can; False where the node ends before."""
        while not self._written(change):
            if self._stopping:
                return False
            self._fault = "the journal cannot be written"
            time.sleep(1)
        return True

    @staticmethod
    def _written(change: Callable[[], None]) -> bool:
        """Whether the journal took it; a disk that is full has room again some time."""
        try:
            change()
        except sqlite3.OperationalError as error:
            log.error("listen: the journal cannot be written: %s", error)
            return False
        return True


def to_send(made: Mapping[str, Path], wanted: Sequence[str]) -> list[tuple[Path, Path | None]]:
    """Objects of one image that go out, the first of them with the capture as its fallback.

    Example:
        >>> made = {kind: Path(kind) for kind in ("seg", "sr", "sc")}
        >>> [(str(path), fallback and str(fallback)) for path, fallback in to_send(made, ["sr", "seg"])]
        [('seg', 'sc'), ('sr', None)]
    """
    going = [path for kind, path in made.items() if kind in wanted]
    capture = None if "sc" in wanted else made.get("sc")
    if not going and capture is not None:
        return [(capture, None)]
    return [(path, None if number else capture) for number, path in enumerate(going)]


def _reason(ended: Exception) -> str:
    if isinstance(ended, WorkerEnded):
        return f"the model's process {ended}"
    if isinstance(ended, OSError):
        return ended.strerror or "cannot be read"
    return f"{type(ended).__name__} while it was answered"
