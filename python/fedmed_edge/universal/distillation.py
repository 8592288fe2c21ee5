"""Distillation of several teachers into one encoder: by features, through one closed-form linear map each.

For an image x the student has rows φ(x) and every teacher s rows φ_s(x): all scales side by side, averaged
over the whole image, which is what a task of images reads, and over the parts of a coarse grid, so that a
task of pixels hands on where things are. Each of the two has its own maps: parts differ so much more from
each other than images do that together they would hide them. The loss is the mean of
(P_s [φ(x), 1] − φ_s(x))², teachers' columns at mean 0 and deviation 1; P_s = (G + λ · mean(diag G) · I)⁻¹ B_s
is solved anew from running sums G = Σ φᵀφ and B_s = Σ φᵀφ_s, in which older rows, of a student that has
changed since, fade. So one student can stand in for each teacher, whatever its task, and no map is trained.

Source: method §7.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import MultiScale
from fedmed_edge.universal.mim import scales_of

__all__ = ["MEMORY", "RIDGE", "ROW_GRIDS", "LinearMaps", "Teacher", "rows_of_maps", "watched"]

ROW_GRIDS = {2: (1, 4), 3: (1, 2)}
"""Parts along every axis that rows are means of, the whole first, by dimensions."""

RIDGE = 1e-4
MEMORY = 0.99
"""What is left of the running sums after one more batch."""

_FLAT = 1e-6


@dataclass(frozen=True, eq=False)
class Teacher:
    """A local model as it teaches.

    Attributes:
        name: Site and task.
        backbone: It stays as it is.
        moments: Mean and deviation (T,) of its rows over the pool, for each grid.
    """

    name: str
    backbone: MultiScale
    moments: tuple[tuple[Tensor, Tensor], ...] = field(repr=False)

    @torch.no_grad()
    def rows(self, images: Tensor) -> list[Tensor]:
        """(N, T) float32 targets of a batch, standardised, for each grid."""
        plain = rows_of_maps(scales_of(self.backbone, images))
        return [(rows - mean) / spread for rows, (mean, spread) in zip(plain, self.moments, strict=True)]


@torch.no_grad()
def watched(name: str, backbone: MultiScale, batches: Iterable[Tensor]) -> Teacher:
    """A teacher, with its rows' mean and deviation over some batches.

    Raises:
        InputError: Its values are not finite.
    """
    seen = [rows_of_maps(scales_of(backbone, images)) for images in batches]
    moments = []
    for rows in zip(*seen, strict=True):
        deviation, mean = torch.std_mean(torch.cat(rows).double(), dim=0, correction=0)
        if not bool(torch.isfinite(mean).all() and torch.isfinite(deviation).all()):
            raise InputError(
                f"stage: the local model of `{name}` gives values that are not finite",
                hint="leave its site out with --without",
            )
        # a channel that hardly moves is centred, not blown up
        deviation[deviation <= _FLAT * mean.abs().clamp_min(1.0)] = 1.0
        moments.append((mean.float(), deviation.float()))
    return Teacher(name, backbone, tuple(moments))


def rows_of_maps(maps: Sequence[Tensor]) -> list[Tensor]:
    """Rows (B · G, ΣC) float32 for each grid: for each part of it the mean of every channel of every scale.

    Args:
        maps: (B, C_k, *s_k) of every scale.

    Example:
        >>> [rows.shape for rows in rows_of_maps([torch.ones(2, 3, 16, 16), torch.ones(2, 5, 4, 4)])]
        [torch.Size([2, 8]), torch.Size([32, 8])]
    """
    dimensions = maps[0].ndim - 2
    pool = functional.adaptive_avg_pool2d if dimensions == 2 else functional.adaptive_avg_pool3d
    return [
        torch.cat([pool(scale.float(), side).flatten(2) for scale in maps], dim=1)
        .transpose(1, 2)
        .flatten(0, 1)
        for side in ROW_GRIDS[dimensions]
    ]


class LinearMaps:
    """One map a teacher from the student's rows to the teacher's, by running sums.

    Example:
        >>> maps = LinearMaps(ridge=1e-9)
        >>> rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> maps.add(rows, {"a": 2 * rows[:, :1] + 1})
        >>> maps.solve()
        >>> bool((maps.of("a", rows) - 2 * rows[:, :1] - 1).abs().max() < 1e-5)
        True
    """

    def __init__(self, *, ridge: float = RIDGE, memory: float = MEMORY) -> None:
        self._ridge, self._memory = ridge, memory
        self._gram: Tensor | None = None
        self._cross: dict[str, Tensor] = {}
        self._maps: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, rows: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Add a batch: student's rows (N, F), and of every teacher (N, T)."""
        own = _with_one(rows.double())
        gram = own.T @ own
        self._gram = gram if self._gram is None else self._memory * self._gram + gram
        for name, wanted in targets.items():
            cross = own.T @ wanted.double()
            held = self._cross.get(name)
            self._cross[name] = cross if held is None else self._memory * held + cross

    @torch.no_grad()
    def solve(self) -> None:
        """All maps anew from the sums.

        Raises:
            InputError: The sums are not finite: the learning ran away.
        """
        assert self._gram is not None  # `add` comes first
        level = self._ridge * self._gram.diagonal().mean()
        if not bool(torch.isfinite(level)):
            raise InputError("stage: the student's features are not finite", hint="lower the learning rate")
        root = torch.linalg.cholesky(self._gram + level * torch.eye(len(self._gram), device=level.device))
        for name, cross in self._cross.items():
            self._maps[name] = torch.cholesky_solve(cross, root).float()

    def of(self, name: str, rows: Tensor) -> Tensor:
        """The teacher's rows (N, T) as the student's (N, F) tell them."""
        return _with_one(rows) @ self._maps[name]

    def state(self) -> dict[str, Any]:
        """Sums and maps, for `restore`."""
        return {"gram": self._gram, "cross": dict(self._cross), "maps": dict(self._maps)}

    def restore(self, state: Mapping[str, Any], place: torch.device) -> None:
        """Go on from a `state`, on a device."""
        self._gram = state["gram"].to(place)
        self._cross = {name: value.to(place) for name, value in state["cross"].items()}
        self._maps = {name: value.to(place) for name, value in state["maps"].items()}


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)], dim=1)
