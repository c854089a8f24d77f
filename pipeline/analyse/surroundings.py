"""Where found things lie: distance to the nearest surface, and which surface that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from pipeline.analyse.winding import EVERYWHERE, label_holes

INSIDE, SURFACE, PORE = 0, 1, 2
"""Codes of `place`: away from any surface, near the outer one, near a pore."""

PLACES = np.array(["inside", "near the surface", "near a pore"])
"""Words for the codes, in tables."""


@dataclass(frozen=True)
class Surroundings:
    """Nearest masked voxel of any point.

    Attributes
    ----------
    tree : of the masked voxels that touch a valid one.
    pore : (k,) bool, of these voxels: not connected to the outside.
    """

    tree: cKDTree
    pore: NDArray[np.bool_]

    def of(
        self, points: NDArray[np.float64], near_voxels: float
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Distance to the surface and what is near.

        Parameters
        ----------
        points : (k, 3) float64 z, y, x [voxel].
        near_voxels : distance up to which a surface is near.

        Returns
        -------
        (k,) float64 [voxel], from the centre of the nearest masked voxel less half a voxel, and
        (k,) uint8 place codes.
        """
        if len(points) == 0:
            return np.zeros(0), np.zeros(0, np.uint8)
        distance, index = self.tree.query(points)
        distance = np.maximum(distance - 0.5, 0.0)
        place = np.where(self.pore[index], PORE, SURFACE)
        return distance, np.where(distance <= near_voxels, place, INSIDE).astype(np.uint8)


def find_surroundings(valid: NDArray[np.bool_]) -> Surroundings:
    """Surfaces of a mask; where it meets the border of the volume, that is a surface too.

    Parameters
    ----------
    valid : (z, y, x) bool.
    """
    padded = np.pad(valid, 1)
    cross = ndimage.generate_binary_structure(3, 1)
    shell = ndimage.binary_dilation(padded, cross) & ~padded
    label, _ = label_holes(valid, EVERYWHERE)
    voxels = np.argwhere(shell)
    return Surroundings(cKDTree(voxels - 1.0), label[shell] != label[0, 0, 0])


def to_metres(
    points: NDArray[np.float64], shape: tuple[int, ...], pixel_size_m: float
) -> NDArray[np.float64]:
    """Points (k, 3) z, y, x [voxel] as x, y, z [m] from the volume's voxel `n // 2`."""
    return (points - np.array([n // 2 for n in shape]))[:, ::-1] * pixel_size_m
