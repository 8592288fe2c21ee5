"""The demo's story over a federation: the same model bytes as told within one process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Raster

from fedmed_edge.features.extract import extract
from fedmed_edge.features.generations import from_backbone
from fedmed_edge.features.publish import complete_generation
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import read_dataset
from fedmed_edge.inference.predict import load_model, predict
from fedmed_edge.recipe import Backbone, Intensity, Lift, Recipe
from fedmed_edge.study.closed_form import contribute
from fedmed_edge.study.federated import run_federated
from fedmed_edge.study.plan import StatedPolicy
from fedmed_edge.study.story import Story, tell

SITES = ("anvil", "brook", "cedar")
MIN_COHORT = 2


@dataclass
class Prepared:
    recipe: Recipe
    generation: Generation
    sites: dict[str, Path]
    told: Story


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Three small hospitals, a generation, and their story within one process."""
    folder = tmp_path_factory.mktemp("federated")
    recipe = Recipe(
        name="tiny",
        kind="classification",
        classes=("dark", "bright"),
        size=(32, 32),
        intensity=Intensity(rule="range", low=0, high=255),
        backbone=Backbone(network="residual_encoder", widths=(8, 12)),
        lift=Lift(lift_dim=4, feature_dim=8),
    )
    sites = {}
    for number, site in enumerate(SITES):
        sites[site] = folder / "data" / site
        sites[site].mkdir(parents=True)
        random, lines = np.random.default_rng(number), ["image,label,mask,patient,split"]
        for index in range(14):
            level = 50 + 10 * number + 110 * (index % 2)
            pixels = np.clip(random.normal(level, 40, (34, 32)), 0, 255).astype(np.uint8)
            Raster.fromarray(pixels).save(sites[site] / f"{index}.png")
            split = "train" if index < 10 else "test"
            lines.append(f"{index}.png,{recipe.classes[index % 2]},,p{index},{split}")
        (sites[site] / "labels.csv").write_text("\n".join(lines) + "\n")
    data = {site: read_dataset(path, recipe) for site, path in sites.items()}
    draft = from_backbone(None, recipe)
    measured = {"anvil": extract(draft, data["anvil"].train, min_cohort=1)}
    generation = complete_generation(draft, recipe, measured)
    setting, watch = StatedPolicy("default", MIN_COHORT), list[str]().append
    made = {
        site: contribute(generation, one.train, site, setting, device="cpu", watch=watch)
        for site, one in data.items()
    }
    told = tell(folder / "told", generation, recipe, made, joining="cedar", watch=watch)
    return Prepared(recipe, generation, sites, told)


@pytest.mark.parametrize(
    "processes", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["in process", "processes"]
)
def test_the_models_have_the_bytes_of_the_story_told_within_one_process(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: bool
) -> None:
    if processes:
        pytest.importorskip("nvflare")
    seen: list[str] = []
    watch: Callable[[str], None] = seen.append
    monkeypatch.chdir(tmp_path)
    made = run_federated(
        Path("federated"),  # as `demo --out` names a folder
        prepared.generation,
        prepared.recipe,
        prepared.sites,
        prepared.told,
        joining="cedar",
        min_cohort=MIN_COHORT,
        processes=processes,
        watch=watch,
    )
    assert made.identical == {"before": True, "after": True, "withdrawn": True}
    rebuilds = [step for step in made.steps if "rebuilt" in step.what]
    assert [step.connected for step in rebuilds] == [(), (), ()]
    contributed = [step for step in made.steps if "contributed" in step.what]
    assert [step.connected for step in contributed] == [("anvil", "brook"), ("cedar",)]
    assert seen == [step.what for step in made.steps]
    assert all(size > 0 for size in made.sent.values())
    (model,) = (tmp_path / "federated" / "anvil" / "inbox").glob("*.model")
    answer = predict(
        load_model(model, trust=tmp_path / "federated" / "server" / "server.pub", device="cpu"),
        prepared.sites["anvil"] / "11.png",
    )
    assert answer.label == "bright"
    assert not list((tmp_path / "federated" / "brook" / "inbox").glob("*.model"))  # it withdrew
    assert "same bytes" in "\n".join(made.lines)
