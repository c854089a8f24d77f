"""A synthetic beamtime from known truth: raw complex projections, `beamtime.yaml`, `truth.h5`.

Four mountings (tilt/pre-rotation 0/0, 30/0, 30/90, 30/-90 degrees), each with LH and LV on
resonance, and one unpolarised series off resonance at the first mounting. Every projection has its
own offset, ramp, sub-pixel shift and photon noise. One projection at a time is in memory.

Where a sample point `r` [m] is seen in projection `m` of a series (row, column)::

    R_m r = (X, Y, Z)            row = origin_px[m, 0] + Y / pixel_size
                                 col = origin_px[m, 1] + X / pixel_size

and with `phi_E` the noise-free phase, the file holds (plus noise)::

    exp(i (phi + offset_m + ramp_m[0] (row - ny // 2) + ramp_m[1] (col - nx // 2)) - absorption)
    (exp(i phi - absorption) band-limited, see `clean_transmission`)
    phi = - sum over the ray of  f0 + f_lin [ (1+p)/2 (E.a)^2 + (1-p)/2 (E'.a)^2 ]

Layout of `truth.h5`
--------------------
Attributes of the root:
    `kind` "orientation"; `preset`; `seed`; `snr`; `photons_per_pixel`; `degree` p;
    `pixel_size_m` of the resonant series (a reconstruction's voxel);
    `f_lin_rad` of V2O5 [rad per voxel of `pixel_size_m`];
    `f0_resonant_rad`, `f0_off_resonance_rad` of V2O5: phase lost per voxel of `pixel_size_m` [rad].
`labels` (z, y, x) uint16
    label map in the sample frame, origin at the voxel centre `n // 2` on each axis; attribute
    `voxel_size_m` (finer than `pixel_size_m`). 0 air, 1 polystyrene, 2 and more: one grain each.
`table/material` (n_labels,) uint8
    index into the names in the attribute `names` of `table` ("air", "V2O5", "polystyrene").
`table/axis` (n_labels, 3) float64
    crystal axis (x, y, z), unit length, either sign; zero for labels that are not dichroic.
`table/electron_density` (n_labels,) float64 [e/A^3].
`series/<name>/` one group for each series, with
    `angles_deg` (n,); `rotations` (n, 3, 3) true sample-to-lab rotations, mounting error included;
    `origin_px` (n, 2) where the sample's origin is seen, (row, column): displacement, axis offset
    and shift together; adding `(ny // 2, nx // 2) - origin_px` to a frame centres the sample;
    `shifts_px` (n, 2) the random part of it alone; `ramps` (n, 2) [rad/pixel]; `offsets` (n,)
    [rad]; all pairs are (row, column). Attributes: `tilt`, `energy_ev`, `pixel_size_m`,
    `mounting` (3, 3) true rotation at angle zero, `displacement_m` (3,) of the sample's origin from
    the rotation axis at angle zero in the lab (x, y, z), `axis_offset_px` (2,) (row, column).

The sample frame is the frame of the first mounting, whose rotation has no error. A reconstruction
may still be displaced against the labels: where the origin lies is not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.constants import CLASSICAL_ELECTRON_RADIUS_M, wavelength_m
from pipeline.io.beamtime import new_folder, save_beamtime
from pipeline.io.hdf5 import write_hdf5
from pipeline.io.ptychoshelves import write_projection
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.simulate import presets
from pipeline.simulate.chemistry import CHEMISTRY_PRESETS, simulate_chemistry
from pipeline.simulate.phantoms import MATERIALS, Phantom, pillar
from pipeline.simulate.presets import Preset, preset_named
from pipeline.simulate.projector import project
from schemas.beamtime import Beamtime, Material, Sample
from schemas.energy import Energy
from schemas.polarisation import Polarisation
from schemas.series import Series
from schemas.tilt import Tilt

DEGREE = 0.64
"""Degree of linear polarisation of the published measurement."""

RESONANT_PHASE_RAD = 0.0164
"""Phase lost in one voxel of V2O5 on resonance, mean over directions [rad]."""

DICHROIC_PHASE_RAD = 1.8e-3
"""Published dichroic contrast of V2O5, along against across its axis, per voxel [rad]."""

_ABSORPTION = {True: (0.0, 0.10, 0.002), False: (0.0, 0.04, 0.002)}
"""beta / delta by material index, on and off resonance."""

TILTS = (
    Tilt(name="tilt1"),
    Tilt(name="tilt2", tilt_deg=30.0),
    Tilt(name="tilt3", tilt_deg=30.0, pre_rotation_deg=90.0),
    Tilt(name="tilt4", tilt_deg=30.0, pre_rotation_deg=-90.0),
)


@dataclass(frozen=True)
class SeriesTruth:
    """What really happened in one series; arrays as in the layout of `truth.h5`."""

    series: Series
    mounting: NDArray[np.float64]
    displacement_m: NDArray[np.float64]
    axis_offset_px: NDArray[np.float64]
    rotations: NDArray[np.float64]
    origin_px: NDArray[np.float64]
    shifts_px: NDArray[np.float64]
    ramps: NDArray[np.float64]
    offsets: NDArray[np.float64]
    noise_seeds: tuple[np.random.SeedSequence, ...]

    @property
    def angles_deg(self) -> NDArray[np.float64]:
        """(n,) float64 [degree]."""
        return np.asarray(self.series.angles_deg)

    @property
    def pixel_size_m(self) -> float:
        """Pixel size of the series [m]."""
        assert self.series.pixel_size_m is not None  # set by `plan_series`
        return self.series.pixel_size_m


def simulate_beamtime(
    out: str | Path,
    preset: str | Preset = "demo",
    seed: int = 0,
    *,
    shift_px: float | None = None,
    ramp_cycles: float | None = None,
    progress: ProgressCallback = silent,
) -> Path:
    """Write a synthetic beamtime into a new folder.

    Parameters
    ----------
    out : folder to make; may exist if it is empty.
    preset : `tiny`, `demo`, `paper`, or sizes of one's own; `tiny-chemistry` and `demo-chemistry`
        are particles at several energies, see `pipeline/simulate/chemistry.py`.
    seed : fixes every random choice; the same seed gives the same values.
    shift_px : most that a projection is displaced in each direction [pixel]; the preset's if None.
    ramp_cycles : most turns of phase across a frame in each direction; the preset's if None.
    progress : told after each projection.

    Returns
    -------
    Path of `beamtime.yaml`.

    Raises
    ------
    InputError : unknown preset, or `out` exists and is not empty.

    Notes
    -----
    The folder appears under its name only when it is whole.
    """
    if isinstance(preset, str) and preset in CHEMISTRY_PRESETS:
        particles = CHEMISTRY_PRESETS[preset]
        if shift_px is not None:
            particles = replace(particles, shift_px=shift_px)
        with new_folder(Path(out)) as folder:
            simulate_chemistry(folder, particles, seed, progress)
        return Path(out).absolute() / "beamtime.yaml"
    sizes = preset_named(preset) if isinstance(preset, str) else preset
    sizes = replace(
        sizes,
        shift_px=sizes.shift_px if shift_px is None else shift_px,
        ramp_cycles=sizes.ramp_cycles if ramp_cycles is None else ramp_cycles,
    )
    with new_folder(Path(out)) as folder:
        _simulate_into(folder, sizes, seed, progress)
    return Path(out).absolute() / "beamtime.yaml"


def _simulate_into(folder: Path, preset: Preset, seed: int, progress: ProgressCallback) -> None:
    phantom_seed, *seeds = np.random.SeedSequence(seed).spawn(11)
    phantom = pillar(preset, np.random.default_rng(phantom_seed))
    truths = plan_beamtime(preset, seeds[0], seeds[1:])
    sigma = noise_for_snr(preset, phantom, truths[0], truths[1])
    done = 0
    for truth in truths:
        for index, transmission in enumerate(transmissions(preset, phantom, truth, sigma)):
            name = truth.series.name
            write_projection(
                folder / "raw" / name / f"{name}_{index:04d}_recons.h5",
                transmission,
                pixel_size_m=truth.pixel_size_m,
                energy_ev=truth.series.energy.known_ev,
                angle_deg=float(truth.angles_deg[index]),
            )
            done += 1
            progress(Progress("simulate", done, preset.total_projections))
    _write_truth(folder / "truth.h5", preset, seed, phantom, truths, sigma)
    _write_beamtime(folder / "beamtime.yaml", preset, truths)


def plan_beamtime(
    preset: Preset, mounting_seed: np.random.SeedSequence, seeds: list[np.random.SeedSequence]
) -> list[SeriesTruth]:
    """Draw the geometry of all nine series; nothing is projected yet.

    Parameters
    ----------
    preset : sizes and how far things are off.
    mounting_seed : for the mountings, which the series of one mounting share.
    seeds : one for each series, so that no series depends on another.
    """
    rng = np.random.default_rng(mounting_seed)
    mountings = {}
    for number, tilt in enumerate(TILTS):
        nominal = Rotation.from_euler("z", tilt.tilt_deg, degrees=True) * Rotation.from_euler(
            "y", tilt.pre_rotation_deg, degrees=True
        )
        error = rng.uniform(-1.0, 1.0, 3) * np.radians(preset.tilt_error_deg) / np.sqrt(3.0)
        actual = nominal if number == 0 else Rotation.from_rotvec(error) * nominal
        displacement = rng.uniform(-1.0, 1.0, 3) * preset.displacement_px * presets.PIXEL_SIZE_M
        mountings[tilt.name] = (actual.as_matrix(), displacement)
    return [
        _plan_series(preset, series, *mountings[series.tilt.name], seed)
        for series, seed in zip(_series(preset), seeds, strict=False)
    ]


def _series(preset: Preset) -> Iterator[Series]:
    """The nine series as the beamtime file will name them."""
    angles = (np.arange(preset.n_projections) * 180.0 / preset.n_projections).round(6)
    for tilt in TILTS:
        for label, polarisation_deg in (("lh", 0.0), ("lv", 90.0)):
            name = f"{tilt.name}_{label}"
            yield Series(
                name=name,
                files=[f"raw/{name}/*_recons.h5"],
                tilt=tilt,
                polarisation=Polarisation(kind="linear", angle_deg=polarisation_deg, degree=DEGREE),
                energy=Energy(energy_ev=presets.ON_RESONANCE_EV, edge="V K"),
                pixel_size_m=presets.PIXEL_SIZE_M,
                angles_deg=angles.tolist(),
            )
    angles = (np.arange(preset.n_off_resonance) * 180.0 / preset.n_off_resonance).round(6)
    yield Series(
        name="offres",
        files=["raw/offres/*_recons.h5"],
        tilt=TILTS[0],
        energy=Energy(energy_ev=presets.OFF_RESONANCE_EV, resonant=False),
        pixel_size_m=presets.OFF_RESONANCE_PIXEL_SIZE_M,
        angles_deg=angles.tolist(),
    )


def _plan_series(
    preset: Preset,
    series: Series,
    mounting: NDArray[np.float64],
    displacement_m: NDArray[np.float64],
    seed: np.random.SeedSequence,
) -> SeriesTruth:
    rng = np.random.default_rng(seed)
    angles = np.asarray(series.angles_deg)
    n = angles.size
    turn = Rotation.from_euler("y", angles[:, None], degrees=True).as_matrix()
    assert series.pixel_size_m is not None  # set by `_series`
    axis_offset = rng.uniform(-1.0, 1.0, 2) * preset.axis_offset_px
    shifts = rng.uniform(-1.0, 1.0, (n, 2)) * preset.shift_px
    seen = (turn @ displacement_m)[:, 1::-1] / series.pixel_size_m
    centre = np.asarray(preset.frame_shape) // 2
    cycles = rng.uniform(-1.0, 1.0, (n, 2)) * preset.ramp_cycles
    return SeriesTruth(
        series=series,
        mounting=mounting,
        displacement_m=displacement_m,
        axis_offset_px=axis_offset,
        rotations=turn @ mounting,
        origin_px=centre + seen + axis_offset + shifts,
        shifts_px=shifts,
        ramps=2.0 * np.pi * cycles / np.asarray(preset.frame_shape),
        offsets=rng.uniform(-np.pi, np.pi, n),
        noise_seeds=tuple(seed.spawn(n)),
    )


def optical_table(
    phantom: Phantom, series: Series, rotation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Phase and absorption of each label at one projection.

    Parameters
    ----------
    phantom : label map and its materials.
    series : energy and polarisation.
    rotation : (3, 3) float64, sample to lab.

    Returns
    -------
    (n_labels, 2) float64 per label-map voxel length: phase [rad, matter negative] and attenuation
    of the amplitude [neper].
    """
    resonant = series.energy.resonant
    voxel = phantom.voxel_size_m
    lost = phase_per_metre(phantom.electron_density, series.energy.known_ev) * voxel
    dichroic = phantom.material == MATERIALS.index("V2O5")
    if resonant:
        scale = voxel / presets.PIXEL_SIZE_M
        along, across = mixed_squares(phantom.axis, rotation, series.polarisation)
        isotropic = RESONANT_PHASE_RAD - DICHROIC_PHASE_RAD / 3.0
        lost = np.where(dichroic, scale * (isotropic + DICHROIC_PHASE_RAD * (along + across)), lost)
    absorption = np.asarray(_ABSORPTION[resonant])[phantom.material]
    return np.stack([-lost, absorption * lost], axis=1)


