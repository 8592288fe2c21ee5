"""How much an experiment may cost, and under which policy: the stated settings and budgets."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fedmed_edge.config import Policy
from fedmed_edge.recipe import Kind, Lift, Recipe


@dataclass(frozen=True)
class StatedPolicy:
    """A site policy that figures are given for, and how wide the generation is that goes with it.

    Attributes:
        name: `open` is for public data alone; `default` is what a hospital gets; `private` is the recommended
            differential privacy.
        min_cohort: Patients below which a class is left out of a contribution.
        epsilon: Of one contribution, at δ = 1/n² for n patients; None without noise.
        feature_dim: Principal axes that make a row, without lift; None takes the recipe's lift.
    """

    name: Literal["open", "default", "private"]
    min_cohort: int
    epsilon: float | None = None
    feature_dim: int | None = None

    def policy(self, patients: int) -> Policy:
        """As a site of so many labelled training patients has it; Grams of any width leave."""
        policy = Policy(min_cohort=self.min_cohort, width_rule="off")
        if self.epsilon is None:
            return policy
        delta = min(0.05, 1.0 / max(1, patients) ** 2)
        return policy.model_copy(update={"epsilon": self.epsilon, "budget": self.epsilon, "delta": delta})

    def rows_of(self, recipe: Recipe) -> Recipe:
        """The recipe, with the rows that the generation shall have."""
        if self.feature_dim is None:
            return recipe
        return recipe.model_copy(update={"lift": Lift(lift_dim=0, feature_dim=self.feature_dim)})

    @property
    def without_noise(self) -> "StatedPolicy":
        """What a site computes for itself alone."""
        return replace(self, epsilon=None)

    @property
    def document(self) -> dict[str, Any]:
        """As JSON values, those left out that ask for nothing."""
        return {name: value for name, value in asdict(self).items() if value is not None}


POLICIES = {
    "open": StatedPolicy("open", min_cohort=1),
    "default": StatedPolicy("default", min_cohort=10),
    "private": StatedPolicy("private", min_cohort=10, epsilon=8.0, feature_dim=32),
}
"""What makes `private` recommended stands in SECURITY.md."""


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
