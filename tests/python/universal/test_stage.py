import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.features.encoder import Encoder
from fedmed_edge.features.encoder_export import export_encoder
from fedmed_edge.features.publish import draft_generation
from fedmed_edge.recipe import Backbone
from fedmed_edge.universal import stage
from fedmed_edge.universal.pool import Pool, pool_recipe, read_pool
from fedmed_edge.universal.stage import Learned, Plan, learn


class Killed(BaseException):
    """As a signal would: nothing catches it."""


def learned(pool: Pool, make: SimpleNamespace, teachers: int = 0, **fields: Any) -> Learned:
    models = [make.local_model(name, seed) for seed, name in enumerate("abcde"[:teachers], start=11)]
    options = {name: fields.pop(name) for name in ("checkpoint", "save_s", "progress") if name in fields}
    plan = Plan(**({"steps": 12, "batch": 16} | fields))
    start = make.local_model("start", 1).weights
    return learn(pool, make.recipe, start, models, plan, device="cpu", **options)


def same(one: Learned, other: Learned) -> bool:
    return all(np.array_equal(value, other.weights[name]) for name, value in one.weights.items())


def rows_of(weights: Any, pool: Pool, make: SimpleNamespace) -> np.ndarray:
    """Pooled features of every image, by the encoder that hospitals run."""
    encoder = Encoder(draft_generation(make.recipe, weights), "cpu")
    maps = [encoder.maps(pool.pixels(index)) for index in range(len(pool))]
    return np.array([np.concatenate([one.mean(axis=(1, 2)) for one in image]) for image in maps], np.float64)


