from __future__ import annotations

import sys

import numpy as np
import pytest

from pipeline import backend


def test_numpy_arrays_belong_to_numpy() -> None:
    array = np.arange(3.0)
    assert backend.array_module(array) is np
    assert backend.to_host(array) is array
    assert backend.to_host([1, 2]).shape == (2,)


def test_device_name_says_processor_and_cores() -> None:
    cores = backend.usable_cores()
    assert cores >= 1
    assert f", {cores} core" in backend.device_name()


def test_works_where_cupy_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    backend._cupy.cache_clear()
    backend.gpu_available.cache_clear()
    try:
        assert backend.gpu_available() is False
        assert backend.array_module(np.zeros(1)) is np
        assert ";" not in backend.device_name()
    finally:
        backend._cupy.cache_clear()
        backend.gpu_available.cache_clear()


@pytest.mark.gpu
def test_gpu_arrays_belong_to_cupy() -> None:
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    if not backend.gpu_available():
        pytest.skip("no NVIDIA GPU")
    array = cupy.arange(3)
    assert backend.array_module(array) is cupy
    np.testing.assert_array_equal(backend.to_host(array), [0, 1, 2])
