"""Where the reconstruction runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import StrictModel


class Cluster(StrictModel):
    """A Dask cluster: started on this machine, or joined at an address."""

    kind: Literal["none", "local", "address"] = "local"
    """`none`: in this process; `local`: worker processes here; `address`: an existing scheduler."""

    workers: int = Field(default=0, ge=0, le=4096)
    """Worker processes for `local`; 0 takes one per core, four at most."""

    threads_per_worker: int = Field(default=1, ge=1, le=256)
    """Threads of the numerical kernels in each worker."""

    address: str | None = Field(default=None, pattern=r"^(tcp|tls|inproc)://.+")
    """Scheduler address for `address`, such as `tcp://127.0.0.1:8786`."""

    @model_validator(mode="after")
    def _complete(self) -> Cluster:
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("cluster.address goes with cluster.kind 'address', and only with it")
        return self
