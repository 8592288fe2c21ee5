"""One model of many against plain NumPy definitions, on arrays and on files, and the refusals."""

import json
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from kits import run_python
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedmed_edge.errors import InputError
from fedmed_edge.kernels import (
    RunningMean,
    clip_norm,
    median,
    pairwise_distances,
    trimmed_mean,
    weighted_mean,
)

Array = npt.NDArray[Any]
Array64 = npt.NDArray[np.float64]
Make = Callable[[Any, Any], object]

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
numbers = st.floats(-1e4, 1e4, width=32)


def weighted_mean_definition(models: Array, weights: Sequence[int]) -> Array64:
    return np.average(models.astype(np.float64), axis=0, weights=weights)


def median_definition(models: Array) -> Array:
    return np.median(models.astype(np.float32), axis=0)


def trimmed_mean_definition(models: Array, cut: int) -> Array64:
    return np.sort(models.astype(np.float64), axis=0)[cut : len(models) - cut].mean(axis=0)


def clip_norm_definition(
    models: Array, weights: Sequence[int], reference: Array, max_norm: float
) -> tuple[Array64, Array64]:
    differences = models.astype(np.float64) - reference.astype(np.float64)
    norms = np.linalg.norm(differences, axis=1)
    scales = np.minimum(1, max_norm / np.maximum(norms, 1e-300))
    return reference + np.average(differences * scales[:, None], axis=0, weights=weights), norms


def pairwise_distances_definition(models: Array) -> Array64:
    wide = models.astype(np.float64)
    return np.linalg.norm(wide[:, None] - wide[None], axis=2)


def running_mean_definition(models: Array, weights: Sequence[int]) -> Array64:
    return weighted_mean_definition(models, weights)


@st.composite
def models_and_weights(draw: st.DrawFn) -> tuple[Array, list[int]]:
    models = draw(
        arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 40)), elements=numbers)
    )
    weights = draw(st.lists(st.integers(1, 2**29 - 1), min_size=len(models), max_size=len(models)))
    return models, weights


def made(make: Make, models: Sequence[Array]) -> Array:
    out = np.empty_like(models[0])
    make(list(models), out)
    return out


def random_models(
    count: int, length: int, dtype: npt.DTypeLike = np.float32, scale: float = 1.0
) -> list[Array]:
    rng = np.random.default_rng(count * 1000 + length)
    return [(scale * rng.normal(size=length)).astype(dtype) for _ in range(count)]


# --- definitions -----------------------------------------------------------------------------------------


@given(models_and_weights())
def test_weighted_mean_is_its_definition_rounded_once(problem: tuple[Array, list[int]]) -> None:
    models, weights = problem
    got = made(lambda m, out: weighted_mean(m, weights, out), models)
    total = sum(weights)
    for column, value in zip(models.T, got, strict=True):
        exact = math.fsum(w * float(x) for w, x in zip(weights, column, strict=True)) / total
        assert abs(float(value) - exact) <= np.spacing(np.float32(abs(exact))) / 2 + 1e-11 * abs(column).max()


@given(models_and_weights(), st.data())
def test_no_bit_depends_on_the_order(problem: tuple[Array, list[int]], data: st.DataObject) -> None:
    models, weights = problem
    order = data.draw(st.permutations(range(len(models))))
    turned, turned_weights = models[order], [weights[k] for k in order]
    reference = np.zeros_like(models[0])
    for make, again in (
        (
            lambda m, out: weighted_mean(m, weights, out),
            lambda m, out: weighted_mean(m, turned_weights, out),
        ),
        (median, median),
        (lambda m, out: trimmed_mean(m, 0, out),) * 2,
        (
            lambda m, out: clip_norm(m, weights, out, reference=reference, max_norm=1.0),
            lambda m, out: clip_norm(m, turned_weights, out, reference=reference, max_norm=1.0),
        ),
    ):
        assert made(make, models).tobytes() == made(again, turned).tobytes()
    distances = pairwise_distances(list(models))
    np.testing.assert_array_equal(pairwise_distances(list(turned)), distances[np.ix_(order, order)])


@given(models_and_weights())
def test_median_is_its_definition_bit_by_bit(problem: tuple[Array, list[int]]) -> None:
    models, _ = problem
    np.testing.assert_array_equal(made(median, models), median_definition(models))


