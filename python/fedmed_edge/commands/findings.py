"""What `evaluate` finds, as JSON values and as lines for people."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmed_edge.model.distance import SiteMap
    from fedmed_edge.model.evaluate import Evaluation

__all__ = ["told"]


def told(found: "Evaluation") -> tuple[dict[str, Any], list[str]]:
    """Errors, worth, threshold, distances, map and tree."""
    between = found.site_map
    document = {
        "digest": found.model,
        "sites": {name: asdict(site) for name, site in found.sites.items()},
        "ridge": found.ridge,
        "fold_error": found.fold_error,
        "known_threshold": found.known_threshold,
        "distances": _places(between) if between else None,
    }
    lines = [
        f"{'site':<24} {'images':>7} {'left-out error':>15} {'recall':>7} {'worth':>9} {'distance':>9}",
        *(
            f"{name:<24} {site.images or '–':>7} {_number(site.relative_error, 15)} "
            f"{_number(site.expected_recall, 7)} {_number(site.worth, 9)} {_number(site.mean_distance, 9)}"
            for name, site in found.sites.items()
        ),
        f"ridge {found.ridge:g}; left-out error (0 is perfect, 1 knows nothing) and recall are of a head "
        "that was fitted without the site",
        "worth: by how much the other sites' left-out errors would rise in sum without it; distance: mean "
        "squared Mahalanobis distance of its images to the reference",
        *([f"known-image threshold {found.known_threshold:.1f}"] if found.known_threshold else []),
        *(_between(between) if between else []),
    ]
    return document, lines


def _places(between: "SiteMap") -> dict[str, Any]:
    return {
        "sites": list(between.sites),
        "distances": between.distances.tolist(),
        "places": between.places.tolist(),
        "merges": [list(merge) for merge in between.merges],
        "order": list(between.order),
    }


def _between(between: "SiteMap") -> list[str]:
    names = {number: site for number, site in enumerate(between.sites)}
    lines = ["distances between sites (Bures–Wasserstein):"]
    lines += [
        f"{name:<24} {' '.join(f'{value:9.3f}' for value in row)}"
        for name, row in zip(between.sites, between.distances, strict=True)
    ]
    lines += ["tree of the sites, nearest first:"] if between.merges else []
    for number, (one, two, height) in enumerate(between.merges):
        names[len(between.sites) + number] = f"({names[one]}, {names[two]})"
        lines.append(f"{height:9.3f}  {names[one]} + {names[two]}")
    return lines


def _number(value: float | None, width: int) -> str:
    return f"{'–' if value is None else f'{value:.3f}':>{width}}"
