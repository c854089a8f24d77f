"""A synthetic beamtime of battery-like particles at three energies: below an edge, and two on it.

Plates of two components, `oxidised` and `reduced`, some of them half and half, lie in a loose heap
about the rotation axis. Each energy is one series of complex transmissions from which the optical
density follows, with displacements, ramps and photon noise of its own, as in
`pipeline/simulate/beamtime.py`; what else absorbs falls with the cube of the energy.

Layout of `truth.h5`
--------------------
Attributes of the root: `kind` "chemistry"; `preset`; `seed`; `photons_per_pixel`; `pixel_size_m`;
`amount_per_m`, of either component in a particle [edge step of the optical density per metre].
`labels` (z, y, x) uint16, attribute `voxel_size_m`: 0 air, then two labels a particle.
`table/composition` (n_labels,) float64, share of `oxidised`; `table/particle` (n_labels,) int32.
`series/<name>/` as in `pipeline/simulate/beamtime.py`: `angles_deg`, `shifts_px`, `origin_px`;
attributes `pixel_size_m` and `frame_shape` (ny, nx).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.io.beamtime import save_beamtime
from pipeline.io.hdf5 import write_hdf5
from pipeline.io.ptychoshelves import write_projection
from pipeline.progress import Progress, ProgressCallback
from pipeline.simulate.projector import project
from schemas.beamtime import Beamtime, Sample
from schemas.chemistry import Chemistry, Component
from schemas.energy import Energy
from schemas.series import Series
from schemas.tilt import Tilt

PRE_EDGE_EV = 703.0
ENERGIES_EV = (708.0, 710.0)
"""Either side of an iron L3 edge, as used for lithium iron phosphate."""

PIXEL_SIZE_M = 10e-9

STEP_PER_VOXEL = 0.03
"""Optical density that the edge step of a particle adds in one voxel."""

OTHER_PER_VOXEL = 0.02
"""Optical density of what else is in a particle, just below the edge, in one voxel."""

PHASE_PER_VOXEL = 0.02
"""Phase lost in one voxel [rad]; it carries no information here but is in the files."""

BLUR_PX = 0.5
"""Standard deviation of the microscope's blur [pixel]."""


@dataclass(frozen=True)
class ChemistryPreset:
    """One size of beamtime.

    Attributes
    ----------
    name : as on the command line.
    frame_shape : (ny, nx) of every projection.
    heap_px : radius of the heap of particles.
    particle_px : median largest semi-axis of a particle.
    n_particles : how many are tried; they may overlap.
    n_projections : of each energy, over 180 degrees.
    photons : of each pixel of a projection.
    oversampling : label-map voxels per pixel.
    shift_px : most that a projection is displaced, each direction.
    """

    name: str
    frame_shape: tuple[int, int]
    heap_px: float
    particle_px: float
    n_particles: int
    n_projections: int
    photons: float = 3e4
    oversampling: float = 2.0
    shift_px: float = 2.0


CHEMISTRY_PRESETS = {
    preset.name: preset
    for preset in (
        ChemistryPreset("tiny-chemistry", (48, 48), 15.0, 5.5, 12, 32),
        ChemistryPreset("demo-chemistry", (128, 128), 46.0, 11.0, 40, 90),
    )
}


@dataclass(frozen=True)
class Heap:
    """Particles as a map of labels.

    Attributes
    ----------
    labels : (z, y, x) uint16; origin at `n // 2`.
    composition : (n_labels,) float64, share of the oxidised component.
    particle : (n_labels,) int32, number of the particle; 0 for air.
    """

    labels: NDArray[np.uint16]
    composition: NDArray[np.float64]
    particle: NDArray[np.int32]


