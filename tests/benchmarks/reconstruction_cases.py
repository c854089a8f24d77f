"""Data of the reconstruction benchmark: simulated with true geometry, or published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.ndimage import convolve, gaussian_filter

from pipeline.align.turns import turned_rotations
from pipeline.analyse.score import LabelTruth
from pipeline.simulate.beamtime import DEGREE, noise_for_snr, plan_beamtime, transmissions
from pipeline.simulate.phantoms import MATERIALS, pillar
from pipeline.simulate.presets import PIXEL_SIZE_M, PRESETS, Preset
from pipeline.stacks import Contrast, DifferencedStack
from pipeline.tomography.contrast import circular_weights, linear_difference_weights, scalar_weights
from pipeline.tomography.geometry import euler_rotations
from pipeline.tomography.projector import Projector
from schemas.recipe import ProjectionSettings

PUBLISHED = Path(__file__).parents[2] / "../shared/data"

POINT_SPREAD_PX = ProjectionSettings().point_spread_px

Weighing = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Weights of the components on given rotations."""

TWO_WIDE = (np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])[None]).astype(np.float32)
"""Mean over two pixels each way about the middle of one."""


@dataclass(frozen=True)
class Oriented:
    """Differences LH − LV of a pillar in four mountings, nothing of which is off its place.

    Attributes
    ----------
    stack, support : what is reconstructed, and where.
    axis : (3, z, y, x) true axes in the voxels of one grain, zero elsewhere.
    """

    stack: DifferencedStack
    support: NDArray[np.bool_]
    axis: NDArray[np.float64]

    def errors_deg(self, axis: NDArray[np.float32]) -> NDArray[np.float64]:
        """Angle to the true axis in every voxel of one grain [degree]."""
        pure = np.linalg.norm(self.axis, axis=0) > 0.5
        dot = np.abs(np.sum(axis[:, pure].astype(np.float64) * self.axis[:, pure], axis=0))
        return np.rad2deg(np.arccos(np.clip(dot, 0.0, 1.0)))


def oriented(preset: Preset, seed: int) -> Oriented:
    """Simulate a pillar as `dichrotomo simulate` does, with every projection in its place.

    Rays march through labels on a grid twice as fine, transmissions are band-limited, blurred and
    noisy: no code of the reconstruction is shared.
    """
    still = replace(
        preset,
        shift_px=0.0,
        displacement_px=0.0,
        axis_offset_px=0.0,
        tilt_error_deg=0.0,
        ramp_cycles=0.0,
    )
    phantom_seed, *seeds = np.random.SeedSequence(seed).spawn(11)
    phantom = pillar(still, np.random.default_rng(phantom_seed))
    truths = plan_beamtime(still, seeds[0], seeds[1:])
    sigma = noise_for_snr(still, phantom, truths[0], truths[1])
    phases, rotations = [], []
    for truth in truths:
        if not truth.series.energy.resonant:
            continue
        waves = transmissions(still, phantom, truth, sigma)
        air = np.exp(-1j * truth.offsets)
        phases.append(np.array([np.angle(w * a) for w, a in zip(waves, air, strict=True)]))
        rotations.append(truth.rotations)
    turned = np.concatenate(rotations[::2])
    differences = [v - h for h, v in zip(phases[::2], phases[1::2], strict=True)]
    stack = DifferencedStack(
        np.concatenate(differences).astype(np.float32),
        turned,
        linear_difference_weights(turned, DEGREE),
        "linear",
        PIXEL_SIZE_M,
        0.0,
        point_spread_px=POINT_SPREAD_PX,
    )
    truth_map = LabelTruth(
        phantom.labels,
        phantom.voxel_size_m,
        phantom.material,
        MATERIALS,
        phantom.axis,
        phantom.electron_density,
        1.0,
    )
    shape = tuple(
        2 * int(np.ceil(0.5 * n * phantom.voxel_size_m / PIXEL_SIZE_M)) + 1
        for n in phantom.labels.shape
    )
    every = np.arange(len(phantom.material))
    label = truth_map.pure_values(shape, PIXEL_SIZE_M, np.zeros(3), every)
    axis = np.where(label >= 0, np.moveaxis(phantom.axis[label], -1, 0), 0.0)
    support = truth_map.density_on(shape, PIXEL_SIZE_M) > 0.0
    return Oriented(stack, support, axis)


def pillar_of(size: str) -> Preset:
    """The demo's pillar, or the smallest."""
    return PRESETS["demo" if size == "demo" else "tiny"]


def coarse_pillar_of(size: str) -> Preset:
    """Another sample than the demo's: flat, of grains nearly twice as large, at less contrast."""
    first = pillar_of(size)
    return replace(
        first,
        grain_diameter_px=1.8 * first.grain_diameter_px,
        diameter_px=1.1 * first.diameter_px,
        height_px=0.7 * first.height_px,
        snr=6.0,
    )


def metalattice() -> tuple[DifferencedStack, NDArray[np.bool_], NDArray[np.float64]]:
    """The published RESIRE-V simulation: stack, support and model; MATLAB's axes are reversed."""
    folder = PUBLISHED / "resire-v-metalattice"
    model = loadmat(folder / "meta_lattice_model_randperturb.mat")
    truth = np.stack([model[name].transpose(2, 1, 0) for name in ("m_xn", "m_yn", "m_zn")])
    support = np.ascontiguousarray(model["model"].transpose(2, 1, 0) > 3)
    projections = loadmat(folder / "proj_lattice_noisy.mat")["proj_gf"].transpose(2, 1, 0)
    rotations = euler_rotations(loadmat(folder / "ang_lattice_noisy.mat")["ang"])
    stack = DifferencedStack(
        np.ascontiguousarray(projections, dtype=np.float32),
        rotations,
        circular_weights(rotations),
        "circular",
        1e-9,
        0.0,
        point_spread_px=POINT_SPREAD_PX,
    )
    return stack, support, truth.astype(np.float64)


