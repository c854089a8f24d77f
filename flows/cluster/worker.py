"""Set-up of a worker process, loaded by Dask when it starts.

Ctrl-C reaches every process of a terminal; the driver alone answers it and ends its workers.
Products with the data use the same memory again and again.
"""

from __future__ import annotations

import signal
import threading

from flows.cluster import steady_clock  # noqa: F401 - loading it is enough
from pipeline.compiled import guard_kernels
from pipeline.memory import keep_freed_memory

guard_kernels()
keep_freed_memory()

if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
