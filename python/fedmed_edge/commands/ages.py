"""Whether a generation has grown too old for a site: what the newest weights of each tell of themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmed_edge.errors import StoreError
from fedmed_edge.statistics.reading import parse_envelope

if TYPE_CHECKING:
    from fedmed_edge.store.store import Store

__all__ = ["TOO_OLD", "Age", "ages"]

TOO_OLD = 0.05
"""By so much more than the site's own tuned model a head may be wrong."""


@dataclass(frozen=True)
class Age:
    """How a generation does at a site, on images held out there.

    Attributes:
        head_error: Of a head solved on the generation's features; 0 to 1.
        tuned_error: Of the site's own model, all of it trained from that generation.
    """

    site: str
    task: str
    generation: str
    head_error: float
    tuned_error: float

    @property
    def too_old(self) -> bool:
        """Whether the next backbone is worth the while."""
        return self.head_error - self.tuned_error > TOO_OLD

    @property
    def line(self) -> str:
        """For people."""
        what = "has grown too old for" if self.too_old else "still does at"
        return (
            f"generation {self.generation[:12]}  {what} {self.site} ({self.task}): a head on it errs by "
            f"{self.head_error:.2f}, the site's own tuned model by {self.tuned_error:.2f}"
        )


def ages(store: "Store") -> Iterator[Age]:
    """Of every site and task whose newest weights tell both errors; damaged files are passed over."""
    held = (entry for entry in store.contribution_entries() if entry.holds == "weights")
    newest = {(entry.site, entry.task): entry for entry in held}  # by site and sequence
    for entry in newest.values():
        try:
            content = store.contribution_content(entry.id)
        except StoreError:  # `verify` tells
            continue
        told = parse_envelope(content, f"contribution {entry.id[:12]}").header.evidence.metrics
        if {"head_error", "tuned_error"} <= set(told):
            errors = {name: told[name] for name in ("head_error", "tuned_error")}
            yield Age(entry.site, entry.task, entry.generation, **errors)
