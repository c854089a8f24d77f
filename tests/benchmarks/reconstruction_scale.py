"""What an orientation takes at the published size: products counted, products and steps timed.

A run is too long to be timed whole whenever somebody wants to know. So the products with the data
that the default settings ask for are counted on a sample that a minute is enough for, its strengths
searched on a part of the projections as they are at full size; one shard's product is timed at full
size, with all and with that part of its projections, and what the tensor stage and the rank-one
stage do between products as well, on arrays of full size. The rest is multiplication.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from reconstruction_cases import Oriented

from pipeline.distribute_shards import SHARD_PROJECTIONS, InProcessLeastSquares
from pipeline.memory import keep_freed_memory
from pipeline.progress import Progress
from pipeline.reconstruct.orientation import reconstruct_orientation, refine_rank_one
from pipeline.reconstruct.smooth import EDGE_SCALE, KNEE
from pipeline.stacks import DifferencedStack
from pipeline.tomography import strength
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.priors import (
    EdgePreservingPrior,
    Field,
    GradientPrior,
    Mask,
    component_metric,
)
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LeastSquares, LocalLeastSquares, conjugate_gradient
from schemas.recipe import OrientationSettings

Shape3 = tuple[int, int, int]

PAPER = ((330, 540, 330), (650, 760), 280)
"""Volume (z, y, x), frame (ny, nx) and projections of each of the four mountings, as published."""

TENSOR, RANK_ONE = (
    "orientation: conjugate gradients",
    "orientation: rank one",
)

PAIRS, MEASURED_PAIRS = 5, 2
"""Steps that L-BFGS keeps, and how many of them the timed steps leave."""


class Watched:
    """A data term whose products are counted and timed."""

    def __init__(self, term: LeastSquares, share: float) -> None:
        self._term, self.share = term, share
        self.field_shape, self.data_norm2 = term.field_shape, term.data_norm2
        self.n_data = term.n_data
        self.products, self.seconds = 0.0, 0.0

    def residual_gradient(self, field: Field) -> tuple[Field, float]:
        """As the data term's."""
        started = time.perf_counter()
        found = self._term.residual_gradient(field)
        self._note(started)
        return found

    def normal(self, field: Field) -> Field:
        """As the data term's."""
        started = time.perf_counter()
        found = self._term.normal(field)
        self._note(started)
        return found

    def _note(self, started: float) -> None:
        self.seconds += time.perf_counter() - started
        self.products += self.share


@dataclass(frozen=True)
class Counted:
    """Products of a default reconstruction whose strengths are searched on a part of its data.

    Attributes
    ----------
    whole : with all projections, or five in six of them, at full resolution.
    part : with the part of them.
    coarse : on wider voxels, in those of all projections at full resolution.
    steps : iterations by stage.
    """

    whole: int
    part: int
    coarse: float
    steps: dict[str, int]


