"""The part of the distributed data term that runs on a worker: files in, a partial product out.

A worker loads its shards itself and keeps them; the field comes from a file as well, so that no
state of an iteration lives on a worker only.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.distribute_shards import (
    Field,
    Indices,
    Operation,
    apply_to,
    rows_of,
    shard_problem,
)
from pipeline.stacks import DifferencedStack
from pipeline.tomography.projector import Scheme
from pipeline.tomography.solvers import LocalLeastSquares, PixelWeights

CACHED_SHARDS = 64
"""Most shards that a worker process keeps in memory."""

_cache: OrderedDict[tuple[str, tuple[int, int, int], str], LocalLeastSquares] = OrderedDict()
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
        problem = _loaded(shard_file, volume_shape, scheme)
        return apply_to(problem, operation, np.load(field_file))


def make_ready(shard_file: str, volume_shape: tuple[int, int, int], scheme: Scheme) -> None:
    """Load a shard, and all that a product needs: libraries, compiled kernels, plans.

    For a process that has just begun, so that no product waits for it meanwhile. Arguments as of
    `partial_product`.
    """
    with one_at_a_time:
        problem = _loaded(shard_file, volume_shape, scheme)
        apply_to(problem, "residual_gradient", np.zeros(problem.field_shape, np.float32))


def _loaded(
    shard_file: str, volume_shape: tuple[int, int, int], scheme: Scheme
) -> LocalLeastSquares:
    """Data term of a shard, which stays in memory."""
    key = (shard_file, volume_shape, scheme)
    problem = _cache.pop(key, None)
    if problem is None:
        forget_removed()
        with np.load(shard_file) as shard:
            problem = shard_problem(
                shard["data"],
                shard["rotations"],
                shard["weights"],
                volume_shape,
                shard.get("pixel_weights"),
                scheme,
                float(shard["point_spread_px"]),
            )
    _cache[key] = problem
    while len(_cache) > CACHED_SHARDS:
        _cache.popitem(last=False)
    return problem


def forget_removed() -> None:
    """Drop the shards of data terms that the driver has closed."""
    for key in [key for key in _cache if not Path(key[0]).exists()]:
        del _cache[key]


def write_shard(
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
        arrays["pixel_weights"] = rows_of(pixel_weights, indices)
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    path = scratch / f"shard-{digest.hexdigest()[:24]}.npz"
    with _renamed(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return str(path)


def write_array(path: Path, array: Field) -> None:
    """Write an array so that its file is whole as soon as it is there."""
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
