"""Controls that learn nothing."""

from collections.abc import Iterator

from fedmed_edge.recipe import Recipe
from fedmed_edge.study.methods.method import Case
from fedmed_edge.study.methods.work import Learned, Option
from fedmed_edge.study.scores import answers_of_threshold


def threshold(case: Case, option: Option) -> Iterator[Learned]:
    """Otsu's threshold, image by image."""
    yield Learned(lambda data: answers_of_threshold(data, surface=True))


def two_regions(recipe: Recipe) -> bool:
    """Whether a task can be answered by a threshold: foreground and background."""
    return recipe.kind == "segmentation" and len(recipe.classes) == 2
