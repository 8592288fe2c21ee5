"""How many threads a kernel may use."""

import os

from fedmed_edge.errors import InputError

MAX_THREADS = 256


def thread_count() -> int:
    """Threads that a kernel may use: `FEDMED_THREADS`, else the number of processors.

    Raises:
        InputError: `FEDMED_THREADS` is no whole number from 1 to 256.
    """
    setting = os.environ.get("FEDMED_THREADS", "").strip()
    if not setting:
        return min(os.cpu_count() or 1, MAX_THREADS)
    if not setting.isdecimal() or not 1 <= int(setting) <= MAX_THREADS:
        raise InputError(f"FEDMED_THREADS: has `{setting}`, expected a whole number from 1 to {MAX_THREADS}")
    return int(setting)
