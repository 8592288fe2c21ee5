"""The model of one site's sums alone: what it has before anybody else's are there."""

from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.rebuild import fit
from fedmed_edge.model.sums import site_sums
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.feature_statistics import FeatureStatistics

__all__ = ["own_model"]


def own_model(sums: FeatureStatistics, recipe: Recipe) -> GlobalModel:
    """Solve the head of a site's class statistics; it names no generation, site or contribution.

    Raises:
        InputError: As `rebuild.fit`.

    Source: method §3, of one site.
    """
    made = fit([site_sums("own", sums, recipe)], {"own": 1.0}, recipe, temperature=1.0)
    return GlobalModel(recipe, "", made.head, made.choice.ridge, made.posterior)
