"""Where the work runs: in this process, on a private Dask cluster, or on one at an address.

A worker that dies is replaced, and what it did is done again elsewhere. A scheduler that dies is
waited for, if somebody starts it again; the step that it managed starts again.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flows.cluster.join import AWAY_SECONDS, greet, join
from flows.cluster.steady_clock import make_steady
from flows.steps.workspace import StepFunction, call_here
from pipeline.errors import ResourceError
from pipeline.progress import Progress, ProgressCallback
from pipeline.stacks import DifferencedStack
from pipeline.tomography.projector import Scheme
from pipeline.tomography.solvers import LeastSquares, PixelWeights
from schemas.cluster import Cluster

if TYPE_CHECKING:
    from distributed import Client, Future

    from flows.cluster.slurm import SlurmJobs

PROGRESS_TOPIC = "dichrotomo-progress"
_PROGRESS_SECONDS = 0.5
_LIST_SECONDS = 20
_REMOTE_STEPS = 64  # Dask queues what its workers cannot take yet.
_QUIET = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # Any port, no other machine.
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
        near: bool = False,
    ) -> LeastSquares:
        """Data term of `stack` for a volume (z, y, x); `near` here if all workers are here."""
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
        self._jobs: SlurmJobs | None = None
        self._opening = threading.Lock()
        self._here = threading.Lock()
        self._listeners: dict[str, ProgressCallback] = {}
        self._killed = False

    @property
    def parallel_steps(self) -> int:
        """Number of steps worth running at the same time."""
        match self.settings.kind:
            case "none":
                return 1
            case "local":
                return worker_count(self.settings)
            case "cuda":
                return max(1, len(visible_gpus()))
        return _REMOTE_STEPS

    def call(
        self, function: StepFunction, arguments: Mapping[str, Any], progress: ProgressCallback
    ) -> None:
        """Call a step function on a worker, or here if there are none."""
        client = self.client()
        if client is None:
            self.call_here(function, arguments, progress)
            return
        for attempt in range(_LOST):
            name = f"{function.__name__}-{os.urandom(6).hex()}"
            self._listeners[name] = progress
            future = client.submit(
                _call_on_worker, function, dict(arguments), name, key=name, pure=False, retries=0
            )
            try:
                self._wait(future)
                return
            except _SchedulerLostError:
                if attempt == _LOST - 1 or not _is_back(client):
                    raise ResourceError(
                        f"the Dask scheduler was lost and did not come back within "
                        f"{AWAY_SECONDS} s; the same command goes on from here"
                    ) from None
                client.subscribe_topic(PROGRESS_TOPIC, self._heard)
            finally:
                self._listeners.pop(name, None)

    def _wait(self, future: Future) -> None:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        while True:
            try:
                future.result(timeout=2)
                return
            except TimeoutError:
                if future.status == "error":
                    raise
                if self._jobs is not None:
                    self._jobs.check()
            except (FutureCancelledError, CancelledError):
                if self._killed:
                    raise  # The run has been cancelled: nothing comes back.
                raise _SchedulerLostError from None
            except KilledWorker:
                raise ResourceError(
                    f"{_LOST} workers died in this step, most likely for lack of memory; "
                    "use fewer workers, or workers with more memory"
                ) from None

    def call_here(
        self, function: StepFunction, arguments: Mapping[str, Any], progress: ProgressCallback
    ) -> None:
        """Call a step function in this process, one at a time.

        The threads of the kernels belong to the process: two calls at once would share them badly
        and some threading layers of numba do not allow it.
        """
        with self._here:
            self._check_alive()
            call_here(function, arguments, progress)

    def fits(self, needed: int) -> bool:
        """Whether a step of so much memory [byte] can be done by any one worker, or here."""
        from pipeline.distribute import fits_a_worker

        client = self.client()
        return client is None or fits_a_worker(client, needed)

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
            near: bool = False,
        ) -> LeastSquares:
            client = self.client()
            if client is None or (near and self.settings.kind == "local"):
                return InProcessLeastSquares(stack, volume_shape, pixel_weights, scheme)
            problem = DistributedLeastSquares(
                client,
                stack,
                volume_shape,
                scratch=self.scratch,
                pixel_weights=pixel_weights,
                scheme=scheme,
                check=None if self._jobs is None else self._jobs.check,
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
            self._check_alive()
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> Client:
        configure_dask()
        from distributed import Client

        match self.settings.kind:
            case "local":
                self._cluster = start_local(self.settings, self.scratch)
            case "cuda":
                self._cluster = start_cuda(self.settings, self.scratch)
            case "slurm":
                from flows.cluster.slurm import start_slurm

                self._jobs = start_slurm(self.settings.slurm, self.scratch)
                self._cluster = self._jobs.cluster
        if self._cluster is None:
            client = join(self.settings)
        else:
            client = Client(self._cluster, set_as_default=False)
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
        if self._jobs is not None:
            self._jobs.close()
        elif self._cluster is not None:
            self._cluster.close(timeout=10)
        self._client = self._cluster = self._jobs = None

    def _check_alive(self) -> None:
        """Steps that were waiting for their turn do not start what was cancelled anew."""
        if self._killed:
            raise ResourceError("the run has been cancelled")

    def kill(self) -> None:
        """End private workers of this machine at once, in the middle of what they compute."""
        self._killed = True
        if self.settings.kind not in ("local", "cuda") or self._cluster is None:
            return
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


def check_there(settings: Cluster) -> None:
    """See that a cluster is there, before anything is made for a run on it.

    Raises
    ------
    InputError : the certificates of a scheduler are missing, or cannot be used.
    ResourceError : no scheduler answers, no GPU is visible, or there is no Slurm.
    """
    match settings.kind:
        case "address":
            greet(settings)
        case "cuda":
            check_gpus(visible_gpus())
        case "slurm":
            from flows.cluster.slurm import check_installed

            check_installed()


def worker_count(settings: Cluster) -> int:
    """Worker processes of a `local` cluster: as asked for, else one a core, four at most."""
    return settings.workers or min(len(os.sched_getaffinity(0)), 4)


def configure_dask() -> None:
    """Settings that make loss visible soon and keep everything on this machine's loopback."""
    import dask

    dask.config.set(
        {
            "distributed.comm.timeouts.tcp": "11s",
            # A nanny starts its worker again; this is the time after which Dask drops the nanny
            # too, for good. On a busy machine a worker takes many seconds to start.
            "distributed.deploy.lost-worker-timeout": "300s",
            "distributed.scheduler.allowed-failures": _LOST,
            "distributed.worker.daemon": True,
            "distributed.admin.system-monitor.gil.enabled": False,
        }
    )
    make_steady()


