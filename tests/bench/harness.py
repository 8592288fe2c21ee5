"""How kernels are compared with their peers: processor time of one thread, interleaved in one process.

Machines are shared and wall times wander; the ratio of processor times of two calls that take turns does not.
Each is called once before it counts, so that neither pays for the other's cold start; the figure is the ratio
of the medians. Peak memory is that of a fresh process.

`end_with` is how every benchmark here ends.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SINGLE_THREAD = {
    name: "1" for name in ("FEDMED_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
}

_CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import harness
print(json.dumps(harness.memory_of(*json.loads(sys.argv[2]))))
"""


def end_with(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark and end its process; what is refused is told as commands do, with exit code 1."""
    from fedmed_edge.errors import FedmedError

    try:
        code = main()
    except (FedmedError, OSError) as error:
        from fedmed_edge.commands.verbs import complain  # no weight on what is measured

        complain(str(error), getattr(error, "hint", None))
        code = 1
    sys.exit(code)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        speedup: The peer's processor time over ours.
        memory_ratio: The peer's extra memory over ours.
        error: Ours, against an independent reference.
        error_bound: What `error` may be.
    """

    kernel: str
    case: str
    peer: str
    speedup: float
    memory_ratio: float | None = None
    error: float | None = None
    error_bound: float | None = None


def compare(
    kernel: str,
    case: str,
    peer: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int = 7,
    error: float | None = None,
    error_bound: float | None = None,
    memory_ratio: float | None = None,
) -> Row:
    """Time two calls that take turns; see the module for the figure."""
    ours()
    theirs()
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for seconds, call in zip(spent, (ours, theirs), strict=True):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
    mine, other = map(statistics.median, spent)
    print(f"{kernel}, {case}: {mine * 1e3:.1f} ms, {peer} {other * 1e3:.1f} ms", file=sys.stderr)
    return Row(kernel, case, peer, other / mine, memory_ratio, error, error_bound)


@dataclass(frozen=True)
class Cost:
    """A whole process: processor seconds, user and system; wall seconds; largest memory; what it said."""

    cpu_s: float
    wall_s: float
    peak_mib: float
    said: str


def cost_of(command: Sequence[object], environment: Mapping[str, str]) -> Cost:
    """Cost of a process of its own, from its start to its end, which has to be a good one."""
    started = time.perf_counter()
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        # of this child alone; the resource usage of all children would keep the largest of them
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: the measured process ended with {process.returncode}")
    return Cost(used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1024, said)


def peak_memory(module_path: str, function: str, **kwargs: object) -> int:
    """Bytes that a function takes at its peak beyond what its process has before the call.

    The module is imported in a fresh process. Where it has a function named `prepare_` and the function's
    name, that one makes the positional argument first, which is not counted.

    Args:
        module_path: File of a module that imports no more than the function needs.
        kwargs: Arguments of the function, and of what prepares it, that JSON can carry.
    """
    arguments = json.dumps([str(module_path), function, kwargs])
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(Path(__file__).parent), arguments],
        env=os.environ | SINGLE_THREAD,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(json.loads(done.stdout.splitlines()[-1]))


def memory_of(module_path: str, function: str, kwargs: dict[str, object]) -> int:
    """The same within this process; a process that measured once has a higher baseline the next time."""
    spec = importlib.util.spec_from_file_location("measured", module_path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measured"] = module
    spec.loader.exec_module(module)
    prepare = getattr(module, f"prepare_{function}", None)
    prepared = [] if prepare is None else [prepare(**kwargs)]
    # Sets VmHWM back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    kept = getattr(module, function)(*prepared, **kwargs)
    peak = _status("VmHWM")
    del kept
    return max(peak - before, 1)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def available(peer: str, *modules: str) -> bool:
    """Whether a peer's modules are installed; says so where they are not."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            skip(peer, f"{module} is not installed")
            return False
    return True


def skip(peer: str, why: str) -> None:
    """Say that a peer is left out."""
    print(f"skipped {peer}: {why}", file=sys.stderr)


def is_quick() -> bool:
    """Whether small cases were asked for."""
    return os.environ.get("FEDMED_BENCH_QUICK") == "1"
