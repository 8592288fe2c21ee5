"""Styles of sites that consent, as they travel with a generation to the others.

One tensor file, `0/mean`, `0/deviation`, `1/mean` … without the names of the sites: (channels, h, w) float32
mean and deviation of the log-amplitude of a site's images (`statistics.style`), for local training towards
other scanners. Source: method §2.4 and §6.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from fedmed_edge.errors import InputError
from fedmed_edge.federation.inbox import Inbox
from fedmed_edge.federation.messages import Digest
from fedmed_edge.recipe import Frozen, Recipe, parse_settings
from fedmed_edge.signing import verify_trusted
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.style import Style
from fedmed_edge.tensorfile import load_tensors, parse_layout, refuse_unusable, strict_json, tensor_file

__all__ = ["collect_styles", "parse_styles", "styles_here"]

METADATA_KEY: Final = "fedmed_styles"


class StylesHeader(Frozen):
    """What a file of styles says of itself.

    Attributes:
        recipe: Digest; the block's shape follows from its size.
        count: Sites in it.
    """

    format_version: Literal[1] = 1
    recipe: Digest
    count: Annotated[int, Field(ge=1, le=1000)]


def collect_styles(contributions: Iterable[Contribution]) -> tuple[bytes, tuple[str, ...]]:
    """The file of those whose site consents, and their ids; empty bytes where there is none.

    The order is that of the contributions' ids, which tells nothing of the sites.

    Args:
        contributions: Of one recipe, one a site; each is let go before the next is asked for.
    """
    styles, recipe = dict[str, Style](), ""
    for one in contributions:
        sums = one.statistics
        if one.header.share_style and sums is not None and sums.style_sum.size:
            mean, deviation = (array.astype(np.float32) for array in (sums.style_mean, sums.style_deviation))
            styles[one.id], recipe = Style(mean, deviation), one.header.recipe
    if not styles:
        return b"", ()
    ids = tuple(sorted(styles))
    tensors = {
        f"{number}/{name}": array
        for number, id in enumerate(ids)
        for name, array in styles[id]._asdict().items()
    }
    said = json.dumps(StylesHeader(recipe=recipe, count=len(ids)).model_dump(mode="json"), sort_keys=True)
    return tensor_file(tensors, METADATA_KEY, said), ids


def styles_here(inbox: Inbox, recipe: Recipe, trust: Path | None) -> list[Style]:
    """Styles of other sites that came to this one, for training under a recipe; none where none came.

    Args:
        trust: PEM file of the server's public key.

    Raises:
        TrustError: They are not signed with that key.
        InputError: As `parse_styles`.
    """
    arrived = inbox.newest("styles", task=recipe.name)
    if arrived is None:
        return []
    content = verify_trusted(inbox.path(arrived.digest), trust)
    return parse_styles(content, f"styles {arrived.digest[:12]}", recipe)


def parse_styles(content: bytes, where: str, recipe: Recipe) -> list[Style]:
    """Styles from the bytes of a file whose signature was checked; none where they are of another recipe.

    Args:
        where: Names the file in messages.

    Raises:
        InputError: It is no such file, or a tensor is missing, of another shape, or has NaN or Inf.
    """
    layout = parse_layout(content, METADATA_KEY, where)
    header = parse_settings(StylesHeader, strict_json(layout.said, where), where)
    wanted = {f"{number}/{name}" for number in range(header.count) for name in Style._fields}
    if set(layout.entries) != wanted:
        raise InputError(f"{where}: has {len(layout.entries)} tensors, expected {len(wanted)}")
    if header.recipe != recipe.digest:
        return []
    tensors = load_tensors(content, layout, where)
    shapes = {value.shape for value in tensors.values()}
    if len(shapes) != 1 or any(value.dtype != np.float32 or value.ndim != 3 for value in tensors.values()):
        raise InputError(f"{where}: tensors have other shapes or types than each other")
    for name, value in tensors.items():
        refuse_unusable(name, value, where)
    return [
        Style(tensors[f"{number}/mean"], tensors[f"{number}/deviation"]) for number in range(header.count)
    ]
