"""Dropped arrays leave their memory to the process once it has asked for that."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.memory import keep_freed_memory

MEASURE = """
import sys, resource
import numpy as np
from pipeline.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("cannot")
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    np.ones(25_000_000, np.float32)
print(faults() - before)
"""


def faults(how: str) -> int:
    """Pages that the system had to find for the third array of 100 MB."""
    command = [sys.executable, "-c", MEASURE, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stderr == "cannot\n":
        pytest.skip("the C library cannot keep memory")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_of_dropped_arrays_is_used_again() -> None:
    kept, given_back = faults("keep"), faults("drop")
    assert kept < 5
    assert given_back > 40  # pages of 2 MB at the most


def test_a_c_library_that_cannot_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert keep_freed_memory() is False
