"""Episodes that the generator learns from: a head is fitted on some sums and judged on sums it has not seen.

Ridge is differentiable, so the held-out error L has an exact gradient in the weights of the sums and in λ.
With M = G + λ̄I, H = M⁻¹B and V = M⁻¹ ∂L/∂H, a change dG, dB moves L by ⟨V, dB⟩ − tr(Vᵀ dG H): one solve more
than the head itself. Source: method §5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedmed_edge.kernels import diagonal_positions
from fedmed_edge.model.distance import SiteMap
from fedmed_edge.model.heldout import Held
from fedmed_edge.model.solve import solve_ridge
from fedmed_edge.model.sums import Normal, Part, SiteSums, class_weights, normal_equations
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import Array64, last_column, pack

FARTHEST = 5.0
"""Most that log λ is moved from the global one: beyond it a Gram need not be definite any more."""


@dataclass(frozen=True, eq=False)
class Look:
    """What a site shows without its labels.

    Attributes:
        mean: (D,) mean lifted row, ending in 1.
        style: Mean log-amplitude, flattened; None where it was not handed over.
    """

    mean: Array64 = field(repr=False)
    style: Array64 | None = field(repr=False)


def look(contribution: Contribution) -> Look | None:
    """Mean row and style of a contribution; None without any row."""
    statistics, parts = contribution.statistics, contribution.header.parts
    if statistics is None:
        return None
    total = np.zeros(statistics.row_dim)
    if "classes" in parts:
        total += statistics.class_sums.sum(axis=0)
    if "unlabelled" in parts:
        total += statistics.unlabelled[last_column(statistics.row_dim)]
    if total[-1] <= 0:
        return None
    styled = "style" in parts and statistics.style_count > 0
    style = (statistics.style_sum / statistics.style_count).ravel() if styled else None
    return Look(total / total[-1], style)


@dataclass(frozen=True, eq=False)
class Federation:
    """Labelled sites, and how all sites look without their labels.

    Attributes:
        sites: Labelled sums, in order of name.
        between: Distances between all sites.
        looks: By site.
        ridge: λ of the global model.
    """

    sites: Sequence[SiteSums]
    between: SiteMap
    looks: Mapping[str, Look]
    ridge: float

    def site(self, name: str) -> SiteSums:
        """The labelled sums of a site."""
        return next(site for site in self.sites if site.site == name)

    def without(self, *names: str) -> "Federation":
        """The same federation, had these sites no labels."""
        left = [site for site in self.sites if site.site not in names]
        return Federation(left, self.between, self.looks, self.ridge)


@dataclass(frozen=True, eq=False)
class Episode:
    """Sums that a head is fitted on, and sums that it has not seen.

    Attributes:
        seen: What the head is fitted on, part by part.
        inputs: (parts, F) what the generator sees of every part: log a = inputs · θ.
        own: (E,) what it sees of the site that is judged: log λ = log λ_global + own · φ, no further than
            `FARTHEST`.
        held: What is held out.
        ridge: λ of the global model.
    """

    seen: Sequence[Part]
    inputs: Array64
    own: Array64
    held: Held
    ridge: float

    def error(self, parameters: Array64) -> float:
        """Squared error on what is held out, under parameters (F + E,): θ, then φ."""
        weights, ridge = self._generated(parameters)
        return self.held.error(self._normal(weights).head(ridge))

    def _generated(self, parameters: Array64) -> tuple[Array64, float]:
        logs = self.inputs @ parameters[: self.inputs.shape[1]]
        ridge = moved_ridge(self.ridge, self._moved(parameters))
        return np.exp(logs - logs.max()), ridge  # w_k cancels what all weights have in common

    def _moved(self, parameters: Array64) -> float:
        return float(self.own @ parameters[self.inputs.shape[1] :])

    def _normal(self, weights: Array64) -> Normal:
        width, classes = self.held.cross.shape
        return normal_equations(list(zip(weights.tolist(), self.seen, strict=True)), classes, width)

    def loss(self, parameters: Array64) -> tuple[float, Array64]:
        """The error, and its gradient (F + E,)."""
        weights, ridge = self._generated(parameters)
        normal = self._normal(weights)
        head = normal.head(ridge)
        value, slope = _squared(self.held, head)
        adjoint = solve_ridge(normal.gram, slope, ridge)
        diagonal = diagonal_positions(len(head))
        level = float(np.sum(adjoint * head))
        slopes = weights * self._slopes(adjoint, head, weights, normal.counts, ridge * level / len(head))
        own = -ridge * float(normal.gram[diagonal].mean()) * level * self.own
        if abs(self._moved(parameters)) >= FARTHEST:
            own = np.zeros_like(own)
        return value, np.concatenate([slopes @ self.inputs, own])

    def _slopes(
        self, adjoint: Array64, head: Array64, weights: Array64, counts: Array64, level: float
    ) -> Array64:
        """(parts,) ∂L/∂a. A part's weight moves its own Gram by w_k, and every Gram through w_k itself."""
        crossed = adjoint @ head.T
        moved = pack(crossed + crossed.T)
        diagonal = diagonal_positions(len(head))
        moved[diagonal] = moved[diagonal] / 2.0 + level
        by_class = [
            np.einsum("kd,dk->k", part.sums, adjoint[:, part.present]) - part.grams @ moved
            for part in self.seen
        ]
        balance, common = class_weights(counts), np.zeros(len(counts))
        for weight, part, gains in zip(weights, self.seen, by_class, strict=True):
            common[part.present] += weight * gains
        return np.array(
            [
                float(
                    balance[part.present] @ gains
                    - (balance[part.present] ** 2 * part.counts) @ common[part.present]
                )
                for part, gains in zip(self.seen, by_class, strict=True)
            ]
        )


def moved_ridge(ridge: float, moved: float) -> float:
    """λ so far from the global one: log λ = log λ_global + `moved`, no further than `FARTHEST`."""
    return ridge * float(np.exp(np.clip(moved, -FARTHEST, FARTHEST)))


def _squared(held: Held, head: Array64) -> tuple[float, Array64]:
    """Error of a head and its gradient (D, C)."""
    own = np.diag(held.upper)
    product = held.upper @ head + held.upper.T @ head - own[:, None] * head
    value = held.constant - 2.0 * float(np.sum(held.cross * head)) + float(np.sum(head * product))
    return value, 2.0 * (product - held.cross)
