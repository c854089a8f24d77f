"""The simulated beamtime: physics of its projections, its files, its determinism."""

import itertools
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.ndimage
from scipy.spatial.transform import Rotation

from pipeline.constants import density_per_radian
from pipeline.errors import InputError
from pipeline.io.beamtime import load_beamtime, series_angles
from pipeline.io.raw import inspect_series, read_series
from pipeline.progress import Progress
from pipeline.simulate.beamtime import (
    DEGREE,
    DICHROIC_PHASE_RAD,
    RESONANT_PHASE_RAD,
    SeriesTruth,
    clean_projection,
    clean_transmission,
    noise_for_snr,
    plan_beamtime,
    simulate_beamtime,
    transmissions,
)
from pipeline.simulate.phantoms import Phantom, pillar
from pipeline.simulate.presets import PIXEL_SIZE_M, PRESETS, Preset

SMALL = replace(
    PRESETS["tiny"],
    frame_shape=(40, 44),
    diameter_px=12.0,
    height_px=16.0,
    n_projections=4,
    n_off_resonance=5,
    shift_px=2.0,
)
EXACT = replace(SMALL, shift_px=0.0, displacement_px=0.0, axis_offset_px=0.0, tilt_error_deg=0.0)


def plan(preset: Preset, seed: int = 0) -> dict[str, SeriesTruth]:
    first, *others = np.random.SeedSequence(seed).spawn(10)
    return {truth.series.name: truth for truth in plan_beamtime(preset, first, others)}


def cube(axis: tuple[float, float, float], material: int = 1) -> Phantom:
    """Twenty fine voxels, ten pixels, on each side; one grain."""
    labels = np.zeros((32, 32, 32), np.uint16)
    labels[6:26, 6:26, 6:26] = 1
    axes = np.array([(0.0, 0.0, 0.0), axis])
    return Phantom(labels, SMALL.fine_voxel_m, np.array([0, material], np.uint8), axes)


@pytest.fixture(scope="module")
def beamtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_beamtime(tmp_path_factory.mktemp("sim") / "out", SMALL, seed=7)


@pytest.mark.parametrize(
    ("axis", "square"), [((1, 0, 0), 1.0), ((0, 1, 0), -1.0), ((0, 0, 1), 0.0)]
)
def test_sign_and_degree_of_the_dichroism(axis: tuple[float, float, float], square: float) -> None:
    """Along the electric field more phase is lost: LH - LV = -p f_lin L (x^2 - y^2)."""
    series = plan(EXACT)
    phases = [
        clean_projection(EXACT, cube(axis), series[f"tilt1_{label}"], 0)[0, 20, 22]
        for label in ("lh", "lv")
    ]
    isotropic = RESONANT_PHASE_RAD - DICHROIC_PHASE_RAD / 3
    assert max(phases) < 0.0  # matter has negative phase
    assert phases[0] - phases[1] == pytest.approx(
        -10 * DEGREE * DICHROIC_PHASE_RAD * square, abs=1e-12
    )
    total = 10 * (2 * isotropic + DICHROIC_PHASE_RAD * (square != 0.0))
    assert sum(phases) == pytest.approx(-total, rel=1e-12)


def test_dichroism_turns_with_the_sample() -> None:
    """An oblique axis at a tilted mounting: the weights come from the rows of R."""
    axis = np.array([0.36, 0.48, 0.8])
    series = plan(EXACT)
    lh, lv = series["tilt3_lh"], series["tilt3_lv"]
    phantom = cube(tuple(axis))
    index = 1
    expected = (
        Rotation.from_euler("y", 45.0, degrees=True)
        * Rotation.from_euler("z", 30.0, degrees=True)
        * Rotation.from_euler("y", 90.0, degrees=True)
    ).as_matrix()
    np.testing.assert_allclose(lh.rotations[index], expected, atol=1e-12)
    phases = [clean_projection(EXACT, phantom, truth, index)[0] for truth in (lh, lv)]
    x, y, _ = expected @ axis
    ratio = (phases[0] - phases[1])[20, 22] / phases[0][20, 22]
    isotropic = RESONANT_PHASE_RAD - DICHROIC_PHASE_RAD / 3
    mixed = 0.5 * (1 + DEGREE) * x**2 + 0.5 * (1 - DEGREE) * y**2
    wanted = DEGREE * (x**2 - y**2) * DICHROIC_PHASE_RAD
    assert ratio == pytest.approx(wanted / (isotropic + DICHROIC_PHASE_RAD * mixed), rel=1e-9)


@pytest.mark.parametrize(("material", "density"), [(1, 0.82), (2, 0.34)])
def test_electron_density_round_trip(material: int, density: float) -> None:
    """Off resonance, phase per length gives back the density, isotropically."""
    truth = plan(EXACT)["offres"]
    phase, attenuation = clean_projection(EXACT, cube((1, 0, 0), material), truth, 0)
    per_voxel = -phase[20, 22] / 10  # ten resonant pixels thick
    found = density_per_radian(5400.0, PIXEL_SIZE_M) * per_voxel
    assert found == pytest.approx(density, rel=1e-9)
    assert 0.0 < attenuation[20, 22] < 0.1 * abs(phase[20, 22])