def start_local(settings: Cluster, scratch: Path) -> Any:
    """Start worker processes on this machine, listening on loopback, without a dashboard."""
    from distributed import LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    return LocalCluster(
        n_workers=worker_count(settings),
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        scheduler_kwargs=_QUIET,
        local_directory=str(scratch),
        env=_thread_limits(settings),
        silence_logs=logging.CRITICAL,
        preload=["flows.cluster.worker"],
    )


def _thread_limits(settings: Cluster) -> dict[str, str]:
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(settings.threads_per_worker))


def visible_gpus() -> list[str]:
    """GPUs that this process may use: as `CUDA_VISIBLE_DEVICES` says, else all of them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_LIST_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def check_gpus(gpus: Sequence[str]) -> None:
    """See that there is one.

    Raises
    ------
    ResourceError : no GPU is visible.
    """
    if not gpus:
        raise ResourceError("cluster 'cuda': no GPU is visible; nvidia-smi lists what there is")


def start_cuda(settings: Cluster, scratch: Path) -> Any:
    """Start one worker process for each visible GPU, which sees that one only.

    Raises
    ------
    ResourceError : no GPU is visible.
    """
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = visible_gpus()
    check_gpus(gpus)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options = {
        "host": "127.0.0.1",
        "nthreads": 1,
        "dashboard": False,
        "local_directory": str(scratch),
        "preload": ["flows.cluster.worker"],
        "memory_limit": 1.0 / len(gpus),
    }
    workers = {}
    for index, gpu in enumerate(gpus):
        env = {**_thread_limits(settings), "CUDA_VISIBLE_DEVICES": gpu}
        workers[index] = {"cls": Nanny, "options": {**options, "env": env}}
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", **_QUIET}},
        workers=workers,
        silence_logs=logging.CRITICAL,
    )


class _SchedulerLostError(Exception):
    """The scheduler is gone, and with it what it knew of a step."""


def _is_back(client: Client) -> bool:
    """Wait for a lost scheduler; the client itself looks for it and gives up in the end."""
    end = time.monotonic() + AWAY_SECONDS
    while client.status == "connecting" and time.monotonic() < end:
        time.sleep(0.2)
    return bool(client.status == "running")


def _call_on_worker(function: StepFunction, arguments: Mapping[str, Any], call: str) -> None:
    """Call a step function on a worker, one at a time in its process, and report from there.

    Dask cannot interrupt what computes: of a run that has been cancelled, or whose driver is gone,
    the step ends itself when it reports.
    """
    from distributed import get_worker

    from pipeline.distribute import one_at_a_time

    worker = get_worker()
    last = [0.0]

    def check_wanted() -> None:
        task = worker.state.tasks.get(call)
        if task is None or task.state == "cancelled":
            raise ResourceError("the run has been cancelled")

    def report(event: Progress) -> None:
        check_wanted()
        now = time.monotonic()
        if now - last[0] >= _PROGRESS_SECONDS or event.done == event.total:
            last[0] = now
            worker.log_event(PROGRESS_TOPIC, {"call": call, **vars(event)})

    takes = "progress" in inspect.signature(function).parameters
    with one_at_a_time:
        check_wanted()
        function(**arguments, **({"progress": report} if takes else {}))
