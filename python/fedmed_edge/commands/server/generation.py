"""`fedmed-server generation`: the backbone and lift that all sites share, signed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from fedmed_edge.commands.folders import FILE, check_writable, folder_option, read_server
from fedmed_edge.commands.server.rebuild import task_of, task_option
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import InputError
from fedmed_edge.signing import read_private_key, write_signed

if TYPE_CHECKING:
    from fedmed_edge.recipe import Recipe
    from fedmed_edge.statistics.contribution import Contribution
    from fedmed_edge.store.store import Store


@click.group()
def command() -> None:
    """Publish the backbone and lift that all sites share.

    Example: fedmed-server generation publish -C server --recipe lesion.toml --out start.generation
    """


@command.command(cls=Verb)
@folder_option("Server")
@task_option
@click.option("--recipe", "recipe_file", type=FILE, help="Recipe of the task; kept in the store.")
@click.option("--backbone", type=FILE, help="Backbone file of `fedmed-edge train`, for a draft.")
@click.option(
    "--from",
    "sources",
    type=FILE,
    multiple=True,
    help="Imported contribution: weights are averaged into a draft, sums under a draft complete it.",
)
@click.option(
    "--stored", "from_store", is_flag=True, help="Complete the newest draft by stored sums, of all tasks."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights and lift.")
@click.option(
    "--out",
    "target",
    type=FILE,
    required=True,
    help="Generation file for the hospitals; its signature stands beside it.",
)
@click.pass_obj
def publish(
    out: Output,
    folder: Path,
    task: str | None,
    recipe_file: Path | None,
    backbone: Path | None,
    sources: tuple[Path, ...],
    from_store: bool,
    seed: int,
    target: Path,
) -> None:
    """Publish a generation: a draft from a backbone, or complete a draft from the sites' sums.

    Without --backbone, --from and --stored the draft has random weights, for the sites to train from.

    Example: fedmed-server generation publish -C server --from a.contribution --out g.generation
    """
    if bool(backbone) + bool(sources) + from_store > 1:
        raise click.UsageError("give either --backbone or --from or --stored")
    from fedmed_edge.features.generations import from_backbone, from_contributions
    from fedmed_edge.recipe import read_recipe
    from fedmed_edge.statistics.contribution import read_contribution
    from fedmed_edge.universal.pool import pool_recipe

    config, store = read_server(folder)
    key = read_private_key(config.key)
    check_writable(target)
    recipe = read_recipe(recipe_file) if recipe_file else None
    for path in sources:  # one that cannot be read, before any is imported
        read_contribution(path)
    if sources or from_store:
        given = _named(store, task, recipe, sources) if sources else _under_newest_draft(store, task, recipe)
        own = {recipe.name: recipe} if recipe else {}
        recipes = [own.get(one) or store.recipe(one) for one in sorted({one.header.task for one in given})]
        where = ", ".join(map(str, sources)) or "generation"
        generation = from_contributions(given, pool_recipe(recipes), store.generation, seed=seed, where=where)
    else:
        generation = from_backbone(backbone, recipe or store.recipe(task_of(store, task)), seed=seed)
    if recipe:  # it takes the place of the one before: not for a generation that cannot be made
        store.add_recipe(recipe)
    store.publish_generation(generation.content)
    signature = write_signed(target, generation.content, key)
    header = generation.header
    if backbone or sources or from_store:
        work = "contribute under this draft"
    else:
        work = "train from this draft and contribute --weights"
    out.answer(
        {
            "out": str(target),
            "signature": str(signature),
            "digest": generation.digest,
            "draft": generation.draft,
            "row_dim": generation.row_dim,
            "trained_by": list(header.trained_by),
            "bytes": target.stat().st_size,
        },
        [
            f"{target}: {'draft' if generation.draft else 'generation'} {generation.digest[:12]}, "
            f"rows of {generation.row_dim}, trained by {', '.join(header.trained_by) or 'nobody yet'}; "
            f"hand it over with its signature {signature}",
            *(
                [f"next: hospitals {work}, then publish again with --from those files"]
                if generation.draft
                else []
            ),
        ],
    )


def _named(
    store: "Store", task: str | None, recipe: "Recipe | None", files: Sequence[Path]
) -> "list[Contribution]":
    """Contributions of these files, imported; each has to be what its site handed over last."""
    from fedmed_edge.store.entries import Holds

    taken = [store.import_contribution(path, recipe=recipe) for path in files]
    tasks = _tasks(store, task, recipe)
    newest = {
        one.id: one
        for task in tasks
        for digest in store.generations()
        for holds in get_args(Holds)
        for one in store.contributions(task, generation=digest, holds=holds, recipe=recipe)
    }
    for path, one in zip(files, taken, strict=True):
        if one.id not in newest:
            why = store.held_back.of(one.task).get(one.site)
            if why is not None:
                raise InputError(
                    f"{path}: site `{one.site}` is held back: {why}",
                    hint=f"`fedmed-server site release {one.site}` takes it in again",
                )
            raise InputError(
                f"{path}: is not what site `{one.site}` handed over last for {' or '.join(tasks)}",
                hint="name the site's newest contribution of that task",
            )
    wanted = {one.id for one in taken}
    return [one for one in newest.values() if one.id in wanted]


def _under_newest_draft(store: "Store", task: str | None, recipe: "Recipe | None") -> "list[Contribution]":
    tasks = _tasks(store, task, recipe)
    draft = next((one.digest for one in store.generation_entries() if one.draft), "none")
    found = [one for task in tasks for one in store.contributions(task, generation=draft, recipe=recipe)]
    if not found:
        raise InputError(
            f"generation: the store holds no sums of {' or '.join(tasks)} under draft {draft[:12]}",
            hint="`fedmed-server publish` asks hospitals for them",
        )
    return found


def _tasks(store: "Store", task: str | None, recipe: "Recipe | None") -> list[str]:
    """Whose contributions count: those of the given recipe's task, else of the named one, else of all."""
    if recipe:
        return [recipe.name]
    return [task_of(store, task)] if task else store.tasks()