def test_off_resonance_pixels_are_larger() -> None:
    truth = plan(EXACT)["offres"]
    phase = clean_projection(EXACT, cube((1, 0, 0)), truth, 0)[0]
    length = 10 * PIXEL_SIZE_M
    area = phase.sum() / phase[20, 22] * truth.pixel_size_m**2
    assert area == pytest.approx(length**2, rel=0.01)  # rays across an edge


def test_a_transmission_is_band_limited() -> None:
    truth = plan(SMALL)["tilt2_lv"]
    phantom = pillar(SMALL, np.random.default_rng(0))
    moved = replace(truth, origin_px=truth.origin_px + np.array([0.3, -0.4]))
    here = clean_transmission(SMALL, phantom, truth, 0) - 1.0
    there = clean_transmission(SMALL, phantom, moved, 0) - 1.0
    shifted = scipy.ndimage.fourier_shift(np.fft.fft2(here), (0.3, -0.4))
    error = np.fft.ifft2(shifted) - there
    # 0.008: the rays are few. Pixels with sharp edges give 0.075.
    assert np.linalg.norm(error) < 0.01 * np.linalg.norm(here)


def test_a_transmission_keeps_the_phase_of_the_projection() -> None:
    truth = plan(SMALL)["tilt1_lh"]
    phantom = pillar(SMALL, np.random.default_rng(0))
    wave = clean_transmission(SMALL, phantom, truth, 0)
    phase = clean_projection(SMALL, phantom, truth, 0)[0]
    assert np.angle(wave).sum() == pytest.approx(phase.sum(), rel=0.01)  # rays across edges


def test_transmission_holds_ramp_offset_and_noise() -> None:
    truth = plan(SMALL)["tilt2_lv"]
    phantom = pillar(SMALL, np.random.default_rng(0))
    sigma = 2e-3
    for index, wave in enumerate(transmissions(SMALL, phantom, truth, sigma)):
        clean = clean_transmission(SMALL, phantom, truth, index)
        rows, columns = np.indices(wave.shape)
        ramp = truth.ramps[index]
        surplus = truth.offsets[index] + ramp[0] * (rows - 20) + ramp[1] * (columns - 22)
        rest = wave - clean * np.exp(1j * surplus)
        assert wave.dtype == np.complex64
        assert np.std(rest.real) == pytest.approx(sigma, rel=0.1)  # 1760 pixels
        assert np.std(rest.imag) == pytest.approx(sigma, rel=0.1)
        assert np.abs(clean).min() < 1.0
    assert np.abs(truth.ramps).max() <= 2 * np.pi / 40
    assert np.abs(truth.shifts_px).max() <= 2.0


def test_sample_is_where_the_truth_says() -> None:
    series = plan(SMALL, seed=2)
    phantom = pillar(SMALL, np.random.default_rng(0))
    mass = phantom.electron_density[phantom.labels]
    centre = [np.average(i, weights=mass) - n // 2 for i, n in zip(
        np.indices(mass.shape)[::-1], mass.shape[::-1], strict=True
    )]  # fmt: skip
    for name, index in (("offres", 3), ("offres", 0), ("tilt3_lh", 2), ("tilt4_lv", 1)):
        truth = series[name]
        phase = clean_projection(SMALL, phantom, truth, index)[0]
        seen = [np.average(i, weights=-phase) for i in np.indices(phase.shape)]
        metres = truth.rotations[index] @ np.asarray(centre) * phantom.voxel_size_m
        expected = truth.origin_px[index] + metres[1::-1] / truth.pixel_size_m
        assert seen == pytest.approx(expected.tolist(), abs=0.04)  # rays at edges


def test_mountings_are_shared_and_off_nominal() -> None:
    series = plan(SMALL)
    np.testing.assert_array_equal(series["tilt1_lh"].mounting, np.eye(3))
    for name in ("tilt2", "tilt3", "tilt4"):
        pair = series[f"{name}_lh"], series[f"{name}_lv"]
        np.testing.assert_array_equal(pair[0].mounting, pair[1].mounting)
        np.testing.assert_array_equal(pair[0].displacement_m, pair[1].displacement_m)
        tilt = pair[0].series.tilt
        nominal = Rotation.from_euler("z", tilt.tilt_deg, degrees=True) * Rotation.from_euler(
            "y", tilt.pre_rotation_deg, degrees=True
        )
        error = Rotation.from_matrix(pair[0].mounting) * nominal.inv()
        assert 0.0 < np.degrees(error.magnitude()) <= 0.5


