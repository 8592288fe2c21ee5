"""A contribution told to people, tensor by tensor: what `inspect` and `contribute --dry-run` show."""

from typing import NamedTuple

from fedmed_edge.config import Part
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.tensors import tensor_rules, weight_rule


class TensorRow(NamedTuple):
    """One tensor of a contribution.

    Attributes:
        dtype: As NumPy writes it.
        bytes: Size in the file.
        meaning: What it is, in words.
    """

    name: str
    part: Part
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    meaning: str


def describe(contribution: Contribution) -> list[TensorRow]:
    """Every tensor that the file holds, or would hold, in order of part and name."""
    rules = tensor_rules(contribution.header)
    rows = []
    for name, tensor in contribution.tensors().items():
        rule = rules.get(name) or weight_rule(tensor.ndim)
        size = tensor.nbytes
        rows.append(TensorRow(name, rule.part, str(tensor.dtype), tensor.shape, size, rule.meaning))
    order = contribution.header.parts
    return sorted(rows, key=lambda row: (order.index(row.part), row.name))
