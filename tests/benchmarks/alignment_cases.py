"""Stress set of the alignment: samples, fields and scans unlike each other, with known shifts.

Frames are chords through ellipsoids in closed form, averaged over each pixel: no projector of this
repository makes them. Each case says what shifts are right, in the sense of `alignment_residual`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.align.motion import alignment_residual, move_frame
from pipeline.tomography.geometry import rotation_x, rotation_y

Part = tuple[NDArray[np.float64], NDArray[np.float64], float]
"""An ellipsoid: centre `(x, y, z)` [pixel], matrix of its surface, density."""


@dataclass(frozen=True)
class Case:
    """One misaligned series.

    Attributes
    ----------
    name : what is hard about it.
    frames : (n, ny, nx) float32 phase [rad], matter negative.
    angles : (n,) [rad].
    applied : (n, 2) `(dy, dx)` shifts that the frames carry [pixel].
    counted : (n,) bool, frames whose shifts can be known.
    floor, goal : of the rms residual [pixel].
    slow : order up to which slow motions along x cannot be known: where the sample is cut off on
        both sides, frames shifted by `cos k θ`, k odd, show a sample that is a little blurred.
    turns, growth : (n,) in-plane rotations [rad] and logarithms of the scale that frames carry.
    """

    name: str
    frames: NDArray[np.float32]
    angles: NDArray[np.float64]
    applied: NDArray[np.float64]
    counted: NDArray[np.bool_]
    floor: float = 0.1
    goal: float = 0.05
    slow: int = 1
    turns: NDArray[np.float64] | None = None
    growth: NDArray[np.float64] | None = None

    def residual(self, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is left of found shifts (n, 2), where they can be known [pixel]."""
        kept = self.counted
        rest = alignment_residual(shifts[kept], -self.applied[kept], self.angles[kept])[1]
        orders = np.arange(3, self.slow + 1, 2) * self.angles[kept][:, None]
        if orders.size:
            waves = np.concatenate([np.cos(orders), np.sin(orders)], axis=1)
            rest[:, 1] -= waves @ np.linalg.lstsq(waves, rest[:, 1], rcond=None)[0]
        return rest


@dataclass(frozen=True)
class Scan:
    """How a sample is seen."""

    angles: NDArray[np.float64] = field(default_factory=lambda: np.arange(60) * np.pi / 60)
    shape: tuple[int, int] = (72, 72)
    jitter: float = 6.0
    noise: float = 0.01
    pitch_rad: float = 0.0


