"""A twin of the measurement, whose truth is known: what noise and prior do to a result.

The reconstructed axes are projected again, the residuals of the real data are put back with a sign
thrown for each projection, and the twin data are reconstructed with the same settings. How far the
twin's axes are from those that it was made of is how far the real ones are from the truth, as far
as noise, prior, missing directions and what is inconsistent between projections go (the wild
bootstrap: Wu, Ann. Stat. 14, 1261 (1986), doi 10.1214/aos/1176350142). Keeping the signs of a whole
projection together keeps the correlation of neighbouring pixels, as of a shift that is left over.
What all projections have in common, a wrong degree of polarisation say, does not show.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import GeometryError
from pipeline.reconstruct.axes import outer_tensor
from pipeline.stacks import DifferencedStack
from pipeline.tomography.projector import Projector, fastest_scheme


def twin_of_orientation(
    stack: DifferencedStack,
    axis: NDArray[np.float32],
    magnitude: NDArray[np.float32],
    sign: int,
    rng: np.random.Generator,
    isotropic: NDArray[np.float32] | None = None,
) -> DifferencedStack:
    """Data of a sample that has the reconstructed axes, with the residuals of the real data.

    Parameters
    ----------
    stack : the real data, contrast linear.
    axis : (3, z, y, x) float32 reconstructed axes, unit vectors.
    magnitude : (z, y, x) float32 reconstructed `|f|`, zero outside the support.
    sign : sign of `f`.
    rng : throws the signs of the residuals.
    isotropic : (z, y, x) float32, of polarisations that were fitted jointly.

    Returns
    -------
    DifferencedStack with the geometry of `stack`.

    Raises
    ------
    GeometryError
        If axis and magnitude differ in shape.
    """
    if axis.shape != (3, *magnitude.shape):
        raise GeometryError(
            f"twin: expected axes (3, z, y, x) of the magnitude's shape {magnitude.shape}, "
            f"found {axis.shape}"
        )
    vectors = (axis * np.sqrt(magnitude)).reshape(3, -1).astype(np.float32)
    tensor = np.float32(sign) * outer_tensor(vectors).reshape(6, *magnitude.shape)
    support = magnitude > 0
    field = tensor
    if isotropic is not None:
        # The weights of the tensor are traceless then: what it has of a trace is not seen.
        field = np.concatenate([tensor, isotropic[None]])
        support = support | (isotropic != 0.0)
    projector = Projector(
        magnitude.shape,
        stack.data.shape[1:],
        stack.rotations,
        stack.weights,
        fastest_scheme(stack.rotations),
        support=support,
        point_spread_px=stack.point_spread_px,
    )
    fitted = projector.forward(np.ascontiguousarray(field, dtype=np.float32))
    signs = rng.choice(np.array([-1.0, 1.0], np.float32), size=len(stack.data))
    return replace(stack, data=fitted + signs[:, None, None] * (stack.data - fitted))
