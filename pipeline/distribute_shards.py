"""The least-squares data term as a sum over shards of projections, in an order that the data fix.

The projections are split into shards by the data alone and the shards' partial gradients are added
in a fixed tree, so that the sum is the same to the bit whoever computed what: here one shard after
another in this process, in `pipeline/distribute.py` on the workers of a cluster.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.stacks import DifferencedStack
from pipeline.tomography.geometry import group_by_axis
from pipeline.tomography.projector import Projector, Scheme
from pipeline.tomography.solvers import (
    LocalLeastSquares,
    PixelWeights,
    data_term,
    without_unmeasured,
)

SHARD_PROJECTIONS = 300
"""Most projections in a shard: a whole mounting of a published measurement (280). Every shard turns
the field and transforms its slices anew, whatever it holds: with a quarter of the projections a
product still took 73 % of the time (`reconstruction.py --size paper --rows scale`)."""

SMALL_GROUP = 8
"""Axis groups below this size are put together: alone they would not pay for their shard."""

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
        If data, rotations and weights differ in number, data that count are not finite, or no pixel
        has weight.
    """

    def __init__(
        self,
        stack: DifferencedStack,
        volume_shape: tuple[int, int, int],
        pixel_weights: PixelWeights | None = None,
        scheme: Scheme = "series",
    ):
        _check_stack(stack)
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

    @abstractmethod
    def close(self) -> None:
        """Free what the shards take; results already returned stay valid."""

    def _square(self, stack: DifferencedStack, indices: Indices) -> float:
        """Weighted sum of squares of a shard's data."""
        data = pick(stack.data, indices)
        if self.pixel_weights is None:
            square = float(np.sum(np.square(data, dtype=np.float64)))
        else:
            weights = rows_of(self.pixel_weights, indices)
            data = without_unmeasured(data, weights)
            square = float(np.sum(np.square(data, dtype=np.float64) * weights))
        if not np.isfinite(square):
            bad = ~np.isfinite(data).all(axis=(1, 2))
            first = int(indices[int(np.argmax(bad))])
            raise InputError(f"projection {first} holds non-finite values")
        return square

    @abstractmethod
    def _product(self, operation: Operation, field: Field) -> tuple[Field, float]:
        """Fixed-order sum of the shards' partial products."""


def _check_stack(stack: DifferencedStack) -> None:
    """Refuse a stack that is not the one of its geometry."""
    n = len(stack.rotations)
    if stack.data.ndim != 3 or len(stack.data) != n or stack.weights.shape[:1] != (n,):
        raise InputError(
            f"expected a stack of {n} projections (n, ny, nx), one for each rotation, found "
            f"{stack.data.shape} with weights {stack.weights.shape}"
        )


def rows_of(weights: Any, indices: Indices) -> Any:
    """Rows of an array of pixel weights, which may be a scalar or broadcast along projections."""
    array = np.asarray(weights)
    return pick(array, indices) if array.ndim == 3 and array.shape[0] > 1 else array


def pick(stack: NDArray[Any], indices: Indices) -> NDArray[Any]:
    """Projections of a stack, without a copy where they follow each other, as a mounting's do."""
    first, behind = int(indices[0]), int(indices[-1]) + 1
    if np.array_equal(indices, np.arange(first, behind)):
        return stack[first:behind]
    return np.asarray(stack[indices])


def apply_to(problem: LocalLeastSquares, operation: Operation, field: Field) -> tuple[Field, float]:
    """Product of a data term with a field, and the sum of squares of the residual (0 without)."""
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
            shard_problem(
                pick(stack.data, i),
                stack.rotations[i],
                stack.weights[i],
                volume_shape,
                None if self.pixel_weights is None else rows_of(self.pixel_weights, i),
                scheme,
                stack.point_spread_px,
            )
            for i in self.shards
        ]

    def close(self) -> None:
        """Free the shards' data."""
        self._problems = []

    def _product(self, operation: Operation, field: Field) -> tuple[Field, float]:
        total = TreeSum()
        for problem in self._problems:
            total.add(*apply_to(problem, operation, field))
        return total.total()


def shard_problem(
    data: NDArray[np.float32],
    rotations: NDArray[np.float64],
    weights: NDArray[np.float64],
    volume_shape: tuple[int, int, int],
    pixel_weights: PixelWeights | None,
    scheme: Scheme,
    point_spread_px: float,
) -> LocalLeastSquares:
    """Data term of one shard; parameters as in `ShardedLeastSquares`, of its projections only."""
    projector = Projector(
        volume_shape,
        data.shape[1:],
        rotations,
        weights,
        scheme,
        point_spread_px=point_spread_px,
    )
    return data_term(projector, data, pixel_weights)
