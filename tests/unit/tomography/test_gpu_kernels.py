"""The kernels for GPUs: compiled, run as plain C++ against their twins, and run on a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import backend
from pipeline.distribute_shards import InProcessLeastSquares
from pipeline.errors import ResourceError
from pipeline.stacks import DifferencedStack
from pipeline.tomography import projector as projector_module
from pipeline.tomography.contrast import linear_difference_weights, scalar_weights
from pipeline.tomography.geometry import euler_rotations, series_rotations
from pipeline.tomography.kernels import twins
from pipeline.tomography.kernels.twins import SOURCE, DeviceKernels
from pipeline.tomography.projector import Projector, Scheme
from pipeline.tomography.solvers import data_term

ROUNDING = 2e-6  # float32 sums of some thousand terms, relative to the norm

SCHEMES: list[Scheme] = ["series", "general", "four-subvoxel", "fourier"]
SHAPES = [
    ((12, 12, 12), (12, 12)),  # corners leave the detector
    ((9, 14, 11), (15, 10)),  # odd and even, image higher and narrower
    ((10, 13, 8), (5, 31)),  # image lower and wider than the volume
    ((1, 6, 1), (4, 3)),
]

needs_gpu = pytest.mark.skipif(not backend.gpu_available(), reason="no GPU that cupy can use")


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> DeviceKernels:
    """The source built as plain C++, launched on arrays of numpy."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++) on the path")
    library = tmp_path_factory.mktemp("kernels") / "project.so"
    build = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-x", "c++", "-shared", "-fPIC"]
    subprocess.run([*build, "-o", library, SOURCE], check=True, timeout=120)
    functions = ctypes.CDLL(str(library))

    def launch(name: str, n_threads: int, *arguments: Any) -> None:
        assert n_threads >= 0
        passed = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                assert argument.flags.c_contiguous
                passed.append(argument.ctypes.data_as(ctypes.c_void_p))
            else:
                passed.append(np.ctypeslib.as_ctypes_type(argument.dtype)(argument))
        functions[name](*passed)

    return DeviceKernels(np, launch)


def rotations() -> NDArray[np.float64]:
    """Of three series, one of them on the grid, and of two projections with axes of their own."""
    angles = np.array([-70.0, -33.0, 0.0, 41.0, 45.0, 90.0])
    series = [series_rotations(angles, *m) for m in ((0.0, 0.0), (30.0, 90.0), (29.7, 12.0))]
    return np.concatenate([*series, euler_rotations([[90, -40, 5], [10, 10, 70]])])


def make(shapes: Any, scheme: Scheme, masked: bool = False, spread: float = 0.0) -> Projector:
    """A projector for linear dichroism; masked by a support and by pixels that are not valid."""
    turns = rotations()
    rng = np.random.default_rng(2)
    support = rng.random(shapes[0]) < 0.4 if masked else None
    valid = rng.random((len(turns), *shapes[1])) < 0.8 if masked else None
    weights = linear_difference_weights(turns)
    return Projector(
        *shapes, turns, weights, scheme, support=support, valid=valid, point_spread_px=spread
    )


def noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(found: Any, expected: Any) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == np.float32
    assert np.linalg.norm(found - expected) <= ROUNDING * max(np.linalg.norm(expected), 1e-20)


def check_against_the_processor(projector: Projector, on_device: Any) -> None:
    """Both directions against the twins, and against each other."""
    x, y = noise(projector.field_shape, 3), noise(projector.stack_shape, 4)
    expected = projector.forward(x), projector.adjoint(y)
    found = on_device(projector, x, y)
    for one, other in zip(found, expected, strict=True):
        close(one, other)
    left = np.vdot(found[0].astype(np.float64), y)
    right = np.vdot(x.astype(np.float64), found[1])
    assert abs(left - right) <= 5e-7 * np.linalg.norm(found[0]) * np.linalg.norm(y)


