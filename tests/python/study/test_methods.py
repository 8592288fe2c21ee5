"""The methods that are compared: each runs, repeats itself and is paid for; what makes it another one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.extract import evaluate_heads
from fedmed_edge.features.local_norms import norm_names
from fedmed_edge.features.training import build_network, train
from fedmed_edge.images.dataset import Dataset, Task, read_dataset
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.sums import read_sums
from fedmed_edge.recipe import Recipe, Training
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.style import block_shape
from fedmed_edge.statistics.tensors import restrict
from fedmed_edge.study.closed_form import Head, contribute, publish, score_heads
from fedmed_edge.study.methods import masked
from fedmed_edge.study.methods.averaging import (
    FedAvg,
    FedBN,
    FedProx,
    Pooled,
    Scaffold,
    alone,
)
from fedmed_edge.study.methods.closed_form import (
    contributions,
    discriminant_head,
    head_predictor,
    renewed,
    ridge_head,
)
from fedmed_edge.study.methods.domain_shifts import interpolate
from fedmed_edge.study.methods.merging import averaged, regression_mean
from fedmed_edge.study.methods.method import Case
from fedmed_edge.study.methods.personalised import Ditto
from fedmed_edge.study.methods.reference import Reference
from fedmed_edge.study.methods.registry import METHODS
from fedmed_edge.study.methods.tuning import choose
from fedmed_edge.study.methods.work import Meter, with_weights
from fedmed_edge.study.networks import joint_network, merged
from fedmed_edge.study.plan import POLICIES, Budget
from fedmed_edge.study.scores import answers_of_predictions

BUDGET = Budget(4, 1, 2, 2, 2, 4, until_plateau=False)
SITE = "gamma"


def same(one: Any, other: Any) -> bool:
    assert set(one) == set(other)
    return all(np.array_equal(value, other[name]) for name, value in one.items())


class Bench:
    """Cases of one task; what stands before them is kept for all tests."""

    def __init__(self, task: Task, kept: Path) -> None:
        self.task, self.kept = task, kept
        self.data = {site: read_dataset(folder, task.recipe) for site, folder in task.sites.items()}
        self.train = {site: one.train for site, one in self.data.items()}
        self.tests = {site: one.test for site, one in self.data.items()}
        self.founders = {site: one for site, one in self.train.items() if site != SITE}
        options: Any = {"seed": 0, "device": "cpu", "watch": lambda step: None}
        self.reference = Reference(task.recipe, self.founders, BUDGET, POLICIES["open"], kept, **options)

    def case(self, sites: Mapping[str, Dataset] | None = None, **changed: Any) -> Case:
        made = Case(
            recipe=self.task.recipe, site=SITE, sites=self.train if sites is None else sites,
            reference=self.reference, budget=BUDGET, policy=POLICIES["open"], seed=0, device="cpu",
            watch=lambda step: None,
        )  # fmt: skip
        return replace(made, meter=Meter(), **changed)


one_kind = pytest.mark.parametrize("bench", ["classification"], indirect=True)
"""For what does not depend on the kind of task."""


@pytest.fixture(scope="module", params=["classification", "segmentation"])
def bench(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    write_task: Callable[[Path, str], Task],
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp(request.param)
    yield Bench(write_task(folder / "task", request.param), folder / "kept")


def fitting() -> Iterator[tuple[str, str]]:
    """Kind of task and name of every method that can be used for it; both kinds have two classes."""
    for kind in ("classification", "segmentation"):
        recipe = Recipe(name=kind, kind=kind, classes=("one", "other"))
        yield from ((kind, name) for name, method in METHODS.items() if method.fits(recipe))


def test_every_method_fits_some_task_and_thresholds_are_for_segmentations() -> None:
    assert {name for _, name in fitting()} == set(METHODS)
    assert set(METHODS) - {name for kind, name in fitting() if kind == "classification"} == {"threshold"}


@pytest.mark.parametrize(("bench", "name"), list(fitting()), indirect=["bench"])
def test_a_method_runs_repeats_itself_and_is_paid_for(bench: Bench, name: str) -> None:
    method = METHODS[name]
    assert method.fits(bench.task.recipe)
    sites = {**bench.founders, SITE: bench.train[SITE].without_labels} if method.adapts else None
    found, cases = [], [bench.case(sites), bench.case(sites)]
    for case in cases:
        learned = next(iter(method.learn(case, method.options[0])))
        predictor = learned.of(SITE)
        assert predictor is not None
        found.append(predictor(bench.tests[SITE]))
    assert found[0] == found[1]
    assert len(found[0].patients) == 4
    meter = cases[0].meter
    assert (meter.sent, meter.received, meter.rounds) == (
        *(cases[1].meter.sent, cases[1].meter.received, cases[1].meter.rounds),
    )
    if name != "threshold":
        assert sum(meter.seconds.values()) > 0
    if name in ("rebuilt", "refined", "afl", "gaussian_heads"):
        # Who was there before owes nothing when another one comes.
        assert set(meter.seconds) == set(meter.sent) == {SITE}
        assert meter.sent[SITE] > 0 and meter.before["rounds"] == 1
    if name in ("own_sums", "local", "local_tuned", "tent", "entropy"):
        assert not any(meter.sent.values())


@one_kind
def test_renewed_is_the_closed_form_on_the_mean_of_tuned_networks(bench: Bench) -> None:
    case, option = bench.case(), {"rate": 1.0}
    learned = next(renewed(case, option))
    (mixed,) = islice(averaged(bench.case(), option), 1)
    generation = publish(
        with_weights(case.recipe, mixed), bench.train, case.policy, seed=0, device="cpu", watch=case.watch
    )
    made = [
        contribute(generation, data, site, case.policy, device="cpu", watch=case.watch)[0]
        for site, data in bench.train.items()
    ]
    head = rebuild([one for one in made if one], case.recipe)
    wanted = score_heads(generation, bench.tests, {"": Head(head, (SITE,))}, device="cpu", watch=case.watch)[
        ""
    ][SITE]
    predictor = learned.of(SITE)
    assert predictor and predictor(bench.tests[SITE]).label == wanted.label
    # everybody computes, and hands over weights and sums
    weights = sum(value.nbytes for value in mixed.values())
    assert set(case.meter.seconds) == set(bench.train)
    assert all(sent > weights for sent in case.meter.sent.values())
    assert not same(mixed, state_of(bench.reference.network()[0]))


@one_kind
def test_rounds_are_counted_in_bytes_and_a_control_variate_doubles_them(bench: Bench) -> None:
    payload = sum(value.nbytes for value in state_of(bench.case().fresh()).values())
    for kind, times in ((FedAvg, 1), (Scaffold, 2)):
        case = bench.case()
        kind(case, {}).cycle(0)
        assert case.meter.rounds == BUDGET.peer_rounds
        assert case.meter.sent == case.meter.received
        assert case.meter.sent == dict.fromkeys(bench.train, times * BUDGET.peer_rounds * payload)
    towards = bench.task.recipe.model_copy(update={"training": Training(amplitude=1.0)})
    case = bench.case(recipe=towards)
    assert set(FedAvg(case, {}).styles) == set(bench.train)
    style = 2 * 4 * int(np.prod(block_shape(towards.size)))
    assert case.meter.sent == dict.fromkeys(bench.train, style)
    assert case.meter.received == dict.fromkeys(bench.train, 2 * style)


def cycles(kind: type[FedAvg], case: Case, option: Mapping[str, float]) -> FedAvg:
    trained = kind(case, option)
    for number in range(2):
        trained.cycle(number)
    return trained


@one_kind
def test_fedprox_without_its_term_is_fedavg(bench: Bench) -> None:
    plain = cycles(FedAvg, bench.case(), {}).common
    assert same(cycles(FedProx, bench.case(), {"mu": 0.0}).common, plain)
    assert not same(cycles(FedProx, bench.case(), {"mu": 1.0}).common, plain)


@one_kind
def test_scaffold_with_one_site_is_local_training(bench: Bench) -> None:
    plain = cycles(FedAvg, alone(bench.case(), SITE), {}).common
    assert same(cycles(Scaffold, alone(bench.case(), SITE), {}).common, plain)
    shared = cycles(FedAvg, bench.case(), {}).common
    assert not same(cycles(Scaffold, bench.case(), {}).common, shared)


@one_kind
def test_ditto_without_its_term_is_local_training_beside_fedavg(bench: Bench) -> None:
    free = cycles(Ditto, bench.case(), {"strength": 0.0})
    assert isinstance(free, Ditto)
    assert same(free.common, cycles(FedAvg, bench.case(), {}).common)
    for site, own in free.own.items():
        assert same(own.common, cycles(FedAvg, alone(bench.case(), site), {}).common)


@one_kind
def test_a_round_is_the_average_of_the_sites_turns(bench: Bench) -> None:
    seen: list[Any] = []

    class Watched(FedAvg):
        def merge(self, states: Any, images: Any) -> None:
            super().merge(states, images)
            seen.append((states, images, self.common))

    sites = {**bench.train, "beta": bench.train["beta"].subset(range(4))}
    Watched(bench.case(sites), {}).cycle(0)
    assert len(seen) == BUDGET.peer_rounds
    states, images, common = seen[-1]
    assert images == {"alpha": 10, "beta": 4, SITE: 10}
    assert not same(states["alpha"], states["beta"])
    for name, value in common.items():
        mean = np.average([state[name] for state in states.values()], axis=0, weights=list(images.values()))
        np.testing.assert_allclose(np.asarray(value, float), mean, rtol=1e-5, atol=1e-7)


@one_kind
def test_the_demos_columns_are_these_methods(bench: Bench) -> None:
    options: Any = {"seed": 0, "device": "cpu", "watch": lambda step: None}
    one_place = merged(bench.train)
    network = build_network(bench.task.recipe)
    for number in range(2):
        train(network, one_place, steps=BUDGET.pooled_steps, batch=4, seed=77 * number, device="cpu")
    found, cost = joint_network("pooled", bench.task.recipe, bench.train, BUDGET, cycles=2, **options)
    assert same(state_of(found), state_of(network))
    assert (cost.rounds, cost.steps, cost.transferred_bytes) == (0, 2 * BUDGET.pooled_steps, 0)
    shared, cost = joint_network("fedavg", bench.task.recipe, bench.train, BUDGET, cycles=2, **options)
    trained = cycles(FedAvg, bench.case(), {})
    assert same(state_of(shared), trained.common)
    assert (cost.rounds, cost.steps) == (2 * BUDGET.peer_rounds, 2 * BUDGET.peer_rounds * 2 * 3)
    assert cost.transferred_bytes == 2 * sum(trained.work.meter.sent.values())


@one_kind
def test_pooled_is_fedavg_with_one_site(bench: Bench) -> None:
    one_place = bench.case({"one place": merged(bench.train)})
    budget = replace(BUDGET, peer_rounds=1, round_steps=BUDGET.pooled_steps)
    assert same(
        cycles(FedAvg, replace(one_place, budget=budget), {}).common, cycles(Pooled, one_place, {}).common
    )


def test_fedbn_keeps_norm_layers_at_their_site_and_nothing_else(bench: Bench) -> None:
    trained = cycles(FedBN, bench.case(), {})
    assert isinstance(trained, FedBN)
    names = norm_names(trained.network)
    assert names and names < set(trained.common)
    one, other = trained.of("alpha"), trained.of("beta")
    assert {name for name in one if not np.array_equal(one[name], other[name])} <= names
    assert not all(np.array_equal(one[name], other[name]) for name in names)


def test_a_closed_form_without_lift_is_ridge_regression_on_the_rows(bench: Bench) -> None:
    made = [_unshifted(one) for one in contributions(bench.case(), "last_layer").values()]
    ours = rebuild(made, bench.task.recipe, ridge=1e-2).head
    sums = read_sums(made, bench.task.recipe)
    theirs, _ = ridge_head(sums, 1e-2).linear()
    counts = np.sum([site.counts for site in sums], axis=0)
    if np.ptp(counts):  # pixels are not balanced: ours weighs classes, theirs does not
        assert np.abs(ours - theirs).max() > 1e-3
        sums = [_weighted(site, counts) for site in sums]
        theirs, _ = ridge_head(sums, 1e-2).linear()
        # their targets are counted by the weighted rows, as ours are
    assert np.linalg.norm(ours - theirs) <= 1e-9 * np.linalg.norm(theirs)


def _unshifted(one: Contribution) -> Contribution:
    """Without what our head is held to beyond the rows."""
    assert one.statistics is not None
    parts = [part for part in one.header.parts if part != "shifts"]
    return replace(one, statistics=restrict(one.statistics, parts))


def _weighted(site: Any, counts: np.ndarray) -> Any:
    return replace(site, blocks={(fold, k): gram / counts[k] for (fold, k), gram in site.blocks.items()})


def test_a_head_answers_as_it_does_in_the_product(bench: Bench) -> None:
    case = bench.case()
    model = rebuild(list(contributions(case, "lifted").values()), bench.task.recipe)
    tests, generation = bench.tests[SITE], bench.reference.generation("lifted")
    (wanted,) = evaluate_heads(generation, tests, [model], device="cpu")
    found, asked = head_predictor(case, "lifted", model)(tests), answers_of_predictions(tests, wanted)
    assert found.patients == asked.patients and found.label == asked.label and found.dice == asked.dice
    if bench.task.recipe.kind == "classification":
        np.testing.assert_allclose(found.probabilities, asked.probabilities, atol=2e-6)


def test_gaussian_heads_are_linear_discriminants() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    random = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [30, 30, 30])
    features = random.normal(size=(90, 4)) @ random.normal(size=(4, 4)) + classes[:, None]
    rows = np.hstack([features, np.ones((90, 1))])

    class Site:
        classes, width = 3, 5

        class total:
            present = np.arange(3)
            grams = np.stack(
                [(rows[classes == k].T @ rows[classes == k])[np.triu_indices(5)] for k in range(3)]
            )

    weight, bias = discriminant_head([Site], 1e-12).linear()  # type: ignore[list-item]
    wanted = LinearDiscriminantAnalysis(solver="lsqr").fit(features, classes).predict(features)
    assert np.array_equal((rows @ weight + bias).argmax(axis=1), wanted)


def test_regression_mean_of_one_layer_is_that_layer() -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(3, 2, 2, 2)).astype(np.float32)
    rows = random.normal(size=(50, 8))
    merged_weight = regression_mean([rows.T @ rows] * 2, [weight, weight], 0.9)
    np.testing.assert_allclose(merged_weight, weight, atol=1e-5)
    other = random.normal(size=weight.shape).astype(np.float32)
    least = np.linalg.lstsq(
        np.vstack([rows, 2 * rows]),
        np.vstack([rows @ weight.reshape(3, -1).T, 2 * rows @ other.reshape(3, -1).T]),
        rcond=None,
    )[0]
    found = regression_mean([rows.T @ rows, 4 * rows.T @ rows], [weight, other], 1.0)
    np.testing.assert_allclose(found.reshape(3, -1).T, least, atol=1e-4)


@one_kind
def test_filling_in_makes_another_backbone_and_leaves_the_head_as_it_was(bench: Bench) -> None:
    case = bench.case()
    start, filled = state_of(case.fresh()), masked._filled_in(case)
    assert set(filled) == set(start)
    moved = {name for name in start if not np.array_equal(start[name], filled[name])}
    assert moved and not any(name.startswith("heads.") for name in moved)
    assert case.meter.server_seconds > 0 and not case.meter.seconds


def test_amplitudes_move_and_phases_stay() -> None:
    random = torch.Generator().manual_seed(0)
    images, others = torch.rand(2, 1, 32, 32, generator=random), torch.rand(2, 1, 32, 32, generator=random)
    centred = torch.fft.fftshift(torch.fft.fftn(others, dim=(2, 3)), dim=(2, 3)).abs()[..., 15:18, 15:18]
    still = interpolate(images, centred, torch.zeros(2))
    torch.testing.assert_close(still, images, atol=1e-5, rtol=0)
    moved = interpolate(images, centred, torch.ones(2))
    torch.testing.assert_close(moved.mean(dim=(1, 2, 3)), others.mean(dim=(1, 2, 3)), atol=1e-5, rtol=0)
    before, after = torch.fft.fftn(images, dim=(2, 3)), torch.fft.fftn(moved, dim=(2, 3))
    torch.testing.assert_close(before.angle(), after.angle(), atol=1e-2, rtol=0)


@one_kind
def test_tuning_tries_every_option_and_stops_at_the_plateau(bench: Bench) -> None:
    budget = replace(BUDGET, until_plateau=True, most_cycles=2)
    case = bench.case(budget=budget, reference=bench.reference)
    choice = choose(METHODS["local"], case)
    assert choice.plateau and len(choice.trials) == 3
    assert choice.option in METHODS["local"].options and 1 <= choice.cycles <= 2
    assert choose(METHODS["rebuilt"], case).cycles == 1
    assert choose(METHODS["local"], bench.case()).trials == ()


@one_kind
def test_what_is_chosen_by_is_of_other_patients_than_what_is_fitted(bench: Bench) -> None:
    fit, kept_out = bench.case().split()
    for site, check in kept_out.items():
        assert len(check) == 2
        assert not {item.patient for item in fit.sites[site]} & {item.patient for item in check}
    assert set(fit.reference.founders) == set(bench.founders)
    assert all(len(data) == 8 for data in fit.reference.founders.values())
