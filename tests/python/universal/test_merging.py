import resource
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedmed_edge.commands.server import stage
from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import backbone_of, set_state
from fedmed_edge.recipe import Backbone
from fedmed_edge.universal import merging
from fedmed_edge.universal.merging import Merge, input_grams, merge, merge_by_gram


def models(make: SimpleNamespace, seeds: range) -> list[dict[str, np.ndarray]]:
    return [dict(make.local_model("a", seed).weights) for seed in seeds]


@pytest.mark.parametrize("count", [1, 3, 4, 21])
def test_rules_agree_with_numpy(make: SimpleNamespace, count: int) -> None:
    given, images = models(make, range(count)), list(range(1, count + 1))
    cut = min(max(1, count // 10), (count - 1) // 2)
    for name in given[0]:
        values = np.stack([one[name] for one in given]).astype(np.float64)
        ordered = np.sort(values, axis=0)[cut : count - cut]
        wanted = {
            "mean": np.average(values, axis=0, weights=images),
            "median": np.median(values, axis=0),
            "trimmed_mean": ordered.mean(axis=0),
        }
        for rule, value in wanted.items():
            np.testing.assert_allclose(merge(rule, given, images)[name], value, atol=1e-6, err_msg=rule)  # type: ignore[arg-type]


def test_a_claimed_number_of_images_gives_no_model_the_majority() -> None:
    made = [{"w": np.float32([value])} for value in (0, 0, 0, 1)]
    assert merge("mean", made, [90, 100, 120, 1 << 50])["w"] == pytest.approx(200 / 510)


def test_krum_takes_the_model_in_the_midst_and_never_the_stray_one(make: SimpleNamespace) -> None:
    (base,) = models(make, range(1))
    near = [{name: value + 0.001 * step for name, value in base.items()} for step in (-2, -1, 0, 1, 2)]
    stray = {name: value + 5 for name, value in base.items()}
    merged = merge("krum", [stray, *near], [1] * 6)
    for name, value in near[2].items():
        np.testing.assert_array_equal(merged[name], value.astype(np.float32))
    with pytest.raises(InputError, match="`krum` has 2 local models, expected at least 3"):
        merge("krum", near[:2], [1, 1])


def test_whole_numbers_are_those_of_the_first() -> None:
    made = [{"w": np.float32([value]), "steps": np.array([value])} for value in (1, 3)]
    merged = merge("mean", made, [1, 1])
    assert merged["steps"].tolist() == [1] and merged["w"].tolist() == [2.0]
    with pytest.raises(ValueError, match="`rule` has gram"):
        merge("gram", made, [1, 1])


@pytest.mark.parametrize(
    "backbone",
    [
        Backbone(widths=(4, 8)),
        Backbone(
            network="ViT",
            arguments={"hidden_size": 12, "mlp_dim": 24, "num_layers": 2, "num_heads": 2, "patch_size": 8},
        ),
    ],
    ids=lambda one: one.network,
)
def test_grams_are_of_what_layers_take_in(make: SimpleNamespace, backbone: Backbone) -> None:
    recipe = make.recipe.model_copy(update={"backbone": backbone})
    network = backbone_of(recipe).eval()
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    grams = input_grams(network, [images])
    # a layer's outputs without bias are rows · weightᵀ, so the mean square of each follows from the Gram
    for name, gram in grams.items():
        layer = network.get_submodule(name.removesuffix(".weight"))
        kept: list[torch.Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, inputs, kept=kept: kept.append(inputs[0]))
        with torch.no_grad():
            network(images)
        hook.remove()
        weight = layer.get_parameter("weight").detach()
        if weight.ndim == 2:
            outputs = functional.linear(kept[0], weight).flatten(0, -2)
        else:
            convolved = functional.conv2d(kept[0], weight, None, layer.stride, layer.padding)  # type: ignore[arg-type]
            outputs = convolved.flatten(2).transpose(1, 2).flatten(0, 1)
        flat = weight.flatten(1).double()
        wanted = (outputs.double() ** 2).mean(0)
        np.testing.assert_allclose((flat @ gram @ flat.T).diagonal(), wanted, rtol=1e-4, atol=1e-9)
    assert len(grams) >= 5


def test_a_gram_of_a_large_convolution_takes_the_memory_of_the_rows_that_count() -> None:
    network = torch.nn.Conv3d(8, 1, 3, padding=1)
    network.weight.data.zero_()
    images = torch.zeros(1, 8, 64, 64, 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        rows = merging._input_rows(network, images)
    assert rows.shape == (4096, 8 * 27)
    # all 262,144 rows would take 226 MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10


def test_the_grams_of_one_model_are_in_memory_at_a_time() -> None:
    made = [{"w": np.full((2, 3), value, np.float32)} for value in (1, 2, 3)]
    alive: list[weakref.ref[torch.Tensor]] = []

    def grams() -> Iterator[dict[str, torch.Tensor]]:
        for _ in made:
            assert sum(one() is not None for one in alive) <= 1  # the one that is being added
            gram = torch.eye(3, dtype=torch.float64)
            alive.append(weakref.ref(gram))
            yield {"w": gram}

    np.testing.assert_allclose(merge_by_gram(made, grams(), made[0])["w"], 2, rtol=1e-5)


def test_the_regression_mean_solves_its_normal_equations(make: SimpleNamespace) -> None:
    given, random = models(make, range(3)), np.random.default_rng(0)
    network = backbone_of(make.recipe)
    grams = []
    for weights in given:
        set_state(network, weights)
        grams.append(
            input_grams(network.eval(), [torch.from_numpy(random.random((4, 1, 32, 32), np.float32))])
        )
    merged = merge_by_gram(given, iter(grams), merge("mean", given, [1, 1, 1]))
    for name in grams[0]:
        damped = [0.9 * one[name].numpy() + 0.1 * np.diag(np.diag(one[name])) for one in grams]
        flat = [one[name].astype(np.float64).reshape(len(one[name]), -1) for one in given]
        cross = sum(gram @ weight.T for gram, weight in zip(damped, flat, strict=True))
        wanted = np.linalg.lstsq(sum(damped), cross, rcond=None)[0].T.reshape(merged[name].shape)
        np.testing.assert_allclose(merged[name], wanted, atol=2e-3, err_msg=name)
    one = merge_by_gram(given[:1], grams[:1], given[0])
    for name, value in given[0].items():
        np.testing.assert_allclose(one[name], value, atol=2e-3)


def test_the_command_offers_every_rule() -> None:
    assert set(stage.MERGES) == set(get_args(Merge))
