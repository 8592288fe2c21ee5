import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from kits import run_python
from monai.data.meta_obj import get_track_meta

from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.features import training
from fedmed_edge.features.backbones import set_state, state_of
from fedmed_edge.features.feed import Changes
from fedmed_edge.features.objectives import task_loss
from fedmed_edge.features.training import SiteTraining, build_network, predict, train
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import IGNORE, prepare
from fedmed_edge.recipe import Training
from fedmed_edge.statistics.style import Style

Task = tuple[Any, Dataset, Any]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(value, other[name]) for name, value in one.items())


def test_classification_is_learned(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    # brightness tells these classes apart, and instance norm takes it out
    backbone = recipe.backbone.model_copy(update={"arguments": {"norm": "group"}})
    network = build_network(recipe.model_copy(update={"backbone": backbone}))
    told: list[str] = []
    result = train(network, dataset, steps=40, learning_rate=3e-3, seed=1, progress=told.append)
    assert len(result.losses) == len(told) == 40 and told[0].startswith("loss ")
    assert result.losses[-5:].mean() < 0.75 * result.losses[:5].mean()
    answers = np.array(predict(network, dataset))
    assert answers.shape == (24, 2)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    assert (answers.argmax(axis=1) == [item.label for item in dataset]).mean() > 0.9


def test_segmentation_is_learned(pixels_task: Task) -> None:
    recipe, dataset, _ = pixels_task
    network = build_network(recipe)
    train(network, dataset, steps=30, seed=1)
    answers = predict(network, dataset)
    for item, answer in zip(dataset, answers, strict=True):
        assert answer.shape == (2, 32, 32)
        prepared = prepare(dataset.load(item), recipe)
        bright = prepared.pixels[0] > 0.5
        found = answer.argmax(axis=0) == 1
        assert 2 * (found & bright).sum() / (found.sum() + bright.sum()) > 0.7


def test_same_seed_same_weights_and_nothing_else_moves(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    states = []
    before = torch.random.get_rng_state().clone(), torch.get_num_threads(), get_track_meta()
    for seed in (3, 3, 4):
        network = build_network(recipe, seed=7)
        train(network, dataset, steps=3, seed=seed)
        states.append(state_of(network))
    assert same(states[0], states[1]) and not same(states[0], states[2])
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (torch.get_num_threads(), get_track_meta()) == before[1:]


def test_epochs_are_passes_over_the_labelled_images(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    assert len(train(build_network(recipe), dataset, epochs=0.5, batch=4).losses) == 3
    with pytest.raises(ValueError, match="give either `steps` or `epochs`"):
        train(build_network(recipe), dataset)


def test_turns_of_sites_go_on_where_they_stopped(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    sites = {"b": dataset.subset(range(18)), "a": dataset.subset(range(18, 24))}
    network = build_network(recipe)
    fresh = state_of(network)

    def taken(rounds: int) -> dict[str, Any]:
        training = SiteTraining(network, sites, steps=4, batch=4, seed=9)
        states = dict.fromkeys(training.images, fresh)
        for number in range(rounds):
            with training.round(number):
                for site in states:
                    states[site] = training.turn(site, states[site], range(2 * number, 2 * number + 2))
        assert (training.images, min(training.seconds.values()) > 0) == ({"a": 6, "b": 18}, True)
        return states

    once, twice = taken(1), taken(2)
    assert not same(once["a"], once["b"]) and not same(once["a"], twice["a"])
    assert same(twice["a"], taken(2)["a"])


def test_a_turn_may_have_another_loss_and_changed_gradients(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    network = build_network(recipe.model_copy(update={"training": recipe.training.without_shifts()}))
    fresh = state_of(network)

    def taken(**how: Any) -> dict[str, Any]:
        training = SiteTraining(network, {"a": dataset}, steps=2, batch=4)
        with training.round(0):
            return training.turn("a", fresh, range(2), **how)

    def still(network: Any) -> None:
        for value in network.parameters():
            value.grad.zero_()

    plain = taken()
    loss = task_loss(recipe)
    assert same(plain, taken(objective=lambda net, images, labels: loss(net(images).float(), labels)))
    assert not same(plain, taken(objective=lambda net, images, labels: net(images).square().mean()))
    moved = taken(adjust=still)
    # Nothing but the weight decay is left.
    assert all(np.allclose(moved[name], fresh[name], rtol=1e-3, atol=0) for name in fresh)


def test_a_proximal_term_holds_to_the_start(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    network = build_network(recipe)
    fresh = state_of(network)

    def gone(proximal: float) -> float:
        set_state(network, fresh)
        train(network, dataset, steps=4, batch=4, how=Training(proximal=proximal))
        return sum(float(np.square(value - fresh[name]).sum()) for name, value in state_of(network).items())

    assert gone(10.0) < 0.7 * gone(0.0)
    held = build_network(recipe.model_copy(update={"training": Training(proximal=10.0)}))
    training = SiteTraining(held, {"a": dataset}, steps=4, batch=4)
    with training.round(0):
        state = training.turn("a", fresh, range(4))
    apart = sum(float(np.square(value - fresh[name]).sum()) for name, value in state.items())
    assert apart == pytest.approx(gone(10.0), rel=0.2)


def test_shifts_change_what_is_learned_and_their_views_have_a_seed(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    styles = [Style(*(np.full((recipe.channels, 3, 3), -2.0, np.float32),) * 2)]

    def learned(**how: Any) -> dict[str, Any]:
        network = build_network(recipe)
        assert np.isfinite(train(network, dataset, steps=2, batch=4, seed=2, **how).losses).all()
        return state_of(network)

    off = Training().without_shifts()
    plain, parts = learned(how=off), [{"maps": 1.0}, {"moments": 1.0}, {"amplitude": 1.0}]
    assert same(plain, learned(how=off, styles=styles))
    for part in parts:
        how = off.model_copy(update=part)
        assert not same(plain, learned(how=how, styles=styles))
        assert same(learned(how=how, styles=styles), learned(how=how, styles=styles))
    assert same(plain, learned(how=off.model_copy(update=parts[-1])))  # no style, no way to move


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_volumes(tmp_path: Path, make: SimpleNamespace, kind: str) -> None:
    recipe = make.recipe(kind, (16, 16, 16))
    dataset = make.volumes(tmp_path, recipe, [(24, 20, 12), (16, 16, 16), (20, 20, 20), (18, 18, 18)])
    network = build_network(recipe)
    assert np.isfinite(train(network, dataset, steps=2, batch=2).losses).all()
    answers = predict(network, dataset)
    expected = (2,) if kind == "classification" else (2, 24, 20, 16)
    assert answers[0].shape == expected
    np.testing.assert_allclose(answers[0].sum(axis=0), 1, atol=1e-5)


def test_padding_takes_part_in_no_loss(make: SimpleNamespace) -> None:
    loss = task_loss(make.recipe("segmentation", (8, 8)))
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 8, 8, generator=random)
    labels = torch.randint(0, 3, (2, 8, 8), generator=random)
    labels[:, 5:] = IGNORE
    changed = scores.clone()
    changed[:, :, 5:] += 10 * torch.randn(2, 3, 3, 8, generator=random)
    torch.testing.assert_close(loss(scores, labels), loss(changed, labels))
    torch.testing.assert_close(loss(scores, labels), loss(scores[:, :, :5], labels[:, :5]))


def test_mask_moves_with_its_image(make: SimpleNamespace) -> None:
    changes: Any = Changes(make.recipe("segmentation", (32, 32)), 0)
    changes.colours = lambda image: image
    mask = torch.zeros(1, 32, 32)
    mask[0, 6:14, 10:26] = 1
    for _ in range(12):
        image, moved = changes(mask.clone(), mask.clone())
        assert moved is not None
        assert ((image > 0.5) == (moved > 0.5)).float().mean() > 0.97
        assert set(np.unique(moved.numpy())) <= {0.0, 1.0}


def test_one_cycle() -> None:
    rates = [training.cycle(step / 100) for step in range(101)]
    assert max(rates) == pytest.approx(1, abs=0.01) and rates[0] < 0.15 and rates[-1] == pytest.approx(0.01)
    assert rates.index(max(rates)) == 10 and sorted(rates[10:], reverse=True) == rates[10:]


def test_refusals(images_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, dataset, _ = images_task
    network: Any = build_network(recipe)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="`device` has cuda, expected one that is here"):
            train(network, dataset, steps=1, device="cuda")
    with pytest.raises(DeviceError, match="`device` has tpu, expected auto, cpu or cuda"):
        predict(network, dataset, device="tpu")
    with torch.no_grad():
        network.heads[0].weight.fill_(float("nan"))
    with pytest.raises(InputError, match="`loss` has nan at step 1, expected a finite number"):
        train(network, dataset, steps=20)


@pytest.mark.parametrize(
    ("units", "wanted"),
    [({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16), ({}, None)],
)
def test_half_precision_is_for_processors_with_units_for_it(
    units: dict[str, bool], wanted: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert training.half_precision(torch.device("cpu")) == wanted


@pytest.mark.parametrize("task", ["images_task", "pixels_task"])
def test_half_precision_learns_as_float32_does(
    task: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, dataset, _ = request.getfixturevalue(task)
    losses, states = [], []
    for half in (None, torch.bfloat16):
        monkeypatch.setattr(training, "half_precision", lambda place, half=half: half)
        network = build_network(recipe)
        losses.append(train(network, dataset, steps=20, seed=1).losses)
        states.append(state_of(network))
    assert not same(*states)
    assert all(value.dtype == np.float32 for value in states[1].values())
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05, atol=0.02)


@pytest.mark.cuda
def test_training_on_a_gpu(images_task: Task) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    recipe, dataset, _ = images_task
    network = build_network(recipe)
    assert np.isfinite(train(network, dataset, steps=5, device="cuda").losses).all()


def test_narrow_networks_survive_uneven_batches_on_several_threads() -> None:
    """With the channels last oneDNN 3.12 ended the whole process."""
    told = run_python(
        "import torch\n"
        "from fedmed_edge.features.training import build_network, session\n"
        "from fedmed_edge.recipe import Backbone, Recipe\n"
        "of = {'name': 'r', 'kind': 'classification', 'classes': ('a', 'b'), 'size': (32, 32)}\n"
        "narrow = Backbone(network='residual_encoder', widths=(8, 16))\n"
        "network = build_network(Recipe(**of, backbone=narrow))\n"
        "with session(network, 'cpu', 0, dimensions=2):\n"
        "    for step in range(40):\n"
        "        network(torch.randn(3, 1, 32, 32)).square().mean().backward()\n"
        "print('survived')\n",
        environment=os.environ | {"FEDMED_THREADS": "2"},
    )
    assert told == "survived\n"
