"""Where kernels run: the choice by array, what the CUDA module refuses, and the twins on a GPU."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pytest

from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.kernels import blend_windows, channel_moments, class_gram, device, resample

CUDA = 2
DEVICES, WHY_NONE = device.cuda_devices()
has_module = pytest.mark.usefixtures("module")


@pytest.fixture
def module(lacks: Callable[[str], NoReturn]) -> ModuleType:
    return device._cuda or lacks("CUDA twins: it has no CUDA compiler, or the package was built without")


# --- arrays that say they are on a GPU ---------------------------------------------------------------------


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_kind", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("axes", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = (("tensor", DLTensor), ("owner", ctypes.c_void_p), ("release", RELEASE))


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("owner", ctypes.c_void_p),
        ("release", RELEASE),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

CODES = {"i": 0, "u": 1, "f": 2}


class OnDevice:
    """An array of which everything but the values is true: nothing may read it, only look at it."""

    def __init__(
        self,
        array: npt.NDArray[np.generic],
        *,
        versioned: bool = True,
        read_only: bool = False,
        index: int = 0,
        offset: int = 0,
        major: int = 1,
        held_by: int = CUDA,
    ) -> None:
        self.array, self.versioned, self.read_only = array, versioned, read_only
        self.index, self.offset = index, offset
        self.major, self.held_by = major, held_by
        self.shape = array.shape
        self.released = 0
        self.asked: list[dict[str, object]] = []
        self.kept: list[object] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.index

    def _tensor(self) -> DLTensor:
        sides = (ctypes.c_int64 * self.array.ndim)(*self.array.shape)
        strides = (ctypes.c_int64 * self.array.ndim)(*(s // self.array.itemsize for s in self.array.strides))
        self.kept += [sides, strides]
        code, bits = CODES[self.array.dtype.kind], 8 * self.array.itemsize
        data = ctypes.c_void_p(self.array.ctypes.data)
        return DLTensor(
            data, self.held_by, self.index, self.array.ndim, code, bits, 1, sides, strides, self.offset
        )

    def __dlpack__(self, **asked: object) -> object:
        self.asked.append(asked)
        if not self.versioned and "max_version" in asked:
            raise TypeError("unexpected keyword argument")

        def release(_: object) -> None:
            self.released += 1

        holder: Managed | Versioned
        if self.versioned:
            holder = Versioned(self.major, 0, None, RELEASE(release), int(self.read_only), self._tensor())
        else:
            holder = Managed(self._tensor(), None, RELEASE(release))
        self.kept.append(holder)
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return _new_capsule(ctypes.addressof(holder), name, None)


def on_device(*shape: int, dtype: npt.DTypeLike = np.float32) -> OnDevice:
    return OnDevice(np.zeros(shape, dtype))


# --- the choice --------------------------------------------------------------------------------------------


def test_arrays_in_host_memory_never_reach_a_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_TWINS", {})
    assert channel_moments(np.ones((1, 3), np.float32))[0] == 3


def test_arrays_in_both_memories_are_refused() -> None:
    grams = np.zeros((1, 3))
    message = "class_gram: `grams` is in host memory, expected the CUDA device of `rows`"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        class_gram(on_device(2, 2), on_device(2, dtype=np.int32), grams)  # type: ignore[arg-type]


def test_a_device_that_is_no_cuda_is_refused() -> None:
    rows = on_device(2, 2)
    rows.__class__ = type("Elsewhere", (OnDevice,), {"__dlpack_device__": lambda _: (8, 0)})
    with pytest.raises(
        ValueError, match=r"^class_gram: `rows` is on a device of kind 8, expected host memory or"
    ):
        class_gram(rows, np.zeros(2, np.int32), np.zeros((1, 3)))  # type: ignore[arg-type]


def test_the_environment_forces_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = on_device(2, 3)
    monkeypatch.setenv("FEDMED_KERNELS", "cpu")
    with pytest.raises(
        ValueError, match=r"^channel_moments: `maps` is on a CUDA device, expected host memory as"
    ):
        channel_moments(maps)  # type: ignore[arg-type]
    monkeypatch.setenv("FEDMED_KERNELS", "gpu")
    with pytest.raises(InputError, match=r"^FEDMED_KERNELS: has `gpu`, expected `cpu` or `cuda`$"):
        channel_moments(np.ones((1, 3), np.float32))
    monkeypatch.setenv("FEDMED_KERNELS", "cuda")
    if not DEVICES:
        with pytest.raises(DeviceError, match=r"^channel_moments: "):
            channel_moments(np.ones((1, 3), np.float32))


def test_the_device_of_a_site_is_none_of_the_kernels_business(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("auto", "cpu", "cuda", "tensorrt"):
        monkeypatch.setenv("FEDMED_DEVICE", asked)
        assert channel_moments(np.ones((1, 3), np.float32))[0] == 3


def test_a_kernel_without_a_twin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_TWINS", {})
    with pytest.raises(
        DeviceError, match=r"^channel_moments: has no CUDA twin, expected arrays in host memory$"
    ):
        channel_moments(on_device(2, 3))  # type: ignore[arg-type]


def test_a_build_without_twins_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cuda", None)
    monkeypatch.setattr(device, "_why_none", "this build has no CUDA twins (reason)")
    assert device.cuda_devices() == (0, "this build has no CUDA twins (reason)")
    with pytest.raises(DeviceError, match=r"^channel_moments: this build has no CUDA twins"):
        channel_moments(on_device(2, 3))  # type: ignore[arg-type]


# --- the module --------------------------------------------------------------------------------------------


def test_there_is_a_module_where_there_is_a_compiler() -> None:
    assert device._cuda is not None or shutil.which("nvcc") is None, device._why_none


@has_module
def test_the_module_imports_without_a_device_and_says_why_there_is_none() -> None:
    assert DEVICES > 0 or WHY_NONE


def test_the_module_needs_no_cuda_library_and_no_torch(
    module: ModuleType, lacks: Callable[[str], NoReturn]
) -> None:
    if shutil.which("readelf") is None:
        lacks("readelf: sh tests/packages.sh installs it")
    listing = subprocess.run(
        ["readelf", "-d", str(module.__file__)], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    needed = re.findall(r"NEEDED.*\[(.+?)\]", listing)
    assert needed
    foreign = [name for name in needed if re.match("libcuda|libcudart|libnv|libtorch|libc10|libcublas", name)]
    assert not foreign


@has_module
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": on_device(2, 2, dtype=np.float64)}, "`rows` has dtype float64, expected float32"),
        ({"rows": on_device(2, 2, dtype=np.int16)}, "`rows` has dtype int16, expected float32"),
        ({"rows": on_device(2)}, "`rows` has shape (2,), expected 2 axes"),
        (
            {"rows": OnDevice(np.zeros((2, 4), np.float32)[:, ::2])},
            "`rows` has strides, expected a C-contiguous array",
        ),
        (
            {"rows": OnDevice(np.zeros((2, 2), np.float32), offset=2)},
            "`rows` is not aligned in memory, expected an aligned array",
        ),
        ({"classes": on_device(2, dtype=np.int64)}, "`classes` has dtype int64, expected int32"),
        (
            {"grams": OnDevice(np.zeros((1, 3)), read_only=True)},
            "`grams` is read-only, expected a writeable array",
        ),
        (
            {"classes": OnDevice(np.zeros(2, np.int32), index=1)},
            "`classes` is on device 1, expected 0 as the first array",
        ),
        ({"grams": 3}, "`grams` is a int, expected an array with `__dlpack__`"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_device_is_touched(
    wrong: dict[str, object], message: str
) -> None:
    assert device._cuda is not None
    good = {
        "rows": on_device(2, 2),
        "classes": on_device(2, dtype=np.int32),
        "grams": OnDevice(np.zeros((1, 3))),
    }
    with pytest.raises(ValueError, match=f"^class_gram: {re.escape(message)}$"):
        device._cuda.class_gram(**{**good, **wrong}, mode="exact")


@has_module
@pytest.mark.parametrize("versioned", [True, False])
def test_capsules_are_asked_for_with_a_stream_and_released_once(versioned: bool) -> None:
    assert device._cuda is not None
    rows = OnDevice(np.zeros((2, 2), np.float32), versioned=versioned)
    with pytest.raises(ValueError, match="classes"):
        device._cuda.class_gram(rows, on_device(2, 2, dtype=np.int32), on_device(1, 3), "exact")
    assert rows.released == 1
    assert rows.asked[0] == {"stream": 1, "max_version": (1, 0)}
    assert versioned or rows.asked[1] == {"stream": 1}


@has_module
def test_a_capsule_is_released_where_its_array_is_refused() -> None:
    assert device._cuda is not None
    rows = OnDevice(np.zeros((2, 2), np.float32), major=2)
    with pytest.raises(ValueError, match=r"^class_gram: `rows` has DLPack version 2, expected 1$"):
        device._cuda.class_gram(rows, on_device(2, dtype=np.int32), on_device(1, 3), "exact")
    elsewhere = OnDevice(np.zeros((2, 2), np.float32), held_by=1)
    with pytest.raises(
        ValueError, match=r"^class_gram: `rows` is on a device of kind 1, expected one on a CUDA"
    ):
        device._cuda.class_gram(elsewhere, on_device(2, dtype=np.int32), on_device(1, 3), "exact")
    assert elsewhere.released == 1


@has_module
def test_a_stride_of_an_axis_of_one_element_means_nothing() -> None:
    assert device._cuda is not None
    one = np.lib.stride_tricks.as_strided(np.zeros((1, 4), np.float32), (1, 4), (64, 4))
    with pytest.raises(ValueError, match="`classes`"):  # not `rows`
        device._cuda.class_gram(OnDevice(one), on_device(1, 1, dtype=np.int32), on_device(1, 10), "exact")


def test_every_twin_has_its_python_face() -> None:
    sources = {path.stem for path in (Path(__file__).parents[3] / "cpp" / "src").glob("*.cu")}
    # Two kernels share a source with their next of kin.
    assert set(device._TWINS) == sources | {"clip_norm", "trimmed_mean"}


# --- on a GPU ----------------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not DEVICES, reason=f"no CUDA device: {WHY_NONE}")


@pytest.mark.cuda
@cuda
def test_twins_answer_as_the_kernels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    rows = rng.normal(3, 1, (1500, 200)).astype(np.float32)
    classes = rng.integers(-1, 4, 1500).astype(np.int32)
    maps = rng.normal(size=(3, 40, 80, 90)).astype(np.float32)
    turn = np.array([[0.9, -0.3, 0.1], [0.3, 0.9, 0.05], [-0.1, 0.0, 0.8]])

    def answers() -> list[npt.NDArray[np.generic]]:
        grams = np.zeros((4, 200 * 201 // 2))
        class_gram(rows, classes, grams)
        total, weight = np.zeros((3, 50, 90, 95), np.float32), np.zeros((50, 90, 95), np.float32)
        blend_windows(total, weight, maps, maps[0], (10, 10, 5))
        _, sums, squares = channel_moments(maps)
        return [
            grams,
            sums,
            squares,
            total,
            weight,
            resample(maps, turn, [1, 2, 3], (40, 41, 42), mode="linear"),
        ]

    expected = answers()
    monkeypatch.setenv("FEDMED_KERNELS", "cuda")
    once, again = answers(), answers()
    for wanted, got, same in zip(expected, once, again, strict=True):
        np.testing.assert_array_equal(got, same)
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-9)
    for wanted, got in zip(expected[3:], once[3:], strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.cuda
@cuda
def test_arrays_on_the_device_are_taken_as_they_lie() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with torch.cuda.stream(torch.cuda.Stream()):
        rows = torch.randn(4000, 150, device="cuda", dtype=torch.bfloat16)
        classes = torch.randint(-1, 3, (4000,), device="cuda", dtype=torch.int32)
        grams = torch.zeros(3, 150 * 151 // 2, device="cuda", dtype=torch.float64)
        class_gram(rows, classes, grams)
    expected = np.zeros((3, 150 * 151 // 2))
    class_gram(rows.float().cpu().numpy(), classes.cpu().numpy(), expected)
    np.testing.assert_allclose(grams.cpu().numpy(), expected, rtol=1e-9, atol=1e-9)