def test_noise_gives_the_wanted_ratio() -> None:
    series = plan(SMALL)
    phantom = pillar(SMALL, np.random.default_rng(0))
    sigma = noise_for_snr(SMALL, phantom, series["tilt1_lh"], series["tilt1_lv"])
    twice = noise_for_snr(replace(SMALL, snr=18.0), phantom, series["tilt1_lh"], series["tilt1_lv"])
    assert twice == pytest.approx(sigma / 2)
    assert 1e-4 < sigma < 5e-3


def test_files_load_as_a_beamtime(beamtime: Path) -> None:
    loaded = load_beamtime(beamtime)
    names = [f"tilt{t}_{p}" for t, p in itertools.product("1234", ("lh", "lv"))] + ["offres"]
    assert [series.name for series in loaded.beamtime.series] == names
    assert len(loaded.beamtime.pairs()) == 4
    assert [series.name for series in loaded.beamtime.scalar_series()] == ["offres"]
    for series in loaded.beamtime.series:
        info = inspect_series(series, loaded.folder)
        assert info.shape == (40, 44)
        assert info.n_frames == (5 if series.name == "offres" else 4)
        assert series_angles(series, loaded.folder)[0] == 0.0
        frame = next(read_series(series, loaded.folder))
        assert np.median(np.abs(frame)) == pytest.approx(1.0, abs=0.05)
    assert [path.name for path in sorted(beamtime.parent.iterdir())] == [
        "beamtime.yaml", "raw", "truth.h5",
    ]  # fmt: skip


def test_truth_file(beamtime: Path) -> None:
    with h5py.File(beamtime.parent / "truth.h5") as file:
        assert file.attrs["kind"] == "orientation"
        assert file.attrs["seed"] == 7
        assert file.attrs["f_lin_rad"] == DICHROIC_PHASE_RAD
        n_labels = int(file["labels"][()].max()) + 1
        assert file["labels"].attrs["voxel_size_m"] == pytest.approx(PIXEL_SIZE_M / 2)
        assert file["table/axis"].shape == (n_labels, 3)
        assert list(file["table"].attrs["names"]) == ["air", "V2O5", "polystyrene"]
        assert len(file["series"]) == 9
        group = file["series/tilt3_lv"]
        assert group["rotations"].shape == (4, 3, 3)
        assert group["origin_px"].shape == group["ramps"].shape == (4, 2)
        turn = Rotation.from_euler("y", group["angles_deg"][1], degrees=True).as_matrix()
        np.testing.assert_allclose(group["rotations"][1], turn @ group.attrs["mounting"])


def values(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.rglob("*.h5")):
        with h5py.File(path) as file:
            name = str(path.relative_to(folder))
            file.visititems(
                lambda key, item, name=name: (
                    found.__setitem__(f"{name}:{key}", item[()])
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
    return found


def test_seed_decides_everything(beamtime: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    again = simulate_beamtime(tmp_path / "again", SMALL, seed=7, progress=reports.append)
    assert [report.done for report in reports] == list(range(1, 38))
    assert reports[-1].total == 37
    assert again.read_bytes() == beamtime.read_bytes()
    first, second = values(beamtime.parent), values(again.parent)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    other = values(simulate_beamtime(tmp_path / "other", SMALL, seed=8).parent)
    for name in ("truth.h5:labels", "truth.h5:series/offres/ramps"):
        assert not np.array_equal(first[name], other[name])
    frames = [key for key in first if key.endswith("object")]
    assert all(not np.array_equal(first[key], other[key]) for key in frames)


def test_options_replace_those_of_the_preset(tmp_path: Path) -> None:
    path = simulate_beamtime(tmp_path / "o", SMALL, shift_px=0.0, ramp_cycles=0.0)
    with h5py.File(path.parent / "truth.h5") as file:
        for group in file["series"].values():
            assert not group["shifts_px"][()].any()
            assert not group["ramps"][()].any()


def test_refusals(tmp_path: Path, beamtime: Path) -> None:
    with pytest.raises(InputError, match="exists and is not an empty folder; expected a new one"):
        simulate_beamtime(beamtime.parent, SMALL)
    with pytest.raises(InputError, match="preset: expected one of tiny, demo, paper, found 'hug'"):
        simulate_beamtime(tmp_path / "x", "hug")
    assert not (tmp_path / "x").exists()


def test_paper_preset_is_within_its_means() -> None:
    paper = PRESETS["paper"]
    assert paper.frame_shape == (650, 760)
    assert paper.total_projections == 8 * 280 + 350
    assert paper.label_bytes < 1e9
    # The tilted pillar, displaced as far as it can be, stays inside every frame.
    for preset in PRESETS.values():
        reach = preset.shift_px + preset.displacement_px * np.sqrt(2) + preset.axis_offset_px
        tilt = np.radians(30.0)
        tall = preset.height_px * np.cos(tilt) + preset.diameter_px * np.sin(tilt)
        wide = preset.height_px * np.sin(tilt) + preset.diameter_px * np.cos(tilt)
        assert 0.5 * tall + reach < preset.frame_shape[0] / 2
        assert 0.5 * wide + reach < preset.frame_shape[1] / 2
