"""Many inputs, one model or several: each is answered and written; one that fails stops no other."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from fedmed_edge.errors import FedmedError, InputError, Misfit
from fedmed_edge.inference.answer import Answer, answer_input
from fedmed_edge.inference.inputs import Found, Input
from fedmed_edge.inference.options import Options
from fedmed_edge.inference.predict import Model
from fedmed_edge.inference.result import Result
from fedmed_edge.inference.results import ResultsFolder
from fedmed_edge.inference.usage import MemoryMeter

log = logging.getLogger(__name__)

DONE, ALL_FAILED, SOME_FAILED = 0, 1, 3


def infer(
    models: Model | Sequence[Model], found: Found, out: Path, options: Options | None = None
) -> Iterator[Result]:
    """Answer inputs one by one and write their results.

    Where one file answers several tasks, an input is answered with each that takes it by its recipe's rules,
    if it is like the images that this one was made from; where that leaves none, every task says why.

    The table is written at the end, also when the run is interrupted.

    Args:
        models: One, or those of `load_models`, in the order of the recipes that `found` was looked for with.
        found: What `inputs.find_inputs` found; what it refused comes out as failed results, last.
        out: Folder of the results.
        options: What is written; default: all that an input is fit for.

    Yields:
        A result for each input and task, as soon as it is on disk; a failed one has `error`.

    Raises:
        InputError: Results cannot be written.
    """
    options, models = options or Options(), (models,) if isinstance(models, Model) else tuple(models)
    several = len(models) > 1
    with ExitStack() as stack:
        folders = [  # the last one opened writes its rows first
            stack.enter_context(ResultsFolder(out, model, options, apart=several)) for model in models[::-1]
        ][::-1]
        for given in found.inputs:
            yield from _answer_with([folders[number] for number in given.tasks], given, options, several)
        for name, error in found.refused:
            for folder in folders:
                yield folder.fail(Input(name, Path(name)), error, 0.0)
        for given in found.excluded:
            for number in given.tasks:
                folders[number].pass_over(given)


def _answer_with(
    folders: Sequence[ResultsFolder], given: Input, options: Options, several: bool
) -> Iterator[Result]:
    """Answers of the tasks that an input is fit for; where there is none, why, from each."""
    unfit: list[tuple[ResultsFolder, InputError, bool | None, float]] = []
    answered = False
    for folder in folders:
        started, memory = time.perf_counter(), MemoryMeter()
        answer = _answer(folder.model, given, options)
        seconds = time.perf_counter() - started
        if several and isinstance(answer, Misfit):
            unfit.append((folder, answer, None, seconds))
        elif several and isinstance(answer, Answer) and answer.known is False:
            unfit.append((folder, _unlike(given, answer), False, seconds))
        elif isinstance(answer, Answer):
            answered = True
            yield folder.add(answer, started, memory)
        else:
            yield folder.fail(given, answer, seconds)
        del answer  # the next one is not made beside it
    for folder, error, known, seconds in unfit:
        if answered:
            log.info("not taken: %s: %s: %s", given.name, folder.model.manifest.task, error)
            folder.pass_over(given)
        else:
            yield folder.fail(given, error, seconds, known=known)


def _unlike(given: Input, answer: Answer) -> InputError:
    return InputError(
        f"{given.name}: is unlike the images that the model was made from: `distance` has "
        f"{answer.distance:.4g}, expected at most {answer.threshold:.4g}"
    )


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
