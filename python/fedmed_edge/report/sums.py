"""What the stored sums of a task tell, as a page: table, map and tree of the sites."""

from collections.abc import Mapping
from pathlib import Path

from fedmed_edge.model.evaluate import Evaluation
from fedmed_edge.report import figures
from fedmed_edge.report.data import SitePlaces
from fedmed_edge.report.html import write_page

__all__ = ["write_sums_report"]


def write_sums_report(path: Path, task: str, found: Evaluation, notes: Mapping[str, str]) -> None:
    """Write the page; the same findings give the same bytes.

    Args:
        notes: Site → what there is to say of it.

    Raises:
        InputError: The file cannot be written.
    """
    between, drawn, tree = found.site_map, None, None
    if between is not None:
        places = SitePlaces(between.sites, between.places, between.distances)
        drawn = figures.with_own_ids(figures.site_map(places, ""), "map")
        tree = figures.with_own_ids(figures.site_tree(between.sites, between.merges, between.order), "tree")
    write_page(path, "sums.html", task=task, found=found, notes=notes, between=between, map=drawn, tree=tree)
