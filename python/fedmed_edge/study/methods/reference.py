"""What stands before a hospital comes: the others' backbone, its generation, their contributions."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmed_edge import __version__
from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.extract import extract, extract_with_sample
from fedmed_edge.features.publish import complete_generation, draft_generation
from fedmed_edge.features.training import Network, build_network
from fedmed_edge.features.weights import Weights
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.recipe import Lift, Recipe
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.study.closed_form import contribute, publish
from fedmed_edge.study.methods.work import with_weights
from fedmed_edge.study.networks import Cost, reference_network
from fedmed_edge.study.notebook import Notebook, images_digest
from fedmed_edge.study.plan import Budget, StatedPolicy

Rows = Literal["lifted", "untrained", "last_layer"]
"""Which rows: those of the reference generation; the same of a backbone with random weights; the last layer
of the reference backbone, standardised and without lift."""


class Reference:
    """Made once and kept in a folder named by what it depends on; sites and seeds share what they can.

    Args:
        founders: Site → training images of the hospitals that were there before.
        kept: Folder of everything that is kept.
    """

    def __init__(
        self,
        recipe: Recipe,
        founders: Mapping[str, Dataset],
        budget: Budget,
        policy: StatedPolicy,
        kept: Path,
        *,
        seed: int,
        device: str,
        watch: Callable[[str], None],
    ) -> None:
        self.recipe, self.founders, self.budget, self.policy = recipe, dict(founders), budget, policy
        self.kept, self.seed, self.device, self.watch = kept, seed, device, watch
        self._made: dict[tuple[Rows, str, float | None], tuple[str, Contribution | None, float]] = {}
        self._rows: dict[tuple[Rows, str], npt.NDArray[np.float32]] = {}
        self._generations: dict[Rows, Generation] = {}
        self._network: tuple[Network, Cost] | None = None

    def of(self, founders: Mapping[str, Dataset]) -> "Reference":
        """The same, of other founders or images."""
        return Reference(
            self.recipe,
            founders,
            self.budget,
            self.policy,
            self.kept,
            seed=self.seed,
            device=self.device,
            watch=self.watch,
        )

    def renewed(self, weights: Weights, founders: Mapping[str, Dataset]) -> "Reference":
        """What stands there once the founders have made these weights of the network; in memory alone."""
        network, cost = with_weights(self.recipe, weights), self.network()[1]
        after = self.of(founders)
        after._network = network, cost
        after._generations["lifted"] = after._published(network)
        return after

    def network(self) -> tuple[Network, Cost]:
        """FedAvg among the founders, and its cost."""
        if self._network:
            return self._network
        return self._notebook.network(
            "reference",
            self.recipe,
            lambda: reference_network(
                self.recipe, self.founders, self.budget, seed=self.seed, device=self.device, watch=self.watch
            ),
        )

    def generation(self, rows: Rows) -> Generation:
        """The generation that gives these rows."""
        if rows not in self._generations:
            make = {"lifted": self._lifted, "untrained": self._untrained, "last_layer": self._last_layer}
            narrow = "" if self.policy.feature_dim is None else f"-{self.policy.feature_dim}"
            self._generations[rows] = self._notebook.generation(f"{rows}{narrow}", make[rows])
        return self._generations[rows]

    def contribution(
        self, rows: Rows, site: str, data: Dataset, *, noise: bool = True
    ) -> tuple[Contribution | None, float]:
        """A site's contribution, and the seconds that it took; None where the policy lets nothing leave.

        Args:
            noise: Where the policy asks for it; drawn once for the same images.
        """
        policy = self.policy if noise else self.policy.without_noise
        digest, key = images_digest({site: data}), (rows, site, policy.epsilon)
        if self._made.get(key, ("",))[0] != digest:
            generation, began = self.generation(rows), time.perf_counter()
            made, _ = contribute(generation, data, site, policy, device=self.device, watch=self.watch)
            # The last one of a site is kept: a contribution can have hundreds of megabytes.
            self._made[key] = digest, made, time.perf_counter() - began
        _, made, seconds = self._made[key]
        return made, seconds

    def rows(self, rows: Rows, data: Dataset) -> npt.NDArray[np.float32]:
        """Rows (N, D) of the labelled images of a classification; made once for all heads."""
        key = rows, images_digest({"": data})
        if key not in self._rows:
            _, sample = extract_with_sample(
                self.generation(rows), data, min_cohort=1, limit=1 << 40, device=self.device
            )
            self._rows[key] = sample.rows
        return self._rows[key]

    @property
    def _notebook(self) -> Notebook:
        key = {
            "version": __version__,
            "recipe": self.recipe.digest,
            "founders": images_digest(self.founders),
            "budget": vars(self.budget),
            "seed": self.seed,
        }
        return Notebook.keyed(self.kept, "reference", key)

    def _lifted(self) -> Generation:
        return self._published(self.network()[0])

    def _untrained(self) -> Generation:
        return self._published(build_network(self.recipe, seed=self.seed + 10_000))

    def _published(self, network: Network) -> Generation:
        return publish(
            network, self.founders, self.policy, seed=self.seed, device=self.device, watch=self.watch
        )

    def _last_layer(self) -> Generation:
        """All scales are standardised; a projection then takes those of the last one."""
        backbone = self.network()[0].backbone
        bare = self.recipe.model_copy(update={"lift": Lift(lift_dim=0, feature_dim=1023)})
        draft = draft_generation(bare, state_of(backbone), trained_by=sorted(self.founders), seed=self.seed)
        sums = {
            site: extract(draft, data, min_cohort=1, device=self.device, progress=self.watch)
            for site, data in sorted(self.founders.items())
        }
        whole = complete_generation(draft, bare, sums, seed=self.seed)
        total, width = len(whole.mean), draft.header.widths[-1]
        return replace(
            whole,
            projection=np.eye(total, dtype=np.float32)[:, total - width :].copy(),
            lift_weight=np.zeros((width, 0), np.float32),
            reference_mean=np.zeros(width),
            reference_covariance=np.eye(width),
        )
