"""What an attack reached over many draws: area under the curve, rate of hits, their intervals."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Figure = tuple[float, float, float]
"""Value, and the ends of its 95 % bootstrap interval over draws."""

FALSE_POSITIVES = 1e-3


@dataclass
class Scores:
    """Scores of members and of others, draw by draw."""

    members: list[Array] = field(default_factory=list)
    others: list[Array] = field(default_factory=list)

    def add(self, members: Array, others: Array) -> None:
        self.members.append(members)
        self.others.append(others)

    def figures(self, random: np.random.Generator) -> dict[str, Figure]:
        drawn = [random.integers(0, len(self.members), len(self.members)) for _ in range(200)]
        out = {}
        for name, measure in (("auc", auc), ("tpr", tpr)):
            value = measure(np.concatenate(self.members), np.concatenate(self.others))
            spread = [
                measure(
                    np.concatenate([self.members[i] for i in chosen]),
                    np.concatenate([self.others[i] for i in chosen]),
                )
                for chosen in drawn
            ]
            out[name] = (value, *_interval(spread))
        return out


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def mean_of(values: list[float], random: np.random.Generator) -> Figure:
    """Mean over draws with its bootstrap interval."""
    spread = [float(random.choice(values, len(values)).mean()) for _ in range(200)]
    return (float(np.mean(values)), *_interval(spread))


@dataclass(frozen=True)
class Outcome:
    """One attack in one setting; figures are (value, lower, upper)."""

    attack: str
    setting: str
    patients: int
    width: int
    figures: dict[str, Figure]
    note: str = ""


def shown(figure: Figure, digits: int = 3) -> str:
    """A figure with its interval, for a table."""
    value, low, high = (f"{one:.{digits}f}" for one in figure)
    return f"{value} ({low} to {high})"


def percent(figure: Figure, digits: int = 1) -> str:
    """The same of a share."""
    value, low, high = (f"{100 * one:.{digits}f}" for one in figure)
    return f"{value} % ({low} to {high})"


def sum_likelihood(total: Array, count: int, reference: Array, candidates: Array) -> Array:
    """(N,) log-likelihood ratio of a sum with every candidate in it against one without.

    (T − n μ)ᵀ Σ⁻¹ (v − μ) for Gaussian values, up to what all candidates have in common.

    Args:
        total: (P,) sum of the values of `count` members.
        reference: (R, P) values of others, which give μ and Σ.
        candidates: (N, P).
    """
    mean = reference.mean(axis=0)
    centred = reference - mean
    level = 0.1 * float((centred**2).mean())
    # Σ⁻¹ by the reference's own span: (A'A/n + λ)⁻¹ = (I − A'(AA'/n + λ)⁻¹A/n) / λ
    inner = centred @ centred.T / len(centred) + level * np.eye(len(centred))
    away = total - count * mean
    away = (away - centred.T @ np.linalg.solve(inner, centred @ away) / len(centred)) / level
    return np.asarray((candidates - mean) @ away)


def lira(margins: Array, inside: npt.NDArray[np.bool_]) -> Array:
    """(splits, N) log-likelihood ratio of every image's margin, the split itself not among its shadows."""
    out = np.zeros_like(margins)
    for split in range(len(margins)):
        shadows = np.ones(len(margins), bool)
        shadows[split] = False
        logs = []
        for member in (True, False):
            chosen = np.where((inside == member) & shadows[:, None], margins, np.nan)
            mean, deviation = np.nanmean(chosen, axis=0), np.nanstd(chosen, axis=0) + 1e-9
            logs.append(-(((margins[split] - mean) / deviation) ** 2) / 2 - np.log(deviation))
        out[split] = logs[0] - logs[1]
    return out


def auc(members: Array, others: Array) -> float:
    """Share of pairs in which the member scores higher; ties count half."""
    ordered = np.sort(others)
    below, upto = (np.searchsorted(ordered, members, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(ordered))


def tpr(members: Array, others: Array) -> float:
    """Share of members above the score that `FALSE_POSITIVES` of the others pass."""
    return float((members > np.quantile(others, 1.0 - FALSE_POSITIVES, method="higher")).mean())
