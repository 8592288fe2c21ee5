"""Methods that train networks for cycles: in rounds, every site alone, or in one place."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.weights import Weights
from fedmed_edge.study.methods.averaging import FedAvg, Pooled, alone, cycle_alone
from fedmed_edge.study.methods.method import Case, Learn
from fedmed_edge.study.methods.work import Learned, Option, network_predictor
from fedmed_edge.study.networks import merged


def learner(kind: type[FedAvg]) -> Learn:
    """A method that trains in rounds, as the harness wants it."""

    def learn(case: Case, option: Option) -> Iterator[Learned]:
        trained = kind(case, option)
        for number in count():
            trained.cycle(number)
            yield trained.learned()

    return learn


def pooled(case: Case, option: Option) -> Iterator[Learned]:
    """End-to-end training on all images in one place, which privacy forbids: the ceiling."""
    one_place = replace(case, sites={"one place": merged(case.labelled)})
    yield from learner(Pooled)(one_place, option)


def local(case: Case, option: Option) -> Iterator[Learned]:
    """Every site for itself, from fresh weights."""
    yield from _alone(case, option, None)


def fine_tuned(case: Case, option: Option) -> Iterator[Learned]:
    """Every site for itself, from what the others had learned."""
    yield from _alone(case, option, state_of(case.referred()))


def _alone(case: Case, option: Option, start: Weights | None) -> Iterator[Learned]:
    """FedAvg at each site by itself, where nothing is sent."""
    trained = {site: FedAvg(alone(case, site), option, start) for site in case.labelled}
    for number in count():
        cycle_alone(case, trained, number)
        at = {site: network_predictor(case, one.common) for site, one in trained.items()}
        yield Learned(None if start is None else network_predictor(case, start), at)
