"""Conservation of winding and charge on random fields with random masks: always, exactly."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.analyse.defects_plane import find_planar_defects
from pipeline.analyse.hedgehogs import find_hedgehogs
from pipeline.analyse.solid_angle import cube_charges, face_fluxes, hole_charges
from pipeline.analyse.tracing import charged_faces, trace
from pipeline.analyse.winding import (
    EVERYWHERE,
    IN_SLICE,
    hole_windings,
    label_holes,
    parity_charges,
    winding_charges,
)
from schemas.recipe import DefectSettings

SEEDS = st.integers(0, 2**32 - 1)
FILL = st.sampled_from([0.0, 0.05, 0.3, 0.7])
SHAPE = (4, 9, 8)
QUICK = settings(max_examples=40, deadline=None, derandomize=True)


def random_case(seed: int, empty: float, parts: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((parts, *SHAPE)).astype(np.float32), rng.random(SHAPE) >= empty


def turns_along(path: list[tuple[int, int]], q: np.ndarray) -> int:
    """Whole turns of `q` along a closed path, by angles: a way of its own."""
    values = np.array([q[0][p] + 1j * q[1][p] for p in path])
    steps = np.angle(np.roll(values, -1) * values.conj())
    return int(np.rint(steps.sum() / (2 * np.pi)))


def rectangle(low: tuple[int, int], high: tuple[int, int]) -> list[tuple[int, int]]:
    """Voxels (v, u) around a rectangle, counter-clockwise with u to the right and v up."""
    bottom = [(low[0], u) for u in range(low[1], high[1])]
    right = [(v, high[1]) for v in range(low[0], high[0])]
    top = [(high[0], u) for u in range(high[1], low[1], -1)]
    left = [(v, low[1]) for v in range(high[0], low[0], -1)]
    return bottom + right + top + left


@QUICK
@given(SEEDS, FILL, st.data())
def test_the_winding_of_a_closed_path_is_that_of_the_faces_and_holes_inside(seed, empty, data):
    q, valid = random_case(seed, empty, 2)
    low = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 4)))
    high = data.draw(
        st.tuples(st.integers(low[0] + 1, SHAPE[1] - 1), st.integers(low[1] + 1, SHAPE[2] - 1))
    )
    path = rectangle(low, high)
    for v, u in path:
        valid[:, v, u] = True
    charges = winding_charges(q, valid)
    label, count = label_holes(valid, IN_SLICE)
    holes = hole_windings(q, valid, label, count)
    for n in range(SHAPE[0]):
        faces = charges[0, n, low[0] : high[0], low[1] : high[1]].sum(dtype=int)
        inner = label[n + 1, low[0] + 2 : high[0] + 1, low[1] + 2 : high[1] + 1]
        inside = np.setdiff1d(np.unique(inner), [0])
        assert faces + holes[inside].sum() == turns_along(path, q[:, n])


@QUICK
@given(
    npst.arrays(np.float32, (2, 2, 5, 5), elements=st.integers(-1, 1).map(np.float32)),
    npst.arrays(np.bool_, (2, 5, 5)),
)
def test_every_slice_adds_up_to_zero_with_its_outside_even_where_turns_tie(q, valid):
    """Small whole numbers: opposite neighbours and zeros, where the shorter way is undecided."""
    charges = winding_charges(q, valid)
    label, count = label_holes(valid, IN_SLICE)
    holes = hole_windings(q, valid, label, count)
    for n in range(2):
        own = np.setdiff1d(np.unique(label[n + 1]), [0])
        assert charges[0, n].sum(dtype=int) + holes[own].sum() == 0


@QUICK
@given(SEEDS, FILL)
def test_lines_end_only_where_the_field_does(seed, empty):
    q, valid = random_case(seed, empty, 2)
    a, _ = random_case(seed, empty, 3)
    for charges, signed in ((winding_charges(q, valid), True), (parity_charges(a, valid), False)):
        faces = charged_faces(charges)
        paths = trace(faces, SHAPE, signed)
        assert sorted(paths.order.tolist()) == list(range(len(faces.charge)))
        for line in np.flatnonzero(~paths.closed):
            for index in (paths.starts[line], paths.starts[line + 1] - 1):
                face = paths.order[index]
                first = index == paths.starts[line]
                cube = faces.voxel[face].copy()
                # The cube below the face on the way in, the one above it on the way out.
                cube[faces.normal[face]] -= int(bool(paths.upward[index]) == first)
                assert not whole_cube(valid, cube)
        if signed:
            along = np.where(paths.upward, 1, -1)
            assert (along == faces.charge[paths.order]).all()


def whole_cube(valid: np.ndarray, cube: np.ndarray) -> bool:
    if (cube < 0).any() or (cube + 1 >= valid.shape).any():
        return False
    z, y, x = cube
    return bool(valid[z : z + 2, y : y + 2, x : x + 2].all())


@QUICK
@given(SEEDS, FILL)
def test_every_whole_cube_is_pierced_an_even_number_of_times(seed, empty):
    axis, valid = random_case(seed, empty, 3)
    c = parity_charges(axis, valid).astype(int)
    total = (
        c[0, :-1, :-1, :-1] + c[0, 1:, :-1, :-1] + c[1, :-1, :-1, :-1]
        + c[1, :-1, 1:, :-1] + c[2, :-1, :-1, :-1] + c[2, :-1, :-1, 1:]
    )  # fmt: skip
    whole = np.ones_like(total, bool)
    for i, j, k in np.ndindex(2, 2, 2):
        whole &= valid[i : i + SHAPE[0] - 1, j : j + SHAPE[1] - 1, k : k + SHAPE[2] - 1]
    assert not (total[whole] % 2).any()


@QUICK
@given(SEEDS, FILL, st.data())
def test_the_flux_through_a_closed_box_is_the_charge_inside(seed, empty, data):
    rng = np.random.default_rng(seed)
    shape = (6, 7, 6)
    unit = rng.standard_normal((3, *shape))
    unit = (unit / np.linalg.norm(unit, axis=0)).astype(np.float32)
    valid = rng.random(shape) >= empty
    low = [data.draw(st.integers(0, n - 3)) for n in shape]
    high = [data.draw(st.integers(a + 1, n - 1)) for a, n in zip(low, shape, strict=True)]
    box = np.zeros(shape, bool)
    box[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    inner = np.zeros(shape, bool)
    inner[tuple(slice(a + 1, b) for a, b in zip(low, high, strict=True))] = True
    valid |= box & ~inner
    flux = face_fluxes(unit, valid)
    charges = cube_charges(flux, valid)
    label, count = label_holes(valid, EVERYWHERE)
    holes = hole_charges(flux, valid, label, count)
    inside = np.setdiff1d(np.unique(label[1:-1, 1:-1, 1:-1][inner]), [0])
    (z0, y0, x0), (z1, y1, x1) = low, high
    within = charges[z0:z1, y0:y1, x0:x1].sum(dtype=int) + holes[inside].sum()
    through = (
        flux[0, z1, y0:y1, x0:x1].sum(dtype=float) - flux[0, z0, y0:y1, x0:x1].sum(dtype=float)
        + flux[1, z0:z1, y1, x0:x1].sum(dtype=float) - flux[1, z0:z1, y0, x0:x1].sum(dtype=float)
        + flux[2, z0:z1, y0:y1, x1].sum(dtype=float) - flux[2, z0:z1, y0:y1, x0].sum(dtype=float)
    )  # fmt: skip
    # Rounding of single precision, over at most 200 faces.
    np.testing.assert_allclose(through / (4 * np.pi), within, atol=1e-4)
    assert charges.sum(dtype=int) + holes.sum() == 0


@QUICK
@given(
    npst.arrays(np.int8, (3, 4, 4, 4), elements=st.integers(-1, 1)),
    npst.arrays(np.bool_, (4, 4, 4)),
)
def test_charges_add_up_where_directions_are_exactly_opposite(vector, valid):
    valid = valid & vector.any(axis=0)
    length = np.maximum(np.linalg.norm(vector, axis=0), 1.0)
    flux = face_fluxes((vector / length).astype(np.float32), valid)
    label, count = label_holes(valid, EVERYWHERE)
    charges = cube_charges(flux, valid).sum(dtype=int)
    assert charges + hole_charges(flux, valid, label, count).sum() == 0


@settings(max_examples=12, deadline=None, derandomize=True)
@given(SEEDS, FILL, st.sampled_from(["x", "y", "z"]), st.sampled_from([0.0, 1.0]))
def test_what_is_listed_and_what_is_cancelled_keep_the_sums(seed, empty, normal, average):
    axis, mask = random_case(seed, empty, 3)
    axis /= np.linalg.norm(axis, axis=0)
    found = find_planar_defects(
        axis, mask, 1.0, DefectSettings(normal=normal, average_voxels=average)
    )
    assert not found.slice_sums.sum(axis=1).any()
    # What noise took away was nothing to begin with.
    assert not found.slice_sums[:, 1].any()
    by_slice = np.zeros(len(found.slice_sums))
    np.add.at(by_slice, found.defects.slice_index, found.defects.charge)
    np.testing.assert_array_equal(by_slice, found.slice_sums[:, 0])
    points = find_hedgehogs(axis, mask, 1.0, DefectSettings(average_voxels=average), maps=False)
    assert points.charge.sum() + points.pores["charge"].sum() + points.outside == 0
