"""The scripts of this folder as modules."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def script(load: Callable[[str], ModuleType]) -> Callable[[str], ModuleType]:
    """Loads a benchmark by its name."""
    return lambda name: load(f"benchmarks/{name}.py")
