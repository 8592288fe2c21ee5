"""Many inputs, one model: each is answered and written; one that cannot be answered stops no other."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.inference.answer import Answer, answer_input
from fedmed_edge.inference.inputs import Found, Input
from fedmed_edge.inference.options import Options
from fedmed_edge.inference.predict import Model
from fedmed_edge.inference.result import Result
from fedmed_edge.inference.results import ResultsFolder
from fedmed_edge.inference.usage import MemoryMeter

log = logging.getLogger(__name__)

DONE, ALL_FAILED, SOME_FAILED = 0, 1, 3


def infer(model: Model, found: Found, out: Path, options: Options | None = None) -> Iterator[Result]:
    """Answer inputs one by one and write their results.

    The table is written at the end, also when the run is interrupted.

    Args:
        found: What `inputs.find_inputs` found; what it refused comes out as failed results, last.
        out: Folder of the results.
        options: What is written; default: all that an input is fit for.

    Yields:
        A result for each input, as soon as it is on disk; a failed one has `error`.

    Raises:
        InputError: Results cannot be written.
    """
    options = options or Options()
    with ResultsFolder(out, model, options) as folder:
        for given in found.inputs:
            started, memory = time.perf_counter(), MemoryMeter()
            answer = _answer(model, given, options)
            if isinstance(answer, Answer):
                yield folder.add(answer, started, memory)
            else:
                yield folder.fail(given, answer, time.perf_counter() - started)
        for name, error in found.refused:
            yield folder.fail(Input(name, Path(name)), error, 0.0)


def _answer(model: Model, given: Input, options: Options) -> Answer | FedmedError:
    """The answer, or what went wrong with this input."""
    try:
        return answer_input(model, given, options)
    except FedmedError as error:
        return error
    except MemoryError:
        return InputError(f"{given.name}: needs more memory than there is")
    except Exception as error:  # a broken file must not cost the others their answers
        log.debug("%s", given.name, exc_info=True)
        return InputError(
            f"{given.name}: {type(error).__name__} while it was answered: {error}".splitlines()[0]
        )


def exit_code(results: Sequence[Result]) -> int:
    """Exit status of a run: 0 all answered, 3 some failed, 1 all failed."""
    failed = sum(result.error is not None for result in results)
    if not failed:
        return DONE
    return ALL_FAILED if failed == len(results) else SOME_FAILED
