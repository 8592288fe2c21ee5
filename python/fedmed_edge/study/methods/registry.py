"""The methods by name, in the order of the tables."""

from collections.abc import Sequence

from fedmed_edge.errors import InputError
from fedmed_edge.study.methods.adaptation import entropy, tent
from fedmed_edge.study.methods.averaging import (
    FedAvg,
    FedBN,
    FedProx,
    Scaffold,
)
from fedmed_edge.study.methods.closed_form import (
    afl,
    gaussian_heads,
    mean_shift,
    own_sums,
    rebuilt,
    refined,
    renewed,
    untrained,
)
from fedmed_edge.study.methods.controls import threshold, two_regions
from fedmed_edge.study.methods.domain_shifts import FedDG
from fedmed_edge.study.methods.heads import sgd_head
from fedmed_edge.study.methods.masked import mim
from fedmed_edge.study.methods.merging import gram_merge, weight_average
from fedmed_edge.study.methods.method import Method
from fedmed_edge.study.methods.personalised import Ditto, FedBABU, FedRep, PFedHN
from fedmed_edge.study.methods.trained import fine_tuned, learner, local, pooled

_RATES = ({"rate": 1.0}, {"rate": 0.3}, {"rate": 3.0})
_TUNING = ({"rate": 0.3}, {"rate": 1.0}, {"rate": 0.1})

METHODS: dict[str, Method] = {
    one.name: one
    for one in (
        Method("own_sums", "control", own_sums, contributes=True),
        Method("rebuilt", "ours", rebuilt, contributes=True),
        Method("refined", "ours", refined, images="all", contributes=True),
        Method("renewed", "ours", renewed, _TUNING, contributes=True),
        Method("untrained", "control", untrained, contributes=True),
        Method("threshold", "control", threshold, fits=two_regions),
        Method("local", "control", local, _RATES),
        Method("local_tuned", "peer", fine_tuned, _TUNING),
        Method("fedavg", "peer", learner(FedAvg), _RATES),
        Method("fedprox", "peer", learner(FedProx), ({"mu": 0.01}, {"mu": 0.1}, {"mu": 1.0})),
        Method("fedbn", "peer", learner(FedBN), _RATES),
        Method("scaffold", "peer", learner(Scaffold), _RATES),
        Method("pooled", "ceiling", pooled, _RATES),
        Method("afl", "peer", afl, ({"ridge": 1e-2}, {"ridge": 1e-4}, {"ridge": 1.0}), contributes=True),
        Method(
            "gaussian_heads",
            "peer",
            gaussian_heads,
            ({"shrinkage": 0.1}, {"shrinkage": 0.01}, {"shrinkage": 0.5}),
            contributes=True,
        ),
        Method("sgd_head", "peer", sgd_head, ({"rate": 0.01}, {"rate": 0.003}, {"rate": 0.03})),
        Method("ditto", "peer", learner(Ditto), ({"strength": 0.1}, {"strength": 0.01}, {"strength": 1.0})),
        Method(
            "fedrep", "peer", learner(FedRep), ({"head_share": 0.5}, {"head_share": 0.2}, {"head_share": 0.8})
        ),
        Method(
            "fedbabu",
            "peer",
            learner(FedBABU),
            ({"tuning_rate": 0.3}, {"tuning_rate": 1.0}, {"tuning_rate": 0.1}),
        ),
        Method(
            "pfedhn",
            "peer",
            learner(PFedHN),
            ({"server_rate": 0.5}, {"server_rate": 0.2}, {"server_rate": 1.0}),
        ),
        Method("weight_average", "peer", weight_average, _TUNING),
        Method(
            "gram_merge",
            "peer",
            gram_merge,
            tuple({"rate": 0.3, "scale": scale} for scale in (0.9, 0.5, 1.0)),
        ),
        Method("feddg", "peer", learner(FedDG), ({"weight": 1.0}, {"weight": 0.3}, {"weight": 3.0})),
        Method("mim", "peer", mim, _RATES),
        Method("tent", "peer", tent, _TUNING, images="all", adapts=True),
        Method(
            "entropy", "peer", entropy, ({"rate": 0.03}, {"rate": 0.1}, {"rate": 0.01}), "all", adapts=True
        ),
        Method("mean_shift", "peer", mean_shift, images="all", contributes=True, adapts=True),
    )
}


def methods_named(names: Sequence[str]) -> list[Method]:
    """The methods of these names, in that order; `all` is all of them.

    Raises:
        InputError: There is no method of a name.
    """
    if list(names) == ["all"]:
        return list(METHODS.values())
    for name in names:
        if name not in METHODS:
            raise InputError(f"methods: has `{name}`, expected some of {', '.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names)]
