"""Local models: what the weights that sites handed over make of the generation they were trained from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fedmed_edge.errors import InputError
from fedmed_edge.features.weights import Weights, moved_weights
from fedmed_edge.generation import Architecture, Generation
from fedmed_edge.statistics.contribution import Contribution

__all__ = ["LocalModel", "local_models", "same_architecture"]


@dataclass(frozen=True, eq=False)
class LocalModel:
    """The backbone of one site, trained for one task.

    Attributes:
        contribution: Id of what it came in.
        generation: Digest of the one that it was trained from.
        weights: θ_s, by name.
        images: Training images behind it; 1 where the site does not say.
    """

    site: str
    task: str
    contribution: str
    generation: str
    weights: Weights = field(repr=False)
    images: int

    @property
    def name(self) -> str:
        """Site and task."""
        return f"{self.site}/{self.task}"


def local_models(
    contributions: Iterable[Contribution], generation_of: Callable[[str], Generation], made: Architecture
) -> tuple[list[LocalModel], dict[str, str]]:
    """θ⁰ + (θ_s − θ⁰) of every contribution, by name; and of those that cannot teach the reason.

    Args:
        contributions: With weights, each of any generation; read one after the other.
        generation_of: Gives a generation by its digest.
        made: What the student is built from; a teacher has the same input and network.
    """
    models: list[LocalModel] = []
    left_out: dict[str, str] = {}
    for one in contributions:
        header, name = one.header, f"{one.header.site}/{one.header.task}"
        start = generation_of(header.generation)
        if not same_architecture(start.header, made):
            left_out[name] = f"was trained from generation {start.digest[:12]}, which has another backbone"
            continue
        try:
            weights = moved_weights(start.weights, one.weights or {})
        except InputError:
            left_out[name] = "handed over other tensors than its generation has"
            continue
        images = header.evidence.images.get("train", 0)
        models.append(LocalModel(header.site, header.task, one.id, header.generation, weights, images))
    return sorted(models, key=lambda model: (model.site, model.task)), dict(sorted(left_out.items()))


def same_architecture(one: Architecture, other: Architecture) -> bool:
    """Whether two backbones have the same input and the same network."""
    names = ("kind", "channels", "size", "backbone")
    return all(getattr(one, name) == getattr(other, name) for name in names)
