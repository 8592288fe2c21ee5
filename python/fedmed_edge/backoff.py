"""How long to wait before something that went wrong is tried again."""

import random

__all__ = ["wait_s"]


def wait_s(failures: int, first_s: float, longest_s: float) -> float:
    """Seconds: twice as long after each failure up to a longest wait, and up to a fifth less at random, so
    that many who failed at once do not come back at once.

    Args:
        failures: How often it failed before, from 0.

    Example:
        >>> [round(wait_s(failures, 1, 60) / 2**failures) for failures in range(3)], wait_s(5000, 1, 60) <= 60
        ([1, 1, 1], True)
    """
    return float(min(first_s * 2.0 ** min(failures, 60), longest_s) * random.uniform(0.8, 1.0))
