"""How much an experiment may cost, and under which policy: the stated settings and budgets."""

from dataclasses import dataclass
from typing import Literal

from fedmed_edge.recipe import Kind


@dataclass(frozen=True)
class StatedPolicy:
    """A site policy that figures are given for.

    Attributes:
        name: `open` is for public data alone; `default` is what a hospital gets.
        min_cohort: Patients below which a class is left out of a contribution.
    """

    name: Literal["open", "default"]
    min_cohort: int


POLICIES = {"open": StatedPolicy("open", min_cohort=1), "default": StatedPolicy("default", min_cohort=10)}


@dataclass(frozen=True)
class Budget:
    """Training steps (batches) that the networks of an experiment get.

    Attributes:
        batch: Images (windows) a step.
        rounds: FedAvg rounds for the reference backbone, without the joining site.
        round_steps: Steps each site makes in one round.
        local_steps: Fine-tuning steps of each site's own network.
        peer_rounds: Rounds of one cycle of `fedavg`, re-trained by everyone.
        pooled_steps: Steps of one cycle of `pooled`, one network on all images.
        until_plateau: Repeat the cycle as often as the score of held-out training patients rises, which is
            looked for once and holds for all seeds; otherwise one cycle is made, and the columns say so.
        patience: Cycles without a rise that end the search; `most_cycles` ends it in any case.
    """

    batch: int
    rounds: int
    round_steps: int
    local_steps: int
    peer_rounds: int
    pooled_steps: int
    until_plateau: bool
    patience: int = 1
    most_cycles: int = 6


@dataclass(frozen=True)
class MethodBudget:
    """What every method that is compared gets.

    Attributes:
        name: As `--budget` names it.
        training: Kind of task → steps.
    """

    name: Literal["tiny", "small", "full"]
    training: dict[Kind, Budget]


METHOD_BUDGETS: dict[str, MethodBudget] = {
    one.name: one
    for one in (
        MethodBudget(
            "tiny",
            {
                "classification": Budget(8, 2, 4, 8, 2, 16, until_plateau=False),
                "segmentation": Budget(4, 2, 4, 8, 2, 16, until_plateau=False),
            },
        ),
        MethodBudget(
            "small",
            {
                "classification": Budget(16, 20, 8, 80, 10, 240, until_plateau=False),
                "segmentation": Budget(8, 12, 8, 60, 8, 240, until_plateau=False),
            },
        ),
        MethodBudget(
            "full",
            {
                "classification": Budget(16, 60, 8, 80, 10, 240, until_plateau=True, most_cycles=6),
                "segmentation": Budget(8, 24, 8, 60, 8, 240, until_plateau=True, most_cycles=6),
            },
        ),
    )
}
"""`tiny` shows that all works; `small` makes one cycle with every method's default option; `full` tunes.

A cycle is short, so that all methods take half an hour for a seed and a site on two cores; how many of them a
method gets is its own affair, up to its plateau.
"""
