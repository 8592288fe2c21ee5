"""Aggregation of K models against the servers' own code, on arrays and on files."""

import importlib
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
State = list[Array]

# Elements of the tensors of a ResNet-50 (25.6 M) and of a ViT-B (86.6 M), in layers of their usual sizes.
RESNET_50 = [2048 * 1000, 1000, *[2359296] * 3, *[1048576] * 12, *[589824] * 3, *[262144] * 7, *[2048] * 30]
RESNET_50 = [*RESNET_50, 25_557_032 - sum(RESNET_50)]
VIT_B = [*[768 * 3072] * 24, *[768 * 768] * 47, *[768] * 120, 768 * 1000]
VIT_B = [*VIT_B, 86_567_656 - sum(VIT_B)]


def models(count: int, sizes: list[int], spread: float = 0.01) -> list[State]:
    """K fine-tuned copies of one random model."""
    rng = np.random.default_rng(3)
    start = [rng.standard_normal(size, np.float32) * np.float32(0.05) for size in sizes]
    return [
        [layer + rng.standard_normal(layer.size, np.float32) * np.float32(spread) for layer in start]
        for _ in range(count)
    ]


def flat(states: list[State]) -> list[Array]:
    """Models as one array each, and their layers as views of it."""
    arrays = []
    for state in states:
        arrays.append(np.concatenate(state))
        ends = np.cumsum([layer.size for layer in state])
        state[:] = np.split(arrays[-1], ends[:-1])
    return arrays


def sizes_of(sizes: list[int], share: float = 1.0) -> list[int]:
    share = share / 50 if harness.is_quick() else share
    return [max(1, int(size * share)) for size in sizes]


# --- weighted mean in memory -----------------------------------------------------------------------------


def mean_rows() -> Iterator[harness.Row]:
    from fedmed_edge.kernels import weighted_mean

    states = models(10, sizes_of(RESNET_50))
    arrays = flat(states)
    weights = [100 + 37 * k for k in range(10)]
    out = np.empty_like(arrays[0])
    case = f"K = 10, {arrays[0].size / 1e6:.1f} M float32"

    def ours() -> None:
        weighted_mean(arrays, weights, out)

    ours()
    part = slice(0, 1 << 20)
    exact = np.average(np.stack([a[part] for a in arrays]).astype(np.float64), axis=0, weights=weights)
    error = float(np.max(np.abs(out[part] - exact) / np.abs(exact).max()))
    for peer, call in mean_peers(states, arrays, weights):
        bound = 2.0**-24
        yield harness.compare("weighted_mean", case, peer, ours, call, error=error, error_bound=bound)


def mean_peers(
    states: list[State], arrays: list[Array], weights: list[int]
) -> Iterator[tuple[str, Callable[[], object]]]:
    # Bytes that the mean moves, read in float64: the fastest way through memory that NumPy has.
    read = [np.frombuffer(array.data, np.uint64, array.nbytes // 8) for array in [*arrays, arrays[0]]]
    yield "read bandwidth", lambda: [np.bitwise_or.reduce(part) for part in read]
    if harness.available("flwr aggregate", "flwr"):
        from flwr.server.strategy.aggregate import aggregate

        results = list(zip(states, weights, strict=True))
        yield "flwr aggregate", lambda: aggregate(results)
        yield "flwr message", flwr_message(states, weights)
    if harness.available("nvflare helper", "nvflare"):
        yield "nvflare helper", nvflare_helper(states, weights)
    if harness.available("torch foreach", "torch"):
        yield "torch foreach", torch_foreach(states, weights)


def flwr_message(states: list[State], weights: list[int]) -> Callable[[], object]:
    """What FedAvg does with the replies of clients: their arrays come as bytes."""
    from flwr.common import ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    records = [
        RecordDict({"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": weight})})
        for state, weight in zip(states, weights, strict=True)
    ]
    return lambda: aggregate_arrayrecords(records, "num-examples")


def nvflare_helper(states: list[State], weights: list[int]) -> Callable[[], object]:
    from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper

    named = [{str(i): layer for i, layer in enumerate(state)} for state in states]

    def call() -> object:
        helper = WeightedAggregationHelper()
        for site, (state, weight) in enumerate(zip(named, weights, strict=True)):
            helper.add(state, weight, f"site-{site}", 0)
        return helper.get_result()

    return call


def torch_foreach(states: list[State], weights: list[int]) -> Callable[[], object]:
    import torch

    torch.set_num_threads(1)
    tensors = [[torch.from_numpy(layer) for layer in state] for state in states]
    shares = [weight / sum(weights) for weight in weights]

    def call() -> object:
        total = torch._foreach_mul(tensors[0], shares[0])
        for state, share in zip(tensors[1:], shares[1:], strict=True):
            torch._foreach_add_(total, state, alpha=share)
        return total

    return call


# --- clipped, and as they arrive ---------------------------------------------------------------------------


