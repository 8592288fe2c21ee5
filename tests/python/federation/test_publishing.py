"""One generation on offer for several tasks: each hospital is asked for its own."""

from typing import Any

from fedmed_edge.federation.publishing import Publisher
from fedmed_edge.recipe import Recipe


def test_a_generation_is_on_offer_for_the_tasks_that_share_it(federation: Any, recipe: Recipe) -> None:
    other = recipe.model_copy(update={"name": "cells", "kind": "segmentation"})
    federation.store.add_recipe(other)
    digest = federation.hospitals["alpha"].generation.digest
    publisher = Publisher(federation.store, federation.folder, federation.key)
    names = sorted(federation.hospitals)
    first, second = names[:2]

    def asked(site: str) -> set[str]:
        offer = federation.offers.read(digest)
        return set(offer.recipes_for(site))

    publisher.generation(digest, recipe, sites=[first])
    assert (asked(first), asked(second)) == ({recipe.digest}, set())
    offer = publisher.generation(digest, other, sites=[second])
    assert offer.sites == (first, second)
    assert (asked(first), asked(second)) == ({recipe.digest}, {other.digest})
    federation.sync(first)
    federation.sync(second)
    opened = {
        site: [one.ask.recipe for one in federation.requests.open_for(site)] for site in (first, second)
    }
    assert opened == {first: [recipe.digest], second: [other.digest]}
    # offered anew for one task, it stays on offer for the other
    assert publisher.generation(digest, other).sites is None
    assert (asked(first), asked(second)) == ({recipe.digest, other.digest}, {other.digest})
    publisher.generation(digest, other, sites=[second], ask=False)
    assert (asked(first), asked(second)) == ({recipe.digest}, set())
    federation.offers.take_back(digest, "taken back")
    assert asked(first) == set()
    assert publisher.generation(digest, other, sites=[second]).sites == (second,)


def test_an_offer_from_before_several_tasks_keeps_what_it_asked_for(federation: Any, recipe: Recipe) -> None:
    other = recipe.model_copy(update={"name": "cells", "kind": "segmentation"})
    federation.store.add_recipe(other)
    generation = federation.hospitals["alpha"].generation
    first, second = sorted(federation.hospitals)[:2]
    told: Any = {"kind": "generation", "sites": [first], "recipe": recipe.digest}
    federation.offers.publish(generation.content, federation.key, **told)
    publisher = Publisher(federation.store, federation.folder, federation.key)
    offer = publisher.generation(generation.digest, other, sites=[second])
    assert offer.sites == (first, second)
    assert (offer.recipes_for(first), offer.recipes_for(second)) == ([recipe.digest], [other.digest])
