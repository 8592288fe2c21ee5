"""Every CUDA twin against its kernel, and timed against torch on the same GPU. Takes no arguments.

    python tests/bench/cuda_twins.py

Needs a GPU, and torch built for it. Prints what was compared (the run fails if an answer is wrong), then a
table in Markdown: milliseconds by the device's clock, median of 20 calls after 3; how many times quicker than
torch; and for what is bound by memory the share of the rate at which the device copies.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from harness import end_with

from fedmed_edge import kernels
from fedmed_edge.kernels import device

WARM, CALLS = 3, 20


@dataclass(frozen=True)
class Timing:
    """One line of the table: milliseconds of ours and of torch, and bytes that have to be moved."""

    case: str
    ours: float
    peer: str
    theirs: float
    moved: int | None = None
    flops: float | None = None


def main() -> int:
    """Compare, time, print."""
    count, why_none = device.cuda_devices()
    if count == 0:
        print(f"nothing was run: {why_none}", file=sys.stderr)
        return 2
    import torch

    if not torch.cuda.is_available():
        print("nothing was run: this torch has no CUDA", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(7)
    wrong = [name for name, fits in comparisons(torch) if not report(name, fits)]
    rate = copy_rate(torch)
    name = torch.cuda.get_device_name()
    print(f"\n{name}, torch {torch.__version__}, copies at {rate / 1e9:,.0f} GB/s\n")
    print("| case | ms | peer | ms | times as quick | of the copy rate | TFLOP/s |")
    print("|---|---|---|---|---|---|---|")
    for row in timings(torch):
        share = "" if row.moved is None else f"{row.moved / row.ours * 1e3 / rate:.0%}"
        work = "" if row.flops is None else f"{row.flops / row.ours / 1e9:.1f}"
        print(
            f"| {row.case} | {row.ours:.3f} | {row.peer} | {row.theirs:.3f} | {row.theirs / row.ours:.2f} "
            f"| {share} | {work} |",
            flush=True,
        )
    if wrong:
        print(f"\nWRONG: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def report(name: str, error_and_bound: tuple[float, float]) -> bool:
    """Print one comparison; whether it holds."""
    error, bound = error_and_bound
    print(
        f"{'ok   ' if error <= bound else 'WRONG'} {name}: error {error:.3g}, bound {bound:.3g}", flush=True
    )
    return error <= bound


# --- answers -----------------------------------------------------------------------------------------------


def host(tensor):
    """A device tensor as a NumPy array."""
    return tensor.cpu().numpy()


def gram_error(got, expected, width):
    """Largest |got - expected| / √(gᵢᵢ gⱼⱼ)."""
    rows, columns = np.triu_indices(width)
    diagonal = expected[:, rows == columns]
    scales = np.sqrt(diagonal[:, rows] * diagonal[:, columns]) + 1e-300
    return float((np.abs(got - expected) / scales).max())


def comparisons(torch):
    """Name, (error, bound) of every twin against its kernel on the same numbers."""
    yield from compare_grams(torch)
    yield from compare_lifted(torch)
    yield from compare_moments(torch)
    yield from compare_models(torch)
    yield from compare_grids(torch)


def compare_grams(torch):
    """class_gram: kinds of rows, widths, means, modes; and that a second call gives the same bits."""
    for rows, width, classes, mean, dtype in (
        (5000, 100, 3, 0.0, torch.float32),
        (3001, 515, 2, 100.0, torch.float32),
        (2000, 130, 1, 1.0, torch.bfloat16),
        (2000, 130, 1, 1.0, torch.float16),
    ):
        values = (torch.randn(rows, width, device="cuda") + mean).to(dtype)
        labels = torch.randint(-1, classes, (rows,), device="cuda", dtype=torch.int32)
        expected = np.zeros((classes, width * (width + 1) // 2))
        kernels.class_gram(host(values.float()), host(labels), expected)
        for mode, bound in (("exact", 1e-12), ("fast", 1e-6)):
            grams = torch.zeros(classes, width * (width + 1) // 2, device="cuda", dtype=torch.float64)
            again = grams.clone()
            kernels.class_gram(values, labels, grams, mode=mode)
            kernels.class_gram(values, labels, again, mode=mode)
            name = f"class_gram {mode} {rows} x {width}, {classes} classes, mean {mean:g}, {dtype}"
            yield name, (gram_error(host(grams), expected, width), bound)
            yield name + ", twice", (float((grams != again).sum()), 0.0)


def lift_problem(torch, sides, channels, lift, size, classes, stride):
    """Maps, weights, labels of one image."""
    from fedmed_edge.kernels.gram import LiftWeights

    maps = [torch.randn(c, *side, device="cuda") for c, side in zip(channels, sides, strict=True)]
    total, features = sum(channels), 120
    weights = LiftWeights(
        torch.zeros(total, device="cuda"),
        torch.ones(total, device="cuda"),
        torch.randn(total, lift, device="cuda") / total**0.5,
        torch.randn(lift, device="cuda"),
        torch.randn(total, features, device="cuda") / total**0.5,
    )
    rows = 1
    for side in size:
        rows *= len(range(min(stride, side) // 2, side, stride))
    labels = torch.randint(0, classes, (rows,), device="cuda", dtype=torch.int32)
    return maps, weights, labels


def compare_lifted(torch):
    """lifted_class_gram in 2-D and 3-D."""
    from fedmed_edge.kernels.gram import LiftWeights

    for sides, size in (
        (((40, 36), (20, 18), (5, 5)), (40, 36)),
        (((12, 16, 18), (6, 8, 9), (3, 4, 4)), (12, 16, 18)),
    ):
        maps, weights, labels = lift_problem(torch, sides, (6, 12, 30), 90, size, 2, 2)
        width = weights.row_dim
        on_host = LiftWeights(*(host(getattr(weights, name)) for name in LiftWeights.__dataclass_fields__))
        expected = np.zeros((2, width * (width + 1) // 2))
        kernels.lifted_class_gram(
            [host(m) for m in maps], on_host, size=size, stride=2, classes=host(labels), grams=expected
        )
        grams = torch.zeros(expected.shape, device="cuda", dtype=torch.float64)
        kernels.lifted_class_gram(maps, weights, size=size, stride=2, classes=labels, grams=grams)
        yield f"lifted_class_gram {len(size)}-D", (gram_error(host(grams), expected, width), 2e-5)


def compare_moments(torch):
    """channel_moments of either layout, and amplitude_moments."""
    maps = torch.randn(9, 65, 31, 33, device="cuda") + 3
    for axis, laid in ((1, maps), (3, maps.permute(0, 2, 3, 1).contiguous())):
        _, sums, squares = kernels.channel_moments(laid, channel_axis=axis)
        _, wanted, wanted_squares = kernels.channel_moments(host(laid), channel_axis=axis)
        error = max(np.abs(sums / wanted - 1).max(), np.abs(squares / wanted_squares - 1).max())
        yield f"channel_moments, channels on axis {axis}", (float(error), 1e-12)
    volume = torch.rand(2, 64, 60, 9, device="cuda")
    _, sums, squares = kernels.amplitude_moments(volume, (7, 5), floor=1e-6)
    _, wanted, wanted_squares = kernels.amplitude_moments(host(volume), (7, 5), floor=1e-6)
    error = max(np.abs(sums - wanted).max(), np.abs(squares - wanted_squares).max())
    yield "amplitude_moments", (float(error), 1e-8)


def compare_models(torch):
    """Aggregation: the kernels' bits, in any order of the models."""
    for count, length, dtype in (
        (3, 1001, torch.float32),
        (10, 70001, torch.float32),
        (40, 5000, torch.float32),
    ):
        models = [torch.randn(length, device="cuda", dtype=dtype) for _ in range(count)]
        weights = [7 * k + 1 for k in range(count)]
        on_host = [host(model) for model in models]
        out, expected = torch.empty_like(models[0]), np.empty(length, np.float32)
        for name, call in (
            ("weighted_mean", lambda m, o, w=weights: kernels.weighted_mean(m, w, o)),
            ("median", kernels.median),
            ("trimmed_mean", lambda m, o, c=count: kernels.trimmed_mean(m, (c - 1) // 5, o)),
        ):
            call(on_host, expected)
            call(models, out)
            yield f"{name} of {count} x {length}", (float((host(out) != expected).sum()), 0.0)
        kernels.weighted_mean(models[::-1], weights[::-1], out)
        kernels.weighted_mean(on_host, weights, expected)
        yield f"weighted_mean of {count}, reversed", (float((host(out) != expected).sum()), 0.0)
        got, wanted = kernels.pairwise_distances(models), kernels.pairwise_distances(on_host)
        yield f"pairwise_distances of {count}", (float(np.abs(got - wanted).max() / wanted.max()), 1e-6)
        norms = kernels.clip_norm(models, weights, out, reference=models[0], max_norm=30.0)
        wanted = kernels.clip_norm(on_host, weights, expected, reference=on_host[0], max_norm=30.0)
        error = max(np.abs(norms - wanted).max() / wanted.max(), np.abs(host(out) - expected).max())
        yield f"clip_norm of {count}", (float(error), 1e-5)


def compare_grids(torch):
    """Inference: the kernels' bits."""
    pixels = torch.randn(2, 30, 41, 37, device="cuda")
    turn = np.array([[0.9, -0.3, 0.1], [0.3, 0.9, 0.05], [-0.1, 0.0, 0.8]])
    for mode in ("linear", "nearest"):
        out = torch.empty(2, 25, 33, 44, device="cuda")
        kernels.resample(pixels, turn, [1, 2, 3], (25, 33, 44), mode=mode, out=out)
        expected = kernels.resample(host(pixels), turn, [1, 2, 3], (25, 33, 44), mode=mode)
        yield f"resample {mode}", (float((host(out) != expected).sum()), 0.0)
    total, weight = torch.zeros(2, 40, 50, 45, device="cuda"), torch.zeros(40, 50, 45, device="cuda")
    host_total, host_weight = host(total), host(weight)
    for start in ((0, 0, 0), (5, 6, 7), (20, 20, 20)):
        kernels.blend_windows(total, weight, pixels, pixels[0].contiguous(), start)
        kernels.blend_windows(host_total, host_weight, host(pixels), host(pixels[0]), start)
    yield "blend_windows", (float((host(total) != host_total).sum()), 0.0)
    out, expected = torch.empty(9, 50, 45, device="cuda", dtype=torch.uint8), np.empty((9, 50, 45), np.uint8)
    kernels.argmax_slab(total, out, (3, 0, 0))
    kernels.argmax_slab(host_total, expected, (3, 0, 0))
    yield "argmax_slab", (float((host(out) != expected).sum()), 0.0)


# --- times -------------------------------------------------------------------------------------------------


def milliseconds(torch, call: Callable[[], object]) -> float:
    """Median time of a call, from when the device is idle until it is idle again."""
    times = []
    for number in range(WARM + CALLS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        if number >= WARM:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def copy_rate(torch) -> float:
    """Bytes a second that the device reads and writes in a copy."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(torch, lambda: target.copy_(source)) * 1e3


def timings(torch):
    """Lines of the table."""
    yield from time_models(torch)
    yield from time_grams(torch)
    yield from time_lifted(torch)
    yield from time_moments_and_grids(torch)


def time_models(torch):
    """Aggregation of 10 and 32 models of ResNet-50's size."""
    for count in (10, 32):
        models = [torch.randn(25_557_032, device="cuda") for _ in range(count)]
        weights = [k + 1 for k in range(count)]
        out, moved = torch.empty_like(models[0]), (count + 1) * models[0].nbytes
        total = float(sum(weights))

        def average(models=models, weights=weights, total=total):
            sums = [torch.zeros_like(models[0])]
            for model, weight in zip(models, weights, strict=True):
                torch._foreach_add_(sums, [model], alpha=weight / total)

        case = f"of {count} x 25.6 M float32"
        ours = milliseconds(torch, lambda m=models, w=weights, o=out: kernels.weighted_mean(m, w, o))
        yield Timing(f"weighted_mean {case}", ours, "foreach_add", milliseconds(torch, average), moved)
        stacked = torch.stack(models)
        ours = milliseconds(torch, lambda m=models, o=out: kernels.median(m, o))
        theirs = milliseconds(torch, lambda s=stacked: s.median(dim=0))
        yield Timing(f"median {case}", ours, "stacked median", theirs, moved)
        cut = count // 5
        ours = milliseconds(torch, lambda m=models, o=out, c=cut: kernels.trimmed_mean(m, c, o))
        theirs = milliseconds(
            torch, lambda s=stacked, c=cut, k=count: s.sort(dim=0).values[c : k - c].mean(dim=0)
        )
        yield Timing(f"trimmed_mean {case}", ours, "stacked sort", theirs, moved)
        ours = milliseconds(torch, lambda m=models: kernels.pairwise_distances(m))
        theirs = milliseconds(
            torch, lambda s=stacked: torch.cdist(s, s, compute_mode="donot_use_mm_for_euclid_dist")
        )
        yield Timing(f"pairwise_distances {case}", ours, "cdist", theirs, count * models[0].nbytes)
        del stacked


def time_grams(torch):
    """class_gram by class and mode; the peer multiplies each class's rows."""
    for rows, width, classes in (
        (50_000, 512, 10),
        (50_000, 1024, 10),
        (50_000, 2048, 10),
        (50_000, 1024, 100),
    ):
        values = torch.randn(rows, width, device="cuda")
        labels = torch.randint(0, classes, (rows,), device="cuda", dtype=torch.int32)
        grams = torch.zeros(classes, width * (width + 1) // 2, device="cuda", dtype=torch.float64)
        flops = float(rows) * width * (width + 1)

        def by_class(values=values, labels=labels, classes=classes):
            for label in range(classes):
                own = values[labels == label]
                own.T @ own

        def by_class_float64(values=values, labels=labels, classes=classes):
            for label in range(classes):
                own = values[labels == label].double()
                own.T @ own

        case = f"{rows // 1000}k x {width}, C = {classes}"
        for mode, name, peer in (("exact", "float64", by_class_float64), ("fast", "float32", by_class)):
            ours = milliseconds(
                torch, lambda v=values, y=labels, g=grams, m=mode: kernels.class_gram(v, y, g, mode=m)
            )
            theirs = milliseconds(torch, peer)
            yield Timing(f"class_gram {mode} {case}", ours, f"matmul {name}", theirs, None, flops)
        whole = values[: rows // 2]
        theirs = milliseconds(torch, lambda w=whole: w.T @ w)
        useful = float(len(whole)) * width * (width + 1)
        # What the library's product of float32 would be worth if it made only the half that is needed.
        yield Timing(
            f"(float32 product of {len(whole) // 1000}k x {width})", theirs, "itself", theirs, None, useful
        )


def time_lifted(torch):
    """64 images of 256², five scales, D = 701, two classes, stride 2."""
    size, channels = (256, 256), (32, 64, 128, 256, 512)
    sides = tuple((256 >> k, 256 >> k) for k in range(5))
    maps, weights, labels = lift_problem(torch, sides, channels, 580, size, 2, 2)
    width = weights.row_dim
    grams = torch.zeros(2, width * (width + 1) // 2, device="cuda", dtype=torch.float64)

    def ours(mode: str) -> None:
        for _ in range(64):
            kernels.lifted_class_gram(
                maps, weights, size=size, stride=2, classes=labels, grams=grams, mode=mode
            )

    def theirs() -> None:
        for _ in range(64):
            raised = [
                torch.nn.functional.interpolate(m[None], size=(128, 128), mode="bilinear")[0].flatten(1)
                for m in maps
            ]
            features = torch.cat(raised).T
            hidden = torch.relu(features @ weights.lift + weights.bias)
            ones = torch.ones(len(hidden), 1, device="cuda")
            rows = torch.cat([hidden, features @ weights.projection, ones], dim=1)
            for label in range(2):
                own = rows[labels == label]
                own.T @ own

    time = milliseconds(torch, theirs)
    for mode in ("exact", "fast"):
        yield Timing(
            f"lifted_class_gram {mode}, 64 x 256², D = {width}",
            milliseconds(torch, lambda m=mode: ours(m)),
            "interpolate, matmul float32",
            time,
        )


def time_moments_and_grids(torch):
    """What is bound by memory: moments, windows, labels."""
    maps = torch.randn(32, 256, 56, 56, device="cuda")
    ours = milliseconds(torch, lambda: kernels.channel_moments(maps, channel_axis=1))
    theirs = milliseconds(torch, lambda: torch.var_mean(maps, dim=(0, 2, 3)))
    yield Timing("channel_moments 32 x 256 x 56²", ours, "var_mean", theirs, maps.nbytes)
    image = torch.rand(3, 512, 512, device="cuda")
    ours = milliseconds(torch, lambda: kernels.amplitude_moments(image, (51, 51), floor=1e-6))
    theirs = milliseconds(torch, lambda: torch.fft.rfft2(image).abs().log())
    yield Timing("amplitude_moments 3 x 512², block 51²", ours, "rfft2", theirs)
    total, weight = torch.zeros(5, 300, 512, 512, device="cuda"), torch.zeros(300, 512, 512, device="cuda")
    window, importance = torch.rand(5, 96, 192, 192, device="cuda"), torch.rand(96, 192, 192, device="cuda")
    part = (slice(10, 106), slice(20, 212), slice(30, 222))

    def blend() -> None:
        total[:, *part] += window * importance
        weight[part] += importance

    ours = milliseconds(torch, lambda: kernels.blend_windows(total, weight, window, importance, (10, 20, 30)))
    moved = 3 * window.nbytes + 3 * importance.nbytes
    yield Timing("blend_windows 5 x 96 x 192²", ours, "slices", milliseconds(torch, blend), moved)
    labels = torch.empty(300, 512, 512, device="cuda", dtype=torch.uint8)
    ours = milliseconds(torch, lambda: kernels.argmax_slab(total, labels))
    theirs = milliseconds(torch, lambda: total.argmax(dim=0).to(torch.uint8))
    yield Timing("argmax_slab 5 x 300 x 512²", ours, "argmax", theirs, total.nbytes + labels.nbytes)
    out = torch.empty(1, 256, 256, 256, device="cuda")
    volume = torch.rand(1, 200, 300, 300, device="cuda")
    scale = np.diag([200 / 256, 300 / 256, 300 / 256])
    ours = milliseconds(
        torch, lambda: kernels.resample(volume, scale, [0, 0, 0], (256, 256, 256), mode="linear", out=out)
    )
    theirs = milliseconds(
        torch, lambda: torch.nn.functional.interpolate(volume[None], size=(256, 256, 256), mode="trilinear")
    )
    yield Timing("resample to 256³", ours, "interpolate", theirs, volume.nbytes + out.nbytes)


if __name__ == "__main__":
    end_with(main)
