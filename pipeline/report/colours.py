"""Colours for directions, and for labels.

An axis has no sign, so its colour must be the same for `a` and `-a` and must not jump where the
sign of a component is flipped. The colour used here is linear in `a aᵀ`, in CIE L*a*b*:

    b* (blue to yellow)   ~ a_y² - a_x²
    L* (dark to light)    ~ 2 a_x a_y
    a* (green to magenta) ~ a_z²

Along x is blue, along y yellow, the diagonals between them light and dark, along z magenta. Within
the x-y plane this is the doubled angle on a cyclic map of blue, light, yellow, dark, which people
who do not tell red from green see like all others; they lose the magenta tint only, and see grey.
No map of axes to colours can be one to one (the projective plane does not fit into three
dimensions): here an axis and its mirror image in the x-y plane share a colour. Red-green-blue for
|x|, |y|, |z| would make four axes alike, and hue circles are not safe for the colour-blind.

Vectors have a sign: hue for the direction in the plane, lightness for the component out of it; the
arrows drawn over it say the same without colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import lab2rgb

BACKGROUND = 1.0
"""White, like the paper."""


def axis_colours(axis: NDArray[np.floating]) -> NDArray[np.float32]:
    """Colour of axes, the same for either sign.

    Parameters
    ----------
    axis : (3, ...) unit vectors x, y, z; white where the length is zero.

    Returns
    -------
    (..., 3) float32 sRGB, 0 to 1.
    """
    x, y, z = axis.astype(np.float64)
    along, across, out = y**2 - x**2, 2 * x * y, z**2
    lab = np.stack(
        [
            60.0 + 27.0 * across,
            # A little green or red in the plane keeps blue and yellow from looking muddy.
            56.0 * out + 6.0 * along * (along > 0) - 4.0 * np.abs(along),
            58.0 * along - 10.0 * out,
        ],
        axis=-1,
    )
    return _finish(lab, np.sqrt(x**2 + y**2 + z**2) > 0.5)


def vector_colours(
    right: NDArray[np.floating], up: NDArray[np.floating], out: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Colour of vectors by their components in the plane of a slice and out of it.

    Parameters
    ----------
    right, up, out : components relative to the largest length, -1 to 1; white where all vanish.

    Returns
    -------
    (..., 3) float32 sRGB, 0 to 1.
    """
    lab = np.stack([58.0 + 24.0 * out, 55.0 * right, 55.0 * up], axis=-1)
    return _finish(lab, np.abs(right) + np.abs(up) + np.abs(out) > 1e-6)


def _finish(lab: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    # Colours outside of sRGB are clipped by the conversion, which warns about each of them.
    flat = lab.reshape(1, -1, 3)
    colours = _lab_to_rgb(flat).reshape(lab.shape)
    colours[~inside] = BACKGROUND
    return colours.astype(np.float32)


def _lab_to_rgb(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rgb: NDArray[np.float64] = np.clip(lab2rgb(lab), 0.0, 1.0)
    return rgb


def label_colours(n: int) -> NDArray[np.float32]:
    """Distinguishable colours for labels, neighbours in number far apart in colour.

    Returns
    -------
    (n + 1, 3) float32 sRGB; the first one, for no label, is white.
    """
    golden = 0.5 * (np.sqrt(5.0) - 1.0)
    index = np.arange(n)
    hue = 2 * np.pi * np.mod(index * golden, 1.0)
    # Three levels of lightness in turn tell labels apart where hues look alike.
    light = np.array([52.0, 72.0, 84.0])[index % 3]
    chroma = np.array([48.0, 46.0, 34.0])[index % 3]
    lab = np.stack([light, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    colours = np.ones((n + 1, 3), np.float32)
    if n:
        colours[1:] = _lab_to_rgb(lab[None])[0]
    return colours


def axis_key(n: int = 181) -> NDArray[np.float32]:
    """Key of `axis_colours`: the half sphere of axes seen along z, in equal-area projection.

    Returns
    -------
    (n, n, 3) float32; x to the right, y up when drawn with the origin below, z at the centre.
    """
    step = np.linspace(-1.0, 1.0, n)
    u, v = np.meshgrid(step, step)
    radius = np.minimum(np.hypot(u, v), 1.0)
    # Lambert's projection of the hemisphere: sin(theta / 2) = radius / sqrt 2.
    theta = 2.0 * np.arcsin(radius / np.sqrt(2.0))
    phi = np.arctan2(v, u)
    axis = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])
    colours = axis_colours(axis)
    colours[np.hypot(u, v) > 1.0] = BACKGROUND
    return colours


def vector_key(n: int = 181) -> NDArray[np.float32]:
    """Key of `vector_colours` for vectors in the plane, the length growing outwards.

    Returns
    -------
    (n, n, 3) float32, right and up as drawn with the origin below.
    """
    step = np.linspace(-1.0, 1.0, n)
    u, v = np.meshgrid(step, step)
    colours = vector_colours(u, v, np.zeros_like(u))
    colours[np.hypot(u, v) > 1.0] = BACKGROUND
    return colours
