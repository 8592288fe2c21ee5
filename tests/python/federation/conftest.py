"""A server with two enrolled hospitals, contributions of weights, and channels that misbehave."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper
import pytest

from fedmed_edge.config import ServerConfig, ServerFederation, SiteConfig, SiteFederation
from fedmed_edge.errors import Unreachable
from fedmed_edge.federation import parts
from fedmed_edge.federation.asked import Asked
from fedmed_edge.federation.coordinator import Coordinator
from fedmed_edge.federation.loopback import Loopback, LoopbackSites
from fedmed_edge.federation.messages import Report
from fedmed_edge.federation.offers import Offers
from fedmed_edge.federation.outbox import Outbox, Parcel
from fedmed_edge.federation.requests import Requests
from fedmed_edge.federation.site_side import SyncResult, sync
from fedmed_edge.federation.wire import Channel, Reply
from fedmed_edge.generation import Generation, GenerationHeader
from fedmed_edge.recipe import Backbone, Recipe
from fedmed_edge.signing import PrivateKey, generate_key, write_key, write_public_key
from fedmed_edge.statistics.contribution import Contribution, Evidence, new_contribution
from fedmed_edge.store.store import Store

SMALL_PART = 1 << 10


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(name="lesion", kind="classification", classes=("benign", "malignant"), size=(32, 32))


@pytest.fixture(scope="session")
def generation() -> Generation:
    """A draft of two scales of one channel each, with one weight tensor."""
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [onnx.helper.make_node("Identity", ["image"], [f"scale{index}"]) for index in range(2)]
    outputs = [value(f"scale{index}", kind, (1, 1, 32, 32)) for index in range(2)]
    graph = onnx.helper.make_graph(nodes, "encoder", [value("image", kind, (1, 1, 32, 32))], outputs)
    header = GenerationHeader(
        kind="classification", channels=1, size=(32, 32), backbone=Backbone(), widths=(1, 1), lift_dim=0
    )
    return Generation(
        header=header,
        weights={"stem": np.zeros(700, np.float32)},
        encoder=onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString(),
        mean=np.zeros(2, np.float32),
        deviation=np.ones(2, np.float32),
        projection=None,
        lift_weight=np.zeros((2, 0), np.float32),
        lift_bias=np.zeros(0, np.float32),
        reference_mean=None,
        reference_covariance=None,
    )


@dataclass
class Hospital:
    """A site's folder, and what it makes."""

    name: str
    folder: Path
    config: SiteConfig
    key: PrivateKey
    recipe: Recipe
    generation: Generation
    made: int = 0
    weights: Any = None

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.folder / "outbox")

    def contribution(
        self, *, size: int = 700, sequence: int | None = None, site: str | None = None, images: int = 1
    ) -> Contribution:
        """A signed contribution of `size` weights, its values different every time."""
        self.made += 1
        values = np.random.default_rng([len(self.name), self.made]).normal(size=size).astype(np.float32)
        made = new_contribution(
            None,
            generation=self.generation.digest,
            recipe=self.recipe,
            site=site or self.name,
            sequence=sequence or self.made,
            weights={"stem": values},
            evidence=Evidence(images={"train": images}),
        )
        self.weights = values
        return made.sign(self.key)

    def put(self, *, request: str | None = None, **more: Any) -> Parcel:
        """Make a contribution and put it into the outbox."""
        return self.outbox.add(self.contribution(**more), request=request)

    def train(self) -> None:
        """Answer every request to train with made-up weights."""
        asked = Asked(self.folder / "requests")
        for duty in asked.open():
            parcel = self.put(request=duty.ask.id)
            asked.answer(duty, Report(request=duty.ask.id, state="done", contribution=parcel.id))

    def answer(self, **report: Any) -> None:
        """Answer every request so."""
        asked = Asked(self.folder / "requests")
        for duty in asked.open():
            asked.answer(duty, Report(request=duty.ask.id, **report))