@given(models_and_weights(), st.data())
def test_trimmed_mean_is_its_definition(problem: tuple[Array, list[int]], data: st.DataObject) -> None:
    models, _ = problem
    cut = data.draw(st.integers(0, (len(models) - 1) // 2))
    got = made(lambda m, out: trimmed_mean(m, cut, out), models)
    np.testing.assert_allclose(got, trimmed_mean_definition(models, cut), rtol=1e-7, atol=1e-9)


@given(models_and_weights(), st.floats(1e-3, 1e5))
def test_clip_norm_is_its_definition(problem: tuple[Array, list[int]], max_norm: float) -> None:
    models, weights = problem
    reference = models[0] / 2
    out = np.empty_like(reference)
    norms = clip_norm(list(models), weights, out, reference=reference, max_norm=max_norm)
    expected, expected_norms = clip_norm_definition(models, weights, reference, max_norm)
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-6, atol=1e-22)
    # subnormal numbers have few digits
    tolerance = max(1e-6 * np.abs(models).max(), float(np.finfo(np.float32).smallest_subnormal))
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=tolerance)


@given(models_and_weights())
def test_pairwise_distances_are_their_definition(problem: tuple[Array, list[int]]) -> None:
    models, _ = problem
    np.testing.assert_allclose(
        pairwise_distances(list(models)), pairwise_distances_definition(models), rtol=1e-6, atol=1e-21
    )


@given(models_and_weights(), st.data())
def test_running_mean_is_its_definition_and_forgets(
    problem: tuple[Array, list[int]], data: st.DataObject
) -> None:
    models, weights = problem
    mean, other = (RunningMean(models.shape[1], bound=1e4) for _ in range(2))
    guest = data.draw(arrays.arrays(np.float32, models.shape[1], elements=numbers))
    other.add(guest, 12345)
    for k in data.draw(st.permutations(range(len(models)))):
        other.add(models[k], weights[k])
    for model, weight in zip(models, weights, strict=True):
        mean.add(model, weight)
    other.remove(guest, 12345)
    out, again = np.empty(models.shape[1], np.float32), np.empty(models.shape[1], np.float32)
    mean.result(out)
    other.result(again)
    assert out.tobytes() == again.tobytes()
    # Half a multiple of bound · 2⁻²² a model, over the weight of all.
    bound = len(models) * 2.0**14 * 2.0**-22 / sum(weights)
    np.testing.assert_allclose(out, running_mean_definition(models, weights), rtol=1e-7, atol=bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 3, 16, 40])
def test_half_precision_is_computed_in_single(dtype: npt.DTypeLike, count: int) -> None:
    models = random_models(count, 5003, dtype)
    models[0][:3] = [0, 6e-8, -1e-5]
    stacked = np.stack(models)
    weights = list(range(1, count + 1))
    mean = weighted_mean_definition(stacked, weights).astype(np.float32).astype(dtype)
    np.testing.assert_array_equal(made(lambda m, out: weighted_mean(m, weights, out), models), mean)
    middle = median_definition(stacked).astype(dtype)
    np.testing.assert_array_equal(made(median, models), middle)


@pytest.mark.parametrize("count", [5, 30])
def test_what_is_not_finite_is_refused_or_propagated(count: int) -> None:
    models = random_models(count, 3000)
    clean = made(median, models)
    models[2][7], models[1][9] = np.nan, np.inf
    message = r"^median: `sources\[2\]` at index 7 has nan, expected finite values$"
    with pytest.raises(ValueError, match=message):
        made(median, models)
    got = made(lambda m, out: median(m, out, nan="propagate"), models)
    np.testing.assert_array_equal(got[[7, 9]], np.median(np.stack(models)[:, [7, 9]], axis=0))
    np.testing.assert_array_equal(np.delete(got, [7, 9]), np.delete(clean, [7, 9]))
    mean = made(lambda m, out: weighted_mean(m, [1] * count, out, nan="propagate"), models)
    assert np.isnan(mean[7]) and np.isposinf(mean[9]) and np.isfinite(np.delete(mean, [7, 9])).all()


def test_close_models_keep_their_distance() -> None:
    models = random_models(1, 20000, scale=0.05)
    models.append(models[0] + np.random.default_rng(0).normal(0, 1e-5, 20000).astype(np.float32))
    expected = pairwise_distances_definition(np.stack(models))
    np.testing.assert_allclose(pairwise_distances(models), expected, rtol=1e-6)