@command.command(cls=Verb)
@folder_option("Server")
@click.option("--generation", "chosen", default="", help="Digest, or its beginning; default the newest.")
@click.option(
    "--out", "target", type=FILE, required=True, help="File to write; its signature stands beside it."
)
@click.pass_obj
def export(out: Output, folder: Path, chosen: str, target: Path) -> None:
    """Write a published generation and its signature once more, where either was lost.

    Example: fedmed-server generation export -C server --out start.generation
    """
    from fedmed_edge.store.entries import named_by

    config, store = read_server(folder)
    key = read_private_key(config.key)
    check_writable(target)
    digest = named_by(chosen, store.generations(), "generations") or chosen
    signature = write_signed(target, store.generation(digest).content, key)
    out.answer(
        {"out": str(target), "signature": str(signature), "digest": digest},
        f"{target}: generation {digest[:12]}, as it was published; signature {signature}",
    )


@command.command("import", cls=Verb)
@folder_option("Server")
@click.argument("file", type=FILE)
@click.option("--recipe", "recipe_file", type=FILE, required=True, help="Recipe of the task.")
@click.option("--trust", type=FILE, required=True, help="Public key of the server that published it.")
@click.pass_obj
def take(out: Output, folder: Path, file: Path, recipe_file: Path, trust: Path) -> None:
    """Take a generation that another server published, so that hospitals may contribute to it here.

    Example: fedmed-server generation import -C east start.generation --recipe lesion.toml --trust centre.pub
    """
    from fedmed_edge.generation import parse_generation
    from fedmed_edge.recipe import read_recipe
    from fedmed_edge.signing import verify_trusted

    _, store = read_server(folder)
    content, recipe = verify_trusted(file, trust), read_recipe(recipe_file)
    parse_generation(content, str(file))
    store.add_recipe(recipe)
    digest = store.publish_generation(content)
    out.answer({"digest": digest}, f"{file}: generation {digest[:12]}, as its server signed it")
