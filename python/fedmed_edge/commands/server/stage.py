"""`fedmed-server stage`: one stage of the universal encoder, on the server's own unlabelled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmed_edge.commands.folders import (
    FILE,
    FOLDER,
    TORCH_DEVICE,
    Number,
    check_writable,
    folder_option,
    read_server,
)
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.signing import read_private_key

if TYPE_CHECKING:
    from fedmed_edge.universal.merging import Merge

MERGES = ["mean", "median", "trimmed_mean", "krum", "gram", "none"]
SOME_FAILED = 3


@click.command(cls=Verb)
@folder_option("Server")
@click.option(
    "--pool", "images", type=FOLDER, required=True, help="Folder of images of no patient of a site."
)
@click.option("--stored", is_flag=True, help="Also local models of older generations; no site is waited for.")
@click.option("--generation", default="", help="Digest (or its beginning) to start from; default the newest.")
@click.option("--from-scratch", is_flag=True, help="Stage 0: the pool alone, from random weights.")
@click.option(
    "--task", "tasks", multiple=True, help="Task that shares the encoder; repeatable (default: all)."
)
@click.option("--recipe", "recipe_file", type=FILE, help="Recipe of a task, kept in the store.")
@click.option("--without", multiple=True, help="Site that does not teach; repeatable.")
@click.option("--merge", type=click.Choice(MERGES), default="mean", show_default=True, help="Where to start.")
@click.option("--steps", type=click.IntRange(1, 10_000_000), help="Batches; or give --epochs.")
@click.option("--epochs", type=Number(0, 100_000, min_open=True), help="Passes over the pool (default: 50).")
@click.option("--seed", type=click.IntRange(0, 1 << 30), default=0, show_default=True)
@click.option("--device", type=TORCH_DEVICE, default="auto", show_default=True)
@click.option("--draft", is_flag=True, help="Leave the standardisation to the sites.")
@click.option(
    "--out", "target", type=FILE, required=True, help="Generation file; its signature is beside it."
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    folder: Path,
    images: Path,
    recipe_file: Path | None,
    merge: "Merge",
    steps: int | None,
    epochs: float | None,
    seed: int,
    device: str,
    draft: bool,
    target: Path,
    **chosen: Any,
) -> None:
    """Learn the next backbone from a pool of unlabelled images and the sites' local models; publish it.

    A stage that was stopped goes on when the same command is run again.

    Example: fedmed-server stage -C server --pool pool --out universal.generation
    """
    if steps and epochs:
        raise click.UsageError("give either --steps or --epochs")
    out: Output = ctx.obj
    from fedmed_edge.commands.staging import plan_of, staging_of, told
    from fedmed_edge.recipe import read_recipe
    from fedmed_edge.universal.pool import pool_recipe, read_pool

    config, store = read_server(folder)
    key = read_private_key(config.key)
    check_writable(target)
    recipe = read_recipe(recipe_file) if recipe_file else None
    staging = staging_of(folder, store, recipe=recipe, **chosen)
    with out.progress("looking at the pool") as advance:
        pool = read_pool(images, pool_recipe(staging.recipes), progress=advance)
    plan = plan_of(pool, steps, epochs, merge, seed)
    with staging.place(pool, plan) as place:
        teachers = staging.teachers(place)
        with out.progress("learning", plan.steps) as advance:
            learned = staging.learn(pool, plan, teachers, place, device=device, progress=advance)
        generation = staging.generation(learned, teachers, pool, draft=draft, seed=seed, device=device)
        signature = staging.publish(generation, teachers, pool, plan, key, target)
    out.answer(*told(target, signature, generation, teachers, pool, plan, learned))
    ctx.exit(SOME_FAILED if pool.refused else 0)