# --- files -----------------------------------------------------------------------------------------------


def state(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.normal(size=(7, 3, 5)).astype(np.float32),
        "norm.weight": rng.normal(size=3).astype(np.float16),
        "norm.steps": np.array(10 + seed, np.int64),
        "empty": np.empty((0, 4), np.float32),
        "large": rng.normal(size=(300, 301)).astype(np.float32),
    }


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(5)]
    for seed, path in enumerate(paths):
        save_file(state(seed), path)
    return paths


def test_files_give_what_their_tensors_give(files: list[Path], tmp_path: Path) -> None:
    weights = [3, 1, 4, 1, 5]
    makes: dict[str, Make] = {
        "mean": lambda m, out: weighted_mean(m, weights, out),
        "median": median,
        "trimmed": lambda m, out: trimmed_mean(m, 1, out),
    }
    for name, make in makes.items():
        make(files, tmp_path / name)
        got = load_file(tmp_path / name)
        assert got.keys() == state(0).keys()
        assert got["norm.steps"] == 14
        for tensor in ("conv.weight", "norm.weight", "large"):
            expected = made(make, [state(seed)[tensor].ravel() for seed in range(5)])
            assert got[tensor].tobytes() == expected.tobytes()
            assert got[tensor].shape == state(0)[tensor].shape


def test_clip_norm_and_distances_of_files(files: list[Path], tmp_path: Path) -> None:
    flat = np.stack(
        [
            np.concatenate([state(s)[t].ravel() for t in ("conv.weight", "norm.weight", "large")])
            for s in range(5)
        ]
    )
    np.testing.assert_allclose(pairwise_distances(files), pairwise_distances_definition(flat), rtol=1e-6)
    norms = clip_norm(files, [1] * 5, tmp_path / "out", reference=files[0], max_norm=100)
    expected, expected_norms = clip_norm_definition(flat, [1] * 5, flat[0], 100)
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-6)
    got = load_file(tmp_path / "out")["large"].ravel()
    np.testing.assert_allclose(got, expected[-got.size :], rtol=1e-5, atol=1e-6)


def test_no_bit_depends_on_the_order_of_files_or_of_their_tensors(files: list[Path], tmp_path: Path) -> None:
    weighted_mean(files, [1, 2, 3, 4, 5], tmp_path / "a")
    # The same tensors where another writer would put them.
    content = {name: state(0)[name] for name in reversed(state(0))}
    header, data = {}, b""
    for name, tensor in content.items():
        dtype = {"float32": "F32", "float16": "F16", "int64": "I64"}[tensor.dtype.name]
        offsets = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        data += tensor.tobytes()
    text = json.dumps(header).encode() + b" "
    files[0].write_bytes(len(text).to_bytes(8, "little") + text + data)
    weighted_mean([files[k] for k in (3, 0, 4, 2, 1)], [4, 1, 5, 3, 2], tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_refusal_names_file_and_tensor_and_leaves_no_file(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    content = state(3)

    def refused(match: str) -> None:
        save_file(content, files[3])
        with pytest.raises(InputError, match=match):
            weighted_mean(files, [1] * 5, out)
        assert not out.exists()
        assert not list(tmp_path.glob(".part-*"))

    content["large"][5, 6] = np.nan
    refused(r"`.*3\.safetensors` in tensor `large` at index 1511 has nan, expected finite values$")
    content["large"] = np.zeros((301, 300), np.float32)
    refused(r"3\.safetensors: tensor `large` has F32 \(301, 300\), expected F32 \(300, 301\)$")
    content["large"] = np.zeros((300, 301), np.float16)
    refused(r"3\.safetensors: tensor `large` has F16 \(300, 301\)")
    content["large"] = np.zeros((300, 301), np.float64)
    refused(r"3\.safetensors: tensor `large` has dtype F64, expected F32, F16, BF16 or I64$")
    del content["large"]
    refused(r"3\.safetensors: lacks tensor `large` of the first$")
    content = state(3) | {"more": np.zeros(1, np.float32)}
    refused(r"3\.safetensors: tensor `more` is not in the first$")


def test_what_is_no_file_of_tensors_is_refused(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match):
            median(files, out)

    files[2].write_bytes(b"")
    refused(r"2\.safetensors: has 0 bytes, expected a safetensors file$")
    files[2].write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    refused(r"2\.safetensors: header has 1099511627776 bytes, expected at most 2$")
    files[2].unlink()
    refused(r"2\.safetensors: cannot be read: No such file")
    os.mkfifo(files[2])
    refused(r"2\.safetensors: is no file$")
    files[2].unlink()
    files[2].mkdir()
    refused(r"2\.safetensors: is no file$")


def test_damaged_headers_are_refused_as_the_library_refuses_them(tmp_path: Path) -> None:
    good = tmp_path / "good"
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}, good)
    content = good.read_bytes()
    rng = np.random.default_rng(0)
    damaged, out = tmp_path / "damaged", tmp_path / "out"
    for _ in range(600):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(0, len(content) - 32)] = rng.choice(list(b'{}[]",:0123456789 ab\x00\xff'))
        damaged.write_bytes(changed[: rng.integers(len(changed) - 3, len(changed) + 1)])
        try:
            median([damaged], out)
        except InputError:
            continue
        try:
            read = load_file(damaged)
        except SafetensorError as error:  # no file of ours may be more lenient
            raise AssertionError(bytes(changed)) from error
        for name, tensor in load_file(out).items():
            np.testing.assert_array_equal(tensor, read[name])


