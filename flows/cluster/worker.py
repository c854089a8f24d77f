"""Set-up of a local worker process, loaded by Dask when it starts.

Ctrl-C reaches every process of a terminal; the driver alone answers it and ends its workers.
"""

from __future__ import annotations

import signal
import threading

from flows.cluster import steady_clock  # noqa: F401 - loading it is enough

if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
