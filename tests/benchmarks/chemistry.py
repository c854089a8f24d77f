"""Benchmark of chemical state and electron density against known truth, one row a measure.

    python tests/benchmarks/chemistry.py [--size tiny|demo|paper] [--json]

`tiny` and `demo` simulate particles at three energies and the off-resonance series of a pillar and
take them from raw frames to composition and density, shifts known; `paper` inverts a volume of
330 x 330 x 540 and parts its particles, which `demo` does with a volume 27 times smaller. Each row
prints what was measured beside its floor and goal.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from table import Row, Table

from pipeline.align.assemble import place, scalar_channel
from pipeline.analyse.chemistry import ChemicalState, chemical_state, energy_model
from pipeline.analyse.density import (
    air_noise,
    electron_density,
    material_densities,
    segment_materials,
    shell_mask,
)
from pipeline.analyse.density_budget import density_budget
from pipeline.analyse.particles import measure_particles, separate_particles
from pipeline.analyse.reference_spectra import ReferenceSpectra, load_reference_spectra
from pipeline.analyse.score import overlap_matrix
from pipeline.io.ptychoshelves import PtychoShelvesReader
from pipeline.preprocess.optical_density import prepare_optical_density
from pipeline.preprocess.prepare import prepare_series
from pipeline.reconstruct.scalar import reconstruct_scalar
from pipeline.reconstruct.support import find_support
from pipeline.simulate import presets
from pipeline.simulate.beamtime import (
    noise_for_snr,
    plan_beamtime,
    simulate_beamtime,
    transmissions,
)
from pipeline.simulate.chemistry import ENERGIES_EV, PIXEL_SIZE_M, PRE_EDGE_EV, reference_table
from pipeline.simulate.phantoms import pillar
from pipeline.simulate.presets import PRESETS
from schemas.beamtime import Material
from schemas.chemistry import Component
from schemas.recipe import ChemistrySettings, ScalarSettings, SupportSettings

SETTINGS = ChemistrySettings()
FBP = ScalarSettings(method="fbp")
PAPER = (330, 330, 540)
COMPONENTS = [Component(name="oxidised"), Component(name="reduced")]


def spectra() -> ReferenceSpectra:
    """The simulation's own reference spectra."""
    table = reference_table()
    return ReferenceSpectra(("oxidised", "reduced"), table[:, 0], table[:, 1:].T)


def planted_rows(edge: int) -> list[Row]:
    """Inversion alone: composition planted in maps with noise of 5 % of the edge step."""
    rng = np.random.default_rng(0)
    shape = (edge, edge, edge)
    share = rng.beta(0.5, 0.5, shape)
    amount = rng.uniform(0.8, 1.2, shape)
    other = rng.uniform(0.2, 0.6, shape).astype(np.float32)
    rows = []
    cases = (
        ("planted, two energies", (708.0, 710.0), "none", 0.05, 0.02),
        ("planted, offset fitted", (703.0, 708.0, 710.0), "offset", 0.10, 0.03),
        ("planted, pre-edge image", (708.0, 710.0), "pre-edge", 0.10, 0.03),
    )
    for name, energies, background, floor, goal in cases:
        settings = ChemistrySettings(background=background, pre_edge_exponent=0.0)
        below = PRE_EDGE_EV if background == "pre-edge" else None
        model = energy_model(spectra(), energies, settings, pre_edge_ev=below)
        added = 0.0 if background == "none" else other

        def noise() -> NDArray[np.float32]:
            return 0.05 * rng.standard_normal(shape).astype(np.float32)

        seen = spectra().at(energies)
        maps = [
            (amount * (row[0] * share + row[1] * (1 - share)) + added).astype(np.float32) + noise()
            for row in seen
        ]
        pre_edge = None
        if below is not None:
            low = spectra().at([below])[0]
            absorbed = amount * (low[0] * share + low[1] * (1 - share))
            pre_edge = (absorbed + other).astype(np.float32) + noise()
        deviations = [0.05] * (len(maps) + (pre_edge is not None))
        state = chemical_state(
            maps, model, np.ones(shape, bool), deviations, settings, pre_edge=pre_edge
        )
        error = (state.composition - share)[state.mask]
        rms = float(np.sqrt(np.mean(error**2)))
        stated = float(np.sqrt(np.mean(state.uncertainty[state.mask] ** 2)))
        detail = f"bias {error.mean():+.2g}, stated {stated:.2g}, condition {model.condition:.3g}"
        rows.append(Row(f"{name}: rms error", rms, floor, goal, "composition", detail))
    return rows


