"""Which arrays live where: the only module that imports cupy.

Numerics ask here for the array module of an array that they were given; without cupy, or without
a GPU, everything answers for the CPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pipeline.errors import ResourceError

Launch = Callable[..., None]
"""Start a kernel: its name, the number of threads, its arguments (arrays and numpy scalars)."""

NO_GPU = "DICHROTOMO_GPU=off"
"""What in the environment keeps everything on the processor."""

_THREADS = 256
"""Threads of a block: enough blocks for a GPU at any size that is worth one."""


@functools.cache
def _cupy() -> ModuleType | None:
    """The cupy module, or None where it is not installed or does not load."""
    try:
        import cupy
    except ImportError:
        return None
    module: ModuleType = cupy
    return module


def array_module(array: Any) -> ModuleType:
    """Return the module (numpy or cupy) that `array` belongs to."""
    cupy = _cupy()
    if cupy is not None and isinstance(array, cupy.ndarray):
        return cupy
    return np


def to_host(array: Any) -> NDArray[Any]:
    """Return `array` as a numpy array, copied from the GPU if it lies there."""
    cupy = _cupy()
    if cupy is not None and isinstance(array, cupy.ndarray):
        return np.asarray(cupy.asnumpy(array))
    return np.asarray(array)


@functools.cache
def gpu_available() -> bool:
    """Whether cupy loads and sees a GPU that answers."""
    cupy = _cupy()
    if cupy is None:
        return False
    try:
        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


def compute_module(libraries: Sequence[str] = ()) -> ModuleType:
    """Array module to compute with: cupy where this process has a GPU, else numpy.

    Parameters
    ----------
    libraries : what else the GPU needs; without one of them it is numpy.
    """
    name, _, value = NO_GPU.partition("=")
    if os.environ.get(name) == value or not gpu_available():
        return np
    if any(importlib.util.find_spec(library) is None for library in libraries):
        return np
    return gpu_module()


def gpu_module() -> ModuleType:
    """The array module of the GPU.

    Raises
    ------
    ResourceError
        If there is no cupy.
    """
    cupy = _cupy()
    if cupy is None:
        raise ResourceError(
            "kernels for a GPU need the library cupy: pip install 'dichrotomo[gpu]'"
        )
    return cupy


def fft_module(xp: ModuleType) -> Any:
    """The Fourier transforms of an array module."""
    if xp is np:
        return _CpuFft
    return importlib.import_module("cupyx.scipy.fft")


class _CpuFft:
    """Those of scipy on all cores."""

    irfft2 = staticmethod(functools.partial(scipy.fft.irfft2, workers=-1))
    rfft2 = staticmethod(functools.partial(scipy.fft.rfft2, workers=-1))
    fftshift = staticmethod(scipy.fft.fftshift)
    ifftshift = staticmethod(scipy.fft.ifftshift)


def launcher(source: str) -> Launch:
    """Compile CUDA `source` and return what starts its kernels, one thread for each element.

    Raises
    ------
    ResourceError
        If there is no cupy.
    """
    cupy = _cupy()
    if cupy is None:
        raise ResourceError(
            "kernels for a GPU need the library cupy: pip install 'dichrotomo[gpu]'"
        )
    module = cupy.RawModule(code=source, options=("--std=c++14",))

    def launch(name: str, n_threads: int, *arguments: Any) -> None:
        blocks = (n_threads + _THREADS - 1) // _THREADS
        if blocks:
            module.get_function(name)((blocks,), (_THREADS,), arguments)

    return launch


def usable_cores() -> int:
    """Cores that this process may use, which a scheduler can limit below those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_name() -> str:
    """Name the processor and its usable cores, and the GPU if there is one, for provenance."""
    cores = usable_cores()
    name = f"{_cpu_model()}, {cores} core{'s' if cores != 1 else ''}"
    if not gpu_available():
        return name
    cupy = _cupy()
    assert cupy is not None
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    return f"{name}; {properties['name'].decode()}"


def _cpu_model() -> str:
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
