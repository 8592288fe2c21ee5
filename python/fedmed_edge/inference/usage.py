"""What an answer cost: seconds of each stage, and the most memory that the process held."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")


class Stopwatch:
    """Wall seconds by stage; a stage within another one stops the outer one meanwhile.

    Attributes:
        seconds: Stage → seconds so far, in the order in which stages began.

    Example:
        >>> watch = Stopwatch()
        >>> with watch.stage("blend"), watch.stage("network"):
        ...     pass
        >>> list(watch.seconds)
        ['blend', 'network']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens in the block as `name`."""
        self._charge()
        self.seconds.setdefault(name, 0.0)
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


class MemoryMeter:
    """Memory of this process from now on.

    Attributes:
        idle_mib: What was resident at the beginning.
    """

    def __init__(self) -> None:
        with suppress(OSError):  # where it is not allowed the peak is that of the whole life of the process
            Path("/proc/self/clear_refs").write_text("5")
        self.idle_mib = _status_mib("VmRSS") or self.peak_mib()

    def peak_mib(self) -> float:
        """The most that was resident at a time, MiB."""
        return _status_mib("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status_mib(field: str) -> float:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return 0.0
