"""Compiled kernels on disk, which processes that begin together may share.

Numba numbers the files of a kernel's variants: it notes a number in an index, and writes the file
afterwards. Two processes that compile two variants of one kernel at the same time take the same
number, and a third then runs the code of the other variant on its arrays, with any result. So one
process writes at a time here, and none reads meanwhile.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LOCK = ".kernels.lock"
"""File beside the kernels of a folder."""


def guard_kernels() -> None:
    """Let this process wait for others that write compiled kernels; again does no harm.

    To be called before the first kernel runs.
    """
    from numba.core.caching import IndexDataCacheFile as File

    if hasattr(File, "guarded"):
        return
    save, load = File.save, File.load

    def save_alone(self: Any, key: Any, data: Any) -> None:
        with _held(Path(self._cache_path), fcntl.LOCK_EX):
            save(self, key, data)

    def load_whole(self: Any, key: Any) -> Any:
        with _held(Path(self._cache_path), fcntl.LOCK_SH):
            return load(self, key)

    File.save, File.load, File.guarded = save_alone, load_whole, True


@contextmanager
def _held(folder: Path, kind: int) -> Iterator[None]:
    """Hold the lock of a folder; a folder that nobody can write to needs none."""
    try:
        file = (folder / LOCK).open("a")
    except OSError:
        yield
        return
    with file:
        with suppress(OSError):  # Some network file systems know no locks.
            fcntl.flock(file, kind)
        yield
