"""What the server asked for: what goes on from round to round of a training, and what noise it spends."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Raster

from fedmed_edge.config import SiteConfig, write_config
from fedmed_edge.errors import InputError
from fedmed_edge.features import private_training
from fedmed_edge.features.generations import from_backbone
from fedmed_edge.features.weights import read_backbone, write_backbone
from fedmed_edge.federation.asked import Asked, Duty
from fedmed_edge.federation.duties import work
from fedmed_edge.federation.messages import Report
from fedmed_edge.federation.outbox import Outbox
from fedmed_edge.federation.records import write_record
from fedmed_edge.federation.releases import Releases
from fedmed_edge.generation import Generation
from fedmed_edge.local_training import NORMS
from fedmed_edge.recipe import Backbone, Recipe, Training, write_recipe
from fedmed_edge.statistics.contribution import read_contribution


def test_norm_layers_begin_anew_with_a_training_and_go_on_in_its_rounds(
    federation: Any, recipe: Recipe, tmp_path: Path
) -> None:
    alpha = federation.hospitals["alpha"]
    small = {"backbone": Backbone(widths=(4, 8)), "training": Training(local_norms=True)}
    local = recipe.model_copy(update=small)
    config, draft = hospital_that_trains(federation, local, tmp_path / "data")
    norms, asked = alpha.folder / NORMS, {"recipe": local.digest, "generation": draft.digest, "epochs": 0.1}
    norms.write_bytes(b"cut off with the training before")
    mean = tmp_path / "mean"
    write_backbone(mean, {name: value * 0 + 5 for name, value in draft.weights.items()}, local)
    fives = federation.offers.publish(mean, federation.key, kind="backbone").digest

    def norms_after(purpose: str, **more: str) -> Any:
        federation.requests.make("alpha", purpose, kind="train", deadline=0, **asked, **more)
        federation.sync("alpha")
        (report,) = work(alpha.folder, config)
        assert report.state == "done", report
        return read_backbone(norms).weights

    def far(one: Any, other: Any) -> float:
        return max(float(np.abs(value - other[name]).max()) for name, value in one.items())

    for training in ("a" * 32, None):  # an older server does not say which training it is
        told = {"training": training} if training else {}
        first = norms_after(f"first of {training}", **told)
        second = norms_after(f"second of {training}", object=fives, **told)
        assert first and far(first, draft.weights) < 0.5 and far(second, first) < 0.5
    # in another training from the same generation, whose first round it missed, the site has none
    late = norms_after("second of another", object=fives, training="b" * 32)
    assert far(late, {name: value * 0 + 5 for name, value in late.items()}) < 0.5
    assert far(norms_after("third of it", object=fives, training="b" * 32), late) < 0.5


def hospital_that_trains(federation: Any, recipe: Recipe, data: Path) -> tuple[Any, Generation]:
    """The settings of alpha, who may train on forty images, and what it trains from."""
    alpha, draft = federation.hospitals["alpha"], from_backbone(None, recipe)
    for name in recipe.classes:
        (data / name).mkdir(parents=True)
        for index in range(20):
            pixels = np.random.default_rng(index).integers(0, 255, (32, 32), np.uint8)
            Raster.fromarray(pixels).save(data / name / f"{index}.png")
    rules = alpha.config.federation.model_copy(update={"may_train": True})
    told = {"recipe": alpha.folder / "recipe.toml", "data": data, "device": "cpu", "federation": rules}
    write_recipe(alpha.folder / "recipe.toml", recipe)
    federation.offers.publish(draft.content, federation.key, kind="generation")
    return alpha.config.model_copy(update=told), draft


def hospital_with_noise(
    federation: Any, recipe: Recipe, data: Path, *, budget: float
) -> tuple[Any, dict[str, Any]]:
    """The settings of alpha, whose policy asks for noise, and what an epoch of training is asked by."""
    small = recipe.model_copy(update={"backbone": Backbone(widths=(4, 8))})
    config, draft = hospital_that_trains(federation, small, data)
    noise = {"epsilon": 8.0, "budget": budget, "delta": 1e-3, "sampling": 0.5}
    config = config.model_copy(update={"policy": config.policy.model_copy(update=noise)})
    return config, {"recipe": small.digest, "generation": draft.digest, "epochs": 1.0}


def test_where_the_policy_asks_for_noise_the_agent_trains_with_it_until_the_budget_is_spent(
    federation: Any, recipe: Recipe, tmp_path: Path
) -> None:
    pytest.importorskip("dp_accounting")
    alpha = federation.hospitals["alpha"]
    config, asked = hospital_with_noise(federation, recipe, tmp_path / "data", budget=9.0)
    report, parcels = Report(request="0" * 32, state="done"), Outbox(alpha.folder / "outbox")
    done = 0
    while report.state == "done" and done < 5:
        made = federation.requests.make("alpha", f"round {done}", kind="train", deadline=0, **asked)
        federation.sync("alpha")
        (report,) = work(alpha.folder, config)
        # killed before it wrote down its answer, it trains no second time
        write_record(alpha.folder / "requests" / f"{made.ask.id}.json", Duty(ask=made.ask))
        assert work(alpha.folder, config) == [report]
        for parcel in parcels.all()[done:]:
            done += 1
            header = read_contribution(parcels.path(parcel.digest)).header
            assert header.parts == ("weights",) and not header.evidence.images and not header.evidence.metrics
            assert header.privacy is not None and header.privacy.steps == 2
    assert 1 <= done < 5 and (report.state, report.why) == ("refused", "policy")
    stands = Releases(alpha.folder).spent(config.policy)
    assert (stands.trainings, stands.exact) == (done, 0) and 7.9 < stands.epsilon <= 9


KILLED = """
import os, signal, sys
from pathlib import Path
from fedmed_edge.features import private_training
from fedmed_edge.federation.engine.processes import work_once
private_training.noisy_gradient = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
work_once(Path(sys.argv[1]))
"""


def killed(folder: Path, config: SiteConfig, script: str = KILLED) -> None:
    """Begin what is asked in a process that is killed in the first step, or as the script says."""
    write_config(folder / "fedmed.toml", config)
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", script, folder], env=quiet, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("end", ["killed", "failed"])
def test_a_training_with_noise_that_comes_to_nothing_is_begun_once_a_request(
    federation: Any,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    end: str,
) -> None:
    pytest.importorskip("dp_accounting")
    alpha = federation.hospitals["alpha"]
    config, asked = hospital_with_noise(federation, recipe, tmp_path / "data", budget=100.0)

    def begun(purpose: str) -> str:
        made = federation.requests.make("alpha", purpose, kind="train", deadline=0, **asked)
        federation.sync("alpha")
        return str(made.ask.id)

    def trainings() -> list[str]:
        return [one.request for one in Releases(alpha.folder).lines if one.state == "trained"]

    first, why = begun("round"), "could not be done: InputError"
    if end == "killed":
        killed(alpha.folder, config)
        assert [duty.state for duty in Asked(alpha.folder / "requests").all()] == ["open"]
        assert trainings() == [first]
        assert work(alpha.folder, config) == [Report(request=first, state="failed", why=why)]
        assert "noise: was drawn for this before, and what came of it is gone" in caplog.text
    else:
        with monkeypatch.context() as patched:
            patched.setattr(private_training, "noisy_gradient", fail)
            assert work(alpha.folder, config) == [Report(request=first, state="failed", why=why)]
    assert "not begun again" in caplog.text and "admin may ask anew, which spends as much" in caplog.text
    assert work(alpha.folder, config) == [] and trainings() == [first]
    federation.sync("alpha")
    assert federation.requests.read("alpha", first).report.state == "failed"

    federation.requests.forget_undone("round")
    second = begun("round")
    (report,) = work(alpha.folder, config)
    assert report.state == "done" and trainings() == [first, second] and first != second


def fail(*_: object) -> list[float]:
    raise InputError("/secret/image.png: cannot be read")


LEFT_NOTHING = """
import os, signal, sys
from pathlib import Path
from fedmed_edge.federation.engine.processes import work_once
from fedmed_edge.federation.outbox import Outbox
Outbox.add = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
work_once(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("end", ["killed", "full"])
def test_noise_on_sums_is_drawn_once_a_request(
    federation: Any, recipe: Recipe, generation: Generation, tmp_path: Path, end: str
) -> None:
    """However often the disk is too full for what was drawn, or the process killed before it lies there."""
    pytest.importorskip("dp_accounting")
    alpha = federation.hospitals["alpha"]
    config, _ = hospital_that_trains(federation, recipe, tmp_path / "data")
    measured = replace(generation, reference_mean=np.zeros(2), reference_covariance=np.eye(2))
    federation.offers.publish(measured.content, federation.key, kind="generation")
    noise = {"epsilon": 8.0, "budget": 100.0, "delta": 1e-3}
    rules = config.federation.model_copy(update={"may_contribute": True})
    policy = config.policy.model_copy(update=noise)
    config = config.model_copy(update={"policy": policy, "federation": rules})

    def begun(purpose: str) -> str:
        asked = {"recipe": recipe.digest, "generation": measured.digest}
        made = federation.requests.make("alpha", purpose, kind="contribute", deadline=0, **asked)
        federation.sync("alpha")
        return str(made.ask.id)

    first, outbox = begun("sums"), alpha.folder / "outbox"
    why = "could not be done: " + ("Unwritable" if end == "full" else "InputError")
    failed = Report(request=first, state="failed", why=why)
    if end == "killed":
        killed(alpha.folder, config, LEFT_NOTHING)
        assert work(alpha.folder, config) == [failed]
    else:
        outbox.write_text("in the way")
        assert work(alpha.folder, config) == [failed]
        outbox.unlink()
    assert work(alpha.folder, config) == []
    assert [one.request for one in Releases(alpha.folder).lines] == [first]
    assert Releases(alpha.folder).spent(config.policy).epsilon == pytest.approx(8.0)

    federation.sync("alpha")
    federation.requests.forget_undone("sums")
    second = begun("sums")
    (report,) = work(alpha.folder, config)
    assert report.state == "done"
    assert [one.request for one in Releases(alpha.folder).lines] == [first, second]
    assert [one.request for one in alpha.outbox.all()] == [second]
