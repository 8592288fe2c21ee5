"""Backbone rounds over sites that come and go, and models that sites validate first."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed_edge.atomic import locked
from fedmed_edge.config import ServerFederation
from fedmed_edge.errors import InputError
from fedmed_edge.features.weights import parse_backbone
from fedmed_edge.federation.asked import Asked
from fedmed_edge.federation.coordinator import Coordinator
from fedmed_edge.federation.publishing import Publisher
from fedmed_edge.federation.rounds import Training
from fedmed_edge.recipe import Recipe
from fedmed_edge.store.entries import ModelEntry


def begin(federation: Any, coordinator: Coordinator, recipe: Recipe, **asked: Any) -> Training:
    said = {"rounds": 2, "sites": tuple(federation.hospitals), "quorum": 2, "deadline_s": 3600.0} | asked
    return coordinator.rounds.begin(recipe, federation.hospitals["alpha"].generation.digest, **said)


def weights_of(federation: Any, digest: str) -> Any:
    content = (federation.folder / "offers" / digest).read_bytes()
    return parse_backbone(content, "weights").weights["stem"]


def opened(federation: Any, recipe: Recipe, **asked: Any) -> Coordinator:
    """A coordinator whose training's first round has been heard of by every site."""
    coordinator = federation.coordinator(collect_s=0.001)
    begin(federation, coordinator, recipe, **asked)
    for _ in range(2):
        coordinator.step()
    return coordinator


def too_few_take_part(federation: Any, recipe: Recipe) -> tuple[Coordinator, Training]:
    """Alpha trains, beta's policy refuses, and two were wanted."""
    coordinator = opened(federation, recipe)
    federation.hospitals["alpha"].train()
    federation.hospitals["beta"].answer(state="refused", why="policy: `may_train` is false")
    return coordinator, finish(federation, coordinator, [])


def finish(federation: Any, coordinator: Coordinator, names: list[str], steps: int = 12) -> Training:
    """Sites come, train and come again, until the training has ended."""
    for _ in range(steps):
        coordinator.step()
        for name in names:
            federation.hospitals[name].train()
        (training,) = coordinator.rounds.all()
        if training.state != "running":
            return training
    return training


def test_rounds_take_the_mean_by_images_and_go_on_from_it(federation: Any, recipe: Recipe) -> None:
    coordinator = opened(federation, recipe, rounds=1)
    values = []
    for name, images in (("alpha", 30), ("beta", 10)):
        hospital = federation.hospitals[name]
        (request,) = federation.requests.open_for(name)
        parcel = hospital.put(images=images, request=request.ask.id)
        hospital.answer(state="done", contribution=parcel.id)
        values.append(hospital.weights.astype(np.float64))
    training = finish(federation, coordinator, [])
    assert training.state == "finished"
    assert training.ended[0].sites == ("alpha", "beta")
    wanted = (2 * values[0] + values[1]) / 3  # nobody weighs more than two medians
    got = weights_of(federation, training.ended[0].backbone)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)
    offer = federation.offers.read(training.ended[0].backbone)
    assert (offer.kind, offer.generation) == ("backbone", training.generation)
    header = parse_backbone(coordinator.rounds.backbone_file(training).read_bytes(), "w").header
    assert (header.trained_by, header.images) == (("alpha", "beta"), 40)
    assert federation.store.ledger()[-1].kind == "averaged"