@dataclass
class Federation:
    """One server and its hospitals, in this process."""

    store: Store
    folder: Path
    key: PrivateKey
    hospitals: dict[str, Hospital] = field(default_factory=dict)

    @property
    def offers(self) -> Offers:
        return Offers(self.folder / "offers")

    @property
    def requests(self) -> Requests:
        return Requests(self.folder / "requests")

    def channel(self, name: str) -> Loopback:
        return Loopback(self.store, self.folder, name)

    @property
    def sites(self) -> LoopbackSites:
        """All of them online."""
        online = {name: (one.folder, one.config) for name, one in self.hospitals.items()}
        return LoopbackSites(self.store, self.folder, online)

    def coordinator(self, sites: Any = None, **rules: Any) -> Coordinator:
        """A coordinator as a restart makes it."""
        config = ServerConfig(key=self.folder.parent / "server.key", federation=ServerFederation(**rules))
        return Coordinator(self.folder.parent, config, self.store, sites or self.sites)

    def sync(self, name: str, channel: Channel | None = None) -> SyncResult:
        hospital = self.hospitals[name]
        return sync(channel or self.channel(name), hospital.folder, hospital.config, patience_s=0)

    def held(self) -> list[str]:
        """Ids of what the store holds, after it was checked."""
        assert self.store.verify() == []
        self.store.verify_ledger()
        return sorted(entry.id for entry in self.store.contribution_entries())


@pytest.fixture(scope="session")
def make_federation(recipe: Recipe, generation: Generation) -> Callable[..., Federation]:
    def make(root: Path, *names: str, **rules: Any) -> Federation:
        key = generate_key()
        root.mkdir(parents=True, exist_ok=True)
        write_key(root / "server.key", key)
        write_public_key(root / "server.pub", key.public_key())
        federation = Federation(Store.create(root / "store"), root / "federation", key)
        federation.store.publish_generation(generation.content)
        federation.store.add_recipe(recipe)
        for name in names or ("alpha", "beta"):
            folder = root / name
            folder.mkdir()
            own = generate_key()
            write_key(folder / "site.key", own)
            federation.store.add_site(name, own.public_key())
            config = SiteConfig(
                site=name,
                key=folder / "site.key",
                server_key=root / "server.pub",
                federation=SiteFederation(**{"parts_in_flight": 1} | rules),
            )
            federation.hospitals[name] = Hospital(name, folder, config, own, recipe, generation)
        return federation

    return make


@pytest.fixture
def federation(make_federation: Callable[..., Federation], tmp_path: Path) -> Federation:
    return make_federation(tmp_path)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Files of a few kilobytes travel in several parts."""
    monkeypatch.setattr(parts, "PART_BYTES", SMALL_PART)
    return SMALL_PART


class Faulty:
    """A channel that goes wrong as a list of faults says, one a request; after its end all goes well.

    Faults: `lose` the request or the `cut` reply; `twice`: it arrives two times; `late`: it arrives once
    more behind a later one; `ok`.
    """

    def __init__(self, channel: Channel, faults: list[str]) -> None:
        self._channel, self._faults = channel, iter(faults)
        self._late: list[tuple[str, Mapping[str, Any], bytes]] = []
        self._lock = threading.Lock()
        self.log: list[tuple[str, Mapping[str, Any]]] = []

    def ask(self, op: str, fields: Mapping[str, Any], data: bytes = b"") -> Reply:
        with self._lock:
            fault = next(self._faults, "ok")
            late, self._late = self._late, []
            self.log.append((op, fields))
            if fault == "late":
                self._late.append((op, fields, data))
        if fault == "lose":
            raise Unreachable("test: the request was lost")
        reply = self._channel.ask(op, fields, data)
        if fault == "twice":
            reply = self._channel.ask(op, fields, data)
        for request in late:
            self._channel.ask(*request)
        if fault == "cut":
            raise Unreachable("test: the reply was lost")
        return reply


@pytest.fixture
def faulty() -> type[Faulty]:
    return Faulty
