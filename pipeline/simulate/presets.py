"""Sizes of the simulated beamtimes, from seconds to the published measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import InputError

ON_RESONANCE_EV = 5468.0
"""Just above the vanadium K edge's dichroic pre-edge peak, as published."""

OFF_RESONANCE_EV = 5400.0

PIXEL_SIZE_M = 30.91e-9
"""Published pixel size on resonance."""

OFF_RESONANCE_PIXEL_SIZE_M = 31.29e-9
"""Published pixel size off resonance: the far-field pixel grows with the wavelength."""


@dataclass(frozen=True)
class Preset:
    """One size of simulated beamtime. Lengths in pixels are pixels of `PIXEL_SIZE_M`.

    Attributes
    ----------
    name : as on the command line.
    frame_shape : (ny, nx) of every projection.
    diameter_px, height_px : of the pillar.
    oversampling : label-map voxels per pixel; not a whole number where memory forbids two.
    n_projections : of each polarisation at each mounting, over 180 degrees.
    n_off_resonance : of the off-resonance series.
    grain_diameter_px : median diameter of the grains.
    rays_per_pixel : a Fibonacci number; rays through one pixel of a clean projection.
    rays_per_half_pixel : the same on the grid of half the pixel that transmissions start from.
    blur_px : standard deviation of the microscope's blur; half a pixel passes 29 % of the
        contrast at the pixel's own limit, as in images whose resolution is 1.2 pixels.
    shift_px : most that a projection is displaced, each direction.
    ramp_cycles : most turns of phase across a frame, each direction.
    displacement_px : most that the sample stands off the rotation axis, each direction.
    axis_offset_px : most that the rotation axis is off the frame's centre, each direction.
    tilt_error_deg : most that a mounting deviates from the nominal one.
    snr : rms of LH-LV inside the sample's shadow over its noise.
    """

    name: str
    frame_shape: tuple[int, int]
    diameter_px: float
    height_px: float
    oversampling: float
    n_projections: int
    n_off_resonance: int
    grain_diameter_px: float
    rays_per_pixel: int = 5
    rays_per_half_pixel: int = 5
    blur_px: float = 0.5
    shift_px: float = 4.0
    ramp_cycles: float = 1.0
    displacement_px: float = 3.0
    axis_offset_px: float = 1.5
    tilt_error_deg: float = 0.5
    snr: float = 9.0

    @property
    def fine_shape(self) -> tuple[int, int, int]:
        """(z, y, x) of the label map: the pillar and room for its roughness, even sizes."""
        across = 2 * math.ceil(0.5 * self.oversampling * (1.15 * self.diameter_px + 4))
        along = 2 * math.ceil(0.5 * self.oversampling * (1.05 * self.height_px + 4))
        return across, along, across

    @property
    def fine_voxel_m(self) -> float:
        """Edge of a label-map voxel [m]."""
        return PIXEL_SIZE_M / self.oversampling

    @property
    def total_projections(self) -> int:
        """Projections of all nine series."""
        return 8 * self.n_projections + self.n_off_resonance

    @property
    def label_bytes(self) -> int:
        """Memory of the label map; the simulation holds this and a few single projections."""
        return 2 * math.prod(self.fine_shape)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            frame_shape=(64, 64),
            diameter_px=24.0,
            height_px=30.0,
            oversampling=2.0,
            n_projections=24,
            n_off_resonance=40,
            grain_diameter_px=9.0,
            displacement_px=1.5,
            axis_offset_px=1.0,
        ),
        Preset(
            name="demo",
            frame_shape=(128, 128),
            diameter_px=56.0,
            height_px=72.0,
            oversampling=2.0,
            n_projections=60,
            n_off_resonance=120,
            grain_diameter_px=14.0,
        ),
        # Label map 0.5 GB, peak 1.1 GB; a minute for it and four to eight seconds a projection on
        # two cores; 10 GB on disk.
        Preset(
            name="paper",
            frame_shape=(650, 760),
            diameter_px=310.0,
            height_px=510.0,
            oversampling=1.5,
            n_projections=280,
            n_off_resonance=350,
            grain_diameter_px=23.6,
            displacement_px=6.0,
        ),
    )
}


def preset_named(name: str) -> Preset:
    """Preset by its name.

    Raises
    ------
    InputError : there is none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"expected one of {', '.join(PRESETS)}, found '{name}'", field="preset")
    return PRESETS[name]
