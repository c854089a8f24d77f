"""Memory and disk: what a run will take is compared with what there is before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.errors import ResourceError

_CGROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process may still take [byte]: free, and allowed by its control group."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in _CGROUPS:
        try:
            allowed = int((root / limit).read_text())
            free = min(free, max(0, allowed - int((root / used).read_text())))
        except (OSError, ValueError):
            continue  # No such group, or no limit: it says "max".
    return free


def size(n_bytes: int) -> str:
    """A size for people."""
    unit, name = (2**30, "GiB") if n_bytes >= 2**29 else (2**20, "MiB")
    return f"{n_bytes / unit:.1f} {name}"


def refuse_too_large(needed: int, what: str) -> None:
    """Refuse what would not fit into memory, before the system ends it in the middle.

    Raises
    ------
    ResourceError : says how much is needed and how much there is.
    """
    free = free_memory()
    if needed > free:
        raise ResourceError(
            f"{what} needs about {size(needed)} of memory, {size(free)} are free; resample "
            "to larger pixels (resample.pixel_size_m), or use a larger machine"
        )


def refuse_full_disk(needed: int, folder: Path) -> None:
    """Refuse a run whose files would not fit where they are to be written.

    Parameters
    ----------
    needed : by all files of the run [byte].
    folder : of the results, which may not exist yet; what lies in it counts as written.

    Raises
    ------
    ResourceError : says how much is needed and how much there is.
    """
    there = folder.resolve()
    written = sum(path.stat().st_size for path in there.rglob("*") if path.is_file())
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed - written > free:
        raise ResourceError(
            f"{folder}: a run needs about {size(needed)} of disk, {size(free)} are free"
        )
