"""Benchmarks are run by hand; that they end as commands do is looked at here."""

from pathlib import Path

import pytest
from harness import end_with

from fedmed_edge.errors import TrustError

BENCH = Path(__file__).parent / "bench"
PROGRAMS = sorted(path for path in BENCH.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_every_benchmark_ends_in_the_same_way(program: Path) -> None:
    assert program.read_text(encoding="utf-8").endswith("end_with(main)\n")


@pytest.mark.parametrize("code", [None, 0, 3])
def test_a_benchmark_ends_with_its_own_exit_code(code: int | None) -> None:
    with pytest.raises(SystemExit) as end:
        end_with(lambda: code)
    assert end.value.code == code


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TrustError("x: has no signature", hint="sign it"), "error: x: has no signature\nhint: sign it\n"),
        (FileNotFoundError(2, "No such file", "x"), "error: [Errno 2] No such file: 'x'\n"),
    ],
)
def test_what_a_benchmark_refuses_is_no_traceback(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        end_with(main)
    assert end.value.code == 1 and capsys.readouterr().err == told
