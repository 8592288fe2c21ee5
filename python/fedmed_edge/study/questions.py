"""The questions of the experiments: who may learn from what, for every hospital in question."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.recipe import Recipe, Training
from fedmed_edge.study.label_curve import LABEL_COUNTS

Sites = Mapping[str, Dataset]

_SHIFT_PARTS: Final[dict[str, float | bool]] = {
    "amplitude": 1.0,
    "maps": 1.0,
    "inversion": 0.5,
    "moments": 1.0,
    "consistency": 1.0,
    "episodic": True,
}
"""Parts of a recipe's `training` that make shifts, as they are when they are asked for."""


@dataclass(frozen=True)
class Question:
    """One hospital in question and what everybody may learn from.

    Attributes:
        sites: Site → training images, labels hidden where the setting hides them.
        founders: Sites that were there before; the reference is theirs.
        labels: Labelled patients of `site`, where the setting counts them; 0 for all of them.
        tuned_as: The question whose tuning holds for this one; None: its own.
        proves: Whether closed forms prove themselves by a real store.
        variant: How training differs, where the setting changes it; the data sets' recipe says it too.
    """

    setting: str
    site: str
    sites: Sites
    founders: Sites
    labels: int | None = None
    tuned_as: "Question | None" = None
    proves: bool = False
    variant: str = ""

    @property
    def recipe(self) -> Recipe:
        """The task's, with the training that is asked about."""
        return next(iter(self.sites.values())).recipe

    def under(self, variant: str, training: Training) -> "Question":
        """The same with another training."""

        def changed(sites: Sites) -> Sites:
            recipe = self.recipe.model_copy(update={"training": training})
            return {name: replace(data, recipe=recipe) for name, data in sites.items()}

        return replace(
            self, variant=variant, sites=changed(self.sites), founders=changed(self.founders), tuned_as=self
        )


def join(train: Sites, site: str, seed: int) -> Iterator[Question]:
    """The backbone was learned without the hospital, which then joins with all its labels."""
    yield Question("join", site, train, _others(train, site), proves=True)


def update(train: Sites, site: str, seed: int) -> Iterator[Question]:
    """The hospital doubles its data: half of its patients were in it from the beginning."""
    half = {**_others(train, site), site: _half(train[site], seed)}
    (whole,) = join(train, site, seed)
    yield Question("update", site, train, half, proves=True, tuned_as=whole)


def withdraw(train: Sites, site: str, seed: int) -> Iterator[Question]:
    """The hospital was in it from the beginning and leaves; the backbone has learned from it."""
    yield Question("withdraw", site, _others(train, site), train, proves=True)


def unseen(train: Sites, site: str, seed: int) -> Iterator[Question]:
    """The hospital has handed over nothing at all."""
    yield Question("unseen", site, _others(train, site), _others(train, site))


def shifts(train: Sites, site: str, seed: int) -> Iterator[Question]:
    """As `unseen`; with the generated shifts of the recipe, without any, and with each part turned over."""
    (question,) = unseen(train, site, seed)
    question = replace(question, setting="shifts")
    yield question
    training = question.recipe.training
    if training.shifts:
        yield question.under("-shifts", training.without_shifts())
    for part, value in _SHIFT_PARTS.items():
        on = bool(getattr(training, part))
        other = training.model_copy(update={part: type(value)() if on else value})
        if other.shifts and (training.maps or part != "inversion"):
            yield question.under(f"{'-' if on else '+'}{part}", other)


def unlabelled(train: Sites, site: str, seed: int) -> Iterator[Question]:
    """The hospital has images without labels."""
    others = _others(train, site)
    yield Question("unlabelled", site, {**others, site: train[site].without_labels}, others)


def labels(train: Sites, site: str, seed: int) -> Iterator[Question]:
    """The hospital joins with few labelled patients, and has no other images."""
    yield from _curve("labels", train, site, seed, keep_rest=False)


def labels_and_images(train: Sites, site: str, seed: int) -> Iterator[Question]:
    """The hospital joins with few labelled patients; its other images come without labels."""
    yield from _curve("labels_and_images", train, site, seed, keep_rest=True)


QUESTIONS: Final[dict[str, Callable[[Sites, str, int], Iterator[Question]]]] = {
    "join": join,
    "unseen": unseen,
    "shifts": shifts,
    "unlabelled": unlabelled,
    "labels": labels,
    "labels_and_images": labels_and_images,
    "update": update,
    "withdraw": withdraw,
}

UNIVERSAL: Final = "universal"
"""The one question that is of all tasks together: see `universal`."""


def _others(train: Sites, site: str) -> dict[str, Dataset]:
    return {name: data for name, data in train.items() if name != site}


def _half(data: Dataset, seed: int) -> Dataset:
    patients = sorted(data.patients)
    drawn = np.random.default_rng((seed, 1)).permutation(len(patients))[: max(1, len(patients) // 2)]
    return data.by_patient({patients[index] for index in drawn})[0]


def _curve(setting: str, train: Sites, site: str, seed: int, *, keep_rest: bool) -> Iterator[Question]:
    """Patients are drawn at random; within one seed fewer are part of more.

    A method is tuned with as many labels as it then has, those of the first seed's draw.
    """
    others = _others(train, site)
    patients = len(train[site].labelled.patients)
    for count in (*(count for count in LABEL_COUNTS if count < patients), patients):
        own, first = (_drawn(train[site], count, draw, keep_rest=keep_rest) for draw in (seed, 0))
        question = Question(setting, site, {**others, site: own}, others, labels=count)
        tuned_as = replace(question, sites={**others, site: first}) if seed else None
        yield replace(question, tuned_as=tuned_as)


def _drawn(data: Dataset, count: int, seed: int, *, keep_rest: bool) -> Dataset:
    """A data set with the labels of so many patients; the other images without labels, or not at all."""
    patients = sorted(data.labelled.patients)
    order = np.random.default_rng((seed, 0)).permutation(len(patients))
    drawn = {patients[index] for index in order[:count]}
    items = []
    for item in data.items:
        if item.patient in drawn:
            items.append(item)
        elif keep_rest:
            items.append(replace(item, label=None, mask=None))
    return replace(data, items=tuple(items))


def settings_named(names: Sequence[str]) -> list[str]:
    """The settings of these names, each once.

    Raises:
        InputError: There is no setting of a name.
    """
    known = [*QUESTIONS, UNIVERSAL]
    for name in names:
        if name not in known:
            raise InputError(f"settings: has `{name}`, expected some of {', '.join(known)}")
    return list(dict.fromkeys(names))