def test_the_next_round_goes_out_from_the_last_one(federation: Any, recipe: Recipe) -> None:
    coordinator = federation.coordinator(collect_s=0.001)
    begin(federation, coordinator, recipe, rounds=3)
    alpha, heard = federation.hospitals["alpha"], list[tuple[str | None, str | None]]()
    train = alpha.train

    def listening() -> None:
        heard.extend((duty.ask.object, duty.ask.training) for duty in Asked(alpha.folder / "requests").open())
        train()

    alpha.train = listening
    training = finish(federation, coordinator, ["alpha", "beta"])
    assert [one.number for one in training.ended] == [1, 2, 3]
    starts = [None, training.ended[0].backbone, training.ended[1].backbone]
    assert heard == [(start, training.id) for start in starts]
    assert [one.digest for one in federation.offers.all()] == [training.ended[2].backbone]
    federation.sync("alpha")
    (file,) = (alpha.folder / "inbox").glob("*.backbone")
    assert file.stem == training.ended[2].backbone
    assert federation.requests.open_for("alpha") == []
    assert len(federation.held()) == 6
    assert not list((federation.folder / "trainings").glob("*/*/"))


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
def test_robust_rules_leave_out_who_is_far_away(
    make_federation: Any, tmp_path: Path, recipe: Recipe, rule: str
) -> None:
    names = ("a", "b", "c", "d", "e")
    federation = make_federation(tmp_path, *names)
    for name in names[:4]:
        federation.hospitals[name].contribution()
    coordinator = federation.coordinator(collect_s=0.001, at_once=8)
    said = {"rounds": 1, "sites": names, "quorum": 5, "deadline_s": 60.0, "rule": rule, "trim": 0.2}
    coordinator.rounds.begin(recipe, federation.hospitals["a"].generation.digest, **said)
    training = finish(federation, coordinator, list(names))
    rows = np.stack([federation.hospitals[name].weights for name in names])
    ordered = np.sort(rows.astype(np.float64), axis=0)
    wanted = ordered[2] if rule == "median" else ordered[1:4].mean(axis=0)
    got = weights_of(federation, training.ended[0].backbone)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_a_round_ends_without_stragglers_at_its_deadline_once_there_is_a_quorum(
    make_federation: Any, tmp_path: Path, recipe: Recipe
) -> None:
    federation = make_federation(tmp_path, "alpha", "beta", "gamma")
    coordinator = opened(federation, recipe, rounds=1, deadline_s=1000.0)
    for name in ("alpha", "beta"):
        federation.hospitals[name].train()
    coordinator.step()
    (training,) = coordinator.rounds.all()
    assert coordinator.rounds.step(training, time.time() + 500).state == "running"
    ended = coordinator.rounds.step(training, time.time() + 1500)
    assert ended.ended[0].missing == ("gamma",)
    assert federation.requests.open_for("gamma") == []
    federation.hospitals["gamma"].train()
    result = federation.sync("gamma")
    assert len(result.sent) == 1
    assert coordinator.rounds.all()[0].ended[0].missing == ("gamma",)


def test_a_deadline_without_a_quorum_is_waited_beyond(federation: Any, recipe: Recipe) -> None:
    coordinator = federation.coordinator(collect_s=0.001)
    training = begin(federation, coordinator, recipe, deadline_s=10.0)
    coordinator.step()
    training = coordinator.rounds.all()[0]
    assert coordinator.rounds.step(training, time.time() + 1e6).ended == ()


def test_a_training_that_too_few_take_part_in_stops_and_says_why(federation: Any, recipe: Recipe) -> None:
    _, training = too_few_take_part(federation, recipe)
    assert training.state == "stopped"
    assert training.why == "1 site handed over weights, expected 2; beta: policy: `may_train` is false"


def test_a_training_that_stopped_goes_on_where_it_is_asked_for_again(federation: Any, recipe: Recipe) -> None:
    coordinator, _ = too_few_take_part(federation, recipe)
    assert begin(federation, coordinator, recipe).state == "running"
    coordinator.step()
    assert federation.requests.open_for("alpha") == []  # its weights are there
    training = finish(federation, coordinator, ["alpha", "beta"])
    assert (training.state, training.why) == ("finished", "")
    assert [one.sites for one in training.ended] == [("alpha", "beta")] * 2
    assert len(federation.held()) == 4


