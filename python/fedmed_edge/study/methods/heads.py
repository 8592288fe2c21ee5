"""A head that is trained step by step on the rows that the closed form solves for."""

import time
from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed_edge.features.backbones import seeded
from fedmed_edge.features.extract import RowSample, extract_with_sample
from fedmed_edge.study.methods.closed_form import PlainHead, head_predictor
from fedmed_edge.study.methods.method import Case
from fedmed_edge.study.methods.work import Learned, Option

ROWS = 20_000
"""Labelled rows that a site trains on, at most: images of a classification, or some of the pixels."""

BATCH = 256
MOMENTUM = 0.9


def sgd_head(case: Case, option: Option) -> Iterator[Learned]:
    """Softmax regression on the lifted rows, by FedAvg among the sites; classes weigh the same at a site."""
    case.referred()
    samples = {site: _sample(case, site) for site in case.labelled}
    width, classes = case.reference.generation("lifted").row_dim, len(case.recipe.classes)
    head = torch.zeros(width, classes)
    scale = _scale(list(samples.values()))
    for number in count():
        for index in range(case.budget.peer_rounds):
            made = []
            for site, sample in samples.items():
                began = time.perf_counter()
                turn = number * case.budget.peer_rounds + index
                with seeded(case.seed + 1000 * turn):
                    made.append(_turn(head, sample, scale, case.budget.round_steps, option["rate"]))
                case.meter.compute(site, time.perf_counter() - began)
                case.meter.transfer(site, sent=4 * head.numel(), received=4 * head.numel())
            counts = torch.tensor([float(len(sample.rows)) for sample in samples.values()])
            head = torch.einsum("s,sdk->dk", counts / counts.sum(), torch.stack(made))
            case.meter.rounds += 1
        weight = (head / scale[:, None]).double().numpy()
        yield Learned(head_predictor(case, "lifted", PlainHead(weight, np.zeros(classes))))


def _sample(case: Case, site: str) -> RowSample:
    began = time.perf_counter()
    _, sample = extract_with_sample(
        case.reference.generation("lifted"),
        case.labelled[site],
        site=site,
        min_cohort=1,
        device=case.device,
        seed=case.seed,
        limit=ROWS,
    )
    case.meter.compute(site, time.perf_counter() - began)
    return sample


def _scale(samples: list[RowSample]) -> Tensor:
    """(D,) root mean square of every column: one rate then suits all of them."""
    squares = np.concatenate([np.square(sample.rows, dtype=np.float64) for sample in samples])
    return torch.from_numpy(np.sqrt(np.maximum(squares.mean(axis=0), 1e-8)).astype(np.float32))


def _turn(head: Tensor, sample: RowSample, scale: Tensor, steps: int, rate: float) -> Tensor:
    """The head after a site's steps in one round."""
    rows = torch.from_numpy(sample.rows) / scale
    labels = torch.from_numpy(sample.classes.astype(np.int64))
    balance = 1.0 / torch.bincount(labels)[labels].float()
    own = nn.Parameter(head.clone())
    optimiser = torch.optim.SGD([own], lr=rate, momentum=MOMENTUM)
    for _ in range(steps):
        drawn = torch.multinomial(balance, min(BATCH, len(rows)), replacement=True)
        optimiser.zero_grad()
        functional.cross_entropy(rows[drawn] @ own, labels[drawn]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return own.detach()
