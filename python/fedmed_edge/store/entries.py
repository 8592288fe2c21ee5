"""What a store tells of what it holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedmed_edge.errors import StoreError

Holds = Literal["sums", "weights"]
"""What a contribution is for: the closed form, or the next backbone."""


@dataclass(frozen=True)
class SiteEntry:
    """An enrolled site.

    Attributes:
        enrolled: When, UTC, as ISO 8601.
        revoked: True where the site's contributions are refused from now on.
        contributions: How many the store holds of it.
    """

    name: str
    fingerprint: str
    enrolled: str
    revoked: bool
    contributions: int


@dataclass(frozen=True)
class GenerationEntry:
    """A published generation.

    Attributes:
        row_dim: D, width of a lifted row.
        draft: True while it only measures features and has no lift yet.
    """

    digest: str
    kind: str
    row_dim: int
    draft: bool


@dataclass(frozen=True)
class ContributionEntry:
    """A contribution in the store.

    Attributes:
        holds: `sums` (perhaps with weights beside them) or `weights` alone.
        current: True for the newest of its site, recipe, generation and `holds`.
        bytes: Size of its file.
        received: When, UTC, as ISO 8601.
    """

    id: str
    site: str
    sequence: int
    task: str
    recipe: str
    generation: str
    holds: Holds
    current: bool
    bytes: int
    received: str


@dataclass(frozen=True)
class ModelEntry:
    """A model in the store.

    Attributes:
        sites: Sites whose contributions are in it, sorted.
        contributions: Their ids, in the order of `sites`.
        refined_for: Site it was refined for, or None for the global model.
        withdrawn: True where one of its sites has withdrawn; it must not be published.
        made: When, UTC, as ISO 8601.
    """

    digest: str
    task: str
    generation: str
    sites: tuple[str, ...]
    contributions: tuple[str, ...]
    refined_for: str | None
    withdrawn: bool
    made: str


@dataclass(frozen=True)
class Withdrawal:
    """What a withdrawal did.

    Attributes:
        contributions: Ids whose files and rows were deleted.
        models: Digests of the models that were marked as withdrawn.
        tasks: Tasks that had a contribution of the site, whose models should be rebuilt.
    """

    site: str
    contributions: tuple[str, ...]
    models: tuple[str, ...]
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Import:
    """What an import did.

    Attributes:
        new: False where the very same contribution was there already, and nothing changed.
    """

    id: str
    site: str
    task: str
    sequence: int
    new: bool


def named_by(beginning: str, digests: Sequence[str], what: str) -> str | None:
    """The digest that begins so; the first where nothing is named; None where none does.

    Args:
        digests: Newest first.
        what: The things of these digests, for the message.

    Raises:
        StoreError: Several begin so.

    Example:
        >>> named_by("ab", ["abc", "def"], "generations"), named_by("", ["abc", "def"], "generations")
        ('abc', 'abc')
    """
    fitting = [digest for digest in digests if digest.startswith(beginning)]
    if beginning and len(fitting) > 1:
        raise StoreError(
            f"store: {len(fitting)} {what} begin with `{beginning}`, expected one",
            hint=f"give more of its digest: {', '.join(digest[:12] for digest in fitting[:8])}",
        )
    return next(iter(fitting), None)
