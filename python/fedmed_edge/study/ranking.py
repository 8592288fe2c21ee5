"""From rows to a table: mean and deviation, mean rank, and whether a difference is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata, wilcoxon

Row = Mapping[str, Any]
Unit = tuple[str, str]
"""Task and site: what figures are means over, each a mean over seeds."""


@dataclass(frozen=True)
class Line:
    """One method in one setting.

    Attributes:
        score: Mean over units at the site in question; `others` and `all` at the other sites and at all, None
            for a method that does not answer at some of them.
        deviation: Over seeds of the mean over units; None of one seed.
        rank: Mean rank over task, site and seed, 1 is best; None for a method that lacks some of them.
        against: The best of the peers with all scores, which `p` compares with; None for itself.
        p, p_holm: Wilcoxon's signed-rank test over units, two-sided; the same by Holm for all methods.
        sent, received: Bytes of all sites, mean over the rows.
        seconds, others_seconds: What the site in question and the others computed, mean over the rows.
        before_seconds: Spent before by the others, where the method rests on it.
    """

    method: str
    role: str
    units: int
    score: float
    others: float | None
    all: float | None
    deviation: float | None
    rank: float | None
    against: str | None
    p: float | None
    p_holm: float | None
    rounds: float
    sent: float
    received: float
    seconds: float
    others_seconds: float
    server_seconds: float
    before_seconds: float
    failed: int


def table(rows: Sequence[Row]) -> list[Line]:
    """The lines of one setting, in order of the methods' first rows.

    Args:
        rows: As `bench_method` writes them, of one setting and one number of labels.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    by_method = {name: [row for row in rows if row["method"] == name] for name in methods}
    scored = {name: _scored(own) for name, own in by_method.items()}
    means = {name: _unit_means(own) for name, own in scored.items()}
    ranks = mean_ranks(scored)
    roles = {name: own[0]["role"] for name, own in by_method.items()}
    # one that failed where it is hard would else have the best mean
    peers = [name for name in methods if roles[name] == "peer" and name in ranks]
    best = max(peers, key=lambda name: _mean(means[name].values()) or 0.0) if peers else None
    found = {
        name: signed_rank(means[name], means[best])
        for name in methods
        if best and name != best and means[name]
    }
    corrected = holm({name: p for name, p in found.items() if p is not None})
    return [
        Line(
            method=name,
            role=roles[name],
            units=len(means[name]),
            score=_mean(means[name].values()) if means[name] else float("nan"),
            others=_mean_of(own, "others"),
            all=_mean_of(own, "all"),
            deviation=_deviation(scored[name]),
            rank=ranks.get(name),
            against=best if name in found else None,
            p=found.get(name),
            p_holm=corrected.get(name),
            rounds=_cost(own, lambda row: row["rounds"]),
            sent=_cost(own, lambda row: sum(row["sent"].values())),
            received=_cost(own, lambda row: sum(row["received"].values())),
            seconds=_cost(own, lambda row: row["site_seconds"].get(row["site"], 0.0)),
            others_seconds=_cost(
                own, lambda row: sum(s for site, s in row["site_seconds"].items() if site != row["site"])
            ),
            server_seconds=_cost(own, lambda row: row["server_seconds"]),
            before_seconds=_cost(own, lambda row: row["before"].get("seconds", 0.0)),
            failed=sum(row["error"] is not None for row in own),
        )
        for name, own in by_method.items()
    ]


def mean_ranks(scored: Mapping[str, Mapping[tuple[str, str, int], float]]) -> dict[str, float]:
    """Mean rank of every method that has all the scores that any method has; ties share their ranks.

    Example:
        >>> one, two = ("t", "a", 0), ("t", "b", 0)
        >>> mean_ranks({"x": {one: 0.9, two: 0.5}, "y": {one: 0.8, two: 0.5}, "z": {one: 0.1}})
        {'x': 1.25, 'y': 1.75}
    """
    asked = sorted(set().union(*scored.values())) if scored else []
    whole = [name for name, own in scored.items() if asked and len(own) == len(asked)]
    if not whole:
        return {}
    values = np.array([[scored[name][key] for key in asked] for name in whole])
    ranks = rankdata(-values, axis=0).mean(axis=1)
    return dict(zip(whole, ranks.tolist(), strict=True))


def signed_rank(one: Mapping[Unit, float], other: Mapping[Unit, float]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test over the units that both have; None below two of them.

    Source: Wilcoxon, Biometrics Bulletin 1(6), 1945; zeros as Pratt has them.

    Example:
        >>> signed_rank({("t", str(n)): n + 1.0 for n in range(6)}, {("t", str(n)): 0.0 for n in range(6)})
        0.03125
    """
    shared = sorted(set(one) & set(other))
    apart = np.array([one[unit] - other[unit] for unit in shared])
    if len(apart) < 2:
        return None
    if not apart.any():
        return 1.0
    return float(wilcoxon(apart, zero_method="pratt").pvalue)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Values of p, corrected for several comparisons.

    Source: Holm, Scandinavian Journal of Statistics 6(2), 1979.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    corrected, highest = {}, 0.0
    for place, (name, value) in enumerate(sorted(p.items(), key=lambda pair: pair[1])):
        highest = max(highest, min(1.0, value * (len(p) - place)))
        corrected[name] = highest
    return corrected


def _scored(rows: Sequence[Row]) -> dict[tuple[str, str, int], float]:
    return {(row["task"], row["site"], row["seed"]): row["score"] for row in rows if row["score"] is not None}


def _unit_means(scored: Mapping[tuple[str, str, int], float]) -> dict[Unit, float]:
    units: dict[Unit, list[float]] = {}
    for (task, site, _), value in scored.items():
        units.setdefault((task, site), []).append(value)
    return {unit: float(np.mean(values)) for unit, values in units.items()}


def _deviation(scored: Mapping[tuple[str, str, int], float]) -> float | None:
    seeds: dict[int, list[float]] = {}
    for (_, _, seed), value in scored.items():
        seeds.setdefault(seed, []).append(value)
    if len(seeds) < 2:
        return None
    return float(np.std([np.mean(values) for values in seeds.values()], ddof=1))


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _mean_of(rows: Sequence[Row], name: str) -> float | None:
    """None where a row that did not fail lacks it: others have it of all, and it may be of the easy ones."""
    done = [row[name] for row in rows if row["error"] is None]
    return _mean(done) if done and None not in done else None


def _cost(rows: Sequence[Row], of: Any) -> float:
    done = [row for row in rows if row["error"] is None]
    return _mean(of(row) for row in done) if done else float("nan")
