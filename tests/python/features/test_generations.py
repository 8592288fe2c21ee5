from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.features.extract import extract
from fedmed_edge.features.generations import from_backbone, from_contributions
from fedmed_edge.features.publish import complete_generation
from fedmed_edge.features.weights import write_backbone
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.recipe import Backbone, Recipe
from fedmed_edge.statistics.contribution import Contribution, new_contribution
from fedmed_edge.statistics.header import Evidence

Task = tuple[Recipe, Dataset, Generation]


def contribution(recipe: Recipe, start: Generation, site: str, **fields: Any) -> Contribution:
    values: dict[str, Any] = {"sequence": 1, "min_cohort": 1, "statistics": None} | fields
    statistics = values.pop("statistics")
    return new_contribution(statistics, generation=start.digest, recipe=recipe, site=site, **values)


def test_a_backbone_file_becomes_a_draft(tmp_path: Path, make: SimpleNamespace) -> None:
    recipe, path = make.recipe(), tmp_path / "a.backbone"
    random = from_backbone(None, recipe, seed=3)
    assert random.draft and random.header.trained_by == () and random.header.seed == 3
    write_backbone(path, random.weights, recipe, trained_by=("b", "a"))
    draft = from_backbone(path, recipe, seed=3)
    assert draft.encoder == random.encoder and draft.header.trained_by == ("a", "b")
    other = recipe.model_copy(update={"channels": 3})
    with pytest.raises(InputError, match="`channels` has 1, expected the recipe's 3"):
        from_backbone(path, other)


def test_a_pytorch_checkpoint_becomes_a_draft(tmp_path: Path, make: SimpleNamespace) -> None:
    torch = pytest.importorskip("torch")
    recipe = make.recipe()
    random = from_backbone(None, recipe, seed=3)
    path = tmp_path / "pretrained.pt"
    torch.save({name: torch.from_numpy(value) for name, value in random.weights.items()}, path)
    assert from_backbone(path, recipe, seed=3).digest == random.digest
    wider = make.recipe(backbone=Backbone(network="residual_encoder", widths=(8, 16)))
    with pytest.raises(InputError, match=r"`net\..*` has shape"):
        from_backbone(path, wider)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"pretrained\.pt: not a checkpoint of tensors alone"):
        from_backbone(path, recipe)


def test_sums_of_a_single_site_and_an_order_of_sites_change_nothing_else(
    images_task: Task, make: SimpleNamespace
) -> None:
    recipe, dataset, _ = images_task
    start = make.draft(recipe)
    lookup = {start.digest: start}.__getitem__
    given = [
        contribution(recipe, start, site, statistics=extract(start, dataset.subset(part), min_cohort=1))
        for site, part in (("a", range(8)), ("b", range(8, 24)))
    ]
    assert (
        from_contributions(given, recipe, lookup).digest
        == from_contributions(given[::-1], recipe, lookup).digest
    )
    alone = from_contributions(given[:1], recipe, lookup)
    assert not alone.draft and alone.header.trained_by == start.header.trained_by
    assert from_contributions(given[:1], recipe, lookup, seed=1).digest != alone.digest


def test_weights_are_averaged_by_images_up_to_two_medians(make: SimpleNamespace) -> None:
    recipe = make.recipe()
    start = make.draft(recipe)
    shifts = {"c": (1.0, 30), "d": (-1.0, 10)}
    given = [
        contribution(
            recipe,
            start,
            site,
            weights={name: np.full(value.shape, shift, np.float32) for name, value in start.weights.items()},
            evidence=Evidence(images={"train": images}),
        )
        for site, (shift, images) in reversed(shifts.items())
    ]
    draft = from_contributions(given, recipe, {start.digest: start}.__getitem__, seed=2)
    assert draft.draft and draft.header.trained_by == ("a", "b", "c", "d")
    for name, value in start.weights.items():
        np.testing.assert_allclose(
            np.asarray(draft.weights[name], float), np.asarray(value, float) + 1 / 3, rtol=1e-5
        )


def test_sums_complete_a_draft(images_task: Task, make: SimpleNamespace) -> None:
    recipe, dataset, whole = images_task
    start = make.draft(recipe)
    sums = {
        site: extract(start, dataset.subset(range(low, low + 12)), min_cohort=1)
        for site, low in (("a", 0), ("b", 12))
    }
    given = [contribution(recipe, start, site, statistics=own) for site, own in sums.items()]
    made = from_contributions(given[::-1], recipe, {start.digest: start}.__getitem__)
    assert made.digest == complete_generation(start, recipe, sums).digest
    assert (made.header.measured_at, made.header.reference_images) == (("a", "b"), 24)
    under_whole = contribution(recipe, whole, "a", statistics=extract(whole, dataset, min_cohort=1))
    with pytest.raises(
        InputError, match="contributions without weights, under a generation that is no draft"
    ):
        from_contributions([under_whole], recipe, {whole.digest: whole}.__getitem__)
    with pytest.raises(InputError, match="contributions are of 2 generations, expected 1"):
        from_contributions([under_whole, *given], recipe, {whole.digest: whole}.__getitem__)
    with pytest.raises(InputError, match="contributions are of 0 generations, expected 1"):
        from_contributions([], recipe, {start.digest: start}.__getitem__)


def test_weights_of_another_backbone_are_refused(make: SimpleNamespace) -> None:
    recipe = make.recipe()
    start = make.draft(recipe)
    more = {name: np.asarray(value, np.float32) for name, value in start.weights.items()}
    first = next(iter(more))
    lookup = {start.digest: start}.__getitem__
    with pytest.raises(InputError, match="weights have other names than the generation's"):
        from_contributions(
            [contribution(recipe, start, "a", weights=more | {"x": np.zeros(1, np.float32)})], recipe, lookup
        )
    with pytest.raises(InputError, match=f"`{first}` has shape"):
        from_contributions(
            [contribution(recipe, start, "a", weights=more | {first: np.zeros(1, np.float32)})],
            recipe,
            lookup,
        )
