"""Where the work runs: in this process, on a private Dask cluster, or on one at an address."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flows.steps import StepFunction, call_here
from pipeline.errors import ResourceError
from pipeline.progress import Progress, ProgressCallback
from pipeline.stacks import DifferencedStack
from pipeline.tomography.projector import Scheme
from pipeline.tomography.solvers import LeastSquares, PixelWeights
from schemas.cluster import Cluster

if TYPE_CHECKING:
    from distributed import Client, Future

PROGRESS_TOPIC = "dichrotomo-progress"
_PROGRESS_SECONDS = 0.5
_CONNECT_SECONDS = 20
_REMOTE_STEPS = 64  # Dask queues what its workers cannot take yet.
_LOST = 4  # A step that has killed this many workers is not tried again.


class ProblemFactory(Protocol):
    """Makes the data term of a reconstruction, here or on a cluster."""

    def __call__(
        self,
        stack: DifferencedStack,
        volume_shape: tuple[int, int, int],
        *,
        pixel_weights: PixelWeights | None = None,
        scheme: Scheme = "series",
    ) -> LeastSquares:
        """Data term of `stack` for a volume (z, y, x)."""
        ...


class Compute:
    """Runs step functions and products of projections; opens its cluster when first needed.

    Parameters
    ----------
    settings : which kind of cluster.
    scratch : folder on a file system that all workers see, for files of this run only.
    """

    def __init__(self, settings: Cluster, scratch: Path):
        self.settings = settings
        self.scratch = scratch
        self._client: Client | None = None
        self._cluster: Any = None
        self._opening = threading.Lock()
        self._here = threading.Lock()
        self._listeners: dict[str, ProgressCallback] = {}

    @property
    def parallel_steps(self) -> int:
        """Number of steps worth running at the same time."""
        if self.settings.kind == "none":
            return 1
        return worker_count(self.settings) if self.settings.kind == "local" else _REMOTE_STEPS

    def call(
        self, function: StepFunction, arguments: Mapping[str, Any], progress: ProgressCallback
    ) -> None:
        """Call a step function on a worker, or here if there are none."""
        client = self.client()
        if client is None:
            self.call_here(function, arguments, progress)
            return
        name = f"{function.__name__}-{os.urandom(6).hex()}"
        self._listeners[name] = progress
        future = client.submit(
            _call_on_worker, function, dict(arguments), name, key=name, pure=False, retries=0
        )
        try:
            _wait(future)
        finally:
            self._listeners.pop(name, None)

    def call_here(
        self, function: StepFunction, arguments: Mapping[str, Any], progress: ProgressCallback
    ) -> None:
        """Call a step function in this process, one at a time.

        The threads of the kernels belong to the process: two calls at once would share them badly
        and some threading layers of numba do not allow it.
        """
        with self._here:
            call_here(function, arguments, progress)

    @contextmanager
    def problem(self) -> Iterator[ProblemFactory]:
        """Maker of data terms on this cluster; what it made is removed when the block ends."""
        from pipeline.distribute import DistributedLeastSquares, InProcessLeastSquares

        made: list[DistributedLeastSquares] = []

        def make(
            stack: DifferencedStack,
            volume_shape: tuple[int, int, int],
            *,
            pixel_weights: PixelWeights | None = None,
            scheme: Scheme = "series",
        ) -> LeastSquares:
            client = self.client()
            if client is None:
                return InProcessLeastSquares(stack, volume_shape, pixel_weights, scheme)
            problem = DistributedLeastSquares(
                client,
                stack,
                volume_shape,
                scratch=self.scratch,
                pixel_weights=pixel_weights,
                scheme=scheme,
            )
            made.append(problem)
            return problem

        try:
            yield make
        finally:
            for problem in made:
                problem.close()

    def client(self) -> Client | None:
        """The client of the cluster, started or joined on the first call; None for `none`."""
        if self.settings.kind == "none":
            return None
        with self._opening:
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> Client:
        configure_dask()
        from distributed import Client

        if self.settings.kind == "local":
            self._cluster = start_local(self.settings, self.scratch)
            client = Client(self._cluster, set_as_default=False)
        else:
            client = join(str(self.settings.address))
        client.subscribe_topic(PROGRESS_TOPIC, self._heard)
        return client

    def _heard(self, event: tuple[float, Any]) -> None:
        # Dask adds the name of the worker to what it was given.
        message = event[1]
        listener = self._listeners.get(message["call"])
        if listener is not None:
            known = ("stage", "done", "total", "residual")
            listener(Progress(**{name: message[name] for name in known}))

    def close(self) -> None:
        """Close the client and the private cluster, if they were opened."""
        if self._client is not None:
            self._client.close(timeout=5)
        if self._cluster is not None:
            self._cluster.close(timeout=10)
        self._client = self._cluster = None

    def kill(self) -> None:
        """End the private workers at once, in the middle of what they compute."""
        if self._cluster is not None:
            for nanny in list(self._cluster.workers.values()):
                nanny.auto_restart = False
                process = nanny.process and nanny.process.process
                if process is not None and process.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)


@contextmanager
def open_compute(settings: Cluster, scratch: Path) -> Iterator[Compute]:
    """Give a `Compute` and close it, whatever ends the block: an error, Ctrl-C, a cancelled run."""
    compute = Compute(settings, scratch)
    try:
        yield compute
    except BaseException:
        # Whoever cancels a run wants its processors back, and what is not finished is of no use.
        compute.kill()
        raise
    finally:
        compute.close()


def worker_count(settings: Cluster) -> int:
    """Worker processes of a `local` cluster: as asked for, else one a core, four at most."""
    return settings.workers or min(len(os.sched_getaffinity(0)), 4)


def configure_dask() -> None:
    """Settings that make loss visible soon and keep everything on this machine's loopback."""
    import dask

    dask.config.set(
        {
            "distributed.comm.timeouts.tcp": "11s",
            "distributed.deploy.lost-worker-timeout": "2s",
            "distributed.scheduler.allowed-failures": _LOST,
            "distributed.worker.daemon": True,
            "distributed.admin.system-monitor.gil.enabled": False,
        }
    )