@pytest.mark.parametrize(
    ("offered", "trains", "wanted"),
    [
        (None, (), None),  # to all who train, and they are all there are
        (None, ("beta",), ("beta",)),
        (("alpha",), ("beta",), ("alpha", "beta")),
        (("alpha",), (), ("alpha", "beta")),
        ((), ("beta",), None),
    ],
)
def test_a_generation_is_offered_to_those_who_train_from_it(
    federation: Any, recipe: Recipe, offered: tuple[str, ...] | None, trains: tuple[str, ...], wanted: Any
) -> None:
    publisher = Publisher(federation.store, federation.folder, federation.key)
    generation = federation.hospitals["alpha"].generation.digest
    if offered is not None:  # nobody in particular is everybody
        publisher.generation(generation, recipe, sites=offered or None, ask=False)
    rules = ServerFederation(quorum=1)
    publisher.training(recipe, rules, generation, trains, {"rounds": 1})
    assert federation.offers.read(generation).sites == wanted
    assert federation.store.ledger()[-1].details.get("sites") == list(wanted or ())
    federation.coordinator(collect_s=0.001).step()
    federation.sync("beta")
    assert (federation.hospitals["beta"].folder / "inbox" / f"{generation}.generation").is_file()


def test_who_is_held_back_is_neither_asked_nor_averaged_until_released(
    make_federation: Any, tmp_path: Path, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    federation = make_federation(tmp_path, "alpha", "beta", "gamma", "delta")
    held_back, why = federation.store.held_back, "labels are being checked"
    held_back.add(recipe.name, "gamma", why)
    coordinator = opened(federation, recipe, rounds=2)
    (training,) = coordinator.rounds.all()
    assert f"training {training.id[:12]}: does not ask gamma, which is held back: {why}" in caplog.text
    assert federation.requests.open_for("gamma") == [] != federation.requests.open_for("delta")
    for name in ("alpha", "beta", "delta"):  # whose weights are there before somebody looks at them
        federation.hospitals[name].train()
        federation.sync(name)
    held_back.add(recipe.name, "delta", "stands out")
    coordinator.step()
    (training,) = coordinator.rounds.all()
    (ended,) = training.ended
    assert (ended.sites, ended.missing) == (("alpha", "beta"), ("gamma", "delta"))
    assert "leaves out delta, which is held back: stands out" in caplog.text
    values = [federation.hospitals[name].weights.astype(np.float64) for name in ended.sites]
    np.testing.assert_allclose(weights_of(federation, ended.backbone), np.mean(values, axis=0), rtol=1e-6)
    held_back.release(recipe.name, "gamma")
    training = finish(federation, coordinator, ["alpha", "beta", "gamma", "delta"])
    assert [one.sites for one in training.ended] == [("alpha", "beta"), ("alpha", "beta", "gamma")]


def test_sites_that_are_held_back_make_no_quorum(federation: Any, recipe: Recipe) -> None:
    coordinator = opened(federation, recipe)
    federation.store.held_back.add(recipe.name, "beta", "stands out")
    federation.hospitals["alpha"].train()
    left = federation.folder / "trainings" / coordinator.rounds.all()[0].id / "1" / "beta.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a process that was killed")
    training = finish(federation, coordinator, [])
    assert training.state == "stopped" and not left.parent.exists()
    assert training.why == "1 site handed over weights, expected 2; beta: is held back: stands out"
    message = "has 1 site, expected at least the quorum 2; beta is held back: stands out"
    with pytest.raises(InputError, match=message):
        begin(federation, coordinator, recipe, rounds=3)


def test_a_training_needs_as_many_sites_as_its_quorum(federation: Any, recipe: Recipe) -> None:
    with pytest.raises(InputError, match="has 2 sites, expected at least the quorum 3"):
        begin(federation, federation.coordinator(), recipe, quorum=3)


def test_sites_that_are_online_one_at_a_time_and_a_coordinator_that_restarts_finish_a_training(
    federation: Any, recipe: Recipe
) -> None:
    begin(federation, federation.coordinator(), recipe, rounds=2)
    everyone = federation.sites.sites
    for hour in range(24):
        name = "alpha" if hour % 2 else "beta"
        sites = federation.sites
        sites.sites = {name: everyone[name]}
        coordinator = federation.coordinator(sites, collect_s=0.001)
        coordinator.step()
        federation.hospitals[name].train()
        (training,) = coordinator.rounds.all()
        if training.state == "finished":
            break
    assert training.state == "finished"
    assert [one.missing for one in training.ended] == [(), ()]
    assert len(federation.held()) == 4


