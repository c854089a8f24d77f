"""Where the reconstruction runs: in this process, on this machine, on a cluster."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from schemas.base import StrictModel

# These words end up in a job script: nothing in them may end a word or start a command.
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:@%+/=-]*$")]
Directive = Annotated[
    str, StringConstraints(pattern=r"^--?[A-Za-z][A-Za-z0-9-]*([= ][A-Za-z0-9_.,:@%+/&|*()-]+)?$")
]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_.,:@%+/=-]*$")]


class SlurmSettings(StrictModel):
    """Jobs on a Slurm cluster, each of them one or more Dask workers."""

    partition: Word | None = None
    """Partition; the cluster's default one when absent."""

    account: Word | None = None
    """Account that is charged; the user's default one when absent."""

    walltime_min: int = Field(default=240, ge=2, le=43200)
    """Time limit of a job [minute]: four hours, which short queues still take; a run may last
    longer than its jobs."""

    leave_before_s: int = Field(default=120, ge=10, le=3600)
    """Workers leave this long before the time limit [s] and their work moves on: longer than any
    one product of projections takes."""

    jobs_min: int = Field(default=1, ge=1, le=1024)
    """Jobs kept while a run lasts."""

    jobs_max: int = Field(default=4, ge=1, le=1024)
    """Most jobs at the same time: one for each mounting of a usual beamtime."""

    workers_per_job: int = Field(default=1, ge=1, le=128)
    """Worker processes in a job."""

    cores_per_job: int = Field(default=8, ge=1, le=1024)
    """Cores of a job, shared by its workers."""

    memory_gib_per_job: float = Field(default=32.0, gt=0.0, le=65536.0)
    """Memory of a job [GiB], shared by its workers."""

    gpus_per_job: int = Field(default=0, ge=0, le=16)
    """GPUs of a job, as `--gres=gpu:N`."""

    modules: list[Word] = []
    """Environment modules that are loaded before the worker starts."""

    scratch: AbsolutePath | None = None
    """Folder on the node's own disk for what a worker spills; the run's folder when absent."""

    interface: Word | None = None
    """Network interface that scheduler and workers use, such as `ib0`; Dask's choice when absent,
    which is wrong where the head node has several."""

    python: AbsolutePath | None = None
    """Python on the nodes, with the same dichrotomo; this one when absent."""

    directives: list[Directive] = []
    """Further options of sbatch, such as `--constraint=icelake`."""

    queue_wait_min: int = Field(default=720, ge=1, le=43200)
    """How long jobs may wait in the queue before a run gives up [minute]: a night."""

    @model_validator(mode="after")
    def _consistent(self) -> SlurmSettings:
        if self.jobs_min > self.jobs_max:
            raise ValueError(
                f"slurm.jobs_min {self.jobs_min} is above slurm.jobs_max {self.jobs_max}"
            )
        if self.workers_per_job > self.cores_per_job:
            raise ValueError(
                f"slurm.workers_per_job {self.workers_per_job} is above slurm.cores_per_job "
                f"{self.cores_per_job}"
            )
        if 2 * self.leave_before_s > 60 * self.walltime_min:
            raise ValueError(
                f"slurm.leave_before_s {self.leave_before_s} leaves less than half of "
                f"slurm.walltime_min {self.walltime_min} to work in"
            )
        return self


class TlsFiles(StrictModel):
    """Certificates by which the machines of a Dask cluster know each other: paths, no content."""

    ca_file: str
    """Certificate of the authority that signed those of scheduler and workers, PEM."""
    cert_file: str
    """Certificate of this machine, PEM."""
    key_file: str
    """Its private key, PEM; readable by its owner only."""


class Cluster(StrictModel):
    """A Dask cluster: started on this machine or through a queue, or joined at an address."""

    kind: Literal["none", "local", "cuda", "slurm", "address"] = "local"
    """`none`: in this process; `local`: worker processes here; `cuda`: one here for each visible
    GPU; `slurm`: jobs of a Slurm cluster; `address`: an existing scheduler."""

    workers: int = Field(default=0, ge=0, le=4096)
    """Worker processes for `local`; 0 takes one per core, four at most."""

    threads_per_worker: int = Field(default=1, ge=1, le=256)
    """Threads of the numerical kernels in each worker of `local` and `cuda`."""

    address: str | None = Field(default=None, pattern=r"^(tcp|tls|inproc)://.+")
    """Scheduler address for `address`, such as `tls://10.0.0.5:8786`."""

    tls: TlsFiles | None = None
    """Certificates for a `tls://` address; those of Dask's own settings when absent."""

    trusted_network: bool = False
    """Allow `tcp://` to another machine: whoever reaches its port can run anything there, so off
    unless nobody else is on that network."""

    slurm: SlurmSettings = SlurmSettings()
    """Jobs for `slurm`."""

    @model_validator(mode="after")
    def _complete(self) -> Cluster:
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("cluster.address goes with cluster.kind 'address', and only with it")
        if self.address is not None:
            _check_port(self.address)
        if self.address is not None and not self.trusted_network and _leaves_unencrypted(self):
            raise ValueError(
                f"cluster.address: expected tls:// to another machine, found {self.address}; "
                "cluster.trusted_network: true allows it where nobody else is on the network"
            )
        return self


def _check_port(address: str) -> None:
    """Refuse an address that names no host and port."""
    parts = urlsplit(address)
    try:
        whole = parts.scheme == "inproc" or (parts.hostname and parts.port)
    except ValueError:  # The port is no number, or too large a one.
        whole = False
    if not whole:
        raise ValueError(f"cluster.address: expected tls://HOST:PORT, found {address}")


def _leaves_unencrypted(cluster: Cluster) -> bool:
    """Whether the address is plain TCP to a host that is not this machine's loopback."""
    parts = urlsplit(str(cluster.address))
    if parts.scheme != "tcp":
        return False
    host = parts.hostname or ""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
