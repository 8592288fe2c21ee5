"""Of a model that was refined for this site and the global one, which does better on its own images."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fedmed_edge.config import SiteConfig
from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.federation.inbox import Arrived, Inbox
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.images.dataset import Dataset
    from fedmed_edge.inference.predict import Model

__all__ = ["Choice", "choose"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The model that is to be used.

    Attributes:
        kept: Which it is; None where there was nothing to choose between, or no image to choose by.
        scores: Of both, as `score_model` has it.
        images: Labelled test images that were answered.
    """

    model: Arrived
    kept: Literal["refined", "global"] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    images: int = 0

    def told(self) -> tuple[dict[str, Any], list[str]]:
        """The choice as JSON values, and in words; no words where there was none."""
        facts: dict[str, Any] = {"kept": self.kept, "scores": dict(self.scores), "images": self.images}
        figures = ", ".join(f"{name} {score:.3f}" for name, score in self.scores.items())
        words = (
            f"the {self.kept} model is kept: on {counted(self.images, 'test image')} of this site {figures}"
        )
        return facts, [words] if self.kept else []


def choose(inbox: Inbox, newest: Arrived, config: SiteConfig) -> Choice:
    """The newest model, unless it was refined for this site and the global one does better here.

    Held-out sums chose at the server; here are images that the server never had. Under even scores the
    refined one is kept, and where there is nothing to compare with: an older model that is damaged, or a test
    image that cannot be read, holds up no newer one.

    Raises:
        TrustError: The newest model is not as the server signed it.
        InputError: It cannot be read.

    Source: method §5.
    """
    task = _own_task(config, newest)
    here = [one for one in inbox.all() if (one.kind, one.state) == ("model", "here") and task in one.tasks]
    others = [one for one in here if one != newest]
    refined = _load(inbox, newest, task, config) if newest in here and others else None
    if refined is None or refined.manifest.kept != "refined":
        return Choice(newest)
    for other in reversed(others):
        try:
            model = _load(inbox, other, task, config)
            if model.manifest.refined_for is None:
                return _compare(newest, refined, other, model, config)
        except (InputError, TrustError) as error:
            log.warning("model %s: is not compared with %s: %s", newest.digest[:12], other.digest[:12], error)
    return Choice(newest)


def _compare(newest: Arrived, refined: "Model", other: Arrived, model: "Model", config: SiteConfig) -> Choice:
    from fedmed_edge.inference.scoring import score_model

    test = _test_images(config)
    if test is None or not len(test):
        return Choice(newest)
    scores = {"refined": score_model(refined, test), "global": score_model(model, test)}
    better = scores["global"] > scores["refined"]
    choice = Choice(other if better else newest, "global" if better else "refined", scores, len(test))
    log.info("%s", *choice.told()[1])
    return choice


def _own_task(config: SiteConfig, newest: Arrived) -> str | None:
    """Task of the site's own images; where its recipe cannot be read, the model's."""
    from fedmed_edge.recipe import read_recipe

    try:
        return read_recipe(config.recipe).name
    except InputError:
        return newest.task


def _load(inbox: Inbox, arrived: Arrived, task: str | None, config: SiteConfig) -> "Model":
    from fedmed_edge.inference.predict import load_model

    return load_model(inbox.path(arrived.digest), trust=config.server_key, device="cpu", task=task)


def _test_images(config: SiteConfig) -> "Dataset | None":
    from fedmed_edge.images.dataset import read_dataset
    from fedmed_edge.recipe import read_recipe

    try:
        return read_dataset(config.data, read_recipe(config.recipe)).test.labelled
    except InputError as error:
        log.info("refined and global model are not compared: %s", error)
        return None
