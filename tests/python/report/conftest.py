"""A report's figures as a run would fill them in, with made-up numbers."""

import numpy as np
import pytest

from fedmed_edge.report.data import (
    Calibration,
    Check,
    Cost,
    CurvePoint,
    Event,
    Example,
    ReportData,
    SitePlaces,
    TaskFigures,
    Value,
)
from fedmed_edge.report.html import render

SITES = ("harbour", "lakeside", "northgate", "westfield")
COLUMNS = (
    "reference",
    "local",
    "own_sums",
    "fedavg",
    "rebuilt",
    "refined",
    "pooled",
    "untrained",
    "threshold",
)


def figures_of(kind="classification", sites=SITES, columns=COLUMNS, seed=0):
    rng = np.random.default_rng(seed)

    def value(centre):
        centre = float(np.clip(centre + rng.normal(0, 0.03), 0.02, 0.99))
        return Value(centre, max(0.0, centre - 0.07), min(1.0, centre + 0.06))

    level = dict(zip(columns, (0.7, 0.8, 0.72, 0.82, 0.86, 0.87, 0.88, 0.5, 0.84), strict=False))
    scores = {site: {column: value(level[column]) for column in columns} for site in sites}
    scores[sites[-1]]["reference"] = Value(0.05, 0.0, 0.12)
    places = rng.normal(0, 1, (len(sites), 2))
    events = [Event("contributes", site, 4.2 + n, 5_300_000) for n, site in enumerate(sites[:-1])]
    events += [
        Event("rebuild", "server", 0.0, 0, 0.41),
        Event("joins", sites[-1], 5.1, 5_300_000, 0.39),
        Event("refine", "server", 0.0, 0, 1.4),
        Event("withdraws", sites[-2], 0.0, 0, 0.33),
    ]
    bins = np.linspace(0.03, 0.97, 15)
    return TaskFigures(
        task=f"a {kind} task",
        kind=kind,
        metric="Dice" if kind == "segmentation" else "balanced accuracy",
        setting="open (public data; every class counts)",
        joined=sites[-1],
        columns=columns,
        scores=scores,
        mean={column: value(level[column]) for column in columns},
        images={site: (40, 20) for site in sites},
        costs={
            "reference": Cost(6, 180, 44.0, 12_000_000, False),
            "fedavg": Cost(6, 240, 71.0, 16_000_000, False),
            "pooled": Cost(0, 300, 80.0, 0, True),
        },
        events=tuple(events),
        withdrawn=sites[-2],
        curve=tuple(
            CurvePoint(
                n,
                {
                    "own_sums": value(0.3 + 0.1 * i),
                    "rebuilt": value(0.5 + 0.07 * i),
                    "refined": value(0.5 + 0.075 * i),
                },
            )
            for i, n in enumerate((5, 10, 20, 40))
        ),
        places=SitePlaces(sites, places, np.linalg.norm(places[:, None] - places[None], axis=2)),
        calibration=Calibration(
            bins, np.clip(bins + rng.normal(0, 0.05, 15), 0, 1), np.arange(15.0) ** 2, 0.042
        ),
        examples=tuple(_example(kind, site, rng) for site in sites),
        checks=(
            Check("rebuilt against one place", "3e-13", "at most 1e-9", True),
            Check("two rebuilds give the same bytes", "the same", "the same", True),
        ),
        notes=("A made-up note.",),
    )


def _example(kind, site, rng):
    image = rng.integers(0, 255, (60, 72), dtype=np.uint8)
    if kind == "classification":
        return Example(site, image, "nodule 0.93", good=bool(rng.integers(2)))
    y, x = np.mgrid[:60, :72]
    truth = (np.hypot(y - 30, x - 36) < 20).astype(np.uint8) + (np.hypot(y - 30, x - 30) < 7)
    prediction = (np.hypot(y - 32, x - 38) < 19).astype(np.uint8) + (np.hypot(y - 31, x - 30) < 7)
    return Example(site, image, "Dice 0.91", truth.astype(np.uint8), prediction.astype(np.uint8))


@pytest.fixture
def figures():
    return figures_of


@pytest.fixture(scope="session")
def data():
    return ReportData(
        title="FedMed Edge demo",
        summary="Three hospitals, a fourth that joins by its statistics alone, and one that leaves.",
        tasks=(figures_of(), figures_of("segmentation", seed=1)),
        facts={"version": "0.1.0", "seed": "0", "model": "0f" * 32},
        notes=("Synthetic phantoms: the figures show that the path works, and nothing about patients.",),
    )


@pytest.fixture(scope="session")
def text(data):
    """The page, as HTML text."""
    return render(data)
