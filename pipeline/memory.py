"""Memory that arrays leave behind stays with the process, for the arrays that come next.

A product with the data of a large volume makes and drops a few gigabytes of arrays. By default the
C library hands each back to the system, which has to find and clear its pages anew for the next
one: 0.1 s per gigabyte where it has them at hand, 2 to 5 s on a virtual machine that gives what is
free back to its host. At the published size (`tests/benchmarks/reconstruction.py --size paper
--rows scale`) that was half of the time and more.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of `mallopt`: what has to be free at the heap's end before it is given back, and how
many arrays may lie outside of the heap."""

_NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep the memory of arrays that it drops, until it ends.

    For processes that exist to compute: flow runs and workers. What they hold is then always as
    much as they have held at most.

    Returns
    -------
    Whether the C library can do so: that of GNU can; others go on as before.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