def test_a_file_that_is_cut_off_during_the_pass_is_named(tmp_path: Path) -> None:
    values = np.ones(5_000_000, np.float32)
    paths = [tmp_path / f"{k}.safetensors" for k in range(4)]
    for path in paths:
        save_file({"a": values}, path)
    size, ended = paths[3].stat().st_size, threading.Event()

    def cut() -> None:
        # As soon as some of the result is written.
        while not ended.is_set() and not any(part.stat().st_size > 1000 for part in tmp_path.glob(".part-*")):
            pass
        os.truncate(paths[3], 4096)

    for _ in range(50):
        os.truncate(paths[3], size)
        ended.clear()
        cutting = threading.Thread(target=cut)
        cutting.start()
        try:
            weighted_mean(paths, [1] * 4, tmp_path / "out")
        except InputError as error:
            assert str(error) == f"{paths[3]}: was cut off while it was read"
            return
        finally:
            ended.set()
            cutting.join()
    pytest.fail("the file was read before it was cut off, 50 times")


def test_an_older_file_stays_when_the_new_one_fails(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with pytest.raises(InputError, match="cannot be read"):
        median([*files, tmp_path / "missing"], out)
    assert out.read_bytes() == b"old"
    with pytest.raises(InputError, match="cannot be written"):
        median(files, tmp_path / "no folder" / "out")


MEMORY = """
import sys
from pathlib import Path
from fedmed_edge.kernels import weighted_mean, median, pairwise_distances
folder = Path(sys.argv[1])
paths = sorted(folder.glob("*.safetensors"))
Path("/proc/self/clear_refs").write_text("5")
status = lambda field: next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(field))
before = status("VmRSS")
weighted_mean(paths, [1] * len(paths), folder / "out")
median(paths, folder / "out")
pairwise_distances(paths)
print((status("VmHWM") - before) // 1024)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=10_000_000).astype(np.float32)
    for k in range(4):
        save_file({"a": values[:4_000_001], "b": values[4_000_001:]}, tmp_path / f"{k}.safetensors")
    said = run_python(MEMORY, tmp_path, environment=os.environ | {"FEDMED_THREADS": "2"})
    # Four files of 40 MB each.
    assert int(said) <= 100


def test_memory_does_not_grow_with_the_number_of_models(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=600_000).astype(np.float32)
    save_file({"a": values}, tmp_path / "0.safetensors")
    for k in range(1, 200):
        (tmp_path / f"{k}.safetensors").hardlink_to(tmp_path / "0.safetensors")
    # Files of 2.4 MB; half of the 128 descriptors serve them, the rest is opened again and again.
    limited = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (128, r.getrlimit(r.RLIMIT_NOFILE)[1]))\n"
    said = run_python(limited + MEMORY, tmp_path, environment=os.environ | {"FEDMED_THREADS": "2"})
    assert int(said) <= 100


# --- refusals --------------------------------------------------------------------------------------------


def refused(match: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    two = random_models(2, 6)
    out = np.empty(6, np.float32)
    refused(r"^weighted_mean: `weights` has 1 elements, expected 2$", lambda: weighted_mean(two, [1], out))
    refused(r"`weights` has -1, expected 0 to 536870911$", lambda: weighted_mean(two, [1, -1], out))
    refused(r"`weights` has sum 0, expected at least 1$", lambda: weighted_mean(two, [0, 0], out))
    refused(r"^trimmed_mean: `cut` has 1, expected at most 0", lambda: trimmed_mean(two, 1, out))
    refused(r"^trimmed_mean: `cut` has -1, expected at least 0$", lambda: trimmed_mean(two, -1, out))
    refused(r"^aggregation: `sources` has 0 models, expected 1 to 1024$", lambda: median([], out))
    refused(r"`sources` has 1025 models, expected 1 to 1024$", lambda: median([two[0]] * 1025, out))
    refused(r"`sources\[1\]` has 5 elements, expected 6$", lambda: median([two[0], two[1][:5]], out))
    refused(r"`sources\[0\]` has dtype float64", lambda: median([two[0].astype(np.float64)], out))
    half = two[1].astype(np.float16)
    refused(r"`sources\[1\]` has dtype float16, expected that of", lambda: median([two[0], half], out))
    refused(r"`sources\[0\]` has strides", lambda: median([np.zeros(12, np.float32)[::2]], out))
    refused(r"`sources\[0\]` has shape \(2, 3\)", lambda: median([two[0].reshape(2, 3)], out))
    refused(r"^median: `out` has 5 elements, expected 6$", lambda: median(two, out[:5]))
    refused(r"^aggregation: `weights` has 1.5, expected whole", lambda: weighted_mean(two, [1.5, 1], out))  # type: ignore[list-item]
    refused(r"^aggregation: `weights` has 1180591\d+, expected", lambda: weighted_mean(two, [2**70, 1], out))
    nothing: Any = None
    refused(
        r"^median: `sources\[1\]` is a NoneType, expected a path or", lambda: median([two[0], nothing], out)
    )
    refused(r"^median: `out` is no array, expected one as", lambda: median(two, nothing))
    one: Any = 1
    refused(r"^median: `out` is no array, expected one as", lambda: median(two, one))  # not descriptor 1
    refused(r"^median: `nan` has `ignore`", lambda: median(two, out, nan="ignore"))  # type: ignore[arg-type]
    refused(r"^aggregation: `out` has another kind", lambda: median(two, tmp_path / "out"))
    mixed: list[Any] = [two[0], tmp_path / "a"]
    refused(r"^aggregation: `sources` has files and arrays", lambda: median(mixed, tmp_path / "out"))
    out.setflags(write=False)
    refused(r"^median: `out` is read-only", lambda: median(two, out))
    part: Any = 0.5
    refused(r"^trimmed_mean: `cut` has 0.5, expected a whole number$", lambda: trimmed_mean(two, part, out))


def test_an_error_of_the_reference_names_it(files: list[Path], tmp_path: Path) -> None:
    two = random_models(2, 6)

    def clip(reference: Any, match: str, max_norm: float = 1.0) -> None:
        out = np.empty(6, np.float32)
        refused(match, lambda: clip_norm(two, [1, 1], out, reference=reference, max_norm=max_norm))

    clip(two[0], r"^clip_norm: `max_norm` has -1", max_norm=-1)
    clip(two[0][:5], r"^clip_norm: `reference` has F32 \(5,\), expected F32 \(6,\)$")
    clip(two[0] * np.inf, r"^clip_norm: `reference` at index 0 has -?inf, expected finite values$")
    clip(np.stack(two), r"^clip_norm: `reference` has shape \(2, 6\), expected 1 axis$")
    clip(None, r"^clip_norm: `reference` is a NoneType, expected a path or an array$")
    for change, said in (
        (lambda content: content.pop("large"), r"reference: lacks tensor `large` of the first$"),
        (
            lambda content: content.update(large=np.full((300, 301), np.nan, np.float32)),
            r"reference` in tensor `large` at index 0 has nan, expected finite values$",
        ),
    ):
        content = state(0)
        change(content)
        save_file(content, tmp_path / "reference")
        with pytest.raises(InputError, match=said):
            clip_norm(files, [1] * 5, tmp_path / "out", reference=tmp_path / "reference", max_norm=1.0)


def test_a_running_mean_refuses_and_is_then_as_it_was() -> None:
    mean = RunningMean(2, bound=10)
    out = np.empty(2, np.float32)
    refused(r"^running_mean: has weight 0, expected at least 1$", lambda: mean.result(out))
    mean.add(np.array([1, 2], np.float32), 5)
    refused(r"`values` has one beyond 10.0+ at index 1", lambda: mean.add(np.array([1, 11], np.float32), 1))
    refused(
        r"`values` has one beyond 10.0+ at index 0", lambda: mean.add(np.array([np.nan, 1], np.float32), 1)
    )
    refused(
        r"`weight` has 0, expected a whole number of at least 1$",
        lambda: mean.add(np.zeros(2, np.float32), 0),
    )
    half: Any = 0.5
    refused(r"^running_mean: `weight` has 0.5, expected", lambda: mean.add(np.zeros(2, np.float32), half))
    refused(r"`weight` has 536870912", lambda: mean.add(np.zeros(2, np.float32), 2**29))
    refused(r"`weight` has 6, expected at most the 5 in it$", lambda: mean.remove(np.zeros(2, np.float32), 6))
    refused(r"`values` has 3 elements, expected 2$", lambda: mean.add(np.zeros(3, np.float32), 1))
    mean.result(out)
    assert out.tolist() == [1, 2]
    # Of a long one some of it is added before the wrong value is met.
    long, wide = RunningMean(300_000, bound=10), np.linspace(-9, 9, 300_000, dtype=np.float32)
    long.add(wide, 3)
    before, after = np.empty_like(wide), np.empty_like(wide)
    long.result(before)
    for wrong in (np.nan, 10.1, -np.inf):
        bad = wide[::-1].copy()
        bad[[123_456, 299_999]] = wrong
        refused(r"`values` has one beyond 10.0+ at index 123456, expected", lambda bad=bad: long.add(bad, 7))
    long.result(after)
    assert before.tobytes() == after.tobytes()
    wild = RunningMean(1, bound=1e300)
    refused(r"^running_mean: `bound` has 1", lambda: wild.add(np.zeros(1, np.float32), 1))


def test_out_is_a_source_or_apart_from_all() -> None:
    values = random_models(1, 9)[0]
    expected = made(median, [values[:6], values[:6]])
    median([values[:6], values[:6].copy()], values[:6])
    np.testing.assert_array_equal(values[:6], expected)
    refused(
        r"^aggregation: `out` overlaps `sources\[1\]`, expected it apart or the same$",
        lambda: median([np.zeros(6, np.float32), values[:6]], values[1:7]),
    )
    refused(
        r"^aggregation: `out` overlaps `reference`",
        lambda: clip_norm([np.zeros(6, np.float32)], [1], values[1:7], reference=values[:6], max_norm=1.0),
    )


def test_paths_that_are_none_are_refused(files: list[Path], tmp_path: Path) -> None:
    texts: Any = [str(path) for path in files]
    refused(r"^aggregation: `sources\[0\]` is a str, expected a Path or", lambda: pairwise_distances(texts))
    refused(r"^aggregation: `sources\[0\]` is a str", lambda: median(texts, np.empty(6, np.float32)))
    refused(
        r"^clip_norm: `reference` has another kind than `out`",
        lambda: clip_norm(files, [1] * 5, tmp_path / "out", reference=np.zeros(1, np.float32), max_norm=1.0),
    )
    for name in ("a\0b", "\udcff"):
        with pytest.raises(InputError, match=r"^aggregation: `sources\[1\]` has path '.*', expected UTF-8"):
            median([files[0], Path(name)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_threads_that_add_to_one_running_mean_take_turns() -> None:
    mean, model, out = (
        RunningMean(500_000, bound=10),
        np.ones(500_000, np.float32),
        np.empty(500_000, np.float32),
    )

    def add() -> None:
        for _ in range(10):
            mean.add(model, 1)

    adding = [threading.Thread(target=add) for _ in range(4)]
    for thread in adding:
        thread.start()
    for thread in adding:
        thread.join()
    mean.result(out)
    assert (out == 1).all()
