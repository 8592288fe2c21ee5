"""What `generation publish` makes a generation of: a backbone file, or what the sites handed over."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fedmed_edge.errors import InputError
from fedmed_edge.features.publish import complete_generation, draft_generation
from fedmed_edge.features.weights import average_weights, image_weights, moved_weights, read_backbone
from fedmed_edge.generation import Generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import FeatureStatistics

__all__ = ["from_backbone", "from_contributions"]


def from_backbone(path: Path | None, recipe: Recipe, *, seed: int = 0) -> Generation:
    """A draft from a backbone file; without one, from random weights, for the sites to train from.

    Args:
        path: File of `fedmed-edge train`, a PyTorch checkpoint (.pt, .pth) of the recipe's network, or None.
        seed: Of random weights, and of the lift.

    Raises:
        InputError: The file cannot be read, or its backbone is not the recipe's.
    """
    if path is None:
        from fedmed_edge.features.backbones import backbone_of, state_of

        return draft_generation(recipe, state_of(backbone_of(recipe, seed=seed)), seed=seed)
    if path.suffix in (".pt", ".pth"):
        from fedmed_edge.features.backbones import load_weights

        return draft_generation(recipe, load_weights(path), seed=seed)
    file = read_backbone(path)
    for name in ("kind", "channels", "size", "backbone"):
        got, wanted = getattr(file.header, name), getattr(recipe, name)
        if got != wanted:
            raise InputError(f"{path}: `{name}` has {got}, expected the recipe's {wanted}")
    return draft_generation(recipe, file.weights, trained_by=file.header.trained_by, seed=seed)


def from_contributions(
    contributions: Sequence[Contribution],
    recipe: Recipe,
    generation_of: Callable[[str], Generation],
    *,
    seed: int = 0,
    where: str = "generation",
) -> Generation:
    """A draft from the sites' weights, or a draft completed by the sites' sums.

    Where every contribution holds weights, their differences to the generation are averaged by training
    images (`image_weights`) and added to it. Else the generation must be a draft, and the sums under it
    complete it.

    Args:
        contributions: Of one generation, one a site and task.
        recipe: Gives the lift.
        generation_of: Gives a generation by its digest.
        seed: Of the lift.
        where: Names the contributions in messages, such as their files.

    Raises:
        InputError: No contribution, several generations, a completed generation without weights, or weights
            that are not those of the recipe's backbone.
    """
    digests = sorted({one.header.generation for one in contributions})
    if len(digests) != 1:
        raise InputError(f"{where}: contributions are of {len(digests)} generations, expected 1")
    start = generation_of(digests[0])
    ordered = sorted(contributions, key=lambda one: one.header.site)
    weighted = [
        (one.weights, one.header.evidence.images.get("train", 0))
        for one in ordered
        if one.weights is not None
    ]
    if weighted and len(weighted) == len(ordered):
        counts = image_weights([count for _, count in weighted])
        moved = average_weights([weights for weights, _ in weighted], counts)
        names = (*start.header.trained_by, *(one.header.site for one in ordered))
        made = moved_weights(start.weights, moved, "generation")
        return draft_generation(start.header, made, trained_by=names, seed=seed)
    if weighted:
        lacking = next(one.header.site for one in ordered if one.weights is None)
        raise InputError(
            f"{where}: the contribution of `{lacking}` has no weights, as others have",
            hint="give contributions of weights, or of sums under a draft, not both",
        )
    if not start.draft:
        raise InputError(
            f"{where}: contributions without weights, under a generation that is no draft",
            hint="contribute with the weights of `fedmed-edge train`, or under a draft",
        )
    sums: dict[str, dict[str, FeatureStatistics]] = {}
    for one in ordered:
        if one.statistics is not None:
            sums.setdefault(one.header.task, {})[one.header.site] = one.statistics
    first, *others = (sums[task] for task in sorted(sums))
    return complete_generation(start, recipe, first, others=others, seed=seed)
