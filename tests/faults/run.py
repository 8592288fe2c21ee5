"""`python tests/faults/run.py [WORD…]`: every fault with real processes; prints a table, and takes a while.

A WORD picks the tests whose name has it.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest


class Table:
    """One line a test, with its figures."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float, str]] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest."""
        if report.when == "call" or report.outcome != "passed":
            figures = ", ".join(f"{name} {value}" for name, value in report.user_properties)
            name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            self.rows.append((name, report.outcome, report.duration, figures))
            print(f"{self.rows[-1]}", flush=True)


def main() -> int:
    """Run the series."""
    os.environ["FEDMED_TEST_FAULTS"] = "1"
    table = Table()
    picked = ["-k", " or ".join(sys.argv[1:])] if sys.argv[1:] else []
    code = pytest.main(["-q", "-p", "no:cacheprovider", str(Path(__file__).parent), *picked], plugins=[table])
    print("\n| fault | outcome | s | figures |\n|---|---|---|---|")
    for name, outcome, seconds, figures in table.rows:
        print(f"| {name} | {outcome} | {seconds:.0f} | {figures} |")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