def counted(case: Oriented) -> Counted:
    """Reconstruct a sample with default settings and count."""
    terms: list[Watched] = []
    whole = float(np.prod(case.support.shape)) * len(case.stack.data)

    def make(stack: DifferencedStack, shape: Shape3 | None = None) -> LeastSquares:
        size = shape or case.support.shape
        support = case.support if size == case.support.shape else None
        projector = Projector(
            size,
            stack.data.shape[1:],
            stack.rotations,
            stack.weights,
            support=support,
            point_spread_px=stack.point_spread_px,
        )
        share = float(np.prod(size)) * len(stack.data) / whole
        terms.append(Watched(LocalLeastSquares(projector, stack.data), share))
        return terms[-1]

    steps: dict[str, int] = {}

    def note(state: Progress) -> None:
        steps[state.stage] = steps.get(state.stage, 0) + 1

    with patch.object(strength, "SEARCHED", len(case.stack.data) // 2):
        reconstruct_orientation(
            case.stack,
            case.support,
            OrientationSettings(),
            problem=make(case.stack),
            make=make,
            progress=note,
        )
    full = [term for term in terms if term.field_shape[1:] == case.support.shape]
    coarse = sum(term.products for term in terms if term not in full)
    done = [(term.products / term.share, term.share > 0.75) for term in full]
    return Counted(
        round(sum(n for n, every in done if every)),
        round(sum(n for n, every in done if not every)),
        coarse,
        steps,
    )


@dataclass(frozen=True)
class FullSize:
    """Seconds and bytes at full size.

    Attributes
    ----------
    projections, shape, frame : of the whole problem.
    product : seconds of a product of all projections.
    part : seconds of a product of those that strengths are searched on.
    tensor, rank_one : seconds of a step of either stage beside its products.
    peak : bytes of the process after both, with one shard of the data.
    missing : bytes that a whole run holds beside that.
    """

    projections: int
    shape: Shape3
    frame: tuple[int, int]
    product: float
    part: float
    tensor: float
    rank_one: float
    peak: int
    missing: int


def pillar_support(shape: Shape3) -> Mask:
    """A pillar that fills the volume but a voxel or two, (z, y, x) bool."""
    z, y, x = (np.arange(n) - n // 2 for n in shape)
    across = (z[:, None] / (0.47 * shape[0])) ** 2 + (x[None, :] / (0.47 * shape[2])) ** 2 < 1.0
    along = np.abs(y) < 0.47 * shape[1]
    return np.ascontiguousarray(across[:, None, :] & along[None, :, None])


def full_size(divide: int) -> FullSize:
    """Time one shard's product and steps of both stages, at the published size over `divide`."""
    keep_freed_memory()  # As every run does.
    shape = (PAPER[0][0] // divide, PAPER[0][1] // divide, PAPER[0][2] // divide)
    frame = (PAPER[1][0] // divide, PAPER[1][1] // divide)
    total = 4 * (PAPER[2] // divide)
    count = min(SHARD_PROJECTIONS, PAPER[2] // divide)
    rotations = series_rotations(np.linspace(0.0, 180.0, count, endpoint=False), 30.0, 90.0)
    data = np.random.default_rng(0).standard_normal((count, *frame), dtype=np.float32)
    weights = linear_difference_weights(rotations, 0.64)
    stack = DifferencedStack(data, rotations, weights, "linear", 3e-8, 0.0, point_spread_px=0.4)
    support = pillar_support(shape)
    problem = Watched(InProcessLeastSquares(stack, shape), 1.0)
    diagonal = float(count)
    # Kernels are compiled, which belongs to no step.
    _steps(problem, support, diagonal, 1)
    problem.seconds = problem.products = 0.0
    tensor, rank_one = _steps(problem, support, diagonal, MEASURED_PAIRS)
    product = problem.seconds / problem.products * total / count
    part = _part_product(stack, shape, max(1, total // strength.SEARCHED)) * total / count
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    field = 6 * int(np.prod(shape))
    # The other shards' data, partial sums of a dozen shards, the steps that were not done, and the
    # tensor with its axes, contrast and uniaxiality, which wait for the end.
    sums = int(np.ceil(np.log2(max(total // count, 1))))
    kept = ((PAIRS - MEASURED_PAIRS) * 2 * 3 + 6 + 5) * int(np.count_nonzero(support))
    missing = 4 * ((total - count) * int(np.prod(frame)) + sums * field + kept)
    return FullSize(total, shape, frame, product, part, tensor, rank_one, peak, missing)


def _part_product(stack: DifferencedStack, shape: Shape3, every: int) -> float:
    """Seconds of a product with every so many of a shard's projections."""
    chosen = np.arange(0, len(stack.data), every)
    problem = Watched(InProcessLeastSquares(stack.subset(chosen), shape), 1.0)
    problem.normal(np.ones(problem.field_shape, np.float32))
    return problem.seconds


def _steps(
    problem: Watched, support: Mask, diagonal: float, iterations: int
) -> tuple[float, float]:
    """Seconds of a step of the tensor stage and of the rank-one stage beside products."""
    metric = component_metric(6)
    before, started = problem.seconds, time.perf_counter()
    conjugate_gradient(
        problem,
        support=support,
        priors=[GradientPrior(diagonal, support, metric)],
        metric=metric,
        iterations=iterations,
    )
    tensor = (time.perf_counter() - started - problem.seconds + before) / iterations
    vectors = _grains(support)
    prior = EdgePreservingPrior(np.sqrt(diagonal), EDGE_SCALE, support, metric, KNEE)
    before, started = problem.seconds, time.perf_counter()
    refine_rank_one(problem, vectors, prior, sign=1, iterations=iterations, diagonal=diagonal)
    rank_one = (time.perf_counter() - started - problem.seconds + before) / iterations
    return tensor, rank_one


def _grains(support: Mask) -> NDArray[np.float32]:
    """Axes (3, n) of blocks of voxels, with noise."""
    rng = np.random.default_rng(0)
    z, y, x = (np.arange(n) // 16 for n in support.shape)
    block = (z[:, None, None] * 7 + y[None, :, None] * 5 + x[None, None, :] * 3) % 61
    axes = rng.normal(size=(3, 61)).astype(np.float32)
    axes /= np.linalg.norm(axes, axis=0)
    packed = axes[:, block[support]]
    packed += rng.normal(scale=0.05, size=packed.shape).astype(np.float32)
    return packed
