"""Particles of two components seen at two energies: their outlines say where they are."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.align.outline import saturated
from pipeline.align.register import register_volumes
from schemas.recipe import RegisterSettings


def test_other_contrast_does_not_displace() -> None:
    rng = np.random.default_rng(0)
    place = np.moveaxis(np.indices((40, 40, 40)), 0, -1)
    first, second = np.zeros((40, 40, 40)), np.zeros((40, 40, 40))
    for k in range(16):
        centre = rng.uniform(9, 31, 3)
        ball = ((place - centre) ** 2).sum(axis=-1) < rng.uniform(2.5, 4.5) ** 2
        # What is bright at one energy is faint at the other.
        first[ball], second[ball] = (1.0, 0.3) if k % 2 else (0.3, 1.0)
    seen = [
        ndimage.shift(ndimage.gaussian_filter(values, 0.7), shift, order=3)
        + 0.02 * rng.standard_normal(values.shape)
        for values, shift in ((first, (0, 0, 0)), (second, (0.6, -1.2, 0.9)))
    ]
    one, two = (values.astype(np.float32) for values in seen)
    fixed = RegisterSettings(refine_rotation=False)
    found = register_volumes(saturated(one), saturated(two), np.eye(3), fixed)
    np.testing.assert_allclose(found.shift, [0.9, -1.2, 0.6], atol=0.15)


def test_nothing_to_saturate() -> None:
    empty = np.zeros((8, 8, 8), np.float32)
    assert saturated(empty) is empty
