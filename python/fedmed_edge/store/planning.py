"""What a federation of some size asks of its server: bytes counted, seconds from rates measured here.

A sample of contributions as wide as the planned ones is checked, kept, summed and solved, so that the rates
are those of this processor and this disk. What grows with the sites grows with the number of their Grams, but
the distances between sites, which grow with its square.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.model.distance import site_map
from fedmed_edge.model.generator import LEARNED_FROM
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import refine
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PrivateKey, generate_key
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.contribution import (
    Contribution,
    new_contribution,
    parse_contribution,
    write_contribution,
)
from fedmed_edge.statistics.feature_statistics import packed_length
from fedmed_edge.statistics.reading import map_content
from fedmed_edge.store.objects import FolderObjects, digest_of
from fedmed_edge.store.store import Store

__all__ = ["Federation", "Plan", "Rates", "measure", "plan"]

SAMPLE_CLASSES: Final = 2

# Sites of the sample: what the larger number takes longer is what a site takes. More where they are small.
_FEW = 2
_MANY = (4, 24)
_SAMPLE_BYTES = 96 << 20
_BLOB_BYTES = 32 << 20
# Image features of the sample: the width that distances between many sites are taken in.
_IMAGE_DIM = 64
_MAP_SITES = (10, 40)
# Header, style, channel and calibration sums of a contribution.
_SMALL_PARTS = 64 << 10
_ROW_BYTES = 2048
# Opening the index, the journal's row, the contribution's with the ledger's.
_TRANSACTIONS = 3


@dataclass(frozen=True)
class Federation:
    """The federation that is planned.

    Attributes:
        row_dim: D, width of a lifted row.
        feature_dim: F, width of an image's feature; None: the recipe's default, as far as D has room for it.
        folds: 2 or 5, as the sites' classes are large enough for.
        updates_per_year: Contributions that a site hands over in a year.

    Raises:
        InputError: A number is out of range.
    """

    sites: int
    row_dim: int
    classes: int
    folds: int = 5
    feature_dim: int | None = None
    updates_per_year: float = 4.0

    def __post_init__(self) -> None:
        ranges = {"sites": (1, 1_000_000), "row_dim": (2, 8192), "classes": (2, 1000), "folds": (2, 5)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(f"plan: `{name}` has {getattr(self, name)}, expected {least} to {most}")

    @property
    def grams(self) -> int:
        """Grams of the rows in a contribution, one a class and fold."""
        return self.classes * self.folds

    @property
    def contribution_bytes(self) -> int:
        """Bytes of one contribution: the Grams are nearly all of it."""
        features = min(512, self.row_dim - 1) if self.feature_dim is None else self.feature_dim
        numbers = self.grams * packed_length(self.row_dim) + self.classes * self.row_dim
        return 8 * (numbers + packed_length(features + 1)) + _SMALL_PARTS


@dataclass(frozen=True)
class Rates:
    """What was measured, in seconds.

    Attributes:
        row_dim, folds: Of the sample.
        receive_byte: To write a byte to the disk and hash it.
        check_gram: To check a Gram of a contribution and keep it.
        check: To check and enter a contribution, its Grams apart.
        rebuild_gram, refine_gram: To read a Gram and add it up.
        rebuild, refine: To solve, whatever the number of sites.
        refine_pair: For the distance between two sites.
        took: The measurement itself.
    """

    row_dim: int
    folds: int
    receive_byte: float
    check_gram: float
    check: float
    rebuild_gram: float
    rebuild: float
    refine_gram: float
    refine: float
    refine_pair: float
    took: float


@dataclass(frozen=True)
class Plan:
    """Bytes and seconds of one server.

    Attributes:
        contribution_bytes: One contribution.
        round_bytes: One of every site.
        year_bytes: All of a year, which the store keeps: superseded ones stay until they are withdrawn.
        index_bytes: Index and ledger after a year.
        memory_bytes: That a rebuild or refine needs: every site's sums at once.
        receive_s, check_s: For one contribution of every site.
        rebuild_s: One global model, reading included.
        refine_s: One site's model.
    """

    contribution_bytes: int
    round_bytes: int
    year_bytes: int
    index_bytes: int
    memory_bytes: int
    receive_s: float
    check_s: float
    rebuild_s: float
    refine_s: float


def plan(federation: Federation, rates: Rates) -> Plan:
    """The federation at these rates, which must be of its width and folds.

    Example:
        >>> rates = Rates(64, 5, 1e-9, 1e-4, 1e-2, 1e-5, 0.1, 2e-5, 0.5, 1e-3, 3.0)
        >>> made = plan(Federation(sites=100, row_dim=64, classes=2), rates)
        >>> made.contribution_bytes // 1000, round(made.rebuild_s, 3), round(made.refine_s, 3)
        (249, 0.11, 5.47)
    """
    one, sites = federation.contribution_bytes, federation.sites
    grams = sites * federation.grams
    kept = sites * federation.updates_per_year
    return Plan(
        contribution_bytes=one,
        round_bytes=sites * one,
        year_bytes=round(kept * one),
        index_bytes=round(kept * _ROW_BYTES),
        # beside the Grams their sums by class, which are kept as they are used again and again
        memory_bytes=sites * (one + 8 * federation.classes * packed_length(federation.row_dim)),
        receive_s=sites * one * rates.receive_byte,
        check_s=sites * rates.check + grams * rates.check_gram,
        rebuild_s=rates.rebuild + grams * rates.rebuild_gram,
        refine_s=rates.refine + grams * rates.refine_gram + sites * (sites - 1) / 2 * rates.refine_pair,
    )


def measure(row_dim: int, folds: int, *, folder: Path | None = None) -> Rates:
    """Rates of this machine, from a sample in a temporary folder.

    Args:
        row_dim: D of the sample.
        folds: Of the sample.
        folder: Where, so that its disk is measured; default the system's temporary folder.
    """
    start = time.perf_counter()
    with TemporaryDirectory(prefix="fedmed-plan-", dir=folder) as place, _quiet():
        sample = _Sample(Path(place), row_dim, folds)
        receive_byte = sample.write(np.random.default_rng(0).bytes(_BLOB_BYTES)) / _BLOB_BYTES
        keep = float(np.median([sample.write(f"{number}".encode()) for number in range(5)]))
        check = float(np.median([sample.check(number) for number in range(sample.sites)]))
        rows = sample.transaction()
        rebuilt, rebuild_gram = sample.line(lambda some: rebuild(some, sample.recipe))
        # from where the generator has as many sites to learn from as it takes, the work is a line
        few = LEARNED_FROM + 1 if sample.sites > LEARNED_FROM + 1 else _FEW
        refined, refine_gram = sample.line(lambda some: refine(some, some[0].header.site, sample.recipe), few)
    return Rates(
        row_dim=row_dim,
        folds=folds,
        receive_byte=receive_byte,
        check_gram=check / (SAMPLE_CLASSES * folds) + 8 * packed_length(row_dim) * receive_byte,
        check=_TRANSACTIONS * rows + keep,
        rebuild_gram=rebuild_gram,
        rebuild=rebuilt,
        refine_gram=refine_gram,
        refine=refined,
        refine_pair=_pair_seconds(),
        took=time.perf_counter() - start,
    )


class _Sample:
    """Contributions of made-up sites, kept as a server keeps them."""

    def __init__(self, folder: Path, row_dim: int, folds: int) -> None:
        self.folder, self.row_dim, self.folds = folder, row_dim, folds
        self.recipe = Recipe(name="plan", kind="classification", classes=("one", "two"))
        self.key: PrivateKey = generate_key()
        self.store = Store.create(folder / "store")
        self.objects = FolderObjects(folder / "store" / "objects")
        self.digests: list[str] = []
        size = Federation(1, row_dim, SAMPLE_CLASSES, folds, _IMAGE_DIM).contribution_bytes
        self.sites = min(max(_SAMPLE_BYTES // size, _MANY[0]), _MANY[1])

    def write(self, content: bytes) -> float:
        """Seconds of keeping an object."""
        return _seconds(lambda: self.objects.write(content, digest_of(content)))

    def check(self, number: int) -> float:
        """Make and keep a contribution; seconds of checking it."""
        path = self.folder / "contribution"
        made = _contribution(f"site-{number}", self.recipe, self.row_dim, _IMAGE_DIM, self.folds)
        write_contribution(path, made.sign(self.key))
        content = map_content(path)
        self.digests.append(self.objects.write(content, digest_of(content)))
        return _seconds(lambda: parse_contribution(content, "sample", verify_key=self.key.public_key()))

    def transaction(self) -> float:
        """Seconds of a change of the index."""
        return float(np.median([_seconds(lambda: self.store.ledger_append("started")) for _ in range(9)]))

    def line(
        self, work: Callable[[Sequence[Contribution]], object], least: int | None = None
    ) -> tuple[float, float]:
        """Seconds that the work takes with any number of sites (at least so many), and seconds a Gram."""
        least = least or _FEW

        def read_and_work(sites: int) -> None:
            work(
                [
                    parse_contribution(self.objects.read(one), one, thorough=False)
                    for one in self.digests[:sites]
                ]
            )

        few, many = (
            min(_seconds(partial(read_and_work, sites)) for _ in range(2)) for sites in (least, self.sites)
        )
        a_site = max(many - few, 0.0) / (self.sites - least)
        return max(few - least * a_site, 0.0), a_site / (SAMPLE_CLASSES * self.folds)


def _contribution(site: str, recipe: Recipe, row_dim: int, feature_dim: int, folds: int) -> Contribution:
    """A contribution of a few made-up patients."""
    random = np.random.default_rng(sum(site.encode()))
    members = {
        index: [f"{index}-{patient}" for patient in range(2 * folds)] for index in range(SAMPLE_CLASSES)
    }
    sums = Accumulator(recipe.classes, row_dim=row_dim, feature_dim=feature_dim, plan=plan_folds(members, 2))
    for index, patients in members.items():
        for patient in patients:
            rows = random.normal(size=(1, row_dim)).astype(np.float32)
            rows[:, -1] = 1
            sums.add_rows(rows, np.array([index], np.int32), patient)
            sums.add_image(random.normal(size=feature_dim).astype(np.float32), 1.0)
    fields: dict[str, Any] = {"generation": "0" * 64, "recipe": recipe, "site": site, "sequence": 1}
    return new_contribution(sums.result(), min_cohort=2, **fields)


def _pair_seconds() -> float:
    recipe = Recipe(name="plan", kind="classification", classes=("one", "two"))
    sites = [_contribution(f"site-{number}", recipe, 2, _IMAGE_DIM, 2) for number in range(_MAP_SITES[1])]
    few, many = (min(_seconds(partial(site_map, sites[:n])) for _ in range(3)) for n in _MAP_SITES)
    pairs = [sites * (sites - 1) // 2 for sites in _MAP_SITES]
    return max(many - few, 0.0) / (pairs[1] - pairs[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """No line of the sample's rebuilds in the log."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
