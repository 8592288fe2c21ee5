"""Whether a contribution fits what the store holds: its generation, recipe and sequence."""

from typing import Any, Literal

from sqlalchemy import Connection, func, select

from fedmed_edge.errors import InputError
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import Contribution, ContributionHeader
from fedmed_edge.statistics.style import block_shape
from fedmed_edge.store.enrolment import signing_key
from fedmed_edge.store.tables import contributions, generations, recipes, tombstones

Verdict = Literal["new", "same", "renewed"]


def check_known(
    connection: Connection, header: ContributionHeader, where: str, given: Recipe | None = None
) -> Recipe:
    """Check generation and recipe of a contribution against those of the store; `where` names its file.

    Args:
        given: A recipe that counts as one of the store's.

    Raises:
        InputError: Another generation or recipe, or something that does not fit them.
    """
    known = list(connection.execute(select(generations).order_by(generations.c.number.desc())))
    generation = next((row for row in known if row.digest == header.generation), None)
    if generation is None:
        newest = known[0].digest[:12] if known else "none, since none is published"
        raise InputError(
            f"{where}: `generation` has {header.generation[:12]}, expected {newest}",
            hint="pull the newest generation and run `fedmed-edge contribute` again",
        )
    if given is not None and given.digest == header.recipe:
        recipe = given
    else:
        recipe = _stored_recipe(connection, header, where)
    _check_header(header, recipe, generation, where)
    return recipe


def _stored_recipe(connection: Connection, header: ContributionHeader, where: str) -> Recipe:
    content = connection.scalar(select(recipes.c.content).where(recipes.c.digest == header.recipe))
    if content is None:
        newest_recipe = select(recipes.c.digest).where(recipes.c.task == header.task)
        wanted = connection.scalar(newest_recipe.order_by(recipes.c.number.desc()).limit(1))
        raise InputError(
            f"{where}: `recipe` has {header.recipe[:12]}, expected "
            + (wanted[:12] if wanted else f"one of the store's, which has no task `{header.task}`"),
            hint="site and server must have the same recipe file",
        )
    return Recipe.model_validate_json(content)


def _check_header(header: ContributionHeader, recipe: Recipe, generation: Any, where: str) -> None:
    wanted: dict[str, object] = {"task": recipe.name, "kind": recipe.kind}
    if header.row_dim:
        wanted |= {"row_dim": generation.row_dim, "feature_dim": generation.feature_dim}
    for name, value in wanted.items():
        if getattr(header, name) != value:
            raise InputError(f"{where}: `{name}` has {getattr(header, name)}, expected {value}")
    unknown = [name for name in header.classes if name not in recipe.classes]
    if unknown:
        raise InputError(f"{where}: class `{unknown[0]}` is not in the recipe `{recipe.name}`")


def admit(connection: Connection, contribution: Contribution, recipe: Recipe, where: str) -> Verdict:
    """Whether a contribution is new, there already, or there and signed anew with a higher sequence.

    Raises:
        InputError: Its tensors do not fit, it was withdrawn, or is not newer than what its site handed over.
        TrustError: Its signer is unknown, revoked or another site.
    """
    _check_shapes(connection, contribution, recipe, where)
    signing_key(connection, contribution.signer, contribution.header.site, where)
    return _judge(connection, contribution.header, contribution.id, where)


def _check_shapes(connection: Connection, contribution: Contribution, recipe: Recipe, where: str) -> None:
    """Check those axes that neither the header nor the file format decides."""
    if contribution.statistics is None:
        return
    query = select(generations.c.channels).where(generations.c.digest == contribution.header.generation)
    wanted = {
        "channel_moments": (3, connection.scalar(query)),
        "style_sum": (recipe.channels, *block_shape(recipe.size)),
    }
    for name, shape in wanted.items():
        tensor = getattr(contribution.statistics, name)
        if tensor.size and tensor.shape != shape:
            raise InputError(f"{where}: `{name}` has shape {tensor.shape}, expected {shape}")


def _judge(connection: Connection, header: ContributionHeader, contribution_id: str, where: str) -> Verdict:
    if connection.scalar(select(tombstones.c.id).where(tombstones.c.id == contribution_id)):
        raise InputError(
            f"{where}: contribution {contribution_id[:12]} of site `{header.site}` was withdrawn",
            hint="a withdrawn contribution never comes back; extract again from the data that may be used",
        )
    held = connection.scalar(select(contributions.c.sequence).where(contributions.c.id == contribution_id))
    if held is not None and header.sequence <= held:
        return "same"
    last = last_sequence(connection, header.site)
    if header.sequence <= last:
        raise InputError(
            f"{where}: `sequence` has {header.sequence}, expected more than {last} of site `{header.site}`",
            hint="an older contribution is refused: run `fedmed-edge contribute` again; where the folder "
            f"of the site is an older copy, `fedmed-edge budget --restored {last}` first",
        )
    return "new" if held is None else "renewed"


def last_sequence(connection: Connection, site: str) -> int:
    """Highest sequence that a site ever handed over, withdrawn ones included; 0 before its first."""
    highest = 0
    for table in (contributions, tombstones):
        query = select(func.max(table.c.sequence)).where(table.c.site == site)
        highest = max(highest, connection.scalar(query) or 0)
    return highest
