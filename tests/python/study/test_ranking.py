"""Ranks, tests and their correction, against other computations of the same."""

import itertools

import numpy as np
import pytest

from fedmed_edge.study.ranking import holm, mean_ranks, signed_rank, table


def row(method: str, site: str, seed: int, score: float | None, role: str = "peer") -> dict[str, object]:
    return {
        "setting": "join", "task": "t", "site": site, "method": method, "seed": seed, "role": role,
        "score": score, "others": 0.5, "all": 0.5, "rounds": 2, "sent": {site: 10, "else": 5},
        "received": {}, "site_seconds": {site: 3.0, "else": 4.0}, "server_seconds": 0.0, "before": {},
        "error": None if score is not None else "no luck",
    }  # fmt: skip


def test_signed_rank_is_the_count_over_all_signs() -> None:
    random = np.random.default_rng(0)
    apart = random.normal(0.3, 1, 9)
    one = {("t", str(n)): value for n, value in enumerate(apart)}
    ranks = np.argsort(np.argsort(np.abs(apart))) + 1
    total, seen = ranks[apart > 0].sum(), []
    for signs in itertools.product((0, 1), repeat=9):
        seen.append(float((ranks * signs).sum()))
    seen_array, middle = np.array(seen), ranks.sum() / 2
    wanted = np.mean(np.abs(seen_array - middle) >= abs(total - middle))
    assert signed_rank(one, dict.fromkeys(one, 0.0)) == pytest.approx(wanted)
    assert signed_rank(one, one) == 1.0
    assert signed_rank({("t", "a"): 1.0}, {("t", "a"): 0.0}) is None


def test_holm_never_falls_and_never_passes_one() -> None:
    assert holm({"a": 0.5, "b": 0.9, "c": 0.001}) == {"c": 0.003, "a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_a_line_is_of_means_over_sites_and_deviations_over_seeds() -> None:
    rows = [
        row("ours", s, n, v, "ours")
        for (s, n), v in zip([("a", 0), ("a", 1), ("b", 0), ("b", 1)], (0.9, 0.8, 0.7, 0.8), strict=True)
    ]
    rows += [row("peer", s, n, 0.6) for s in "ab" for n in (0, 1)]
    rows += [row("worse", s, n, 0.5) for s in "ab" for n in (0, 1)]
    rows += [row("broken", "a", 0, None)]
    ours, peer, worse, broken = table(rows)
    assert (ours.score, ours.units, ours.rank) == (pytest.approx(0.8), 2, 1.0)
    assert ours.deviation == pytest.approx(0.0) and peer.against is None and worse.against == "peer"
    assert ours.p == pytest.approx(0.5) and ours.p_holm == pytest.approx(1.0)
    assert (ours.sent, ours.seconds, ours.others_seconds) == (15, 3.0, 4.0)
    assert broken.failed == 1 and broken.rank is None and np.isnan(broken.score)
    assert mean_ranks({}) == {}


def test_a_peer_that_failed_on_the_hard_sites_is_not_the_best() -> None:
    rows = [row("ours", site, 0, value, "ours") for site, value in (("a", 0.9), ("b", 0.4), ("c", 0.5))]
    rows += [row("whole", site, 0, value) for site, value in (("a", 0.8), ("b", 0.3), ("c", 0.4))]
    rows += [row("lucky", "a", 0, 0.95), row("lucky", "b", 0, None), row("lucky", "c", 0, None)]
    ours, whole, lucky = table(rows)
    assert (ours.against, whole.against, lucky.against) == ("whole", None, "whole")
    assert (lucky.units, lucky.failed, lucky.rank) == (1, 2, None)
    assert (
        table(rows[3:])[0].p is None and table([one for one in rows if one["method"] != "whole"])[0].p is None
    )
