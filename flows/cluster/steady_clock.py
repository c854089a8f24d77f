"""A clock for Dask that never goes back.

Dask sends its messages in batches, and waits for the next batch by the wall clock: when that is set
back by an hour, a cluster says nothing for an hour. Here its modules, and the event loop that they
wait in, get the time of day as it was when the process began, carried on by a clock that only
counts. Loaded by the driver, and by every worker that it starts.
"""

from __future__ import annotations

import sys
import time
from typing import Any

_AHEAD = time.time() - time.monotonic()


def steady_time() -> float:
    """Seconds since the epoch, never less than before."""
    return _AHEAD + time.monotonic()


def _time_of_loop(_loop: Any) -> float:
    return steady_time()


def make_steady() -> None:
    """Give the clock to all modules of Dask and to its event loops; again does no harm."""
    import distributed.metrics
    from tornado.ioloop import IOLoop

    setattr(IOLoop, "time", _time_of_loop)  # noqa: B010 - a method, for a type checker
    known = (time.time, distributed.metrics.time)
    for name, module in list(sys.modules.items()):
        if name.startswith("distributed.") and getattr(module, "time", None) in known:
            setattr(module, "time", steady_time)  # noqa: B010 - it is typed as a constant


if "distributed" in sys.modules:
    make_steady()
