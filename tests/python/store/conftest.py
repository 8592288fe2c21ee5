"""A store with a small generation and recipe, and contributions of made-up sites."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx.helper
import pytest

from fedmed_edge.generation import Generation, GenerationHeader
from fedmed_edge.recipe import Backbone, Recipe
from fedmed_edge.signing import PrivateKey, generate_key
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.contribution import Contribution, new_contribution, write_contribution
from fedmed_edge.store.store import Store

CLASSES = ("benign", "malignant")
WIDTHS = (1, 2)


@pytest.fixture(scope="session")
def encoder() -> bytes:
    """A graph with the inputs and outputs of an encoder: the image, and the image twice."""
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["image"], ["scale0"]),
            onnx.helper.make_node("Concat", ["image", "image"], ["scale1"], axis=1),
        ],
        "encoder",
        [value("image", kind, (1, 1, 32, 32))],
        [value(f"scale{index}", kind, (1, width, 32, 32)) for index, width in enumerate(WIDTHS)],
    )
    content: bytes = onnx.helper.make_model(graph).SerializeToString()
    return content


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(name="lesion", kind="classification", classes=CLASSES, size=(32, 32))


@pytest.fixture(scope="session")
def make_generation(encoder: bytes) -> Callable[..., Generation]:
    """F = 3, L = 2, D = 6."""

    def make(seed: int = 0) -> Generation:
        random = np.random.default_rng(seed)
        header = GenerationHeader(
            kind="classification",
            channels=1,
            size=(32, 32),
            backbone=Backbone(),
            widths=WIDTHS,
            lift_dim=2,
            seed=seed,
        )
        return Generation(
            header=header,
            weights={"stem": np.ones((1, 1), np.float32)},
            encoder=encoder,
            mean=np.zeros(3, np.float32),
            deviation=np.ones(3, np.float32),
            projection=None,
            lift_weight=random.normal(size=(3, 2)).astype(np.float32),
            lift_bias=np.zeros(2, np.float32),
            reference_mean=np.zeros(3),
            reference_covariance=np.eye(3),
        )

    return make


@pytest.fixture(scope="session")
def generation(make_generation: Callable[..., Generation]) -> Generation:
    return make_generation()


@pytest.fixture(scope="session")
def keys() -> dict[str, PrivateKey]:
    return {name: generate_key() for name in ("alpha", "beta", "gamma")}


@pytest.fixture
def store(tmp_path: Path, recipe: Recipe, generation: Generation, keys: dict[str, PrivateKey]) -> Store:
    """Sites alpha, beta and gamma enrolled, one recipe, one generation, no contribution."""
    store = Store.create(tmp_path / "store")
    store.add_recipe(recipe)
    store.publish_generation(generation.content)
    for name, key in keys.items():
        store.add_site(name, key.public_key())
    return store


@pytest.fixture(scope="session")
def make_contribution(recipe: Recipe, generation: Generation) -> Callable[..., Contribution]:
    def make(site: str = "alpha", sequence: int = 1, seed: int = 0, **more: object) -> Contribution:
        random = np.random.default_rng([seed, sum(site.encode())])
        members = {index: [f"{site}{index}{i}" for i in range(4)] for index in range(len(CLASSES))}
        sums = Accumulator(CLASSES, row_dim=6, feature_dim=3, plan=plan_folds(members, 2))
        for index, patients in members.items():
            for patient in patients:
                rows = random.normal(size=(1, 6)).astype(np.float32)
                rows[:, -1] = 1
                sums.add_rows(rows, np.array([index], np.int32), patient)
                sums.add_image(rows[0, :3], 1.0)
                sums.add_channels([(4, random.normal(size=3), np.full(3, 9.0))])
                sums.add_style(random.normal(size=(1, 3, 3)))
        values: dict[str, object] = {"generation": generation.digest, "recipe": recipe, "min_cohort": 2}
        return new_contribution(sums.result(), site=site, sequence=sequence, **(values | more))  # type: ignore[arg-type]

    return make


@pytest.fixture
def sent(
    tmp_path: Path, make_contribution: Callable[..., Contribution], keys: dict[str, PrivateKey]
) -> Callable[..., Path]:
    """File of a contribution, signed by its site or by another key."""
    count = 0

    def send(
        site: str = "alpha", sequence: int = 1, *, key: PrivateKey | None = None, **more: object
    ) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / f"sent-{count}"
        contribution = make_contribution(site, sequence, **more)
        write_contribution(path, contribution.sign(key or keys[site]))
        return path

    return send
