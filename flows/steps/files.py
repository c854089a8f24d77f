"""What steps share: JSON, the stacks of all mountings as one, volumes cut to the sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.align.assemble import concatenate
from pipeline.io.stacks import load_differenced
from pipeline.stacks import DifferencedStack
from pipeline.tomography.geometry import group_by_axis

MARGIN = 2
"""Voxels left around the support when the volume is cut to it."""

Shape3 = tuple[int, int, int]


def write_json(path: Path, content: Any) -> None:
    """Write JSON, keys in order."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True))


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text())


def load_all(stacks: Sequence[Path], half: int | None = None) -> DifferencedStack:
    """Stacks of all mountings as one; or one half of it, every other projection of each axis."""
    whole = concatenate([load_differenced(path) for path in stacks])
    if half is None:
        return whole
    groups = group_by_axis(whole.rotations)
    chosen = np.sort(np.concatenate([group.indices[half::2] for group in groups]))
    return whole.subset(chosen)


def bounding_shape(support: NDArray[np.bool_], margin: int = MARGIN) -> Shape3:
    """Smallest shape, centred at `n // 2` as the support's own, that holds it and a margin."""
    sizes = []
    for axis, n in enumerate(support.shape):
        filled = np.flatnonzero(support.any(axis=tuple(k for k in range(3) if k != axis)))
        reach = int(np.abs(filled - n // 2).max()) + margin
        sizes.append(min(2 * reach + 1, n))
    return sizes[0], sizes[1], sizes[2]


def crop(volume: NDArray[Any], shape: Shape3) -> NDArray[Any]:
    """Cut a volume (..., z, y, x) to a smaller shape about the centre `n // 2`."""
    z, y, x = (
        slice(n // 2 - m // 2, n // 2 - m // 2 + m)
        for n, m in zip(volume.shape[-3:], shape, strict=True)
    )
    return np.ascontiguousarray(volume[..., z, y, x])
