"""The same wheel on emulated older processors: they choose their own tiles and give the same bits.

`tests/packages.sh` installs the emulator.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

import pytest

# Inputs by whole numbers: libraries may round a logarithm by the processor.
DIGESTS = """
import hashlib, numpy as np
from fedmed_edge import _kernels
from fedmed_edge.kernels import class_gram, clip_norm, median, pairwise_distances, trimmed_mean, weighted_mean

def numbers(count, length):
    whole = np.arange(count * length, dtype=np.uint64) * 2654435761 % (1 << 24)
    return list(((whole.astype(np.float32) - (1 << 23)) / (1 << 20)).reshape(count, length))

results = []
for count in (10, 37):
    models, weights = numbers(count, 2311), [k * k + 1 for k in range(count)]
    for make in (
        lambda out: weighted_mean(models, weights, out),
        lambda out: median(models, out),
        lambda out: trimmed_mean(models, 2, out),
        lambda out: clip_norm(models, weights, out, reference=models[1], max_norm=100.0),
    ):
        results.append(np.empty(2311, np.float32))
        make(results[-1])
    results.append(pairwise_distances(models))
rows = np.stack(numbers(300, 61))
results.append(np.zeros((2, 61 * 31)))
class_gram(rows, (np.arange(300) % 3 - 1).astype(np.int32), results[-1])
print(_kernels.instruction_set(), *[hashlib.sha256(result).hexdigest() for result in results])
"""


def digests(*emulator: str) -> list[str]:
    # NumPy's OpenBLAS takes an emulated Nehalem for something newer and fails on it; no kernel calls it.
    done = subprocess.run(
        [*emulator, sys.executable, "-c", DIGESTS],
        env=os.environ | {"FEDMED_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Nehalem"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="tiles for x86-64 only")
@pytest.mark.parametrize(("processor", "chosen"), [("Nehalem", "baseline"), ("Haswell", "avx2")])
def test_an_older_processor_gives_the_same_bits(
    processor: str, chosen: str, lacks: Callable[[str], NoReturn]
) -> None:
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        lacks("qemu-x86_64: sh tests/packages.sh installs it")
    used, *bits = digests(emulator, "-cpu", processor)
    assert used == chosen
    assert bits == digests()[1:]
