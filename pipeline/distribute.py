"""The least-squares data term in shards of projections: in this process or on Dask workers.

The projections are split into shards by the data alone, each shard gives a partial gradient by a
pure function of files, and the partial gradients are added in a fixed tree. So the result is the
same to the bit whoever computed what, how many workers there were, and which of them were lost.

The driver owns the field. It passes it to the workers as an atomically renamed `.npy` file in a
folder that all of them see, and every product starts from that file again when a worker is lost:
no state of an iteration lives on a worker only. What a worker keeps is a copy of its shards.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, ResourceError
from pipeline.stacks import DifferencedStack
from pipeline.tomography.geometry import group_by_axis
from pipeline.tomography.projector import Projector, Scheme
from pipeline.tomography.solvers import LocalLeastSquares, PixelWeights, without_unmeasured

if TYPE_CHECKING:
    from distributed import Client, Future

SHARD_PROJECTIONS = 96
"""Most projections in a shard: enough to pay for one resampling of the field, few enough that a
beamtime of 4 x 280 projections keeps a dozen workers busy."""

SMALL_GROUP = 8
"""Axis groups below this size are put together: alone they would not pay for their shard."""

FIELD_COPIES = 4
"""Fields that a worker holds at once: input, gradient, and two in the axis' own frame."""

CACHED_SHARDS = 64
"""Most shards that a worker process keeps in memory."""

ATTEMPTS = 6
"""Times that one product is tried before workers count as lost for good."""

PATIENCE_SECONDS = 120.0
"""How long to wait for a worker when there is none."""

Operation = Literal["residual_gradient", "normal"]
Field = NDArray[np.float32]
Indices = NDArray[np.intp]