def start_local(settings: Cluster, scratch: Path) -> Any:
    """Start worker processes on this machine, listening on loopback, without a dashboard."""
    from distributed import LocalCluster

    threads = str(settings.threads_per_worker)
    environment = {
        "NUMBA_NUM_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    return LocalCluster(
        n_workers=worker_count(settings),
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(scratch),
        env=environment,
        silence_logs=logging.CRITICAL,
        preload=["flows.worker"],
    )


def join(address: str) -> Client:
    """Join the scheduler at `address`.

    Raises
    ------
    ResourceError
        If nobody answers there.
    """
    from distributed import Client

    try:
        return Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ResourceError(
            f"no Dask scheduler answers at {address} within {_CONNECT_SECONDS} s "
            f"({type(error).__name__})"
        ) from None


def _wait(future: Future) -> None:
    from distributed import KilledWorker

    while True:
        try:
            future.result(timeout=2)
            return
        except TimeoutError:
            if future.status == "error":
                raise
        except KilledWorker:
            raise ResourceError(
                f"{_LOST} workers died in this step, most likely for lack of memory; "
                "use fewer workers, or workers with more memory"
            ) from None


def _call_on_worker(function: StepFunction, arguments: Mapping[str, Any], call: str) -> None:
    """Call a step function on a worker, one at a time in its process, and report from there."""
    from distributed import get_worker

    from pipeline.distribute import one_at_a_time

    worker = get_worker()
    last = [0.0]

    def report(event: Progress) -> None:
        now = time.monotonic()
        if now - last[0] >= _PROGRESS_SECONDS or event.done == event.total:
            last[0] = now
            worker.log_event(PROGRESS_TOPIC, {"call": call, **vars(event)})

    takes = "progress" in inspect.signature(function).parameters
    with one_at_a_time:
        function(**arguments, **({"progress": report} if takes else {}))