CASES = [(shapes, scheme) for shapes in SHAPES for scheme in SCHEMES]
CASES.append((((20, 40, 66), (70, 50)), "series"))  # rows around the turned box are left out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shapes", "scheme"), CASES, ids=str)
def test_host_build_agrees_with_the_twins(shapes, scheme, masked, host_kernels, monkeypatch):
    def on_host(projector: Projector, x: Any, y: Any) -> tuple[Any, Any]:
        with monkeypatch.context() as patch:
            patch.setattr(projector_module, "kernels_of", lambda _: host_kernels)
            return projector.forward(x), projector.adjoint(y)

    spread = 0.5 if masked else 0.0
    check_against_the_processor(make(shapes, scheme, masked, spread), on_host)


def test_host_build_adds_up_more_fields_than_a_thread_holds(host_kernels, monkeypatch):
    turns = rotations()
    weights = np.random.default_rng(5).standard_normal((len(turns), 11))
    for scheme in ("series", "general"):
        projector = Projector(*SHAPES[0], turns, weights, scheme)
        y = noise(projector.stack_shape, 6)
        expected = projector.adjoint(y)
        with monkeypatch.context() as patch:
            patch.setattr(projector_module, "kernels_of", lambda _: host_kernels)
            close(projector.adjoint(y), expected)


