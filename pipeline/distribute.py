"""The least-squares data term on Dask workers, which may be lost at any time.

Shards, their order and their sum are those of `pipeline/distribute_shards.py`; each shard gives a
partial gradient by a pure function of files (`pipeline/distribute_worker.py`). So the result is the
same to the bit whoever computed what, how many workers there were, and which of them were lost.

The driver owns the field. It passes it to the workers as an atomically renamed `.npy` file in a
folder that all of them see, and every product starts from that file again when a worker is lost:
no state of an iteration lives on a worker only. What a worker keeps is a copy of its shards.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.distribute_homes import Homes
from pipeline.distribute_shards import (
    Field,
    InProcessLeastSquares,
    Operation,
    ShardedLeastSquares,
    TreeSum,
    split_projections,
)
from pipeline.distribute_worker import (
    CACHED_SHARDS,
    make_ready,
    one_at_a_time,
    partial_product,
    write_array,
    write_shard,
)
from pipeline.errors import ResourceError
from pipeline.stacks import DifferencedStack
from pipeline.tomography.projector import Scheme
from pipeline.tomography.solvers import PixelWeights

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = [
    "DistributedLeastSquares",
    "InProcessLeastSquares",
    "ShardedLeastSquares",
    "TreeSum",
    "check_worker_memory",
    "fits_a_worker",
    "one_at_a_time",
    "partial_product",
    "split_projections",
]

FIELD_COPIES = 4
"""Fields that a worker holds at once: input, gradient, and two in the axis' own frame."""

FULLEST = 0.9
"""Share of a worker's memory that may be planned for."""

ATTEMPTS = 20
"""Times that one product is tried before workers count as lost for good: a minute and a half, in
which even a busy machine has started some again."""

PATIENCE_SECONDS = 120.0
"""How long to wait for a worker when there is none."""


