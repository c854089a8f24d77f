"""Dask workers as jobs of a Slurm cluster: started as needed, encrypted, gone before their limit.

The scheduler lives in the driver's process. Every run makes a certificate of its own, so that
nobody else on the cluster's network can reach its scheduler or workers.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ResourceError
from schemas.cluster import SlurmSettings

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster

ENVIRONMENT = (
    *("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "USER", "XDG_STATE_HOME"),
    *("DICHROTOMO_GPU", "NPY_DISABLE_CPU_FEATURES", "NUMBA_CPU_FEATURES", "NUMBA_CPU_NAME"),
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"),
)
"""All that a job inherits: no password or API key of the driver's environment goes with it. Who has
chosen the kernels of numerical libraries gets the same bits from a job as from the driver."""

_CALL_SECONDS = 30
_CHECK_SECONDS = 10.0
_IDLE_SECONDS = 60  # The driver's own part of an iteration is shorter.
_REFUSALS = 3
_HOPELESS = {"BadConstraints", "PartitionNodeLimit", "PartitionTimeLimit"}
"""Reasons for which Slurm lets a job wait that no waiting will change."""


def start_slurm(settings: SlurmSettings, scratch: Path, *, interval_s: float = 1.0) -> SlurmJobs:
    """Start a scheduler here and let jobs come and go with the work.

    Parameters
    ----------
    settings : of the jobs.
    scratch : folder that all nodes see: logs and the run's certificate lie there.
    interval_s : between two looks at how many jobs are needed [s].

    Raises
    ------
    ResourceError
        dask-jobqueue or Slurm is not installed, or Slurm refuses the job; says why.
    """
    check_installed()
    load_jobqueue()
    jobs = SlurmJobs(settings, scratch)
    try:
        jobs.test()
        jobs.adapt(interval_s)
    except BaseException:
        jobs.close()
        raise
    return jobs


def check_installed() -> None:
    """See that there is a Slurm here.

    Raises
    ------
    ResourceError : dask-jobqueue or Slurm is not installed.
    """
    if shutil.which("sbatch") is None:
        raise ResourceError("cluster 'slurm': sbatch is not on the PATH; is this a login node?")
    if importlib.util.find_spec("dask_jobqueue") is None:
        raise ResourceError(
            "cluster 'slurm' needs dask-jobqueue: pip install -c constraints.txt -e '.[slurm]'"
        )


def load_jobqueue() -> None:
    """Import dask-jobqueue, which answers Ctrl-C itself from then on: that is not wanted here, and
    fails in a thread, where flows run their tasks.
    """
    handler = signal.signal
    setattr(signal, "signal", lambda *_: None)  # noqa: B010 - it is typed as a constant
    try:
        importlib.import_module("dask_jobqueue.slurm")
    finally:
        setattr(signal, "signal", handler)  # noqa: B010


class SlurmJobs:
    """A `SLURMCluster` that says when its jobs are refused or wait too long.

    Attributes
    ----------
    cluster : of dask-jobqueue.
    refusals : what sbatch said, since a job was accepted last.
    """

    def __init__(self, settings: SlurmSettings, scratch: Path):
        import dask
        from distributed.security import Security

        # A job that is gone does not come back: forgotten soon, and replaced by adaptation.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"})
        self.settings = settings
        self.refusals: list[str] = []
        self._waiting_since: float | None = None
        self._hopeless: str | None = None
        self._checked = self._asked = time.monotonic()
        logs = scratch / "jobs"
        logs.mkdir(exist_ok=True)
        threads = max(1, settings.cores_per_job // settings.workers_per_job)
        self.cluster: SLURMCluster = _cluster_class(self)(
            queue=settings.partition,
            account=settings.account,
            walltime=_clock(60 * settings.walltime_min),
            job_cpu=settings.cores_per_job,
            cores=settings.workers_per_job,
            processes=settings.workers_per_job,
            memory=f"{settings.memory_gib_per_job:g}GiB",
            interface=settings.interface,
            python=shlex.quote(settings.python or sys.executable),
            protocol="tls://",
            security=Security.temporary(),
            shared_temp_directory=str(scratch),
            local_directory=shlex.quote(settings.scratch or str(scratch)),
            log_directory=str(logs),
            job_name="dichrotomo",
            job_script_prologue=_prologue(settings, threads),
            job_extra_directives=_directives(settings),
            worker_extra_args=_worker_options(settings),
            # Of a driver that is gone the workers end by themselves.
            death_timeout="60",
            scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            silence_logs="critical",
        )

    def test(self) -> None:
        """Ask Slurm whether it would take such a job.

        Raises
        ------
        ResourceError : it would not; with its reason.
        """
        done = subprocess.run(
            ["sbatch", "--test-only"],
            input=self.cluster.job_script(),
            capture_output=True,
            text=True,
            timeout=_CALL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise ResourceError(f"Slurm refuses the job: {_last_line(done.stderr)}")

    def adapt(self, interval_s: float) -> None:
        """Keep as many jobs as there are tasks, within the bounds of the settings."""
        self.cluster.adapt(
            Adaptive=_adaptive_class(self),
            minimum_jobs=self.settings.jobs_min,
            maximum_jobs=self.settings.jobs_max,
            interval=f"{interval_s:g}s",
            wait_count=max(1, round(_IDLE_SECONDS / interval_s)),
        )

    def check(self) -> None:
        """See, now and then, that work can go on.

        Raises
        ------
        ResourceError
            There are no workers, and Slurm refuses new jobs or has let them wait too long.
        """
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        if self.cluster.scheduler.workers:
            self._waiting_since = None
            return
        if len(self.refusals) >= _REFUSALS:
            raise ResourceError(f"Slurm refuses the job: {self.refusals[-1]}")
        if self._hopeless is not None:
            raise ResourceError(
                f"Slurm will never start the job ({self._hopeless}); see the settings of slurm"
            )
        self._waiting_since = self._waiting_since or now
        waited = (now - self._waiting_since) / 60
        if waited > self.settings.queue_wait_min:
            raise ResourceError(
                f"no Slurm job started within {self.settings.queue_wait_min} minutes "
                "(slurm.queue_wait_min); the same command goes on from here"
            )

    async def forget_lost(self) -> None:
        """Drop jobs that ended before their worker came, so that others take their place.

        Dask hears of workers that leave, never of those that did not come: a job that is cancelled
        in the queue, or dies with its node, would be waited for without end.
        """
        now = time.monotonic()
        waiting = [name for name in self.cluster.workers if not self._has_come(name)]
        if not waiting or now - self._asked < _CHECK_SECONDS:
            return
        self._asked = now
        alive = await _jobs_in_queue()
        if alive is None:
            return
        self._hopeless = next(iter(_HOPELESS & set(alive.values())), None)
        for name in waiting:
            job = self.cluster.workers.get(name)
            if job is not None and job.job_id and job.job_id not in alive:
                del self.cluster.workers[name]

    def _has_come(self, name: str) -> bool:
        group = self.cluster.worker_spec.get(name, {}).get("group", [""])
        return any(f"{name}{suffix}" in self.cluster.observed for suffix in group)

    def close(self) -> None:
        """Cancel the jobs, and remove the run's certificate and key."""
        self.cluster.close(timeout=_CALL_SECONDS)
        for part in ("ca_file", "cert", "key"):
            file = getattr(self.cluster, f"_job_{part}", None)
            if file is not None:
                file.close()