def unexplained(own: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the variance that ridge regression, fitted on one half of the images, misses on the other."""
    half, moving = len(own) // 2, wanted.std(axis=0) > 1e-4
    wanted = ((wanted - wanted.mean(axis=0)) / wanted.std(axis=0).clip(1e-4))[:, moving]
    own = np.hstack([(own - own.mean(axis=0)) / (own.std(axis=0) + 1e-6), np.ones((len(own), 1))])
    gram = own[:half].T @ own[:half] + 0.5 * np.eye(own.shape[1])
    solved = np.linalg.solve(gram, own[:half].T @ wanted[:half])
    return float(((own[half:] @ solved - wanted[half:]) ** 2).mean())


def test_stage_0_learns_to_see_what_is_hidden(pool: Pool, make: SimpleNamespace) -> None:
    told: list[str] = []
    made = learned(pool, make, steps=40, progress=told.append)
    assert made.mim.shape == (40,) and made.missed.shape == (40, 0) and made.explained() == {}
    assert made.mim[-5:].mean() < 0.6 * made.mim[:5].mean()
    assert len(told) == 40 and told[0].startswith("MIM ") and "distillation" not in told[0]


def test_a_stage_brings_local_models_nearer_by_an_independent_measure(
    pool: Pool, make: SimpleNamespace, tmp_path: Path
) -> None:
    other = read_pool(make.draw(tmp_path / "other", 300, seed=5), pool.recipe)
    made = learned(pool, make, 2, steps=120, merge="none")
    assert made.teachers == ("a/shapes", "b/shapes")
    assert made.missed[-5:].mean() < 0.85 * made.missed[:5].mean()
    assert all(0 < share < 1 for share in made.explained().values())
    before = rows_of(make.local_model("start", 1).weights, other, make)
    after = rows_of(made.weights, other, make)
    for seed in (11, 12):
        wanted = rows_of(make.local_model("x", seed).weights, other, make)
        told = unexplained(before, wanted), unexplained(after, wanted)
        assert told[1] < 0.92 * told[0], told


def test_a_stage_starts_from_the_merged_models(pool: Pool, make: SimpleNamespace) -> None:
    for rule in ("mean", "gram", "krum"):
        made = learned(pool, make, 3, steps=1, merge=rule)
        assert not same(made, learned(pool, make, 3, steps=1, merge="none"))
    one = learned(pool, make, 1, steps=2)
    assert one.missed[0].max() < 0.05  # the only teacher is where it starts from


@pytest.mark.parametrize("teachers", [0, 2])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    pool: Pool, make: SimpleNamespace, tmp_path: Path, teachers: int
) -> None:
    whole, path = learned(pool, make, teachers), tmp_path / "checkpoint"
    left = iter([5, 1, 9, 50])
    counted = 0

    def kill(_: str) -> None:
        nonlocal counted
        counted -= 1
        if counted == 0:
            raise Killed

    runs = 0
    while True:
        counted, runs = next(left), runs + 1
        try:
            made = learned(pool, make, teachers, checkpoint=path, save_s=0.0, progress=kill)
            break
        except Killed:
            continue
    assert runs == 3 and same(whole, made)
    np.testing.assert_array_equal(whole.mim, made.mim)
    np.testing.assert_array_equal(whole.missed, made.missed)
    encoders = [export_encoder(_backbone(make, one), make.recipe) for one in (whole, made)]
    assert encoders[0] == encoders[1]


def test_the_seconds_of_runs_that_were_killed_count(
    pool: Pool, make: SimpleNamespace, tmp_path: Path
) -> None:
    steps = 0

    def slow_then_kill(_: str) -> None:
        nonlocal steps
        steps += 1
        time.sleep(0.5)
        if steps == 2:
            raise Killed

    options: Any = {"steps": 4, "checkpoint": tmp_path / "c", "save_s": 0.0}
    with pytest.raises(Killed):
        learned(pool, make, progress=slow_then_kill, **options)
    began = time.perf_counter()
    made = learned(pool, make, **options)
    assert made.seconds > time.perf_counter() - began + 0.4


def _backbone(make: SimpleNamespace, made: Learned) -> Any:
    from fedmed_edge.features.backbones import backbone_of, set_state

    backbone = backbone_of(make.recipe)
    set_state(backbone, made.weights)
    return backbone


def test_a_finished_stage_is_not_made_again(
    pool: Pool, make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = learned(pool, make, checkpoint=tmp_path / "c")
    monkeypatch.setattr(stage._Learner, "_step", None)
    assert same(made, learned(pool, make, checkpoint=tmp_path / "c"))


def test_a_checkpoint_of_another_stage_or_none_at_all_begins_anew(
    pool: Pool, make: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "c"
    plain = learned(pool, make, seed=3)
    learned(pool, make, checkpoint=path)
    assert same(plain, learned(pool, make, seed=3, checkpoint=path))
    for content in (b"", b"no checkpoint", path.read_bytes()[:400]):
        path.write_bytes(content)
        assert same(plain, learned(pool, make, seed=3, checkpoint=path))


def test_the_seed_decides_everything(pool: Pool, make: SimpleNamespace) -> None:
    import torch

    before = torch.random.get_rng_state().clone()
    one, again, other = (learned(pool, make, steps=3, seed=seed) for seed in (7, 7, 8))
    assert same(one, again) and not same(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_of_a_pass_come_once_each() -> None:
    drawn = [stage._nth(10, 3, place) for place in range(30)]
    assert all(sorted(drawn[start : start + 10]) == list(range(10)) for start in (0, 10, 20))
    assert drawn[:10] != drawn[10:20]


def test_volumes_and_transformers_learn_too(make: SimpleNamespace, tmp_path: Path) -> None:
    import nibabel

    random = np.random.default_rng(0)
    for index in range(8):
        voxels = random.normal(size=(12, 11, 10)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{index}.nii.gz")
    values = make.recipe.model_dump() | {"size": (8, 8, 8), "spacing_mm": (1.0, 1.0, 1.0)}
    volume = type(make.recipe)(**values)
    made = learn(
        read_pool(tmp_path, pool_recipe([volume])),
        volume,
        None,
        [make.local_model("a", 1, volume)],
        Plan(2),
        device="cpu",
    )
    assert np.isfinite(made.mim).all() and made.missed.shape == (2, 1)
    vit = Backbone(
        network="ViT",
        arguments={"hidden_size": 12, "mlp_dim": 24, "num_layers": 2, "num_heads": 2, "patch_size": 8},
    )
    colour = make.recipe.model_copy(update={"backbone": vit, "channels": 3})
    pool = read_pool(make.draw(tmp_path / "flat", 9), pool_recipe([colour]))
    made = learn(pool, colour, None, [make.local_model("a", 1, colour)], Plan(2, "gram"), device="cpu")
    assert np.isfinite(made.missed).all()


def test_refusals(pool: Pool, make: SimpleNamespace) -> None:
    other = make.local_model("b", 1, make.recipe.model_copy(update={"backbone": Backbone(widths=(8, 16))}))
    with pytest.raises(InputError, match=r"stage: the local model of `b/shapes`: .* has shape"):
        learn(pool, make.recipe, None, [other], Plan(1), device="cpu")
    with pytest.raises(InputError, match=r"stage: the generation: .* has shape"):
        learn(pool, make.recipe, other.weights, [], Plan(1), device="cpu")
    with pytest.raises(DeviceError, match="`device` has tpu"):
        learn(pool, make.recipe, None, [], Plan(1), device="tpu")
    wild = make.local_model("wild", 1)
    wild.weights["net.stem.0.weight"][:] = 1e38
    with pytest.raises(InputError, match="not finite"):
        learn(pool, make.recipe, None, [wild], Plan(1, "none"), device="cpu")