def clip_rows() -> Iterator[harness.Row]:
    from fedmed_edge.kernels import clip_norm

    states = models(10, sizes_of(RESNET_50, 0.2))
    arrays = flat(states)
    weights = [100 + 37 * k for k in range(10)]
    start, out = np.mean(arrays, axis=0), np.empty_like(arrays[0])
    layers = np.split(start, np.cumsum([layer.size for layer in states[0]])[:-1])
    longest = float(np.median([np.linalg.norm(array - start) for array in arrays]))

    def of_numpy() -> Array:
        total = np.zeros(start.size, np.float32)
        for array, weight in zip(arrays, weights, strict=True):
            difference = array - start
            scale = min(1.0, longest / float(np.linalg.norm(difference)))
            total += np.float32(weight / sum(weights) * scale) * difference
        return start + total

    clip_norm(arrays, weights, out, reference=start, max_norm=longest)
    expected = of_numpy()
    error = float(np.max(np.abs(out - expected)) / np.max(np.abs(expected)))
    peers: list[tuple[str, Callable[[], object]]] = [("numpy float32", of_numpy)]
    if harness.available("flwr clip", "flwr"):
        peers.append(("flwr clip", flwr_clip(states, weights, layers, longest)))
    for peer, call in peers:
        yield harness.compare(
            "clip_norm",
            f"K = 10, {start.size / 1e6:.1f} M float32, half of them clipped",
            peer,
            lambda: clip_norm(arrays, weights, out, reference=start, max_norm=longest),
            call,
            error=error,
            error_bound=1e-6,
        )


def flwr_clip(states: list[State], weights: list[int], start: State, longest: float) -> Callable[[], object]:
    """What its server-side clipping does with the replies before it aggregates them."""
    from flwr.server.strategy.aggregate import aggregate
    from flwr.supercore.differential_privacy import compute_clip_model_update

    def call() -> object:
        clipped = [list(state) for state in states]  # whose layers it replaces
        for state in clipped:
            compute_clip_model_update(state, start, longest)
        return aggregate(list(zip(clipped, weights, strict=True)))

    return call


def running_rows() -> Iterator[harness.Row]:
    from fedmed_edge.kernels import RunningMean

    states = models(10, sizes_of(RESNET_50, 0.2))
    arrays = flat(states)
    weights = [100 + 37 * k for k in range(10)]
    out = np.empty_like(arrays[0])

    def ours() -> None:
        mean = RunningMean(out.size, bound=4.0)
        for array, weight in zip(arrays, weights, strict=True):
            mean.add(array, weight)
        mean.result(out)

    ours()
    exact = np.average(np.stack(arrays).astype(np.float64), axis=0, weights=weights)
    # what each value is rounded by, and the result by
    bound = 4.0 * 2.0**-22 / min(weights) + 2.0**-24 * np.abs(exact).max()
    if harness.available("nvflare helper", "nvflare"):
        yield harness.compare(
            "running_mean",
            f"K = 10, {out.size / 1e6:.1f} M float32, one after the other",
            "nvflare helper",
            ours,
            nvflare_helper(states, weights),
            error=float(np.max(np.abs(out - exact))),
            error_bound=float(bound),
        )


# --- weighted mean of files ------------------------------------------------------------------------------


def file_rows() -> Iterator[harness.Row]:
    for name, sizes in (("25.6", RESNET_50), ("86.6", VIT_B)):
        folder = Path(tempfile.mkdtemp(prefix="fedmed-bench-"))
        try:
            yield from rows_of_files(folder, f"files, K = 10, {name} M float32", sizes_of(sizes))
        finally:
            shutil.rmtree(folder)


def rows_of_files(folder: Path, case: str, sizes: list[int]) -> Iterator[harness.Row]:
    from fedmed_edge.kernels import weighted_mean

    write_files(folder, 10, sizes)
    paths, weights = files_of(folder)
    own = harness.peak_memory(__file__, "aggregate_files", folder=str(folder))
    print(f"{case}: extra memory {own / 1e6:.0f} MB", file=sys.stderr)
    for peer, modules, function in (
        ("torch sequential", ("torch",), "torch_sequential"),
        ("flwr aggregate", ("flwr", "safetensors"), "load_all_flwr"),
    ):
        if not harness.available(peer, *modules):
            continue
        theirs = harness.peak_memory(__file__, function, folder=str(folder))
        prepared = globals()[f"prepare_{function}"](folder=str(folder))
        yield harness.compare(
            "weighted_mean",
            case,
            peer,
            lambda: weighted_mean(paths, weights, folder / "mean"),
            lambda function=function, prepared=prepared: globals()[function](prepared, folder=str(folder)),
            memory_ratio=theirs / own,
        )


def write_files(folder: Path, count: int, sizes: list[int]) -> None:
    from safetensors.numpy import save_file

    for k in range(count):
        state = models(1, sizes)[0]
        save_file({f"layer.{i:03}": layer + k for i, layer in enumerate(state)}, folder / f"{k}.safetensors")


def files_of(folder: Path) -> tuple[list[Path], list[int]]:
    paths = sorted(folder.glob("*.safetensors"))
    return paths, [100 + 37 * k for k in range(len(paths))]