def test_a_second_coordinator_is_refused(federation: Any) -> None:
    with (
        locked(federation.folder / "coordinator.lock"),
        pytest.raises(InputError, match="coordinator: another one is running for this server"),
    ):
        federation.coordinator().step()


def test_a_site_that_does_not_answer_is_tried_later_and_later(federation: Any) -> None:
    sites = federation.sites
    gone = sites.sites.pop("beta")
    sites.online = lambda: ["alpha", "beta"]
    coordinator = federation.coordinator(sites, collect_s=0.001)
    coordinator.step()
    first = coordinator._meetings.read("beta")
    assert first.failures == 1
    coordinator.step()
    assert coordinator._meetings.read("beta") == first  # not before its time
    for_months = first.model_copy(update={"failures": 5000, "not_before": 0.0})
    coordinator._meetings.write("beta", for_months)
    coordinator.step()
    assert coordinator._meetings.read("beta").failures == 5001
    sites.sites["beta"] = gone
    coordinator._meetings.write("beta", first.model_copy(update={"not_before": 0.0}))
    coordinator.step()
    assert coordinator._meetings.read("beta").failures == 0


def test_a_damaged_record_of_one_site_holds_up_no_other(
    federation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = federation.coordinator(collect_s=0.001)
    coordinator._meetings.folder.mkdir(parents=True)
    coordinator._meetings.path("alpha").write_text("{")
    parcel = federation.hospitals["beta"].put()
    coordinator.step()
    coordinator.step()
    assert federation.held() == [parcel.id]
    assert caplog.text.count("alpha.json: is damaged") == 1


def test_a_round_that_cannot_be_written_is_tried_later_and_then_ends(
    federation: Any, recipe: Recipe, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = federation.coordinator(collect_s=0.001)
    training = begin(federation, coordinator, recipe, rounds=1)
    in_its_way = federation.folder / "trainings" / training.id / "1"
    in_its_way.parent.mkdir(parents=True)
    in_its_way.touch()
    tries, step = list[Training](), coordinator.rounds.step

    def counted(one: Training) -> Training:
        tries.append(one)
        return step(one)

    monkeypatch.setattr(coordinator.rounds, "step", counted)
    monkeypatch.setattr("fedmed_edge.federation.coordinator.POLL_S", 60.0)
    for _ in range(2):
        coordinator.step()
        for name in ("alpha", "beta"):
            federation.hospitals[name].train()
    coordinator.step()
    assert f"training {training.id[:12]}: {in_its_way}: cannot be made: File exists" in caplog.text
    before = len(tries)
    coordinator.step()
    assert len(tries) == before
    in_its_way.unlink()
    later = time.monotonic() + 61
    monkeypatch.setattr("fedmed_edge.federation.coordinator.time.monotonic", lambda: later)
    coordinator.step()
    assert coordinator.rounds.all()[0].state == "finished"


def test_parts_that_nobody_finishes_are_given_up(federation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alpha", "beta"):
        federation.channel(name).ask("offer", {"digest": "ab" * 32, "bytes": 9})
    inbox = federation.folder / "inbox"
    federation.coordinator().step()
    assert len(list(inbox.glob("*/*.part"))) == 2
    federation.store.revoke_site("beta")
    federation.coordinator().step()
    assert [path.parent.name for path in inbox.glob("*/*.part")] == ["alpha"]
    monkeypatch.setattr("fedmed_edge.federation.coordinator.STALE_S", -1.0)
    federation.coordinator().step()
    assert not list(inbox.glob("*/*.part")) and not list(inbox.glob("*/*.have"))


# --- candidates ------------------------------------------------------------------------------------------


def candidate(federation: Any, coordinator: Coordinator, recipe: Recipe, **more: Any) -> str:
    content = b"a model of its own kind"
    said = {"quorum": 2, "deadline_s": 3600.0} | more
    entry = ModelEntry(
        digest="1" * 64,
        task=recipe.name,
        generation=federation.hospitals["alpha"].generation.digest,
        sites=(),
        contributions=(),
        refined_for=None,
        withdrawn=False,
        made="",
    )
    made = coordinator.candidates.begin(content, recipe, entry, tuple(federation.hospitals), **said)
    assert coordinator.candidates.begin(content, recipe, entry, tuple(federation.hospitals), **said) == made
    return str(made.digest)


@pytest.mark.parametrize(("now", "state"), [(0.8, "published"), (0.79, "published"), (0.7, "rejected")])
def test_a_candidate_is_published_where_it_is_not_worse(
    federation: Any, recipe: Recipe, now: float, state: str
) -> None:
    coordinator = federation.coordinator(collect_s=0.001)
    digest = candidate(federation, coordinator, recipe)
    coordinator.step()
    for hospital in federation.hospitals.values():
        assert (hospital.folder / "inbox" / f"{digest}.candidate").is_file()
        hospital.answer(state="done", figures={"score": now, "current": 0.8})
    coordinator.step()
    (decided,) = coordinator.candidates.all()
    assert decided.state == state
    coordinator.step()
    coordinator.step()
    here = federation.hospitals["alpha"].folder / "inbox" / f"{digest}.model"
    assert here.is_file() == (state == "published")
    assert not here.with_suffix(".candidate").exists()


@pytest.mark.parametrize("first", [0.7, 0.8])
def test_a_candidate_that_was_rejected_or_taken_back_may_be_tried_again(
    federation: Any, recipe: Recipe, first: float
) -> None:
    coordinator = federation.coordinator(collect_s=0.001)
    digest = candidate(federation, coordinator, recipe)
    for score in (first, 0.9):
        coordinator.step()
        for hospital in federation.hospitals.values():
            hospital.answer(state="done", figures={"score": score, "current": 0.8})
        coordinator.step()
        (decided,) = coordinator.candidates.all()
        assert decided.state == ("rejected" if score < 0.8 else "published")
        if score == first:
            if score >= 0.8:
                federation.offers.take_back(digest, "taken back")
            candidate(federation, coordinator, recipe)
    assert decided.scores["alpha"] == (0.9, 0.8)
    assert federation.offers.read(digest).kind == "model"


def test_who_is_held_back_has_no_say_in_a_candidate(
    make_federation: Any, tmp_path: Path, recipe: Recipe
) -> None:
    federation = make_federation(tmp_path, "alpha", "beta", "gamma", "delta")
    coordinator = federation.coordinator(collect_s=0.001, at_once=4)
    federation.store.held_back.add(recipe.name, "gamma", "stands out")
    candidate(federation, coordinator, recipe)
    coordinator.step()
    assert federation.requests.open_for("gamma") == []
    for name, score in (("alpha", 0.8), ("beta", 0.8), ("delta", 0.0)):
        federation.hospitals[name].answer(state="done", figures={"score": score, "current": 0.8})
        federation.sync(name)
    federation.store.held_back.add(recipe.name, "delta", "stands out")
    coordinator.step()
    (decided,) = coordinator.candidates.all()
    assert (decided.state, sorted(decided.scores)) == ("published", ["alpha", "beta"])
    federation.store.held_back.add(recipe.name, "beta", "stands out")
    message = "has 1 site, expected at least the quorum 2; beta is held back: stands out; delta is held back"
    with pytest.raises(InputError, match=message):
        candidate(federation, coordinator, recipe)


def test_a_candidate_without_a_quorum_is_rejected_at_its_deadline(federation: Any, recipe: Recipe) -> None:
    coordinator = federation.coordinator(collect_s=0.001)
    candidate(federation, coordinator, recipe)
    coordinator.step()
    federation.hospitals["alpha"].answer(state="done", figures={"score": 0.9})
    coordinator.step()
    (asked,) = coordinator.candidates.all()
    assert asked.state == "asked"
    decided = coordinator.candidates.step(asked, time.time() + 4000)
    assert (decided.state, decided.why) == ("rejected", "1 site validated it, expected 2")