def raw_rows(preset: str) -> list[Row]:
    """Raw frames at three energies to the composition, shifts known."""
    with tempfile.TemporaryDirectory() as folder:
        root = simulate_beamtime(Path(folder) / preset, preset, 0).parent
        volumes = {}
        with h5py.File(root / "truth.h5") as truth:
            for energy in (*ENERGIES_EV, PRE_EDGE_EV):
                volumes[energy] = _tomogram(root, truth, energy)
            labels = truth["labels"][()]
            share = truth["table/composition"][()]
            particle = truth["table/particle"][()]
            fine = float(truth["labels"].attrs["voxel_size_m"]) / PIXEL_SIZE_M
        known = load_reference_spectra(root / "references.txt", COMPONENTS)
    support = find_support(sum(volumes.values()), SupportSettings())
    noise = [air_noise(volume, support) for volume in volumes.values()]
    pre_edge = volumes.pop(PRE_EDGE_EV)
    model = energy_model(known, ENERGIES_EV, SETTINGS, pre_edge_ev=PRE_EDGE_EV)
    state = chemical_state(
        list(volumes.values()), model, support, noise, SETTINGS, pre_edge=pre_edge
    )
    without = ChemistrySettings(background="none")
    biased = chemical_state(
        list(volumes.values()),
        energy_model(known, ENERGIES_EV, without),
        support,
        noise[:2],
        without,
    )
    return [
        *_composition_rows(preset, state, biased, labels, share, fine),
        _particle_row(preset, state, labels, particle),
    ]


def _tomogram(root: Path, truth: h5py.File, energy: float) -> NDArray[np.float32]:
    known = truth[f"series/e{energy:g}"]
    files = sorted((root / "raw" / f"e{energy:g}").glob("*.h5"))
    frames = (next(PtychoShelvesReader().frames(path)) for path in files)
    stack = prepare_optical_density(
        frames, known["angles_deg"][()], PIXEL_SIZE_M, energy, PIXEL_SIZE_M
    )
    placed = place(stack, -known["shifts_px"][()], np.eye(3))
    return reconstruct_scalar(scalar_channel(placed), None, FBP).volume


def _composition_rows(
    preset: str,
    state: ChemicalState,
    biased: ChemicalState,
    labels: NDArray[np.uint16],
    share: NDArray[np.float64],
    fine: float,
) -> list[Row]:
    def mean(values: NDArray[np.floating]) -> NDArray[np.float32]:
        result = values.astype(np.float32)
        for axis, n in enumerate(state.composition.shape):
            overlap = overlap_matrix(n, 1.0, labels.shape[axis], fine)
            result = np.moveaxis(np.tensordot(overlap, result, axes=(1, axis)), 0, axis)
        return result

    solid, first = mean(labels > 0), mean(share[labels])
    pure = (solid > 1 - 1e-4) & (mean(share[labels] ** 2) - first**2 < 1e-4)
    interior = ndimage.binary_erosion(pure) & state.mask
    pure &= state.mask
    error = np.abs(state.composition - first)
    rms = float(np.sqrt(np.mean(error[interior] ** 2)))
    stated = float(np.median(state.uncertainty[interior]))
    bias = float(np.mean((biased.composition - first)[interior & biased.mask]))
    name = f"{preset}: composition from raw frames"
    detail = (
        f"stated noise {stated:.2g}; all pure voxels {np.sqrt(np.mean(error[pure] ** 2)):.2g}; "
        f"bias without the pre-edge image {bias:+.2g}"
    )
    return [
        Row(f"{name}, rms", rms, 0.10, 0.03, "composition", detail),
        Row(f"{name}, median", float(np.median(error[pure])), 0.05, 0.02, "composition"),
    ]


def _particle_row(
    preset: str,
    state: ChemicalState,
    labels: NDArray[np.uint16],
    particle: NDArray[np.int32],
) -> Row:
    total = state.amounts.sum(axis=0)
    found = measure_particles(
        state.mask, state.composition, total, state.uncertainty, SETTINGS, PIXEL_SIZE_M
    )
    true = len(np.unique(particle[labels])) - 1
    wrong = abs(len(found.table["label"]) - true) / true
    detail = f"{len(found.table['label'])} of {true}"
    return Row(f"{preset}: particles not counted", wrong, 0.25, 0.15, "share", detail)