def _cluster_class(jobs: SlurmJobs) -> type[SLURMCluster]:
    """`SLURMCluster` whose jobs tell `jobs` what sbatch answers."""
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob

    class WatchedJob(SLURMJob):
        async def _submit_job(self, script_filename: str) -> str:
            try:
                answer: str = await super()._submit_job(script_filename)
            except RuntimeError as error:
                jobs.refusals.append(_last_line(str(error)))
                raise
            jobs.refusals.clear()
            return answer

    class WatchedCluster(SLURMCluster):
        job_cls = WatchedJob

    return WatchedCluster


async def _jobs_in_queue() -> dict[str, str] | None:
    """Number and reason of the user's jobs that wait or run; None if Slurm does not answer."""
    command = ("squeue", "-h", "-o", "%A %r", "-u", str(os.getuid()))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        answer, _ = await asyncio.wait_for(process.communicate(), _CALL_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    if process.returncode != 0:
        return None
    lines = [line.split(maxsplit=1) for line in answer.decode().splitlines()]
    return {words[0]: words[-1] for words in lines if words}


def _adaptive_class(jobs: SlurmJobs) -> Any:
    """Adaptation by the number of tasks.

    Dask's own goes by how long tasks take: the products of an iteration are short, and it would
    let one worker do all of them.
    """
    from distributed.deploy import Adaptive

    class ByTasks(Adaptive):
        async def target(self) -> int:
            await jobs.forget_lost()
            scheduler = self.cluster.scheduler
            waiting = len(scheduler.queued) + len(scheduler.unrunnable)
            return waiting + sum(len(worker.processing) for worker in scheduler.workers.values())

    return ByTasks


def _prologue(settings: SlurmSettings, threads: int) -> list[str]:
    """Shell lines before the worker; every word in them has passed the schema."""
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return [
        *[f"module load {name}" for name in settings.modules],
        *[f"export {name}={threads}" for name in names],
        # What comes into a running job's spool is readable by the user alone.
        "umask 077",
    ]


def _directives(settings: SlurmSettings) -> list[str]:
    """Options of sbatch beyond what dask-jobqueue writes."""
    gpus = [f"--gres=gpu:{settings.gpus_per_job}"] if settings.gpus_per_job else []
    # A worker that Slurm starts again after its node died would find its name taken.
    return [f"--export={','.join(ENVIRONMENT)}", "--no-requeue", *gpus, *settings.directives]


def _worker_options(settings: SlurmSettings) -> list[str]:
    """Options of `dask worker`: it leaves before its time limit, not all of them at once."""
    lifetime = 60 * settings.walltime_min - settings.leave_before_s
    stagger = max(1, min(settings.leave_before_s, lifetime // 10))
    return [
        "--lifetime",
        f"{lifetime - stagger}s",
        "--lifetime-stagger",
        f"{stagger}s",
        "--no-dashboard",
        "--dashboard-address",
        "127.0.0.1:0",
        "--preload",
        "flows.cluster.worker",
        "--preload-nanny",
        "flows.cluster.steady_clock",
    ]


def _clock(seconds: int) -> str:
    """Slurm's `days-hours:minutes:seconds`."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02d}:{minute:02d}:{second:02d}"


def _last_line(text: str) -> str:
    """The last line that is not empty: sbatch ends with its reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reasons = [line for line in lines if "rror:" in line]
    return (reasons or lines or ["no reason given"])[-1]
