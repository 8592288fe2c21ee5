"""What a method is, as the harness sees it.

A *case* is one question of the experiments: one task, one hospital in question, one seed, and what every
hospital may learn from. A *method* learns from a case, in steps that the harness may stop:

    def learn(case: Case, option: Option) -> Iterator[Learned]

Every `Learned` answers for sites: one predictor for everybody, or one a site. A network yields one after each
cycle of the budget, a closed form yields once. What it asks of the sites it writes into `case.meter`: rounds,
bytes that each site sent and received, seconds that each site computed.

Fairness lies in the harness, not in the methods:

- the same backbone, first weights, augmentations, batches a cycle: `case.fresh`, `SiteTraining`, `budget`;
- the same tuning: each method names at most `TRIALS` options, the first its paper's or its default. Each is
  tried for a cycle, the best one goes on until training patients that were kept out no longer score better
  (`tuning.choose`). That is done once, with seed 0, and holds for all seeds; test images take no part;
- the same reference: what stands before a hospital comes, the backbone that the others learned and its
  generation, is made once and shared (`reference.Reference`). Its cost stands beside the method's own.

A method sees a hospital whose labels are hidden as a data set without labels, and a hospital that is not
there not at all. It never sees the name of a setting, and nothing in it may depend on the name of a task or
site, on sizes or on classes.

Families, one file each: `controls`, `closed_form`, `averaging` (networks trained in rounds), `personalised`,
`domain_shifts`, `masked`, `trained` (alone, or in one place), `merging`, `heads`, `adaptation`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.training import Network
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.recipe import Recipe
from fedmed_edge.study.methods.reference import Reference
from fedmed_edge.study.methods.work import Learned, Meter, Option, Work, with_weights
from fedmed_edge.study.networks import split_by_patient
from fedmed_edge.study.plan import StatedPolicy

TRIALS: Final = 3
"""Options of a method that are tried, at most."""

Role = Literal["ours", "control", "peer", "ceiling"]
Learn = Callable[["Case", Option], Iterator[Learned]]


def _any_task(recipe: Recipe) -> bool:
    return True


@dataclass(frozen=True)
class Method:
    """A way to get hospitals their models.

    Attributes:
        role: `ours`; a `control` that shows what is easy; a `peer`; the `ceiling`, which privacy forbids.
        learn: As the module says.
        options: What is tried for it; the first is the default.
        images: `labelled`: others change nothing; `all`: it looks at images without labels too.
        contributes: Sites hand over statistics, so that their policy counts.
        adapts: It changes a model to fit the unlabelled images of the hospital in question, and says nothing
            where that one has none.
        fits: Whether it can be used for a recipe.
    """

    name: str
    role: Role
    learn: Learn
    options: tuple[Option, ...] = ({},)
    images: Literal["labelled", "all"] = "labelled"
    contributes: bool = False
    adapts: bool = False
    fits: Callable[[Recipe], bool] = _any_task


@dataclass(frozen=True, kw_only=True)
class Case(Work):
    """One question: what every hospital may learn from.

    Attributes:
        site: The hospital in question.
        reference: What stood before `site` came.
        policy: Under which contributions are made.
        proves: Whether a closed form is to be made by a real store as well, event by event, and compared.
    """

    site: str
    reference: Reference
    policy: StatedPolicy
    proves: bool = False

    def referred(self) -> Network:
        """A copy of the network that the others had learned; its cost counts as spent before."""
        network, cost = self.reference.network()
        self.meter.before = {
            "rounds": cost.rounds,
            "bytes": cost.transferred_bytes,
            "seconds": cost.seconds,
        }
        return with_weights(self.recipe, state_of(network))

    def split(self) -> tuple["Case", dict[str, Dataset]]:
        """The case without some labelled training patients of every site, and those: to choose by."""
        fitted, kept_out = dict(self.sites), {}
        founders = dict(self.reference.founders)
        for site, data in self.labelled.items():
            fit, check = split_by_patient(data, self.seed)
            if not len(fit) or not len(check):
                continue
            held, kept_out[site] = check.patients, check
            _, fitted[site] = self.sites[site].by_patient(held)
            if site in founders:
                _, founders[site] = founders[site].by_patient(held)
        reference = self.reference.of(founders)
        return replace(self, sites=fitted, reference=reference, meter=Meter()), kept_out
