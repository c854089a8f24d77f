"""Quality from raw files to the report's line to paste, on the smallest simulated series."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from flows.steps.prepare import prepare
from flows.steps.stages import one_shape
from pipeline.align.pairs import register_pair
from pipeline.io.beamtime import load_beamtime, series_angles, series_files
from pipeline.io.products import SeriesQuality
from pipeline.io.ptychoshelves import write_projection
from pipeline.io.quality import read_quality
from pipeline.io.raw import read_series
from pipeline.io.stacks import load_phase
from pipeline.preprocess.optical_density import prepare_optical_density
from pipeline.preprocess.quality import MEASURES, QUALITY, matter_note, score_measures
from pipeline.progress import Progress
from schemas.recipe import PhaseSettings, ResampleSettings
from schemas.series import Series

PIXEL = 30.91e-9
N = 64
Y, X = np.mgrid[:N, :N].astype(float) - N // 2


def prepared(
    out: Path, series: Series, folder: Path, told: list[Progress] | None = None
) -> SeriesQuality:
    out.mkdir(parents=True)
    heard = told if told is not None else []
    prepare(
        out, series, folder, [], PIXEL, ResampleSettings(), PhaseSettings(), progress=heard.append
    )
    return read_quality(out / "quality.npz")


def test_a_clean_beamtime_raises_no_alarm(tiny: Path, tmp_path: Path) -> None:
    loaded = load_beamtime(tiny)
    found = [
        prepared(tmp_path / series.name, series, loaded.folder)
        for series in loaded.beamtime.series
        if series.name in ("tilt1_lh", "tilt3_lv", "offres")
    ]
    total = sum(series.outliers.size for series in found)
    assert total == 24 + 24 + 40
    assert sum(int(series.outliers.sum()) for series in found) <= 0.01 * total
    assert all(series.proposal == "" and series.notes == () for series in found)


def blurred(frame: np.ndarray) -> np.ndarray:
    return gaussian_filter(frame.real, 2.0) + 1j * gaussian_filter(frame.imag, 2.0)


def covered(frame: np.ndarray) -> np.ndarray:
    """Sample over the whole frame: no air from which a ramp could be known."""
    cover = gaussian_filter(np.random.default_rng(0).normal(size=(N, N)), 6)
    return frame * np.exp(1j * (0.5 * cover / cover.std() - 1.0 + 0.05 * X))


def half_empty(frame: np.ndarray) -> np.ndarray:
    return np.where(X < 0, 1.0, frame)


def with_vortices(frame: np.ndarray) -> np.ndarray:
    turn = [
        sign * np.angle((X - x) + 1j * (Y - y))
        for y, x, sign in ((2.5, 3.5, 1), (2.5, -4.5, -1), (-6.5, 1.5, 1), (-9.5, 1.5, -1))
    ]
    return frame * np.exp(1j * sum(turn))


PLANTED: dict[int, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    3: (blurred, "blur 4"),
    7: (covered, "residual ramp 1"),
    11: (half_empty, "50.0% of the frame missing, neighbours 0.0%"),
    17: (with_vortices, "4 phase residues, neighbours 0"),
}


@pytest.fixture(scope="module")
def spoilt(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Series, Path]:
    """A series with planted bad projections, of which one is excluded already."""
    loaded = load_beamtime(tiny)
    series = next(s for s in loaded.beamtime.series if s.name == "tilt1_lh")
    folder = tmp_path_factory.mktemp("spoilt")
    shutil.copytree(loaded.folder / "raw" / series.name, folder / "raw" / series.name)
    frames, angles = list(read_series(series, folder)), series_angles(series, folder)
    for index, (spoil, _) in PLANTED.items():
        path = series_files(series, folder)[index]
        path.unlink()
        write_projection(
            path,
            spoil(frames[index]).astype(np.complex64),
            pixel_size_m=PIXEL,
            energy_ev=series.energy.known_ev,
            angle_deg=float(angles[index]),
        )
    return series.model_copy(update={"exclude": [1]}), folder


def test_planted_projections_are_found_and_named(
    spoilt: tuple[Series, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = prepared(tmp_path / "out", *spoilt)
    assert caplog.messages == [
        "series 'tilt1_lh': The phase of 1 of 23 projections is the integral of its derivative "
        "(residues: 4, at most 4 in one).",
        "series 'tilt1_lh': found outliers, exclude: [1, 3, 7, 11, 17]?",
    ]
    assert found.indices[found.outliers].tolist() == sorted(PLANTED)
    for index, (_, reason) in PLANTED.items():
        assert reason in found.reasons[found.indices.tolist().index(index)]
    # Ready to paste: what is excluded stays excluded.
    assert found.proposal == "exclude: [1, 3, 7, 11, 17]"
    stack = load_phase(tmp_path / "out" / "phase.h5")
    assert len(stack.data) == 23  # nothing is dropped
    np.testing.assert_array_equal(
        np.stack([stack.diagnostics[name] for name in QUALITY], axis=1), found.measures
    )


def test_a_conjugated_series_is_told_so(spoilt: tuple[Series, Path], tmp_path: Path) -> None:
    series, folder = spoilt
    told: list[Progress] = []
    turned = series.model_copy(update={"conjugate": True, "exclude": sorted(PLANTED)})
    found = prepared(tmp_path / "out", turned, folder, told)
    (note,) = found.notes
    assert note.startswith("Matter has positive phase in 20 of 20 projections (median 0.")
    assert note.endswith("conjugate: true?")
    assert told[-1].stage == f"prepare: {note}"


def test_matter_of_either_sign() -> None:
    noise = np.full(4, 0.01)
    assert matter_note(np.full(4, -0.3), noise) == ""
    assert matter_note(np.array([0.3, 0.005, -0.2, -0.3]), noise) == ""
    assert "in 3 of 4 projections (median 0.3 rad)" in matter_note(
        np.array([0.3, 0.3, 0.3, -0.2]), noise
    )


def test_phase_images_are_scored_too(spoilt: tuple[Series, Path], tmp_path: Path) -> None:
    import h5py

    series, folder = spoilt
    first = prepared(tmp_path / "raw", series, folder)
    stack = load_phase(tmp_path / "raw" / "phase.h5")
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["exchange/data"] = stack.data
        file["exchange/theta"] = stack.angles_deg
    images = series.model_copy(
        update={
            "state": "phase",
            "format": "dataexchange",
            "files": ["images.h5"],
            "angles_deg": stack.angles_deg.tolist(),
            "exclude": [],
        }
    )
    found = prepared(tmp_path / "phase", images, tmp_path)
    # The vortices are repaired by now, and half a frame of air is no gap of phase images.
    known = first.indices.tolist()
    assert found.outliers[[known.index(index) for index in (3, 7)]].all()
    assert found.outliers.sum() <= len(PLANTED) + 1


def test_optical_densities_are_scored_without_a_unit() -> None:
    rng = np.random.default_rng(0)
    depth = 1.2 * np.sqrt(np.clip(1 - (X / 18) ** 2 - (Y / 24) ** 2, 0, None))
    frames = [1e3 * (np.exp(-depth) + rng.normal(0.0, 5e-3, depth.shape)) for _ in range(12)]
    frames[5] = gaussian_filter(frames[5], 2.0)
    frames[8] = frames[8] + 1e3 * rng.normal(0.0, 0.05, depth.shape)
    stack = prepare_optical_density(frames, np.arange(12.0), PIXEL, 700.0)
    measures = np.stack([stack.diagnostics[name] for name in QUALITY], axis=1)
    found = score_measures(measures, stack.angles_deg, unit="")
    assert found.outliers[[5, 8]].all()
    assert found.outliers.sum() == 2
    assert "noise 0.05" in found.reasons[8]
    assert "rad" not in found.reasons[8]
    assert not found.residues.any()
    assert len(MEASURES) == 5


def test_partners_with_different_borders_can_be_registered(tiny: Path, tmp_path: Path) -> None:
    loaded = load_beamtime(tiny)
    shifts = {}
    for margin in (0, 5):
        phases = []
        for name in ("tilt1_lh", "tilt1_lv"):
            series = next(s for s in loaded.beamtime.series if s.name == name)
            folder = tmp_path / f"{name}-{margin}"
            for index, frame in enumerate(read_series(series, loaded.folder)):
                if name == "tilt1_lv" and margin:
                    frame[:, :margin] = 0.0
                    frame[:, N - margin + 1 :] = 0.0
                path = folder / "raw" / name / f"{index:04}_recons.h5"
                write_projection(
                    path, frame, pixel_size_m=PIXEL, energy_ev=series.energy.known_ev,
                    angle_deg=float(index),
                )  # fmt: skip
            here = series.model_copy(
                update={"files": [f"raw/{name}/*_recons.h5"], "angles_deg": None}
            )
            found = prepared(folder / "out", here, folder)
            assert not found.outliers.any()
            cut = name == "tilt1_lv" and margin > 0
            assert [note.split(":")[0] for note in found.notes] == (
                ["Cut to rows 0 to 63 and columns 5 to 59 of 64 x 64 pixels"] if cut else []
            )
            phases.append(folder / "out" / "phase.h5")
        shifts[margin] = register_pair(*one_shape(*(load_phase(path) for path in phases)))
    # The centre pixel is the same with and without the crop, and so are the partners' shifts.
    assert np.sqrt(np.mean((shifts[5] - shifts[0]) ** 2)) < 0.1
