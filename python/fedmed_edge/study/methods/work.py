"""What a method works with: who has which images, how much it may train, and what it asks of whom."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fedmed_edge.features.backbones import set_state
from fedmed_edge.features.training import Network, build_network
from fedmed_edge.features.weights import Weights
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.style import Style, log_amplitude
from fedmed_edge.study.plan import Budget
from fedmed_edge.study.scores import Answers, answers_of_network

Option = Mapping[str, float]
Predictor = Callable[[Dataset], Answers]
Watch = Callable[[str], None]


@dataclass
class Meter:
    """What a method asked of the sites so far.

    Attributes:
        sent, received: Site → bytes.
        seconds: Site → seconds that it computed.
        server_seconds: Seconds at the server.
        before: What had been spent before the case, where the method rests on it: the reference.
    """

    rounds: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    server_seconds: float = 0.0
    before: dict[str, float] = field(default_factory=dict)

    def transfer(self, site: str, *, sent: int = 0, received: int = 0) -> None:
        """Count bytes of one site."""
        self.sent[site] = self.sent.get(site, 0) + sent
        self.received[site] = self.received.get(site, 0) + received

    def compute(self, site: str, seconds: float) -> None:
        """Count seconds of one site."""
        self.seconds[site] = self.seconds.get(site, 0.0) + seconds


@dataclass(frozen=True)
class Learned:
    """What a method has learned: predictors.

    Attributes:
        everywhere: Answers for a site that has none of its own; None: such a site gets no answer.
        at: Site → its own.
        notes: What a reader of the figures should know, as JSON values.
    """

    everywhere: Predictor | None = None
    at: Mapping[str, Predictor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def of(self, site: str) -> Predictor | None:
        """The predictor that answers for a site, if any."""
        return self.at.get(site, self.everywhere)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Hospitals and their images, and what may be spent.

    Attributes:
        sites: Site → images that it may learn from; labels that a setting hides are not in them, and a
            hospital that is not there is not in it.
        meter: Is written to.
    """

    recipe: Recipe
    sites: Mapping[str, Dataset]
    budget: Budget
    seed: int
    device: str
    watch: Watch
    meter: Meter = field(default_factory=Meter)

    @cached_property
    def labelled(self) -> dict[str, Dataset]:
        """Sites that have labels, with their labelled images, in order of name."""
        found = {site: self.sites[site].labelled for site in sorted(self.sites)}
        return {site: data for site, data in found.items() if len(data)}

    def fresh(self) -> Network:
        """The network that every training starts from."""
        return build_network(self.recipe, seed=self.seed)


def styles_of(sites: Mapping[str, Dataset]) -> dict[str, Style]:
    """Style of every site, over the training images that it has here."""
    return {site: _style(data) for site, data in sites.items()}


def _style(data: Dataset) -> Style:
    logs = np.stack(
        [log_amplitude(prepare(data.load(item), data.recipe).pixels, data.recipe.size) for item in data]
    )
    return Style(logs.mean(axis=0).astype(np.float32), logs.std(axis=0).astype(np.float32))


def with_weights(recipe: Recipe, weights: Weights) -> Network:
    """A network of the recipe with these weights."""
    network = build_network(recipe)
    set_state(network, weights)
    return network


def network_predictor(work: Work, weights: Weights) -> Predictor:
    """Answers of the recipe's network with these weights."""
    return lambda data: answers_of_network(
        with_weights(work.recipe, weights), data, device=work.device, surface=True
    )


def size_of(weights: Weights) -> int:
    """Bytes of a set of weights."""
    return sum(value.nbytes for value in weights.values())
