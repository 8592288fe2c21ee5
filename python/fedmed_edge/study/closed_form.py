"""The closed form in one process: a generation from a network, contributions, heads and their scores."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from fedmed_edge.config import Device, SiteConfig
from fedmed_edge.errors import Withheld
from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.extract import evaluate_heads, extract
from fedmed_edge.features.publish import complete_generation, draft_generation
from fedmed_edge.features.training import Network
from fedmed_edge.generation import Generation
from fedmed_edge.hospital import make_contribution
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.study.plan import StatedPolicy
from fedmed_edge.study.scores import Answers, answers_of_predictions

Watch = Callable[[str], None]


def publish(
    network: Network,
    founders: Mapping[str, Dataset],
    setting: StatedPolicy,
    *,
    seed: int,
    device: str,
    watch: Watch,
) -> Generation:
    """A generation of this network's backbone, its standardisation measured at the founding sites.

    What founders hand over for that has no noise, whatever the setting.
    """
    recipe = network.recipe
    draft = draft_generation(
        recipe, state_of(network.backbone), trained_by=tuple(sorted(founders)), seed=seed
    )
    sums = {
        name: extract(draft, founders[name], site=name, min_cohort=1, device=device, progress=watch)
        for name in sorted(founders)
    }
    return complete_generation(draft, setting.rows_of(recipe), sums, seed=seed)


def contribute(
    generation: Generation,
    dataset: Dataset,
    site: str,
    setting: StatedPolicy,
    *,
    device: str,
    watch: Watch,
) -> tuple[Contribution | None, float]:
    """One site's contribution, not yet signed, and the seconds that it took the site.

    None where the setting lets nothing leave: too few patients, or noise in which no class stands out.
    """
    began, patients = time.perf_counter(), dataset.labelled.patients
    if patients and not reaches_cohort(dataset, setting):
        return None, 0.0
    config = SiteConfig(site=site, device=cast(Device, device), policy=setting.policy(len(patients)))
    contribution = None
    with contextlib.suppress(Withheld):
        contribution = make_contribution(dataset, generation, config, progress=watch)
    return contribution, time.perf_counter() - began


@dataclass(frozen=True)
class Head:
    """A model and the sites on whose test images it is asked."""

    model: GlobalModel
    sites: Sequence[str]


def score_heads(
    generation: Generation,
    tests: Mapping[str, Dataset],
    heads: Mapping[str, Head],
    *,
    device: str,
    watch: Watch,
) -> dict[str, dict[str, Answers]]:
    """Answers of many heads over one generation; the rows of an image are made once for all of them.

    Returns:
        Head name → site → answers.
    """
    answers: dict[str, dict[str, Answers]] = {name: {} for name in heads}
    for site, dataset in tests.items():
        asked = [name for name, head in heads.items() if site in head.sites]
        if not asked:
            continue
        models = [heads[name].model for name in asked]
        for name, predictions in zip(
            asked, evaluate_heads(generation, dataset, models, device=device, progress=watch), strict=True
        ):
            answers[name][site] = answers_of_predictions(dataset, predictions)
    return answers


def reaches_cohort(dataset: Dataset, setting: StatedPolicy) -> bool:
    """Whether any class has the patients that the setting asks for."""
    return max(dataset.counts().values()) >= setting.min_cohort
