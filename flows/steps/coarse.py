"""Coarse pixels for the preview."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.io.stacks import load_phase, save_phase


def binning(shape: tuple[int, int], edge_px: int) -> int:
    """Pixels that become one, so that the longer edge has at most `edge_px`."""
    return max(1, math.ceil(max(shape) / edge_px))


def bin_phase(out: Path, phase: Path, binning: int) -> None:
    """Mean over blocks of pixels of a prepared series. Writes `phase.h5`.

    The phase of a pixel is an integral along the beam, so that its mean over a block is the phase
    of the large pixel.
    """
    stack = load_phase(phase)
    save_phase(
        out / "phase.h5",
        replace(
            stack,
            data=block_mean(stack.data, binning),
            pixel_size_m=stack.pixel_size_m * binning,
            noise=stack.noise / binning,
        ),
    )


def block_mean(images: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Mean over `factor` x `factor` pixels; rows and columns that are left over are cut off.

    Parameters
    ----------
    images : (n, ny, nx) float32.
    factor : edge of a block [pixel].
    """
    n, ny, nx = images.shape[0], images.shape[1] // factor, images.shape[2] // factor
    cut = images[:, : ny * factor, : nx * factor]
    return np.ascontiguousarray(cut.reshape(n, ny, factor, nx, factor).mean(axis=(2, 4)))
