"""Many inputs, one model: each is answered and written; one that cannot be answered stops no other."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.inference.predict import Model, Prediction, predict
from fedmed_edge.inference.results import Result, ResultsFolder

log = logging.getLogger(__name__)

DONE, ALL_FAILED, SOME_FAILED = 0, 1, 3


def infer(model: Model, inputs: Iterable[Path], out: Path, *, preview: bool = False) -> Iterator[Result]:
    """Answer inputs one by one and write their results.

    The table is written at the end, also when the run is interrupted.

    Args:
        inputs: Files and series folders, as `inputs.expand_inputs` lists them.
        out: Folder of the results.
        preview: Write preview pictures, too.

    Yields:
        A result for each input, as soon as it is on disk; a failed one has `error`.

    Raises:
        InputError: Results cannot be written.
    """
    with ResultsFolder(out, model, preview=preview) as folder:
        for path in inputs:
            started = time.perf_counter()
            answer = _answer(model, path)
            if isinstance(answer, Prediction):
                yield folder.add(path, answer)
            else:
                yield folder.fail(path, answer, time.perf_counter() - started)


def _answer(model: Model, path: Path) -> Prediction | FedmedError:
    """The answer, or what went wrong with this input."""
    try:
        return predict(model, path)
    except FedmedError as error:
        return error
    except MemoryError:
        return InputError(f"{path}: needs more memory than there is")
    except Exception as error:  # a broken file must not cost the others their answers
        log.debug("%s", path, exc_info=True)
        return InputError(f"{path}: {type(error).__name__} while it was answered: {error}".splitlines()[0])


def exit_code(results: Sequence[Result]) -> int:
    """Exit status of a run: 0 all answered, 3 some failed, 1 all failed."""
    failed = sum(result.error is not None for result in results)
    if not failed:
        return DONE
    return ALL_FAILED if failed == len(results) else SOME_FAILED
