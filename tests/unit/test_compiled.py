"""Compiled kernels of processes that begin together do not get mixed up."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from numba.core.caching import IndexDataCacheFile

from pipeline.compiled import LOCK, guard_kernels


def test_two_variants_that_are_saved_at_once_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard_kernels()
    guard_kernels()
    note = IndexDataCacheFile._save_index

    def slowly(self: Any, overloads: dict[Any, str]) -> None:
        note(self, overloads)
        time.sleep(0.2)

    monkeypatch.setattr(IndexDataCacheFile, "_save_index", slowly)
    files = {name: IndexDataCacheFile(str(tmp_path), "kernel", "stamp") for name in ("a", "b", "c")}
    threads = [
        threading.Thread(target=files[name].save, args=(name, f"code of {name}")) for name in files
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = IndexDataCacheFile(str(tmp_path), "kernel", "stamp")
    assert {name: reader.load(name) for name in files} == {n: f"code of {n}" for n in files}
    assert (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_written_to_is_read_without_a_lock(tmp_path: Path) -> None:
    guard_kernels()
    assert IndexDataCacheFile(str(tmp_path / "absent"), "kernel", "stamp").load("a") is None
