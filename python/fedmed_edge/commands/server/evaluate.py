"""`fedmed-server evaluate`: what the stored sums tell, with no image and no site online."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.server.rebuild import ridge_option, task_of, task_option, told_held_back
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@folder_option("Server")
@task_option
@ridge_option
@click.pass_obj
def command(out: Output, folder: Path, task: str | None, ridge: Any) -> None:
    """Error at every site of a head that has not seen it, worth of each site, distances between them.

    Example: fedmed-server evaluate -C server
    """
    from fedmed_edge.model.evaluate import evaluate
    from fedmed_edge.model.sums import read_sums
    from fedmed_edge.model.suspects import stand_out

    _, store = read_server(folder)
    task = task_of(store, task)
    recipe, held_back = store.recipe(task), store.held_back.of(task)
    found = evaluate(store.contributions(task), recipe, ridge=ridge)
    stands_out = found.stands_out
    if held_back:  # they are looked at too: whoever does not stand out any more may be released
        stands_out = stand_out(read_sums(store.contributions(task, held_back=True), recipe))
    between = found.site_map
    document = {
        "digest": found.model,
        "task": task,
        "sites": {name: asdict(site) for name, site in found.sites.items()},
        "ridge": found.ridge,
        "fold_error": found.fold_error,
        "known_threshold": found.known_threshold,
        "stands_out": dict(stands_out),
        "held_back": held_back,
        "distances": None
        if between is None
        else {"sites": list(between.sites), "distances": between.distances.tolist()},
    }
    lines = [
        f"{'site':<24} {'images':>7} {'left-out error':>15} {'recall':>7} {'worth':>9} {'distance':>9}",
        *(
            f"{name:<24} {site.images:>7} {_number(site.relative_error, 15)} "
            f"{_number(site.expected_recall, 7)} {_number(site.worth, 9)} {_number(site.mean_distance, 9)}"
            for name, site in found.sites.items()
        ),
        f"ridge {found.ridge:g}; left-out error and recall are of a head fitted without the site: "
        "0 is perfect, 1 knows nothing",
    ]
    lines += [f"{name} stands out: {how}" for name, how in stands_out.items()] + told_held_back(held_back)
    if between is not None:
        lines.append("distances between sites (Bures–Wasserstein):")
        lines += [
            f"{name:<24} {' '.join(f'{value:9.3f}' for value in row)}"
            for name, row in zip(between.sites, between.distances, strict=True)
        ]
    out.answer(document, lines)


def _number(value: float | None, width: int) -> str:
    return f"{'–' if value is None else f'{value:.3f}':>{width}}"