def heap(preset: ChemistryPreset, rng: np.random.Generator) -> Heap:
    """Plates in a sphere, each at the best of a few places so that they touch but rarely overlap.

    Those smaller than the median are mostly oxidised, larger ones reduced, a third half and half.
    """
    scale = preset.oversampling
    n = 2 * int(np.ceil(scale * (preset.heap_px + 1.3 * preset.particle_px)))
    labels = np.zeros((n, n, n), np.uint16)
    grid = np.moveaxis(np.indices(labels.shape), 0, -1) - n // 2
    composition, particle = [0.0], [0]
    sizes = np.exp(0.25 * rng.standard_normal(preset.n_particles))
    centres = np.zeros((0, 3))
    for number in np.argsort(-sizes):
        size = scale * preset.particle_px * sizes[number]
        ways = rng.standard_normal((40, 3))
        reach = scale * preset.heap_px * rng.uniform(size=(40, 1)) ** (1 / 3)
        places = reach * ways / np.linalg.norm(ways, axis=1, keepdims=True)
        gaps = np.linalg.norm(places[:, None] - centres[None], axis=2).min(axis=1, initial=np.inf)
        centre = places[int(np.argmax(gaps))]
        centres = np.concatenate([centres, centre[None]])
        frame = Rotation.from_quat(rng.standard_normal(4)).as_matrix()
        low = np.maximum(np.floor(centre - 1.3 * size).astype(int) + n // 2, 0)
        high = np.ceil(centre + 1.3 * size).astype(int) + n // 2 + 1
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        place = (grid[box] - centre) @ frame / (size * np.array([1.0, 0.8, 0.45]))
        inside = ((np.abs(place) ** 3).sum(axis=-1) < 1.0) & (labels[box] == 0)
        usual = 0.06 if sizes[number] > 1.0 else 0.94
        share = float(np.clip(rng.normal(usual, 0.03), 0.0, 1.0))
        halves = (0.0, 1.0) if rng.uniform() < 1 / 3 else (share, share)
        for side, value in zip((place[..., 0] < 0.0, place[..., 0] >= 0.0), halves, strict=True):
            labels[box][inside & side] = len(composition)
            composition.append(value)
            particle.append(int(number) + 1)
    return Heap(labels, np.array(composition), np.array(particle, np.int32))


def reference_table() -> NDArray[np.float64]:
    """(n, 3) energies [eV] and normalised spectra of `oxidised` and `reduced`."""
    energies = np.arange(700.0, 721.0, 0.25)

    def spectrum(edge: float) -> NDArray[np.float64]:
        line = np.exp(-0.5 * ((energies - edge) / 0.8) ** 2)
        return 0.5 + np.arctan((energies - edge) / 0.4) / np.pi + 2.0 * line

    columns = [energies]
    for edge in (710.0, 708.0):
        values = spectrum(edge)
        columns.append((values - values[0]) / (values[-1] - values[0]))
    return np.stack(columns, axis=1)


def simulate_chemistry(
    folder: Path, preset: ChemistryPreset, seed: int, progress: ProgressCallback
) -> None:
    """Write raw projections, `references.txt`, `beamtime.yaml` and `truth.h5` into a folder."""
    heap_seed, *seeds = np.random.SeedSequence(seed).spawn(4)
    sample = heap(preset, np.random.default_rng(heap_seed))
    table = reference_table()
    head = "Optical density of one edge step, simulated\nenergy oxidised reduced"
    np.savetxt(folder / "references.txt", table, fmt="%.6f", header=head)
    angles = (np.arange(preset.n_projections) * 180.0 / preset.n_projections).round(6)
    series, truth = [], {}
    energies = (PRE_EDGE_EV, *ENERGIES_EV)
    for number, (energy, one) in enumerate(zip(energies, seeds, strict=True)):
        name = f"e{energy:g}"
        random = np.random.default_rng(one)
        shifts = random.uniform(-1.0, 1.0, (angles.size, 2)) * preset.shift_px
        spectra = np.array([np.interp(energy, table[:, 0], column) for column in table[:, 1:].T])
        frames = _frames(preset, sample, energy, spectra, angles, shifts, random)
        for index, wave in enumerate(frames):
            write_projection(
                folder / "raw" / name / f"{name}_{index:04d}_recons.h5",
                wave,
                pixel_size_m=PIXEL_SIZE_M,
                energy_ev=energy,
                angle_deg=float(angles[index]),
            )
            done = number * angles.size + index + 1
            progress(Progress("simulate", done, len(energies) * angles.size))
        series.append(_series(name, energy, angles))
        truth[name] = (angles, shifts)
    _write_truth(folder / "truth.h5", preset, seed, sample, truth)
    save_beamtime(folder / "beamtime.yaml", _beamtime(preset, series))


def _series(name: str, energy_ev: float, angles: NDArray[np.float64]) -> Series:
    return Series(
        name=name,
        files=[f"raw/{name}/*_recons.h5"],
        quantity="optical-density",
        tilt=Tilt(name="upright"),
        energy=Energy(energy_ev=energy_ev, edge="Fe L3"),
        pixel_size_m=PIXEL_SIZE_M,
        angles_deg=angles.tolist(),
    )


def _beamtime(preset: ChemistryPreset, series: list[Series]) -> Beamtime:
    return Beamtime(
        sample=Sample(
            name=f"simulated-particles-{preset.name}",
            description="Particles of an oxidised and a reduced component, simulated",
        ),
        series=[series[-1], *series[:-1]],
        chemistry=Chemistry(
            references="references.txt",
            components=[Component(name="oxidised"), Component(name="reduced")],
            pre_edge_ev=PRE_EDGE_EV,
        ),
    )


def _frames(
    preset: ChemistryPreset,
    sample: Heap,
    energy_ev: float,
    spectra: NDArray[np.float64],
    angles: NDArray[np.float64],
    shifts: NDArray[np.float64],
    rng: np.random.Generator,
) -> Iterator[NDArray[np.complex64]]:
    """Transmissions of one series, band-limited as ptychography gives them."""
    ny, nx = preset.frame_shape
    solid = (sample.particle > 0).astype(np.float64)
    absorbed = sample.composition * spectra[0] + (1.0 - sample.composition) * spectra[1]
    other = OTHER_PER_VOXEL * (PRE_EDGE_EV / energy_ev) ** 3
    density = solid * (STEP_PER_VOXEL * absorbed + other)
    # The amplitude loses half of what the intensity loses.
    table = np.stack([-PHASE_PER_VOXEL * solid, 0.5 * density], axis=1) / preset.oversampling
    sigma = np.sqrt(0.5 / preset.photons)
    ramps = 2.0 * np.pi * rng.uniform(-0.5, 0.5, (angles.size, 2)) / np.array([ny, nx])
    rows, columns = np.arange(ny)[:, None] - ny // 2, np.arange(nx)[None, :] - nx // 2
    centre = np.array([ny // 2, nx // 2])
    kept = np.ix_(*(scipy.fft.fftfreq(n, 1.0 / n).astype(int) for n in (ny, nx)))
    fy, fx = scipy.fft.fftfreq(ny)[:, None], scipy.fft.fftfreq(nx)[None, :]
    blur = np.exp(-2.0 * (np.pi * BLUR_PX) ** 2 * (fy**2 + fx**2))
    for angle, shift, ramp in zip(angles, shifts, ramps, strict=True):
        row, column = centre + shift
        phase, loss = project(
            sample.labels,
            table,
            Rotation.from_euler("y", angle, degrees=True).as_matrix(),
            frame_shape=(2 * ny, 2 * nx),
            origin_px=(2.0 * float(row), 2.0 * float(column)),
            pixel=0.5 * preset.oversampling,
        )
        spectrum = scipy.fft.fft2(np.exp(1j * phase - loss) - 1.0)
        wave = 1.0 + scipy.fft.ifft2(spectrum[kept] * blur) / 4.0
        noise = sigma * rng.standard_normal((2, ny, nx))
        tilted = wave * np.exp(1j * (ramp[0] * rows + ramp[1] * columns))
        yield (tilted + noise[0] + 1j * noise[1]).astype(np.complex64)


def _write_truth(
    path: Path,
    preset: ChemistryPreset,
    seed: int,
    sample: Heap,
    series: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> None:
    centre = np.asarray(preset.frame_shape) // 2
    with write_hdf5(path) as file:
        file.attrs["kind"] = "chemistry"
        file.attrs["preset"] = preset.name
        file.attrs["seed"] = seed
        file.attrs["photons_per_pixel"] = preset.photons
        file.attrs["pixel_size_m"] = PIXEL_SIZE_M
        file.attrs["amount_per_m"] = STEP_PER_VOXEL / PIXEL_SIZE_M
        labels = file.create_dataset("labels", data=sample.labels, compression="gzip")
        labels.attrs["voxel_size_m"] = PIXEL_SIZE_M / preset.oversampling
        file["table/composition"] = sample.composition
        file["table/particle"] = sample.particle
        for name, (angles, shifts) in series.items():
            file[f"series/{name}/angles_deg"] = angles
            file[f"series/{name}/shifts_px"] = shifts
            file[f"series/{name}/origin_px"] = centre + shifts
            file[f"series/{name}"].attrs["pixel_size_m"] = PIXEL_SIZE_M
            file[f"series/{name}"].attrs["frame_shape"] = preset.frame_shape
