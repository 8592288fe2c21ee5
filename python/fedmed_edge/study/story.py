"""What happens at the server, with its real store: hospitals contribute, one joins, one leaves."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedmed_edge.generation import Generation
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import refine
from fedmed_edge.recipe import Recipe
from fedmed_edge.report.data import Event
from fedmed_edge.signing import PrivateKey, generate_key
from fedmed_edge.statistics.contribution import Contribution, write_contribution
from fedmed_edge.store.store import Store

Watch = Callable[[str], None]


@dataclass
class Story:
    """Models before and after the join, refined for each site, and after the withdrawal.

    Attributes:
        refined: Site → its model; none where sums have noise, beside which nothing tells how sites differ.
        rebuild_identical: Two rebuilds of one store gave the same bytes.
        withdraw_identical: The model after the withdrawal has the bytes of a store that never had the site.
    """

    before: GlobalModel
    after: GlobalModel
    refined: dict[str, GlobalModel]
    withdrawn: GlobalModel
    leaving: str
    rebuild_identical: bool
    withdraw_identical: bool
    events: list[Event] = field(default_factory=list)


def tell(
    folder: Path,
    generation: Generation,
    recipe: Recipe,
    contributions: Mapping[str, tuple[Contribution, float]],
    *,
    joining: str,
    watch: Watch,
) -> Story:
    """Contribute, rebuild, join, refine, withdraw; every step through files and the store.

    Args:
        folder: Where stores and contribution files go; what an earlier telling left there is replaced.
        contributions: Site → its contribution (not signed) and the seconds that it took the site.
        joining: Site that comes last; the founder that comes last by name leaves at the end.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    founders = sorted(name for name in contributions if name != joining)
    leaving = founders[-1]
    server = _Server(folder / "store", generation, recipe)
    events = []
    for site in founders:
        sent = server.receive(folder, contributions[site][0])
        events.append(Event("contributes", site, contributions[site][1], sent))
        watch(f"{site} contributes")
    before, seconds = server.rebuild()
    events.append(Event("rebuild", "server", 0.0, 0, seconds))

    sent = server.receive(folder, contributions[joining][0])
    after, seconds = server.rebuild()
    events.append(Event("joins", joining, contributions[joining][1], sent, seconds))
    watch(f"{joining} joins")
    again, _ = server.rebuild()

    refined, trained_by = {}, generation.header.trained_by
    began = time.perf_counter()
    noisy = any(one.header.privacy is not None for one, _ in contributions.values())
    for site in () if noisy else sorted(contributions):
        refined[site] = refine(server.contributions(), site, recipe, trained_by=trained_by)
        watch(f"refined for {site}")
    events.append(Event("refine", "server", 0.0, 0, time.perf_counter() - began))

    began = time.perf_counter()
    server.store.withdraw(leaving)
    withdrawn, _ = server.rebuild()
    events.append(Event("withdraws", leaving, 0.0, 0, time.perf_counter() - began))
    watch(f"{leaving} withdraws")

    never = _Server(folder / "never", generation, recipe)
    for site in sorted(contributions, reverse=True):
        if site != leaving:
            never.receive(folder, contributions[site][0])
    return Story(
        before,
        after,
        refined,
        withdrawn,
        leaving,
        rebuild_identical=again.content == after.content,
        withdraw_identical=never.rebuild()[0].content == withdrawn.content,
        events=events,
    )


def told_by_store(
    folder: Path,
    generation: Generation,
    recipe: Recipe,
    before: Mapping[str, Contribution],
    after: Mapping[str, Contribution],
) -> GlobalModel:
    """The model of a store that some sites handed over to before some of them left, came or changed.

    Args:
        folder: Empty; gets the store and the files that came.
        before, after: Site → contribution; one that differs replaces the one before.
    """
    server = _Server(folder / "store", generation, recipe)
    for site in sorted(before):
        server.receive(folder, before[site])
    for site in sorted(set(before) - set(after)):
        server.store.withdraw(site)
    for site in sorted(after):
        if site not in before:
            server.receive(folder, after[site])
        elif after[site].id != before[site].id:
            newer = after[site].header.model_copy(update={"sequence": before[site].header.sequence + 1})
            server.receive(folder, replace(after[site], header=newer))
    return rebuild(server.contributions(), recipe)


class _Server:
    """A store with fresh keys for every site."""

    def __init__(self, folder: Path, generation: Generation, recipe: Recipe) -> None:
        self.store, self.recipe = Store.create(folder), recipe
        self.generation = self.store.publish_generation(generation.content)
        self.store.add_recipe(recipe)
        self.keys: dict[str, PrivateKey] = {}

    def receive(self, folder: Path, contribution: Contribution) -> int:
        """Sign with the site's key, a new one at first, write, import; bytes of the file."""
        site = contribution.header.site
        if site not in self.keys:
            self.keys[site] = generate_key()
            self.store.add_site(site, self.keys[site].public_key())
        path = folder / f"{site}.contribution"
        write_contribution(path, contribution.sign(self.keys[site]))
        self.store.import_contribution(path)
        return path.stat().st_size

    def contributions(self) -> list[Contribution]:
        return self.store.contributions(self.recipe.name, generation=self.generation)

    def rebuild(self) -> tuple[GlobalModel, float]:
        """The model, and seconds from opening the store to having it stored."""
        began = time.perf_counter()
        model = rebuild(self.contributions(), self.recipe)
        self.store.save_model(model)
        return model, time.perf_counter() - began
