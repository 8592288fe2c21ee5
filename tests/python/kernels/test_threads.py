"""What holds for every kernel: threads, instruction sets and forks change no bit."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.kernels import (
    LiftWeights,
    RunningMean,
    amplitude_moments,
    argmax_slab,
    blend_windows,
    channel_moments,
    class_gram,
    clip_norm,
    lifted_class_gram,
    median,
    pairwise_distances,
    resample,
    thread_count,
    trimmed_mean,
    weighted_mean,
)


def everything() -> list[bytes]:
    """Bits of every kernel on work that is large enough for several threads."""
    rng = np.random.default_rng(7)
    rows, classes = (
        rng.normal(size=(1500, 200)).astype(np.float32),
        rng.integers(-1, 4, 1500).astype(np.int32),
    )
    grams = np.zeros((4, 200 * 201 // 2))
    class_gram(rows, classes, grams)
    fast, lifted = np.zeros_like(grams), np.zeros((4, 64 * 65 // 2))
    class_gram(rows, classes, fast, mode="fast")
    scales = [rng.normal(size=(3, side, side)).astype(np.float32) for side in (100, 50, 25, 12, 6)]
    weights = LiftWeights(rows[0, :15], rows[1, :15], rows[2:17, :48].copy(), rows[17, :48])
    pixels = rng.integers(-1, 4, 2500).astype(np.int32)
    lifted_class_gram(scales, weights, size=(100, 100), stride=2, classes=pixels, grams=lifted)
    maps = rng.normal(size=(3, 40, 80, 90)).astype(np.float32)
    _, sums, squares = channel_moments(maps)
    turn = np.array([[0.9, -0.3, 0.1], [0.3, 0.9, 0.05], [-0.1, 0.0, 0.8]])
    total, weight = np.zeros((3, 50, 90, 95), np.float32), np.zeros((50, 90, 95), np.float32)
    for start in ((0, 0, 0), (10, 10, 5), (30, 20, 20)):
        blend_windows(total, weight, maps, maps[0], start)
    labels = np.empty((40, 80, 90), np.uint8)
    argmax_slab(total, labels, (5, 5, 5))
    models = list(rng.normal(size=(5, 150_000)).astype(np.float32))
    made = [np.empty_like(models[0]) for _ in range(5)]
    weighted_mean(models, [1, 2, 3, 4, 5], made[0])
    median(models, made[1])
    trimmed_mean(models, 1, made[2])
    clip_norm(models, [1, 2, 3, 4, 5], made[3], reference=models[2], max_norm=400.0)
    mean = RunningMean(150_000, bound=10)
    mean.add(models[0], 3)
    mean.result(made[4])
    results = [
        *made,
        pairwise_distances(models),
        grams,
        fast,
        lifted,
        sums,
        squares,
        resample(maps, turn, [1, 2, 3], (40, 41, 42), mode="linear"),
        resample(maps, np.diag([0.7, 0.8, 0.9]), [1, 2, 3], (40, 41, 42), mode="nearest"),
        total,
        weight,
        labels,
        *channel_moments(maps, channel_axis=1)[1:],
        *channel_moments(maps, channel_axis=-1)[1:],
        *amplitude_moments(maps, (5, 9), floor=1e-6)[1:],
        *amplitude_moments(maps[..., 0].copy(), (5, 9), floor=1e-6)[1:],
    ]
    return [result.tobytes() for result in results]


def test_thread_count_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_THREADS", "1")
    alone = everything()
    for threads in ("2", "3", "7"):
        monkeypatch.setenv("FEDMED_THREADS", threads)
        assert everything() == alone


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_instruction_set_does_not_change_a_bit() -> None:
    code = (
        "import numpy as np; from fedmed_edge import _kernels; from fedmed_edge.kernels import *\n"
        "rng = np.random.default_rng(7); rows = rng.normal(size=(1500, 131)).astype(np.float32)\n"
        "classes = rng.integers(-1, 2, 1500).astype(np.int32)\n"
        "grams = np.zeros((2, 131 * 66)); class_gram(rows, classes, grams)\n"
        "maps = rows[:1482].reshape(6, 19, 13, 131); labels = np.empty((19, 13, 131), np.uint8)\n"
        "argmax_slab(maps, labels)\n"
        "found = [grams, labels, *channel_moments(maps, channel_axis=1)[1:]]\n"
        "found += channel_moments(maps, channel_axis=-1)[1:]\n"
        "found += amplitude_moments(maps, (3, 5), floor=1e-6)[1:]\n"
        "import hashlib; every = b''.join(one.tobytes() for one in found)\n"
        "print(_kernels.instruction_set(), hashlib.sha256(every).hexdigest())"
    )
    unknown = run_python(code, FEDMED_ISA="mmx")
    assert "errors.InputError: FEDMED_ISA: has `mmx`, expected one of" in unknown.stderr
    digests = set()
    for name in ("baseline", "avx2", "avx512"):
        if f"`{name}`" in unknown.stderr:
            used, digest = run_python(code, FEDMED_ISA=name).stdout.split()
            assert used == name
            digests.add(digest)
    assert len(digests) == 1


def test_a_forked_process_goes_on_calling_kernels() -> None:
    code = (
        "import os, numpy as np; from fedmed_edge.kernels import channel_moments\n"
        "maps = np.ones((8, 1 << 17), np.float32); expected = channel_moments(maps)[1].tolist()\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(0 if channel_moments(maps)[1].tolist() == expected else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0"
    )
    done = run_python(code, FEDMED_THREADS="4")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="sub-interpreters have another name")
def test_a_sub_interpreter_is_refused() -> None:
    code = (
        "import sys, importlib\n"
        "name = '_interpreters' if sys.version_info >= (3, 13) else '_xxsubinterpreters'\n"
        "interpreters = importlib.import_module(name)\n"
        "code = f'import sys; sys.path[:] = {sys.path!r}; import fedmed_edge.kernels'\n"
        "error = interpreters.run_string(interpreters.create(), code)\n"
        "sys.exit(0 if error is None else str(error))"
    )
    done = run_python(code)
    assert done.returncode == 1
    assert "interpreter" in done.stderr and "ImportError" in done.stderr, done.stderr


def test_an_empty_setting_is_none() -> None:
    code = "from fedmed_edge import _kernels; print(_kernels.instruction_set())"
    assert run_python(code, FEDMED_ISA=" ").stdout == run_python(code).stdout != ""
    assert run_python(code, FEDMED_ISA=" baseline\n").stdout == "baseline\n"


def test_thread_count_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_THREADS", "3")
    assert thread_count() == 3
    monkeypatch.setenv("FEDMED_THREADS", "")
    assert thread_count() == min(os.cpu_count() or 1, 256)
    for wrong in ("0", "-1", "two", "257", "1.5"):
        monkeypatch.setenv("FEDMED_THREADS", wrong)
        with pytest.raises(InputError, match=f"^FEDMED_THREADS: has `{wrong}`, expected a whole number"):
            thread_count()