class DistributedLeastSquares(ShardedLeastSquares):
    """The shards on the workers of a Dask cluster that share a folder with this process.

    Parameters
    ----------
    client : a `distributed.Client`.
    stack, volume_shape, pixel_weights, scheme : as in `ShardedLeastSquares`.
    scratch : folder on a file system that every worker sees; shards and fields are written there
        and removed by `close`.
    check : called while there is no worker; raises where waiting is of no use. Two minutes are
        waited when absent.

    Raises
    ------
    ResourceError
        Before anything starts, if the shards do not fit into the workers' memory; later, if
        workers are lost and none come back.
    """

    def __init__(
        self,
        client: Client,
        stack: DifferencedStack,
        volume_shape: tuple[int, int, int],
        *,
        scratch: Path,
        pixel_weights: PixelWeights | None = None,
        scheme: Scheme = "series",
        check: Callable[[], None] | None = None,
    ):
        super().__init__(stack, volume_shape, pixel_weights, scheme)
        self._client = client
        self._check = check
        self._volume_shape = volume_shape
        self._scratch = scratch.resolve()
        self._counter = itertools.count()
        check_worker_memory(client, self.worker_bytes(stack, len(_workers(client)) or 1))
        self._files = [
            write_shard(self._scratch, stack, i, self.pixel_weights) for i in self.shards
        ]
        self._homes = Homes(len(self._files))
        self._newcomers: dict[str, Future] = {}

    def worker_bytes(self, stack: DifferencedStack, n_workers: int) -> int:
        """Predicted memory of the fullest of `n_workers` workers [byte]."""
        pixels = int(np.prod(stack.data.shape[1:]))
        largest = max(len(indices) for indices in self.shards)
        held = min(-(-len(self.shards) // n_workers), CACHED_SHARDS)
        # A shard is held once and its residual exists while it is worked on.
        weight = 0 if self.pixel_weights is None else self.pixel_weights.itemsize
        projections = (held + 1) * largest * pixels * (4 + weight)
        return projections + FIELD_COPIES * 4 * int(np.prod(self.field_shape))

    def close(self) -> None:
        """Remove the shards; results already returned stay valid."""
        for future in self._newcomers.values():
            future.cancel()
        self._newcomers = {}
        for file in self._files:
            Path(file).unlink(missing_ok=True)

    def _product(self, operation: Operation, field: Field) -> tuple[Field, float]:
        name = f"field-{os.getpid()}-{id(self):x}-{next(self._counter)}.npy"
        field_file = self._scratch / name
        write_array(field_file, field)
        try:
            return self._until_done(operation, str(field_file))
        finally:
            field_file.unlink(missing_ok=True)

    def _until_done(self, operation: Operation, field_file: str) -> tuple[Field, float]:
        """Try the whole product again, from the field's file, whenever workers are lost."""
        lost: BaseException | None = None
        for attempt in range(ATTEMPTS):
            try:
                return self._once(operation, field_file)
            except _lost_worker_errors() as error:
                lost = error
                time.sleep(min(0.1 * 2**attempt, 5.0))
        raise ResourceError(
            f"{operation}: workers were lost {ATTEMPTS} times in a row ({type(lost).__name__})"
        )

    def _once(self, operation: Operation, field_file: str) -> tuple[Field, float]:
        homes, n_workers = self._find_homes()
        ahead = 2 * n_workers  # Results of more shards would only fill the workers' memory.
        waiting: deque[tuple[Future, str]] = deque()
        total = TreeSum()
        try:
            todo = iter(zip(self._files, homes, strict=True))
            while True:
                for file, home in itertools.islice(todo, ahead - len(waiting)):
                    waiting.append((self._submit(file, operation, field_file, home), home))
                if not waiting:
                    return total.total()
                part, square = _result(self._client, *waiting[0], self._check)
                waiting.popleft()[0].release()
                total.add(part if part.flags.writeable else part.copy(), square)
        finally:
            for future, _ in waiting:
                future.cancel(force=True)

    def _find_homes(self) -> tuple[list[str], int]:
        """Address of every shard's worker, and how many workers are ready.

        A worker that joins later first loads what a product needs, while the others go on.
        """
        alive = _wait_for_workers(self._client, self._check)
        for address in self._homes.newcomers(alive) - set(self._newcomers):
            file = self._files[self._homes.next_to_move()]
            self._newcomers[address] = self._client.submit(
                make_ready, file, self._volume_shape, self.scheme, workers=[address], pure=False
            )
        done = {address for address, future in self._newcomers.items() if future.done()}
        for address in set(self._newcomers) - (set(alive) - done):
            self._newcomers.pop(address).cancel()
        return self._homes.assign(alive, done), self._homes.n_ready

    def _submit(self, file: str, operation: Operation, field_file: str, home: str) -> Future:
        # A shard has a home, where its data are cached, but runs elsewhere when that is lost.
        return self._client.submit(
            partial_product,
            file,
            self._volume_shape,
            self.scheme,
            operation,
            field_file,
            workers=[home],
            allow_other_workers=True,
            pure=False,
        )


def smallest_worker(client: Client) -> int:
    """Memory of the smallest worker [byte]; 0 where none has a limit."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [int(info.get("memory_limit") or 0) for info in workers]
    return min((limit for limit in limits if limit > 0), default=0)


def fits_a_worker(client: Client, needed: int) -> bool:
    """Whether every worker has so much memory [byte]."""
    smallest = smallest_worker(client)
    return not smallest or needed <= FULLEST * smallest


def check_worker_memory(client: Client, needed: int) -> None:
    """Refuse before starting what would not fit into the smallest worker.

    Raises
    ------
    ResourceError
        Says how much is needed and how much there is.
    """
    smallest = smallest_worker(client)
    if not fits_a_worker(client, needed):
        raise ResourceError(
            f"a worker needs {needed / 2**30:.2f} GiB, the smallest one has "
            f"{smallest / 2**30:.2f} GiB; use more workers or workers with more memory"
        )


def _workers(client: Client) -> list[str]:
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


def _wait_for_workers(client: Client, check: Callable[[], None] | None) -> list[str]:
    end = time.monotonic() + PATIENCE_SECONDS
    while not (addresses := _workers(client)):
        if check is not None:
            check()
        elif time.monotonic() > end:
            raise ResourceError(f"no Dask worker for {PATIENCE_SECONDS:g} s; the cluster is gone")
        time.sleep(0.1)
    return addresses


def _result(
    client: Client, future: Future, home: str, check: Callable[[], None] | None
) -> tuple[Field, float]:
    """Result of a task; keeps asking, because a lost scheduler answers nothing at all.

    Raises
    ------
    CancelledError
        The task's home is gone. Dask moves a task to another worker that there is, but when it
        had to wait for the first new one it waits for its home for ever.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            part, square = future.result(timeout=2)
        except TimeoutError:
            alive = _workers(client)
            if alive and home not in alive:
                raise CancelledError from None
            if check is not None:
                check()
            elif alive:
                end = time.monotonic() + PATIENCE_SECONDS
            elif time.monotonic() > end:
                raise ResourceError("every Dask worker was lost") from None
            continue
        return part, square


def _lost_worker_errors() -> tuple[type[BaseException], ...]:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError

    # KeyError: a result whose only holder died between its announcement and its transfer.
    return (
        CancelledError,
        asyncio.CancelledError,
        FutureCancelledError,
        KilledWorker,
        CommClosedError,
        KeyError,
    )