def phase_per_metre(electron_density: NDArray[np.float64], energy_ev: float) -> NDArray[np.float64]:
    """Phase lost per metre off resonance, `k delta` with `delta = r_e lambda^2 n_e / (2 pi)`.

    Parameters
    ----------
    electron_density : [e/A^3].
    energy_ev : [eV].

    Returns
    -------
    float64 [rad/m], as `electron_density` shaped.
    """
    return CLASSICAL_ELECTRON_RADIUS_M * wavelength_m(energy_ev) * electron_density * 1e30


def mixed_squares(
    axis: NDArray[np.float64], rotation: NDArray[np.float64], polarisation: Polarisation
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`(1+p)/2 (E.a)^2` and `(1-p)/2 (E'.a)^2` for each axis `a` (n, 3), E' across E.

    Unpolarised light is a mixture of equal parts.
    """
    angle = np.radians(polarisation.angle_deg or 0.0)
    degree = polarisation.degree if polarisation.kind == "linear" else 0.0
    field = np.cos(angle) * rotation[0] + np.sin(angle) * rotation[1]
    other = -np.sin(angle) * rotation[0] + np.cos(angle) * rotation[1]
    return (
        0.5 * (1.0 + degree) * (axis @ field) ** 2,
        0.5 * (1.0 - degree) * (axis @ other) ** 2,
    )


def clean_projection(
    preset: Preset, phantom: Phantom, truth: SeriesTruth, index: int
) -> NDArray[np.float64]:
    """Phase [rad] and amplitude attenuation [neper] of one projection, (2, ny, nx) float64."""
    rotation = truth.rotations[index]
    row, column = truth.origin_px[index]
    return project(
        phantom.labels,
        optical_table(phantom, truth.series, rotation),
        rotation,
        frame_shape=preset.frame_shape,
        origin_px=(float(row), float(column)),
        pixel=truth.pixel_size_m / phantom.voxel_size_m,
        rays_per_pixel=preset.rays_per_pixel,
    )


def clean_transmission(
    preset: Preset, phantom: Phantom, truth: SeriesTruth, index: int
) -> NDArray[np.complex128]:
    """Transmission of one projection as ptychography sees it, without ramp and noise.

    Rays sample the exit wave on half the pixel; the wave is then limited to the band of the
    pixel, with the blur of a microscope whose resolution is a little worse than that
    (`Preset.blur_px`). A reconstructed object is band-limited: an image whose pixels had sharp
    edges could not be shifted by a fraction of a pixel, and no real one has them.

    Returns
    -------
    (ny, nx) complex128.
    """
    ny, nx = preset.frame_shape
    row, column = truth.origin_px[index]
    phase, attenuation = project(
        phantom.labels,
        optical_table(phantom, truth.series, truth.rotations[index]),
        truth.rotations[index],
        frame_shape=(2 * ny, 2 * nx),
        # Even pixels of the fine grid lie on the pixels of the frame.
        origin_px=(2.0 * float(row), 2.0 * float(column)),
        pixel=0.5 * truth.pixel_size_m / phantom.voxel_size_m,
        rays_per_pixel=preset.rays_per_half_pixel,
    )
    # Air is 1 all around, so that the spectrum of the rest has no cross from the frame's borders.
    spectrum = scipy.fft.fft2(np.exp(1j * phase - attenuation) - 1.0)
    fy, fx = scipy.fft.fftfreq(ny)[:, None], scipy.fft.fftfreq(nx)[None, :]
    kept = np.ix_(*(scipy.fft.fftfreq(n, 1.0 / n).astype(int) for n in (ny, nx)))
    blur = np.exp(-2.0 * (np.pi * preset.blur_px) ** 2 * (fy**2 + fx**2))
    return np.asarray(1.0 + scipy.fft.ifft2(spectrum[kept] * blur) / 4.0)


def transmissions(
    preset: Preset, phantom: Phantom, truth: SeriesTruth, sigma: float
) -> Iterator[NDArray[np.complex64]]:
    """Yield the projections of a series as the detector's reconstruction would give them.

    Parameters
    ----------
    preset, phantom, truth : what to project, and how.
    sigma : rms of the noise on real and imaginary part, `1 / sqrt(2 photons per pixel)`.

    Yields
    ------
    (ny, nx) complex64.
    """
    ny, nx = preset.frame_shape
    rows = np.arange(ny)[:, None] - ny // 2
    columns = np.arange(nx)[None, :] - nx // 2
    for index, seed in enumerate(truth.noise_seeds):
        ramp = truth.ramps[index]
        unknown = np.exp(1j * (truth.offsets[index] + ramp[0] * rows + ramp[1] * columns))
        noise = sigma * np.random.default_rng(seed).standard_normal((2, ny, nx))
        wave = clean_transmission(preset, phantom, truth, index) * unknown
        yield (wave + noise[0] + 1j * noise[1]).astype(np.complex64)


def noise_for_snr(
    preset: Preset, phantom: Phantom, horizontal: SeriesTruth, vertical: SeriesTruth
) -> float:
    """Noise of one projection that gives LH-LV the signal-to-noise ratio of the preset.

    The signal is the rms of the noise-free difference inside the sample's shadow, over three
    angles; both partners contribute to the noise of the difference.
    """
    squares = []
    for index in np.linspace(0, len(horizontal.noise_seeds) - 1, 3).astype(int):
        # The partner without its own shift: the difference of what will be registered.
        partner = replace(vertical, origin_px=horizontal.origin_px, rotations=horizontal.rotations)
        first = clean_projection(preset, phantom, horizontal, index)[0]
        second = clean_projection(preset, phantom, partner, index)[0]
        squares.append((first - second)[first < 0.0] ** 2)
    signal = float(np.sqrt(np.concatenate(squares).mean()))
    return signal / (preset.snr * np.sqrt(2.0))


def _write_truth(
    path: Path,
    preset: Preset,
    seed: int,
    phantom: Phantom,
    truths: list[SeriesTruth],
    sigma: float,
) -> None:
    density = phantom.electron_density.max(keepdims=True)
    off = phase_per_metre(density, presets.OFF_RESONANCE_EV)[0] * presets.PIXEL_SIZE_M
    with write_hdf5(path) as file:
        file.attrs["kind"] = "orientation"
        file.attrs["preset"] = preset.name
        file.attrs["seed"] = seed
        file.attrs["snr"] = preset.snr
        file.attrs["photons_per_pixel"] = 0.5 / sigma**2
        file.attrs["degree"] = DEGREE
        file.attrs["pixel_size_m"] = presets.PIXEL_SIZE_M
        file.attrs["f_lin_rad"] = DICHROIC_PHASE_RAD
        file.attrs["f0_resonant_rad"] = RESONANT_PHASE_RAD - DICHROIC_PHASE_RAD / 3.0
        file.attrs["f0_off_resonance_rad"] = off
        labels = file.create_dataset(
            "labels",
            data=phantom.labels,
            chunks=tuple(min(32, n) for n in phantom.labels.shape),
            compression="gzip",
            compression_opts=1,
        )
        labels.attrs["voxel_size_m"] = phantom.voxel_size_m
        table = file.create_group("table")
        table.attrs["names"] = list(MATERIALS)
        table.create_dataset("material", data=phantom.material)
        table.create_dataset("axis", data=phantom.axis)
        table.create_dataset("electron_density", data=phantom.electron_density)
        for truth in truths:
            group = file.create_group(f"series/{truth.series.name}")
            for name in ("angles_deg", "rotations", "origin_px", "shifts_px", "ramps", "offsets"):
                group.create_dataset(name, data=getattr(truth, name))
            group.attrs["tilt"] = truth.series.tilt.name
            group.attrs["energy_ev"] = truth.series.energy.known_ev
            for name in ("pixel_size_m", "mounting", "displacement_m", "axis_offset_px"):
                group.attrs[name] = getattr(truth, name)


def _write_beamtime(path: Path, preset: Preset, truths: list[SeriesTruth]) -> None:
    beamtime = Beamtime(
        sample=Sample(
            name=f"simulated-pillar-{preset.name}",
            description="Polycrystalline V2O5 with pores and polystyrene, simulated",
            materials=[
                Material(
                    name="V2O5",
                    electron_density_min=0.74,
                    electron_density_max=0.90,
                    formula="V2O5",
                ),
                Material(
                    name="polystyrene",
                    electron_density_min=0.25,
                    electron_density_max=0.45,
                    dichroic=False,
                    formula="C8H8",
                ),
            ],
        ),
        series=[truth.series for truth in truths],
        reference_tilt=TILTS[0].name,
    )
    save_beamtime(path, beamtime)