def prepare_aggregate_files(folder: str) -> Any:
    return importlib.import_module("fedmed_edge.kernels")


def aggregate_files(kernels: Any, folder: str) -> None:
    paths, weights = files_of(Path(folder))
    kernels.weighted_mean(paths, weights, Path(folder) / "mean")


def prepare_torch_sequential(folder: str) -> Any:
    import torch

    torch.set_num_threads(1)
    return importlib.import_module("safetensors.torch")


def torch_sequential(library: Any, folder: str) -> None:
    """Sum the files one at a time and write the mean."""
    paths, weights = files_of(Path(folder))
    total: dict[str, Any] = {}
    for path, weight in zip(paths, weights, strict=True):
        for name, tensor in library.load_file(path).items():
            if name in total:
                total[name].add_(tensor, alpha=weight / sum(weights))
            else:
                total[name] = tensor * (weight / sum(weights))
    library.save_file(total, Path(folder) / "mean")


def prepare_load_all_flwr(folder: str) -> Any:
    return importlib.import_module("flwr.server.strategy.aggregate"), importlib.import_module(
        "safetensors.numpy"
    )


def load_all_flwr(libraries: Any, folder: str) -> None:
    """Load every file, aggregate, write."""
    flwr, library = libraries
    paths, weights = files_of(Path(folder))
    loaded = [library.load_file(path) for path in paths]
    names = list(loaded[0])
    mean = flwr.aggregate(
        [([state[name] for name in names], weight) for state, weight in zip(loaded, weights, strict=True)]
    )
    library.save_file(dict(zip(names, mean, strict=True)), Path(folder) / "mean")


# --- order statistics ------------------------------------------------------------------------------------


def order_rows(kernel: str) -> Iterator[harness.Row]:
    from fedmed_edge.kernels import median, trimmed_mean

    peer = "flwr median" if kernel == "median" else "flwr trimmed"
    if not harness.available(peer, "flwr"):
        return
    from flwr.server.strategy.aggregate import aggregate_median, aggregate_trimmed_avg

    for count, share in ((10, 0.2), (32, 0.05), (64, 0.03)):
        states = models(count, sizes_of(RESNET_50, share))
        arrays = flat(states)
        out = np.empty_like(arrays[0])
        results = [(state, 1) for state in states]
        case = f"K = {count}, {arrays[0].size / 1e6:.1f} M float32"
        if kernel == "median":
            median(arrays, out)
            wrong = float((out != np.concatenate(aggregate_median(results))).any())
            yield harness.compare(
                kernel,
                case,
                peer,
                lambda arrays=arrays, out=out: median(arrays, out),
                lambda results=results: aggregate_median(results),
                error=wrong,
                error_bound=0.0,
            )
            continue
        cut = int(0.2 * count)
        trimmed_mean(arrays, cut, out)
        expected = np.concatenate(aggregate_trimmed_avg(results, 0.2))
        error = float(np.max(np.abs(out - expected)) / np.max(np.abs(expected)))
        yield harness.compare(
            kernel,
            case,
            peer,
            lambda arrays=arrays, out=out, cut=cut: trimmed_mean(arrays, cut, out),
            lambda results=results: aggregate_trimmed_avg(results, 0.2),
            error=error,
            error_bound=1e-6,
        )


# --- distances -------------------------------------------------------------------------------------------


def distance_rows() -> Iterator[harness.Row]:
    from fedmed_edge.kernels import pairwise_distances

    sigma, delta = 0.05, 1e-5  # δ/σ = 2e-4
    states = models(10, sizes_of(RESNET_50), spread=delta)
    arrays = flat(states)
    case = f"K = 10, {arrays[0].size / 1e6:.1f} M float32, δ/σ = {delta / sigma:g}"
    got = pairwise_distances(arrays)
    exact = float(np.linalg.norm(arrays[0].astype(np.float64) - arrays[1].astype(np.float64)))
    error = abs(got[0, 1] - exact) / exact
    for peer, call in distance_peers(states):
        yield harness.compare(
            "pairwise_distances",
            case,
            peer,
            lambda: pairwise_distances(arrays),
            call,
            error=error,
            error_bound=1e-6,
        )


def distance_peers(states: list[State]) -> Iterator[tuple[str, Callable[[], object]]]:
    if not harness.available("flwr krum", "flwr"):
        return
    from flwr.server.strategy.aggregate import _compute_distances

    yield "flwr krum", lambda: _compute_distances(states)
    from flwr.common import ArrayRecord
    from flwr.serverapp.strategy import multikrum

    records = [ArrayRecord(state) for state in states]
    yield "flwr multikrum", lambda: multikrum.compute_distances(records)


ROWS = {
    "weighted_mean": lambda: itertools.chain(mean_rows(), file_rows()),
    "clip_norm": clip_rows,
    "running_mean": running_rows,
    "median": lambda: order_rows("median"),
    "trimmed_mean": lambda: order_rows("trimmed_mean"),
    "pairwise_distances": distance_rows,
}
