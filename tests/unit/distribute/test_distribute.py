"""Shards of projections: same bits in this process, on one worker, on two, and after a loss."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster

from flows.cluster.compute import configure_dask, start_local
from pipeline.distribute import (
    DistributedLeastSquares,
    InProcessLeastSquares,
    TreeSum,
    check_worker_memory,
    fits_a_worker,
    partial_product,
    split_projections,
)
from pipeline.distribute_shards import pick
from pipeline.distribute_worker import _cache, write_shard
from pipeline.errors import InputError, ResourceError
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LocalLeastSquares, conjugate_gradient
from schemas.cluster import Cluster

SHAPE = (14, 12, 14)


def example(rng: np.random.Generator, per_tilt: int = 10) -> DifferencedStack:
    angles = np.linspace(0.0, 180.0, per_tilt, endpoint=False)
    mountings = [(0.0, 0.0), (30.0, 0.0), (30.0, 90.0)]
    rotations = np.concatenate([series_rotations(angles, *mounting) for mounting in mountings])
    weights = linear_difference_weights(rotations)
    field = rng.normal(size=(6, *SHAPE)).astype(np.float32)
    data = Projector(SHAPE, (16, 18), rotations, weights).forward(field)
    return DifferencedStack(data, rotations, weights, "linear", 1e-8, 0.0)


@pytest.fixture(scope="module")
def stack() -> DifferencedStack:
    return example(np.random.default_rng(3))


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(6, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    configure_dask()
    scratch = tmp_path_factory.mktemp("dask")
    with start_local(Cluster(kind="local", workers=2), scratch) as started:
        yield started


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as opened:
        yield opened


def test_shards_follow_the_axes_and_hold_every_projection_once(stack: DifferencedStack) -> None:
    shards = split_projections(stack.rotations)
    assert [len(shard) for shard in shards] == [10, 10, 10]
    assert sorted(np.concatenate(shards)) == list(range(30))
    assert [len(shard) for shard in split_projections(stack.rotations, most=4)] == [4, 3, 3] * 3


def test_projections_without_a_common_axis_share_shards() -> None:
    tilts = np.arange(5) * 10.0
    rotations = np.concatenate([series_rotations(np.array([7.0]), tilt, 0.0) for tilt in tilts])
    shards = split_projections(rotations)
    assert [list(shard) for shard in shards] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 11])
def test_tree_sum_adds_everything_in_one_order(n: int) -> None:
    parts = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
    sums = []
    for _ in range(2):
        tree = TreeSum()
        for part in parts:
            tree.add(part.copy(), 2.0)
        sums.append(tree.total())
    assert np.array_equal(sums[0][0], sums[1][0])
    # Rounding of float32 sums.
    np.testing.assert_allclose(sums[0][0], parts.sum(0), atol=1e-5)
    assert sums[0][1] == 2.0 * n


def test_shards_give_the_same_data_term_as_the_whole(
    stack: DifferencedStack, field: np.ndarray
) -> None:
    whole = LocalLeastSquares(
        Projector(SHAPE, (16, 18), stack.rotations, stack.weights), stack.data
    )
    sharded = InProcessLeastSquares(stack, SHAPE)
    assert sharded.field_shape == whole.field_shape
    assert sharded.n_data == whole.n_data
    assert sharded.data_norm2 == pytest.approx(whole.data_norm2, rel=1e-12)
    expected, square = whole.residual_gradient(field)
    gradient, sharded_square = sharded.residual_gradient(field)
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * scale)  # rounding
    assert sharded_square == pytest.approx(square, rel=1e-6)
    np.testing.assert_allclose(sharded.normal(field), whole.normal(field), atol=1e-5 * scale)


def test_pixel_weights_reach_the_shards(stack: DifferencedStack, field: np.ndarray) -> None:
    weights = np.random.default_rng(5).random(stack.data.shape).astype(np.float32)
    weights[:, :2] = 0.0
    whole = LocalLeastSquares(
        Projector(SHAPE, (16, 18), stack.rotations, stack.weights), stack.data, weights
    )
    sharded = InProcessLeastSquares(stack, SHAPE, weights)
    assert sharded.n_data == whole.n_data
    assert sharded.data_norm2 == pytest.approx(whole.data_norm2, rel=1e-6)
    assert sharded.residual_gradient(field)[1] == pytest.approx(
        whole.residual_gradient(field)[1], rel=1e-6
    )


def test_workers_give_the_same_bits_as_this_process(
    client: Client, stack: DifferencedStack, field: np.ndarray, tmp_path: Path
) -> None:
    here = InProcessLeastSquares(stack, SHAPE)
    there = DistributedLeastSquares(client, stack, SHAPE, scratch=tmp_path)
    assert np.array_equal(here.normal(field), there.normal(field))
    expected, found = here.residual_gradient(field), there.residual_gradient(field)
    assert np.array_equal(expected[0], found[0])
    assert expected[1] == found[1]
    assert there.data_norm2 == here.data_norm2
    assert len(list(tmp_path.iterdir())) == 3  # the shards; no field is left behind
    there.close()
    assert list(tmp_path.iterdir()) == []


def test_workers_apply_pixel_weights(
    client: Client, stack: DifferencedStack, field: np.ndarray, tmp_path: Path
) -> None:
    weights = np.random.default_rng(6).random(stack.data.shape).astype(np.float32)
    there = DistributedLeastSquares(client, stack, SHAPE, scratch=tmp_path, pixel_weights=weights)
    here = InProcessLeastSquares(stack, SHAPE, weights)
    assert np.array_equal(there.normal(field), here.normal(field))


def test_a_killed_worker_changes_no_bit(
    cluster: LocalCluster, client: Client, stack: DifferencedStack, tmp_path: Path
) -> None:
    undisturbed = conjugate_gradient(InProcessLeastSquares(stack, SHAPE), iterations=40)
    problem = DistributedLeastSquares(client, stack, SHAPE, scratch=tmp_path)
    killed = threading.Event()

    def kill_one() -> None:
        time.sleep(0.2)
        pid = next(iter(cluster.workers.values())).pid
        os.kill(pid, signal.SIGKILL)
        killed.set()

    killer = threading.Thread(target=kill_one)
    killer.start()
    disturbed = conjugate_gradient(problem, iterations=40)
    killer.join()
    assert killed.is_set()
    assert np.array_equal(undisturbed.field, disturbed.field)
    assert undisturbed.residuals == disturbed.residuals


def test_too_little_memory_is_refused_before_anything_starts(
    client: Client, stack: DifferencedStack, tmp_path: Path
) -> None:
    limits = client.scheduler_info(n_workers=-1)["workers"].values()
    smallest = min(info["memory_limit"] for info in limits)
    with pytest.raises(ResourceError, match=r"a worker needs .* GiB, the smallest one has .* GiB"):
        check_worker_memory(client, smallest)
    with pytest.raises(ResourceError, match="a worker needs"):
        DistributedLeastSquares(client, stack, (4000, 4000, 4000), scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stack_of_another_geometry_and_non_finite_data_are_one_line(
    stack: DifferencedStack,
) -> None:
    shorter = replace(stack, data=stack.data[1:])
    expected = r"expected a stack of 30 projections \(n, ny, nx\), one for each rotation, found "
    with pytest.raises(InputError, match=expected + r"\(29, 16, 18\) with weights \(30, 6\)"):
        InProcessLeastSquares(shorter, SHAPE)
    data = stack.data.copy()
    data[17, 3, 4] = np.nan
    with pytest.raises(InputError, match="projection 17 holds non-finite values"):
        InProcessLeastSquares(replace(stack, data=data), SHAPE)
    measured = np.isfinite(data)
    assert InProcessLeastSquares(replace(stack, data=data, valid=measured), SHAPE).n_data == (
        stack.data.size - 1
    )


def test_a_worker_forgets_the_shards_of_a_closed_problem(
    stack: DifferencedStack, field: np.ndarray, tmp_path: Path
) -> None:
    files = [write_shard(tmp_path, stack, i, None) for i in split_projections(stack.rotations)]
    source = tmp_path / "field.npy"
    np.save(source, field)
    for file in files[:2]:
        partial_product(file, SHAPE, "series", "normal", str(source))
    assert {key[0] for key in _cache} >= set(files[:2])
    Path(files[0]).unlink()
    partial_product(files[2], SHAPE, "series", "normal", str(source))
    held = {key[0] for key in _cache}
    assert files[0] not in held
    assert set(files[1:]) <= held


def test_the_smallest_worker_decides_what_fits(client: Client) -> None:
    limits = client.scheduler_info(n_workers=-1)["workers"].values()
    smallest = min(info["memory_limit"] for info in limits)
    assert fits_a_worker(client, int(0.5 * smallest))
    assert not fits_a_worker(client, smallest)


def test_a_mounting_of_a_stack_is_not_copied(stack: DifferencedStack) -> None:
    for indices in split_projections(stack.rotations):
        part = pick(stack.data, indices)
        assert np.shares_memory(part, stack.data)
        np.testing.assert_array_equal(part, stack.data[indices])
    apart = pick(stack.data, np.array([0, 2, 3]))
    assert not np.shares_memory(apart, stack.data)
    np.testing.assert_array_equal(apart, stack.data[[0, 2, 3]])
