"""The data term of a reconstruction: in this process, or on the workers of a cluster."""

from __future__ import annotations

from typing import Protocol

from flows.steps.files import Shape3
from pipeline.distribute import InProcessLeastSquares
from pipeline.reconstruct.smooth import MakeTerm
from pipeline.stacks import DifferencedStack
from pipeline.tomography.projector import Scheme
from pipeline.tomography.solvers import LeastSquares, PixelWeights


class Problem(Protocol):
    """Makes the data term of a reconstruction, in this process or on a cluster."""

    def __call__(
        self,
        stack: DifferencedStack,
        volume_shape: Shape3,
        *,
        pixel_weights: PixelWeights | None = None,
        scheme: Scheme = "series",
        near: bool = False,
    ) -> LeastSquares:
        """Data term of `stack` for a volume (z, y, x); `near` in this process where the workers are
        on its machine, which then has nothing to gain from them but the passing of fields."""
        ...


def in_process(
    stack: DifferencedStack,
    volume_shape: Shape3,
    *,
    pixel_weights: PixelWeights | None = None,
    scheme: Scheme = "series",
    near: bool = False,  # noqa: ARG001 - always is
) -> LeastSquares:
    """Data term in this process: the same bits as on a cluster."""
    return InProcessLeastSquares(stack, volume_shape, pixel_weights, scheme)


def parts_of(problem: Problem, whole: Shape3, scheme: Scheme = "series") -> MakeTerm:
    """Makes data terms of parts of the projections, or on coarser voxels."""

    def make(stack: DifferencedStack, shape: Shape3 | None = None) -> LeastSquares:
        return problem(stack, shape or whole, scheme=scheme, near=True)

    return make
