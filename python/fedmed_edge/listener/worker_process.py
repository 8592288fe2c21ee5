"""The process beside the node that answers (`worker`), seen from the node: started, asked, ended."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fedmed_edge.errors import DeviceError, FedmedError, InputError, NothingMatched, TrustError

LOAD_S = 300.0
_KINDS = {kind.exit_code: kind for kind in (InputError, NothingMatched, TrustError, DeviceError)}


class WorkerEnded(Exception):
    """The process ended or was ended while it answered; says how."""


class WorkerProcess:
    """The process that `worker` describes.

    Args:
        worker: Arguments of `worker.Worker`.
        verbose: Let it write to stderr; decoders may show values of files there.
    """

    def __init__(self, worker: dict[str, Any], memory_bytes: int | None, *, verbose: bool = False) -> None:
        self._settings = {"worker": worker, "memory_bytes": memory_bytes}
        self._verbose = verbose
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    @property
    def pid(self) -> int | None:
        """Of the process, where there is one."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        process = self._process
        return process is not None and process.poll() is None

    def start(self) -> dict[str, Any]:
        """Start it and load the model, where that is not done yet.

        Returns:
            Task, digest and device of the model.

        Raises:
            FedmedError: The model cannot be loaded or trusted.
        """
        self.stop()
        self._rest = b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedmed_edge.listener.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if self._verbose else subprocess.DEVNULL,
                bufsize=0,
                # Ctrl-C at a terminal is the node's to handle
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"model: its process cannot be started: {error.strerror}") from None
        try:
            said = self._ask(self._settings, LOAD_S)
        except WorkerEnded as ended:
            raise InputError(f"model: its process {ended} while it was loaded") from None
        except FedmedError:
            self.stop()
            raise
        ready: dict[str, Any] = said["ready"]
        return ready

    def answer(self, folder: Path, out: Path, timeout_s: float, missing: int = 0) -> dict[str, Any]:
        """Have a series answered; see `worker.Worker.answer`.

        Raises:
            WorkerEnded: It crashed, or took too long and was ended.
            FedmedError: The model, or the one that took its place, cannot be loaded.
        """
        if not self.alive:
            self.start()
        return self._ask({"input": str(folder), "output": str(out), "missing": missing}, timeout_s)

    def stop(self) -> None:
        """End it at once; what it was at is not done."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _ask(self, document: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + timeout_s
        try:
            process.stdin.write(json.dumps(document).encode() + b"\n")
            while b"\n" not in self._rest:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    self.stop()
                    raise WorkerEnded(f"took longer than {timeout_s:g} s")
                read = os.read(process.stdout.fileno(), 1 << 16)
                if not read:
                    raise BrokenPipeError
                self._rest += read
        except (OSError, ValueError):  # ValueError: `stop` closed the pipe meanwhile
            code = process.wait()
            self.stop()
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise WorkerEnded(how) from None
        line, self._rest = self._rest.split(b"\n", 1)
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:
            self.stop()
            raise WorkerEnded("answered what is not understood") from None
        if "error" in said:
            raise _KINDS.get(said["exit_code"], InputError)(said["error"], hint=said["hint"])
        return said
