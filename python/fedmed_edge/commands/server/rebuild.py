"""`fedmed-server rebuild`: the global model, from the stored contributions alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError

if TYPE_CHECKING:
    from fedmed_edge.model.global_model import GlobalModel
    from fedmed_edge.recipe import Recipe
    from fedmed_edge.store.store import Store


class RidgeType(click.ParamType[Any]):
    """`auto`, `sites`, or a number of at least 0."""

    name = "auto|sites|NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A rule's name as it is, else a float."""
        if value in ("auto", "sites"):
            return value
        return click.FLOAT.convert(value, param, ctx)


ridge_option = click.option(
    "--ridge",
    type=RidgeType(),
    default="auto",
    show_default=True,
    help="λ, or the rule that chooses it from the sums.",
)
task_option = click.option("--task", help="Task (the recipe's name); needed where the store holds several.")


@click.command(cls=Verb)
@folder_option("Server")
@task_option
@ridge_option
@click.option(
    "--without", "without", multiple=True, help="Site to leave out of this model alone; repeatable."
)
@click.option(
    "--quarantine", is_flag=True, help="Hold sites back that stand out in `evaluate`, and name them."
)
@click.pass_obj
def command(
    out: Output, folder: Path, task: str | None, ridge: Any, without: tuple[str, ...], quarantine: bool
) -> None:
    """Sum the stored contributions and solve the head; no hospital is asked.

    Sites that are held back (`site hold`, --quarantine) are left out, here and in whatever else is made.

    Example: fedmed-server rebuild -C server --without hospital-b
    """
    from fedmed_edge.model.rebuild import rebuild
    from fedmed_edge.model.sums import read_sums
    from fedmed_edge.model.suspects import stand_out

    _, store = read_server(folder)
    task = task_of(store, task)
    unknown = set(without) - {site.name for site in store.sites()}
    if unknown:
        raise InputError(f"rebuild: no site `{sorted(unknown)[0]}` is enrolled")
    contributions, recipe = store.contributions(task, without=without), store.recipe(task)
    if not contributions:
        _refuse_unheard(store, recipe)
    quarantined = stand_out(read_sums(contributions, recipe)) if quarantine else {}
    for site, how in quarantined.items():
        store.held_back.add(task, site, how)
    model = rebuild([one for one in contributions if one.header.site not in quarantined], recipe, ridge=ridge)
    store.save_model(model)
    document, lines = told(model)
    held_back = store.held_back.of(task)
    more = {"quarantined": quarantined, "held_back": held_back}
    out.answer(document | more, lines + told_held_back(held_back))


def _refuse_unheard(store: "Store", recipe: "Recipe") -> None:
    """Say so where the store has sums of the task, and all are under recipes before the newest."""
    sums = [one for one in store.contribution_entries(recipe.name) if one.holds == "sums"]
    if sums and all(one.recipe != recipe.digest for one in sums):
        raise InputError(
            f"rebuild: no site contributed under the newest recipe of {recipe.name}, {recipe.digest[:12]}",
            hint="hospitals contribute under it; or `fedmed-server generation publish --recipe FILE` with "
            "the one before makes that the newest again",
        )


def task_of(store: "Store", task: str | None) -> str:
    """The task that was named, or the only one."""
    tasks = store.tasks()
    if task is None and len(tasks) == 1:
        return tasks[0]
    if task not in tasks:
        raise InputError(
            f"store: has tasks {', '.join(tasks) or 'none'}, expected {task or 'one to be named'}",
            hint="name one with --task" if tasks else "publish a generation with --recipe first",
        )
    return task


def told_held_back(held_back: Mapping[str, str]) -> list[str]:
    """A line for each site that is held back, with the words."""
    return [f"{site} is left out, its contribution stays stored: {why}" for site, why in held_back.items()]


def _not_held_out(figures: Mapping[str, Any]) -> list[str]:
    """What was chosen without held-out rows, which small classes and sums with noise do not have."""
    lines = ["ridge: default, no class has folds"] if figures.get("ridge_by") == "default" else []
    seen = [name for name, how in figures.get("scores_from", {}).items() if how == "leverage"]
    if seen and figures.get("temperature_from") == "gaussians":
        why = "no folds, from rows that the head has seen, so that it may be too sure"
        lines.append(f"temperature: {why}: {', '.join(seen)}")
    return lines


def told(model: "GlobalModel") -> tuple[dict[str, Any], list[str]]:
    """A model's digest, sites and figures, as JSON values and as lines for people."""
    document = {
        "digest": model.digest,
        "task": model.recipe.name,
        "generation": model.generation,
        "sites": list(model.sites),
        "contributions": list(model.contributions),
        "site_weights": model.site_weights,
        "ridge": model.ridge,
        "temperature": model.posterior.temperature,
        "known_threshold": model.known_threshold,
        "refined_for": model.refined_for,
        "kept": model.kept,
        "reason": model.reason,
        "figures": model.figures,
    }
    kind = (
        f"refined for {model.refined_for}: {model.kept} kept, {model.reason}"
        if model.refined_for
        else "global"
    )
    lines = [
        f"model {model.digest[:12]}  {model.recipe.name}  {kind}",
        f"sites: {', '.join(model.sites)}",
        f"ridge {model.ridge:g}, temperature {model.posterior.temperature:.3f}",
        *_not_held_out(model.figures),
    ]
    absent = model.figures.get("absent", [])
    return document, lines + ([f"no site has: {', '.join(absent)}"] if absent else [])