def split_projections(
    rotations: NDArray[np.float64], most: int = SHARD_PROJECTIONS
) -> list[Indices]:
    """Split projections into shards that share a rotation axis where they can.

    Parameters
    ----------
    rotations : (n_proj, 3, 3) float64, sample to lab.
    most : most projections in a shard.

    Returns
    -------
    list of (k,) indices; together they are 0 ... n_proj - 1. Depends on the geometry only, never
    on the number of workers.
    """
    large: list[Indices] = []
    rest: list[Indices] = []
    for group in group_by_axis(rotations):
        indices = np.asarray(group.indices, dtype=np.intp)
        (large if len(indices) >= SMALL_GROUP else rest).append(indices)
    groups = [*large, np.sort(np.concatenate(rest))] if rest else large
    parts = [np.array_split(group, -(-len(group) // most)) for group in groups]
    return list(itertools.chain.from_iterable(parts))


class TreeSum:
    """Sum of arrays that come one after another, added pairwise in an order fixed by their number.

    Keeps one partial sum a level, so that `n` arrays need about `log2(n)` of memory.
    """

    def __init__(self) -> None:
        self._levels: list[tuple[int, Field]] = []
        self.squares: list[float] = []

    def add(self, part: Field, square: float) -> None:
        """Take the next array; it may be overwritten."""
        self.squares.append(square)
        level = 0
        while self._levels and self._levels[-1][0] == level:
            left = self._levels.pop()[1]
            left += part
            part, level = left, level + 1
        self._levels.append((level, part))

    def total(self) -> tuple[Field, float]:
        """Sum of the arrays, and the sum of the squares in float64."""
        parts = [part for _, part in self._levels]
        total = parts.pop()
        while parts:
            left = parts.pop()
            left += total
            total = left
        return total, float(np.sum(np.asarray(self.squares, dtype=np.float64)))


class ShardedLeastSquares(ABC):
    """`LeastSquares` as a sum over shards of projections, in an order that the data fix.

    Parameters
    ----------
    stack : projections, rotations and weights.
    volume_shape : (z, y, x) of the unknown field.
    pixel_weights : weights of the pixels as in `LocalLeastSquares`, (n_proj, ny, nx); the pixels
        that the stack says were measured when absent.
    scheme : of the projector.

    Raises
    ------
    InputError
        If no pixel has weight.
    """

    def __init__(
        self,
        stack: DifferencedStack,
        volume_shape: tuple[int, int, int],
        pixel_weights: PixelWeights | None = None,
        scheme: Scheme = "series",
    ):
        self.scheme: Scheme = scheme
        self.field_shape: tuple[int, int, int, int] = (stack.weights.shape[1], *volume_shape)
        self.shards = split_projections(stack.rotations)
        self.pixel_weights = stack.valid if pixel_weights is None else pixel_weights
        self.n_data = int(stack.data.size)
        if self.pixel_weights is not None:
            weights = np.broadcast_to(self.pixel_weights, stack.data.shape)
            self.n_data = int(np.count_nonzero(weights))
            # A shard in which nothing was measured adds nothing.
            self.shards = [i for i in self.shards if np.any(weights[i])]
            if not self.shards:
                raise InputError("no pixel of any projection has weight")
        squares = [self._square(stack, i) for i in self.shards]
        self.data_norm2 = float(np.sum(np.asarray(squares, dtype=np.float64)))

    def residual_gradient(self, field: Field) -> tuple[Field, float]:
        """`A^T W (A x − b)`, (c, z, y, x) float32, and `Σ w (A x − b)²`."""
        return self._product("residual_gradient", field)

    def normal(self, field: Field) -> Field:
        """`A^T W A x`, (c, z, y, x) float32."""
        return self._product("normal", field)[0]

    def _square(self, stack: DifferencedStack, indices: Indices) -> float:
        """Weighted sum of squares of a shard's data."""
        if self.pixel_weights is None:
            return float(np.sum(np.square(stack.data[indices], dtype=np.float64)))
        weights = _rows(self.pixel_weights, indices)
        data = without_unmeasured(stack.data[indices], weights)
        return float(np.sum(np.square(data, dtype=np.float64) * weights))

    @abstractmethod
    def _product(self, operation: Operation, field: Field) -> tuple[Field, float]:
        """Fixed-order sum of the shards' partial products."""


def _rows(weights: Any, indices: Indices) -> Any:
    """Rows of an array of pixel weights, which may be a scalar or broadcast along projections."""
    array = np.asarray(weights)
    return array[indices] if array.ndim == 3 and array.shape[0] > 1 else array


def _apply(problem: LocalLeastSquares, operation: Operation, field: Field) -> tuple[Field, float]:
    if operation == "normal":
        return problem.normal(field), 0.0
    return problem.residual_gradient(field)


class InProcessLeastSquares(ShardedLeastSquares):
    """The shards one after another in this process, with the threads of the kernels."""

    def __init__(
        self,
        stack: DifferencedStack,
        volume_shape: tuple[int, int, int],
        pixel_weights: PixelWeights | None = None,
        scheme: Scheme = "series",
    ):
        super().__init__(stack, volume_shape, pixel_weights, scheme)
        self._problems = [
            _shard_problem(
                stack.data[i],
                stack.rotations[i],
                stack.weights[i],
                volume_shape,
                None if self.pixel_weights is None else _rows(self.pixel_weights, i),
                scheme,
                stack.point_spread_px,
            )
            for i in self.shards
        ]

    def _product(self, operation: Operation, field: Field) -> tuple[Field, float]:
        total = TreeSum()
        for problem in self._problems:
            total.add(*_apply(problem, operation, field))
        return total.total()


def _shard_problem(
    data: NDArray[np.float32],
    rotations: NDArray[np.float64],
    weights: NDArray[np.float64],
    volume_shape: tuple[int, int, int],
    pixel_weights: PixelWeights | None,
    scheme: Scheme,
    point_spread_px: float,
) -> LocalLeastSquares:
    projector = Projector(
        volume_shape,
        data.shape[1:],
        rotations,
        weights,
        scheme,
        point_spread_px=point_spread_px,
    )
    return LocalLeastSquares(projector, data, pixel_weights)


# On a worker ------------------------------------------------------------------------------------

_cache: OrderedDict[str, LocalLeastSquares] = OrderedDict()
one_at_a_time = Lock()
"""The kernels' threads must not be entered twice at once in one process."""


def partial_product(
    shard_file: str,
    volume_shape: tuple[int, int, int],
    scheme: Scheme,
    operation: Operation,
    field_file: str,
) -> tuple[Field, float]:
    """Product of one shard with the field in a file: a pure function of the two files.

    Parameters
    ----------
    shard_file : `.npz` of a shard; its name holds the checksum of its content, so that a worker
        may keep what it read.
    volume_shape : (z, y, x).
    scheme : of the projector.
    operation : `residual_gradient` or `normal`.
    field_file : `.npy`, (c, z, y, x) float32.
    """
    with one_at_a_time:
        key = f"{Path(shard_file).name} {volume_shape} {scheme}"
        problem = _cache.pop(key, None)
        if problem is None:
            with np.load(shard_file) as shard:
                weights = shard.get("pixel_weights")
                problem = _shard_problem(
                    shard["data"],
                    shard["rotations"],
                    shard["weights"],
                    volume_shape,
                    weights,
                    scheme,
                    float(shard["point_spread_px"]),
                )
        _cache[key] = problem
        while len(_cache) > CACHED_SHARDS:
            _cache.popitem(last=False)
        return _apply(problem, operation, np.load(field_file))


# On the driver ----------------------------------------------------------------------------------


class DistributedLeastSquares(ShardedLeastSquares):
    """The shards on the workers of a Dask cluster that share a folder with this process.

    Parameters
    ----------
    client : a `distributed.Client`.
    stack, volume_shape, pixel_weights, scheme : as in `ShardedLeastSquares`.
    scratch : folder on a file system that every worker sees; shards and fields are written there
        and removed by `close`.

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
    ):
        super().__init__(stack, volume_shape, pixel_weights, scheme)
        self._client = client
        self._volume_shape = volume_shape
        self._scratch = scratch.resolve()
        self._counter = itertools.count()
        check_worker_memory(client, self.worker_bytes(stack, len(_workers(client)) or 1))
        self._files = [
            _write_shard(self._scratch, stack, i, self.pixel_weights) for i in self.shards
        ]

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
        for file in self._files:
            Path(file).unlink(missing_ok=True)

    def _product(self, operation: Operation, field: Field) -> tuple[Field, float]:
        name = f"field-{os.getpid()}-{id(self):x}-{next(self._counter)}.npy"
        field_file = self._scratch / name
        _write_array(field_file, field)
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
        addresses = _wait_for_workers(self._client)
        ahead = 2 * len(addresses)  # Results of more shards would only fill the workers' memory.
        waiting: deque[Future] = deque()
        total = TreeSum()
        try:
            todo = iter(enumerate(self._files))
            while True:
                for k, file in itertools.islice(todo, ahead - len(waiting)):
                    waiting.append(self._submit(k, file, operation, field_file, addresses))
                if not waiting:
                    return total.total()
                part, square = _result(self._client, waiting[0])
                waiting.popleft().release()
                total.add(part if part.flags.writeable else part.copy(), square)
        finally:
            for future in waiting:
                future.cancel(force=True)

    def _submit(
        self, k: int, file: str, operation: Operation, field_file: str, addresses: Sequence[str]
    ) -> Future:
        # A shard has a home, where its data are cached, but runs elsewhere when that is lost.
        return self._client.submit(
            partial_product,
            file,
            self._volume_shape,
            self.scheme,
            operation,
            field_file,
            workers=[addresses[k % len(addresses)]],
            allow_other_workers=True,
            pure=False,
        )


def check_worker_memory(client: Client, needed: int) -> None:
    """Refuse before starting what would not fit into the smallest worker.

    Raises
    ------
    ResourceError
        Says how much is needed and how much there is.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [int(info.get("memory_limit") or 0) for info in workers]
    smallest = min((limit for limit in limits if limit > 0), default=0)
    if smallest and needed > 0.9 * smallest:
        raise ResourceError(
            f"a worker needs {needed / 2**30:.2f} GiB, the smallest one has "
            f"{smallest / 2**30:.2f} GiB; use more workers or workers with more memory"
        )


def _workers(client: Client) -> list[str]:
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


def _wait_for_workers(client: Client) -> list[str]:
    end = time.monotonic() + PATIENCE_SECONDS
    while not (addresses := _workers(client)):
        if time.monotonic() > end:
            raise ResourceError(f"no Dask worker for {PATIENCE_SECONDS:g} s; the cluster is gone")
        time.sleep(0.1)
    return addresses


def _result(client: Client, future: Future) -> tuple[Field, float]:
    """Result of a task; keeps asking, because a lost scheduler answers nothing at all."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            part, square = future.result(timeout=2)
        except TimeoutError:
            if _workers(client):
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


def _write_shard(
    scratch: Path,
    stack: DifferencedStack,
    indices: Indices,
    pixel_weights: PixelWeights | None,
) -> str:
    """Write one shard under a name that holds the checksum of its content."""
    arrays: dict[str, NDArray[Any]] = {
        "data": stack.data[indices],
        "rotations": stack.rotations[indices],
        "weights": stack.weights[indices],
        "point_spread_px": np.array(stack.point_spread_px),
    }
    if pixel_weights is not None:
        arrays["pixel_weights"] = _rows(pixel_weights, indices)
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    path = scratch / f"shard-{digest.hexdigest()[:24]}.npz"
    with _renamed(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return str(path)


def _write_array(path: Path, array: Field) -> None:
    with _renamed(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """Temporary name beside a path, renamed to it when the block ends well."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
