"""Who is behind a contribution: the training patients of a site, told apart without a name."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmed_edge.config import Part
from fedmed_edge.errors import InputError
from fedmed_edge.features.extract import plan_dataset
from fedmed_edge.images.dataset import Dataset, Item
from fedmed_edge.images.fingerprint import Stamp, content_digest, stamp
from fedmed_edge.recipe import Frozen
from fedmed_edge.statistics.header import Privacy

__all__ = ["Leaving", "Patients", "PrivateTraining"]


class Leaving(Frozen):
    """What a contribution tells of the site's patients, as far as the policy has to know; it stays here.

    Attributes:
        generation: Digest of the generation.
        backbone: Digest of its weights: a draft and the generation it became have the same.
        task: Name of the recipe.
        parts: What is in it.
        width: Width of the rows; None where it was not said, as by older versions of pixels.
        noise: Noise multiplier; None without noise.
        training: Of weights: id of the training with noise that they came of; it spent what they tell.
        cohort: `DIGEST CLASS` of every patient and class in the sums, sorted; no class for unlabelled images.
            Empty with noise and for weights, which nothing is subtracted from.
    """

    generation: str
    backbone: str = ""
    task: str
    parts: tuple[Part, ...]
    width: int | None = None
    noise: float | None = None
    training: str = ""
    cohort: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrivateTraining:
    """A training with noise that may begin.

    Attributes:
        id: 32 hexadecimal digits, drawn; the file of its weights names it.
        spend: Writes down what the whole training spends; called once, before its first step. A training that
            is killed has spent all of it.
    """

    id: str
    privacy: Privacy
    spend: Callable[[], None]


class Patients:
    """Training patients by what their images and masks hold; it stays at the site.

    Every file is read once, here; `refuse_changed` looks whether it is still what was read.

    Args:
        dataset: The site's whole data set.
        min_cohort: Patients that a class needs to be in a contribution.

    Raises:
        InputError: A file cannot be read.
    """

    def __init__(self, dataset: Dataset, min_cohort: int) -> None:
        self._classes = dataset.recipe.classes
        self._stamps: dict[Path, Stamp] = {}
        train = dataset.train
        classes, plan = plan_dataset(train, min_cohort)
        held: dict[tuple[str, int | None], list[tuple[str, ...]]] = {}
        for item, present in zip(train, classes, strict=True):
            groups: list[int | None] = [index for index in present if index in plan.folds]
            if not present and plan.unlabelled:
                groups = [None]
            told = self._told(item) if groups else ()
            for group in groups:
                held.setdefault((item.patient, group), []).append(told)
        self._digests = {
            who: hashlib.sha256(repr(sorted(told)).encode()).hexdigest() for who, told in held.items()
        }

    def cohort(
        self, parts: Sequence[Part], counted: Mapping[int, frozenset[str]] | None = None
    ) -> tuple[str, ...]:
        """As `Leaving.cohort`: what two cohorts do not share are patients who came, went or changed.

        Args:
            parts: Of the contribution: `classes` alone tells nothing of unlabelled images.
            counted: Class index → ids of the patients whose rows were added up; None before that is known.
        """
        unlabelled = not set(parts) <= {"classes", "calibration"}
        found = []
        for (patient, group), digest in self._digests.items():
            if group is None:
                found += [f"{digest} "] * unlabelled
            elif counted is None or patient in counted.get(group, ()):
                found.append(f"{digest} {self._classes[group]}")
        return tuple(sorted(found))

    def refuse_changed(self) -> None:
        """Refuse to go on where a file is no longer what was read.

        Raises:
            InputError: Names the file.
        """
        for path, before in self._stamps.items():
            if stamp(path) != before:
                raise InputError(f"{path}: changed while the contribution was made", hint="make it again")

    def _told(self, item: Item) -> tuple[str, ...]:
        files = (item.image,) if item.mask is None else (item.image, item.mask)
        self._stamps |= {file: stamp(file) for file in files}
        return (str(item.label), *map(content_digest, files))