def film(area: int) -> tuple[DifferencedStack, NDArray[np.float32]]:
    """Measured tilt series of the Ta film, and the published RESIRE volume (z, y, x)."""
    folder = PUBLISHED / "ta-film-tilt-series"
    measured = loadmat(folder / f"Projections_area{area}.mat")["Proj_sub"].transpose(2, 1, 0)
    volume = loadmat(folder / f"ReconObj_sub{area}.mat")["reconstruction"].transpose(2, 1, 0)
    rotations = euler_rotations(loadmat(folder / "angles.mat")["angle"])
    stack = DifferencedStack(
        np.ascontiguousarray(measured, dtype=np.float32),
        rotations,
        scalar_weights(len(rotations)),
        "scalar",
        1e-10,
        0.0,
    )
    return stack, np.ascontiguousarray(volume, dtype=np.float32)


def misoriented(
    n: int, tilts: int, snr: float, seed: int = 0
) -> tuple[DifferencedStack, NDArray[np.bool_], NDArray[np.float64]]:
    """A magnet of domains from two dual-axis tilt series whose angles are off by 1.7° rms.

    Returns
    -------
    Stack on the rotations that the goniometer says, support, and the true rotations (n, 3, 3).
    """
    rng = np.random.default_rng(seed)
    field, body = _magnet(n, rng)
    given, true = _dual_axis(tilts, rng)
    data = Projector((n, n, n), (n, n), true, circular_weights(true), "fourier").forward(field)
    noise = _add_noise(data, snr, rng)
    stack = DifferencedStack(data, given, circular_weights(given), "circular", 1e-9, noise)
    return stack, body > 0.1, true


def misoriented_channels(
    n: int, tilts: int, snrs: tuple[float, float], seed: int = 0
) -> tuple[list[DifferencedStack], NDArray[np.bool_], NDArray[np.float64]]:
    """A like magnet with its scalar channel, projected from a grid twice as fine.

    Every voxel of that is splatted bilinearly, a way of projecting that no reconstruction takes.

    Parameters
    ----------
    n, tilts, seed : voxels a side, projections a series.
    snrs : of the scalar channel and of the difference.

    Returns
    -------
    Scalar and difference on the rotations that the goniometer says, support, and the true
    rotations (n, 3, 3).
    """
    rng = np.random.default_rng(seed)
    field, body = _magnet(2 * n, rng, 1.4)
    given, true = _dual_axis(tilts, rng)
    parts: list[tuple[NDArray[np.float32], Weighing, Contrast]] = [
        (body[None], lambda r: scalar_weights(len(r)), "scalar"),
        (field, circular_weights, "circular"),
    ]
    stacks = []
    for (part, weights, contrast), snr in zip(parts, snrs, strict=True):
        fine = Projector((2 * n,) * 3, (2 * n,) * 2, true, weights(true), "general").forward(part)
        # A pixel is two fine ones wide and two deep, about a fine one in its middle.
        data = np.ascontiguousarray(convolve(fine, TWO_WIDE)[:, ::2, ::2]) / np.float32(2.0)
        noise = _add_noise(data, snr, rng)
        stacks.append(DifferencedStack(data, given, weights(given), contrast, 1e-9, noise))
    return stacks, body[::2, ::2, ::2] > 0.1, true


def _magnet(
    n: int, rng: np.random.Generator, edge: float = 0.7
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors (3, n, n, n) of a lopsided body of domains, and its density; edges blurred by a
    Gaussian of so many voxels."""
    z, y, x = np.indices((n, n, n)) - n // 2
    body = ((x / (0.34 * n)) ** 2 + (z / (0.28 * n)) ** 2 < 1) & (np.abs(y) < 0.34 * n)
    body &= x + z < 0.28 * n
    seeds = rng.uniform(-0.4 * n, 0.4 * n, (16, 3))
    nearest, domain = np.full((n, n, n), np.inf), np.zeros((n, n, n), np.intp)
    for index, (sz, sy, sx) in enumerate(seeds):
        distance2 = (z - sz) ** 2 + (y - sy) ** 2 + (x - sx) ** 2
        domain[distance2 < nearest] = index
        np.minimum(nearest, distance2, out=nearest)
    vectors = rng.normal(size=(16, 3))
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    field = np.moveaxis(vectors[domain], -1, 0) * body
    smooth = np.stack([gaussian_filter(part, edge) for part in field]).astype(np.float32)
    return smooth, gaussian_filter(body.astype(np.float32), edge)


def _dual_axis(
    tilts: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations of two tilt series as the goniometer says, and the true ones, 1.7° rms off."""
    angle = np.linspace(-66.0, 66.0, tilts)
    euler = [np.stack([0 * angle + phi, angle, 0 * angle], axis=1) for phi in (0.0, 90.0)]
    given = euler_rotations(np.concatenate(euler))
    return given, turned_rotations(given, np.deg2rad(rng.normal(0.0, 1.0, (len(given), 3))))


def _add_noise(data: NDArray[np.float32], snr: float, rng: np.random.Generator) -> float:
    """Add noise of an rms that is the signal's, where there is one, over `snr`; return it."""
    seen = np.abs(data) > 1e-2 * np.abs(data).max()
    noise = float(np.sqrt(np.mean(data[seen] ** 2)) / snr)
    data += rng.normal(0.0, noise, data.shape).astype(np.float32)
    return noise
