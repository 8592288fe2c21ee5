"""The story of the demo again, over a federation: hospitals come, join late, withdraw, and are switched off.

The reference is the same story told within one process on the same generation: every model must have the very
same bytes.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmed_edge.config import ServerConfig, read_config
from fedmed_edge.export.onnx_model import export_onnx
from fedmed_edge.federation.coordinator import FOLDER
from fedmed_edge.federation.egress import read_egress
from fedmed_edge.federation.inbox import Inbox
from fedmed_edge.federation.publishing import Publisher
from fedmed_edge.generation import Generation
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import read_private_key
from fedmed_edge.store.exports import note_exported
from fedmed_edge.store.store import Store, open_store
from fedmed_edge.store.withdrawal import withdraw_and_rebuild
from fedmed_edge.study.hospitals import Hospitals, InProcess, Processes
from fedmed_edge.study.story import Story

__all__ = ["Federated", "Step", "run_federated", "tell_over"]

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """What happened, how long it took, and which hospitals were connected."""

    what: str
    seconds: float
    connected: tuple[str, ...]


@dataclass(frozen=True)
class Federated:
    """What came of the story.

    Attributes:
        identical: Model → whether it has the bytes of the story told within one process.
        sent: Site → bytes that left it.
    """

    steps: tuple[Step, ...]
    identical: dict[str, bool]
    sent: dict[str, int]

    @property
    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def lines(self) -> list[str]:
        """For people."""
        steps = [
            f"  {step.seconds:7.1f} s  {step.what:<46} connected: {', '.join(step.connected) or 'nobody'}"
            for step in self.steps
        ]
        same = [
            f"  {name}: {'same bytes' if same else 'OTHER BYTES'}" for name, same in self.identical.items()
        ]
        sent = [f"  {site}: {size:,} bytes left it" for site, size in self.sent.items()]
        return ["over the federation:", *steps, "models, as told within one process:", *same, *sent]


def run_federated(
    folder: Path,
    generation: Generation,
    recipe: Recipe,
    sites: Mapping[str, Path],
    told: Story,
    *,
    joining: str,
    min_cohort: int,
    processes: bool = True,
    watch: Watch = lambda step: None,
) -> Federated:
    """Tell the story over a federation and compare its models.

    Args:
        folder: Where server and hospitals get their folders; what lies there is replaced.
        sites: Site → its dataset folder.
        told: The same story of the same sites within one process.
        processes: As processes over TLS, with the engine; else within this process.

    Raises:
        Unreachable: A step took too long.
    """
    folder = folder.resolve()  # processes and settings files may look at it from elsewhere
    shutil.rmtree(folder, ignore_errors=True)
    kind = Processes if processes else InProcess
    hospitals: Hospitals = kind(folder, recipe, min_cohort=min_cohort)
    try:
        models, steps = tell_over(hospitals, generation, recipe, sites, joining, told.leaving, watch)
    finally:
        hospitals.close()
    wanted = {"before": told.before, "after": told.after, "withdrawn": told.withdrawn}
    sent = {site: sum(one.bytes for one in read_egress(hospitals.folder(site))) for site in sorted(sites)}
    return Federated(
        tuple(steps), {name: models[name].content == model.content for name, model in wanted.items()}, sent
    )


def tell_over(
    hospitals: Hospitals,
    generation: Generation,
    recipe: Recipe,
    sites: Mapping[str, Path],
    joining: str,
    leaving: str,
    watch: Watch,
) -> tuple[dict[str, GlobalModel], list[Step]]:
    """Founders contribute, one joins, one withdraws, the model goes out; every rebuild with all switched off.

    Returns:
        The models `before` and `after` the join and `withdrawn`; and what happened.
    """
    teller = _Teller(hospitals, generation, recipe, watch)
    founders = sorted(site for site in sites if site != joining)
    teller.publish()
    for site in founders:
        teller.does(f"{site} is enrolled", lambda site=site: hospitals.enrol(site, sites[site]))  # type: ignore[misc]
    teller.contribute(founders)
    before = teller.rebuild("rebuilt from the founders")
    teller.does(f"{joining} is enrolled", lambda: hospitals.enrol(joining, sites[joining]))
    teller.contribute([joining])
    after = teller.rebuild(f"rebuilt with {joining}")
    withdrawn = teller.withdraw(leaving)
    teller.hand_out(withdrawn, [site for site in sorted(sites) if site != leaving])
    return {"before": before, "after": after, "withdrawn": withdrawn}, teller.steps


class _Teller:
    def __init__(self, hospitals: Hospitals, generation: Generation, recipe: Recipe, watch: Watch) -> None:
        self.hospitals, self.generation, self.recipe, self.watch = hospitals, generation, recipe, watch
        config = read_config(ServerConfig, hospitals.server)
        self.store: Store = open_store(config)
        self.publisher = Publisher(self.store, hospitals.server / FOLDER, read_private_key(config.key))
        self.connected: tuple[str, ...] = ()
        self.steps: list[Step] = []

    def does(self, what: str, step: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = step()
        self.steps.append(Step(what, round(time.perf_counter() - began, 2), self.connected))
        self.watch(what)
        return result

    def publish(self) -> None:
        """The generation goes out, with the request to contribute to it."""
        self.store.add_recipe(self.recipe)
        self.publisher.generation(self.store.publish_generation(self.generation.content), self.recipe)

    def contribute(self, sites: list[str]) -> None:
        """These hospitals come online, are asked, contribute, and are switched off."""

        def arrived() -> bool:
            held = {entry.site for entry in self.store.contribution_entries(self.recipe.name)}
            return set(sites) <= held

        self._connect(sites)
        names = ", ".join(sites)
        self.does(f"{names}: contributed", lambda: self.hospitals.until(arrived, f"contribution of {names}"))
        self._disconnect()

    def rebuild(self, what: str) -> GlobalModel:
        def step() -> GlobalModel:
            model = rebuild(self.store.contributions(self.recipe.name), self.recipe)
            self.store.save_model(model)
            return model

        model: GlobalModel = self.does(what, step)
        return model

    def withdraw(self, site: str) -> GlobalModel:
        done = self.does(f"{site} withdrew, rebuilt", lambda: withdraw_and_rebuild(self.store, site))
        assert not done.faults, done.faults
        model: GlobalModel = done.tasks[self.recipe.name].model
        return model

    def hand_out(self, model: GlobalModel, sites: list[str]) -> None:
        """The model is exported, signed, offered, and fetched by every hospital that is left."""
        content = export_onnx(model, self.generation)
        note_exported(self.store, model, content)
        offer = self.publisher.model(content, "model", sites=sites)

        def fetched() -> bool:
            inboxes = [Inbox(self.hospitals.folder(site) / "inbox") for site in sites]
            return all(any(one.digest == offer.digest for one in inbox.all()) for inbox in inboxes)

        self._connect(sites)
        self.does("the model is at every hospital", lambda: self.hospitals.until(fetched, "model"))
        self._disconnect()

    def _connect(self, sites: list[str]) -> None:
        self.hospitals.switch_on(sites)
        self.connected = tuple(sites)

    def _disconnect(self) -> None:
        self.hospitals.switch_off()
        self.connected = ()