def density_rows(preset_name: str) -> list[Row]:
    """Raw frames off resonance to the electron density of two materials, shifts known."""
    preset = PRESETS[preset_name]
    phantom_seed, *seeds = np.random.SeedSequence(0).spawn(11)
    phantom = pillar(preset, np.random.default_rng(phantom_seed))
    truths = plan_beamtime(preset, seeds[0], seeds[1:])
    sigma = noise_for_snr(preset, phantom, truths[0], truths[1])
    truth = truths[-1]
    energy = presets.OFF_RESONANCE_EV
    frames = transmissions(preset, phantom, truth, sigma)
    pixel = presets.PIXEL_SIZE_M
    stack = prepare_series(frames, truth.angles_deg, truth.pixel_size_m, energy, pixel)
    centre = np.asarray(preset.frame_shape) // 2
    shifts = (centre - truth.origin_px) * truth.pixel_size_m / pixel
    placed = scalar_channel(place(stack, shifts, np.eye(3)))

    def density(part: slice) -> NDArray[np.float32]:
        found = reconstruct_scalar(placed.subset(part), None, FBP)
        return electron_density(-found.volume, energy, pixel)

    whole = density(slice(None))
    support = find_support(whole, SupportSettings())
    noise = air_noise(whole, support)
    names = (("V2O5", 0.74, 0.90, 0.82), ("polystyrene", 0.25, 0.45, 0.34))
    windows = [
        Material(name=name, electron_density_min=low, electron_density_max=high)
        for name, low, high, _ in names
    ]
    materials = segment_materials(whole, windows, support=support, noise=noise)
    keep = shell_mask(support, 90e-9, pixel)
    halves = [density(slice(k, None, 2)) for k in (0, 1)]
    budget = density_budget(whole, materials, support, keep=keep, halves=halves)
    found = material_densities(
        whole, materials, keep, systematic=[item.systematic for item in budget]
    )
    rows = []
    for (name, _, _, true), row, terms in zip(names, found, budget, strict=True):
        deviation = abs(row.density - true)
        detail = ", ".join(
            f"{part} {value:.2g}"
            for part, value in zip(("scatter", "halves", "air", "edge"), terms.terms, strict=True)
        )
        if name == "V2O5":
            percent = 100 * deviation / true
            rows.append(Row(f"{preset_name}: density of {name}", percent, 1.0, 0.2, "%", detail))
        rows.append(
            Row(
                f"{preset_name}: error over stated uncertainty, {name}",
                deviation / row.uncertainty,
                3.0,
                2.0,
                "",
                f"{row.voxels} interior voxels; {detail}",
            )
        )
    return rows


def speed_rows(shape: tuple[int, int, int], scale: float) -> list[Row]:
    """Time and memory of a volume, `scale` times smaller than the published one."""
    rng = np.random.default_rng(0)
    z, _, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    support = np.broadcast_to(
        (z - shape[0] / 2) ** 2 + (x - shape[2] / 2) ** 2 < (0.48 * min(shape[0], shape[2])) ** 2,
        shape,
    ).copy()
    model = energy_model(spectra(), ENERGIES_EV, SETTINGS)
    maps = [support * (1.0 + 0.2 * rng.standard_normal(shape, np.float32)) for _ in ENERGIES_EV]
    small = tuple(slice(0, 4) for _ in shape)
    chemical_state([values[small] for values in maps], model, support[small], [0.2] * 2, SETTINGS)
    started = time.perf_counter()
    state = chemical_state(maps, model, support, [0.2] * 2, SETTINGS)
    inverted = scale * (time.perf_counter() - started)
    blobs = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), 5.0)
    mask = support & (blobs > 0.2 * blobs.std())
    started = time.perf_counter()
    label = separate_particles(mask, SETTINGS.neck, SETTINGS.min_voxels)
    parted = scale * (time.perf_counter() - started)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    name = "330 x 330 x 540" + ("" if scale == 1.0 else f" (scaled from {shape})")
    return [
        Row(f"{name}: inversion", inverted, 30.0, 30.0, "s", f"{int(state.mask.sum())} voxels"),
        Row(f"{name}: particles", parted, 240.0, 60.0, "s", f"{label.max()} particles"),
        Row(f"{name}: peak memory of this process", memory, 16.0, 8.0, "GiB"),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure, print, and return the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "demo", "paper"), default="tiny")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    table = Table[Row](as_json=chosen.json, label="name")
    if chosen.size == "paper":
        table.add(speed_rows(PAPER, 1.0))
    else:
        table.add(planted_rows(24 if chosen.size == "tiny" else 64))
        table.add(raw_rows(f"{chosen.size}-chemistry"))
        table.add(density_rows(chosen.size))
    if chosen.size == "demo":
        table.add(speed_rows((110, 110, 180), 27.0))
    return table.complete()


if __name__ == "__main__":
    main(sys.argv[1:])