def test_cuda_source_compiles(tmp_path: Path) -> None:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("no CUDA compiler (nvcc) on the path")
    command = [compiler, "-ptx", "-std=c++14", "-Werror", "all-warnings", SOURCE]
    done = subprocess.run(
        [*command, "-o", tmp_path / "p.ptx"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    compiled = (tmp_path / "p.ptx").read_text()
    for name in ("project_slices", "back_project_slices", "turn_plane_adjoint", "splat", "gather"):
        assert f".entry {name}(" in compiled
    # Sums in a fixed order: no thread adds to what another one owns.
    assert "atom." not in compiled
    assert "red.global" not in compiled


def test_without_cupy_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_cupy", lambda: None)
    with pytest.raises(
        ResourceError, match=r"need the library cupy: pip install 'dichrotomo\[gpu\]'"
    ):
        backend.launcher("")


class DeviceArray(np.ndarray):
    """Refuses to meet arrays of the host, as cupy's arrays do."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        given = [on_host_memory(value) for value in inputs]
        target = tuple(on_host_memory(value) for value in out)
        found = getattr(ufunc, method)(*given, **options, **({"out": target} if out else {}))
        return out[0] if out else on_device_memory(found)

    def __array_function__(self, function, _, arguments, options):
        return on_device_memory(function(*map(on_host_memory, arguments), **options))

    def __getitem__(self, key):
        parts = key if isinstance(key, tuple) else (key,)
        return super().__getitem__(tuple(on_host_memory(part) for part in parts))

    def __setitem__(self, key, value):
        parts = key if isinstance(key, tuple) else (key,)
        here = self.view(np.ndarray)
        here[tuple(on_host_memory(part) for part in parts)] = on_host_memory(value)


def on_host_memory(value: Any) -> Any:
    """What a kernel of the device works on; arrays of the host do not get there by themselves."""
    if isinstance(value, DeviceArray):
        return value.view(np.ndarray)
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError("an array of the host among those of the device")
    return value


def on_device_memory(value: Any) -> Any:
    return value.view(DeviceArray) if isinstance(value, np.ndarray) else value


class DeviceModule:
    """What the projector uses of cupy, with memory of the host that is kept apart."""

    ndarray = DeviceArray

    @staticmethod
    def asarray(array: Any) -> DeviceArray:
        return on_device_memory(np.array(array, copy=not isinstance(array, DeviceArray)))

    @staticmethod
    def asnumpy(array: DeviceArray) -> NDArray[Any]:
        assert isinstance(array, DeviceArray)
        return np.array(array.view(np.ndarray))

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            given = [on_host_memory(argument) for argument in arguments]
            return on_device_memory(getattr(np, name)(*given, **options))

        return call


@pytest.fixture
def device(host_kernels, monkeypatch) -> DeviceModule:
    """A GPU, as far as everything but its speed goes."""
    module = DeviceModule()

    def launch(name: str, n_threads: int, *arguments: Any) -> None:
        host_kernels._launch(name, n_threads, *(on_host_memory(value) for value in arguments))

    monkeypatch.setattr(backend, "_cupy", lambda: module)
    monkeypatch.setattr(backend, "gpu_available", lambda: True)
    monkeypatch.setattr(twins, "_on_device", lambda _: DeviceKernels(module, launch))
    return module


@pytest.mark.parametrize("weights", [None, "bool", "float"])
@pytest.mark.parametrize("scheme", ["series", "general"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_data_term_lives_on_the_device(scheme, masked, weights, device, monkeypatch):
    projector = make(SHAPES[1], scheme, masked)
    data, field = noise(projector.stack_shape, 8), noise(projector.field_shape, 9)
    seen = None if weights is None else np.abs(data) > 0.2
    seen = seen if weights != "float" else seen * np.abs(data)
    monkeypatch.setenv("DICHROTOMO_GPU", "off")
    expected = data_term(projector, data, seen)
    monkeypatch.delenv("DICHROTOMO_GPU")
    found = data_term(projector, data, seen)
    assert isinstance(found._data, DeviceArray)
    assert not isinstance(expected._data, DeviceArray)
    assert (found.n_data, found.data_norm2) == (expected.n_data, expected.data_norm2)
    (slope, square), (other, other_square) = (
        term.residual_gradient(field) for term in (found, expected)
    )
    assert type(slope) is np.ndarray
    close(slope, other)
    assert square == pytest.approx(other_square, rel=2e-6)
    close(found.normal(field), expected.normal(field))


def test_shards_are_computed_on_the_device(device, monkeypatch):
    turns = series_rotations(np.arange(0.0, 180.0, 20.0), 30.0)
    weights = linear_difference_weights(turns)
    data = noise((len(turns), 12, 10), 10)
    stack = DifferencedStack(data, turns, weights, "linear", 1e-8, 0.0, point_spread_px=0.4)
    field = noise((6, 9, 12, 10), 11)
    found = InProcessLeastSquares(stack, (9, 12, 10))
    assert isinstance(found._problems[0]._data, DeviceArray)
    slope, _ = found.residual_gradient(field)
    monkeypatch.setenv("DICHROTOMO_GPU", "off")
    close(slope, InProcessLeastSquares(stack, (9, 12, 10)).residual_gradient(field)[0])


def test_too_little_memory_of_the_device_is_named(device, monkeypatch):
    projector = make(SHAPES[0], "series")
    term = data_term(projector, noise(projector.stack_shape, 8))

    def full(_: Any) -> Any:
        raise MemoryError("out of memory allocating 9 bytes")

    monkeypatch.setattr(device.__class__, "asarray", staticmethod(full))
    with pytest.raises(ResourceError, match=r"the GPU has too little memory for 20 projections of"):
        term.normal(noise(projector.field_shape, 9))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shapes", "scheme"), CASES, ids=str)
def test_gpu_agrees_with_the_processor(shapes, scheme, masked):
    if scheme == "fourier":
        pytest.importorskip("cufinufft", reason="cufinufft is not installed")
    xp = backend.gpu_module()

    def on_gpu(projector: Projector, x: Any, y: Any) -> tuple[Any, Any]:
        forward, back = projector.forward(xp.asarray(x)), projector.adjoint(xp.asarray(y))
        assert isinstance(forward, xp.ndarray)
        assert isinstance(back, xp.ndarray)
        return backend.to_host(forward), backend.to_host(back)

    check_against_the_processor(make(shapes, scheme, masked), on_gpu)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("scheme", ["series", "general", "four-subvoxel"])
def test_gpu_gives_the_same_bits_again(scheme):
    xp = backend.gpu_module()
    turns = series_rotations(np.arange(0.0, 180.0, 10.0), 30.0)
    projector = Projector((40, 40, 40), (40, 40), turns, scalar_weights(len(turns)), scheme)
    y = xp.asarray(noise(projector.stack_shape, 7))
    first = backend.to_host(projector.adjoint(y))
    for _ in range(3):
        np.testing.assert_array_equal(backend.to_host(projector.adjoint(y)), first)


@pytest.mark.gpu
@needs_gpu
def test_gpu_benchmark_runs(script, capsys):
    rows = script("gpu").main(["--size", "tiny"])
    assert {row["scheme"] for row in rows} >= {"series", "general"}
    assert all(row["seconds"] > 0 for row in rows)