def chords(parts: list[Part], scan: Scan, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Projections (n, ny, nx) of ellipsoids, matter positive, each averaged over 3 x 3 rays."""
    over = 3
    fine = [
        ((np.arange(n) - n // 2)[:, None] + (np.arange(over) - 1) / over).ravel()
        for n in scan.shape
    ]
    ny, nx = scan.shape
    frames = np.zeros((len(scan.angles), ny, nx))
    lean = rotation_x(scan.pitch_rad)
    for index, (angle, shift) in enumerate(zip(scan.angles, shifts, strict=True)):
        turn = lean @ rotation_y(angle)
        for centre, matrix, value in parts:
            c, a = turn @ centre, turn @ matrix @ turn.T
            x = fine[1][None, :] - shift[1] - c[0]
            y = fine[0][:, None] - shift[0] - c[1]
            linear = a[0, 2] * x + a[1, 2] * y
            rest = a[0, 0] * x**2 + 2 * a[0, 1] * x * y + a[1, 1] * y**2 - 1
            chord = 2 * np.sqrt(np.clip(linear**2 - a[2, 2] * rest, 0, None)) / a[2, 2]
            frames[index] += value * chord.reshape(ny, over, nx, over).mean(axis=(1, 3))
    return frames


def ellipsoid(
    centre: tuple[float, float, float], radii: tuple[float, float, float], value: float = 0.05
) -> Part:
    """Ellipsoid along the axes."""
    return np.array(centre, float), np.diag(1.0 / np.square(radii)), value


def scattered(
    rng: np.random.Generator,
    count: int,
    reach: tuple[float, float, float],
    radii: tuple[float, float],
    value: float,
) -> list[Part]:
    """Ellipsoids of any direction, evenly spread in an ellipsoid of half axes `reach`."""
    parts = []
    while len(parts) < count:
        place = rng.uniform(-1, 1, 3)
        if place @ place > 1.0:
            continue
        axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        matrix = axes @ np.diag(1.0 / rng.uniform(*radii, 3) ** 2) @ axes.T
        parts.append((place * reach, matrix, value))
    return parts


def porous(
    rng: np.random.Generator, radii: tuple[float, float, float] = (15.0, 21.0, 13.0)
) -> list[Part]:
    """Body with holes and grains."""
    inner = tuple(0.8 * r for r in radii)
    body = [ellipsoid((1.0, -1.0, 2.0), radii)]
    holes = scattered(rng, 9, inner, (2.0, 4.0), -0.03)
    return body + holes + scattered(rng, 6, inner, (1.5, 3.5), 0.03)


def made(
    name: str,
    parts: list[Part],
    scan: Scan,
    rng: np.random.Generator,
    shifts: NDArray[np.float64] | None = None,
    **bars: Any,
) -> Case:
    """Case of parts under a scan, with random shifts unless given, and noise."""
    n = len(scan.angles)
    if shifts is None:
        shifts = rng.uniform(-scan.jitter, scan.jitter, (n, 2))
    frames = -chords(parts, scan, shifts) + rng.normal(0.0, scan.noise, (n, *scan.shape))
    counted = np.ones(n, np.bool_)
    return Case(name, frames.astype(np.float32), scan.angles, shifts, counted, **bars)


def cases() -> dict[str, Callable[[], Case]]:
    """Every case by its name; made when it is called."""
    half = Scan()
    rng = np.random.default_rng

    def pillar(name: str, scan: Scan, seed: int = 0, **bars: Any) -> Callable[[], Case]:
        return lambda: made(name, porous(rng(seed)), scan, rng(seed + 1), **bars)

    def film() -> Case:
        tilt = np.deg2rad(30.0)
        axes = rotation_x(tilt)
        plate = axes @ np.diag([1 / 22.0**2, 1 / 3.0**2, 1 / 22.0**2]) @ axes.T
        grains = [
            (axes @ centre * 1.0, matrix, value)
            for centre, matrix, value in scattered(rng(3), 20, (18.0, 1.5, 18.0), (1.5, 3.0), 0.05)
        ]
        return made("thin film, tilted", [(np.zeros(3), plate, 0.05), *grains], half, rng(4))

    def wide() -> Case:
        parts = [ellipsoid((0, 0, 0), (60.0, 22.0, 60.0), 0.02)]
        parts += scattered(rng(5), 160, (55.0, 20.0, 55.0), (2.0, 5.0), 0.03)
        scan = replace(half, jitter=4.0)
        return made(
            "wider than the field, both sides", parts, scan, rng(6), floor=0.25, goal=0.08, slow=9
        )

    def stem(name: str, sign: float, half_round: Scan) -> Case:
        parts = porous(rng(7), (13.0, 16.0, 12.0))
        parts += [ellipsoid((1.0, sign * 60.0, 1.0), (5.0, 52.0, 5.0))]
        parts += scattered(rng(8), 4, (4.0, 30.0, 4.0), (2.0, 3.0), 0.03)
        return made(name, parts, half_round, rng(9))

    def flask() -> Case:
        """A pin that widens downwards: the more of it a frame shows, the more mass."""
        parts = porous(rng(7), (11.0, 14.0, 10.0))
        parts += [ellipsoid((0.0, 64.0, 1.0), (26.0, 56.0, 26.0), 0.03)]
        parts += scattered(rng(8), 20, (16.0, 40.0, 16.0), (2.0, 4.0), 0.03)
        return made("pin that widens downwards", parts, half, rng(9))

    def drift() -> Case:
        n = len(half.angles)
        time = np.arange(n) / n
        shifts = np.stack([9 * np.sqrt(time), 8 * np.sin(2.3 * time) - 5 * time**2], axis=1)
        case = made("slow drift, phase offsets", porous(rng(10)), half, rng(11), shifts)
        offsets = rng(12).normal(0.0, 0.02, (n, 1, 1)).astype(np.float32)
        return replace(case, frames=case.frames + offsets)

    def jump() -> Case:
        scan = replace(half, shape=(120, 120))
        shifts = rng(13).uniform(-1.0, 1.0, (60, 2))
        shifts[31:] += [-40.0, 40.0]
        shifts += [20.0, -20.0]
        return made("one jump of 40 px", porous(rng(14)), scan, rng(15), shifts)

    def bad() -> Case:
        case = made("bad frames: empty, noise, copy", porous(rng(16)), half, rng(17))
        frames = case.frames.copy()
        frames[11] = rng(18).normal(0.0, 0.01, half.shape)
        frames[30] = rng(19).normal(0.0, 1.0, half.shape)
        frames[44] = np.roll(frames[14], 5, axis=1)
        counted = case.counted.copy()
        counted[[11, 30, 44]] = False
        return replace(case, frames=frames, counted=counted)

    def shifted(name: str) -> Case:
        case = made(name, porous(rng(30)), half, rng(31))
        turned = [move_frame(frame, 0.0, 0.0, np.deg2rad(1.0)) for frame in case.frames]
        frames = np.roll(np.stack(turned), 8, axis=2)
        return replace(case, frames=frames, applied=case.applied + np.array([0.0, 8.0]))

    def similar() -> Case:
        """Frames of a microscope that is refocused: turned by 0.6 degree, scaled by 0.6 % rms."""
        case = made("similarity: turns 0.6 deg, scales 0.6 %", porous(rng(32)), half, rng(33))
        n = len(half.angles)
        turns, growth = rng(34).normal(0.0, 0.01, n), rng(35).normal(0.0, 0.006, n)
        frames = np.stack(
            [
                move_frame(frame, 0.0, 0.0, turn, scale)
                for frame, turn, scale in zip(case.frames, turns, np.exp(growth), strict=True)
            ]
        )
        return replace(case, frames=frames, turns=turns, growth=growth)

    golden = np.mod(np.arange(60) * (np.sqrt(5.0) - 1.0) / 2.0, 1.0) * np.pi
    uneven = np.deg2rad(
        np.r_[np.arange(-80, -20, 4), np.arange(-20, 20, 1.5), np.arange(20, 99, 5)]
    )
    return {
        "particle": lambda: made(
            "one particle off the axis", [ellipsoid((17, 3, -9), (7, 6, 8))], half, rng(20)
        ),
        "particles": lambda: made(
            "many particles", scattered(rng(21), 25, (24, 24, 24), (2.0, 5.0), 0.08), half, rng(22)
        ),
        "porous": pillar("porous pillar", half),
        "film": film,
        "wide": wide,
        "stem-bottom": lambda: stem("stem leaves at the bottom", 1.0, half),
        "stem-top": lambda: stem("stem leaves at the top", -1.0, half),
        "pin": flask,
        # The noise alone moves the best fit of a frame to its known image by 0.19 px.
        "noise": pillar("low SNR: 2 in a pixel", replace(half, noise=0.6), 23, floor=0.3, goal=0.2),
        "wedge": pillar(
            "missing wedge, +-60 deg", replace(half, angles=np.deg2rad(np.arange(-60, 61, 2.5))), 24
        ),
        "few": pillar("30 angles", replace(half, angles=np.arange(30) * np.pi / 30), 25),
        "axis": lambda: shifted("axis 8 px off, tilted by 1 deg"),
        "lean": pillar(
            "axis leans by 1 deg along the beam",
            replace(half, pitch_rad=np.deg2rad(1.0), angles=np.arange(60) * np.pi / 30),
            29,
        ),
        "similarity": similar,
        "full-turn": pillar("360 deg", replace(half, angles=np.arange(72) * np.pi / 36), 26),
        "golden": pillar("golden-ratio angles", replace(half, angles=golden), 27),
        "uneven": pillar("uneven angles", replace(half, angles=uneven), 28),
        "drift": drift,
        "jump": jump,
        "bad": bad,
    }
