"""Stacks between steps survive the disk, bit by bit."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.io import hdf5
from pipeline.io.stacks import (
    load_differenced,
    load_phase,
    save_differenced,
    save_phase,
)
from pipeline.stacks import DifferencedStack, PhaseStack

RNG = np.random.default_rng(1)
DATA = RNG.normal(size=(3, 4, 5)).astype(np.float32)
ROTATIONS = RNG.normal(size=(3, 3, 3))


def same(a: object, b: object) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype
            np.testing.assert_array_equal(value, other)
        elif name == "diagnostics":
            assert set(value) == set(other)
            for key in value:
                np.testing.assert_array_equal(value[key], other[key])
        else:
            assert value == other, name


def test_phase(tmp_path: Path) -> None:
    stack = PhaseStack(DATA, np.arange(3.0), 3e-8, 5468.0, 1e-3, {"offset": np.arange(3.0)})
    save_phase(tmp_path / "s.h5", stack)
    same(stack, load_phase(tmp_path / "s.h5"))
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["data"].chunks == (1, 4, 5)


def test_differenced_whole_and_in_part(tmp_path: Path) -> None:
    stack = DifferencedStack(DATA, ROTATIONS, RNG.normal(size=(3, 6)), "linear", 3e-8, 0.0)
    save_differenced(tmp_path / "s.h5", stack)
    same(stack, load_differenced(tmp_path / "s.h5"))
    part = load_differenced(tmp_path / "s.h5", slice(1, 3))
    np.testing.assert_array_equal(part.data, DATA[1:3])
    np.testing.assert_array_equal(part.weights, stack.weights[1:3])


def test_what_was_not_measured_survives(tmp_path: Path) -> None:
    valid = RNG.random(DATA.shape) < 0.5
    stack = DifferencedStack(DATA, ROTATIONS, np.ones((3, 1)), "scalar", 3e-8, 0.0, valid)
    save_differenced(tmp_path / "d.h5", stack)
    same(stack, load_differenced(tmp_path / "d.h5"))
    same(stack.subset(slice(1, 3)), load_differenced(tmp_path / "d.h5", slice(1, 3)))


def test_same_stack_same_bytes(tmp_path: Path) -> None:
    stack = DifferencedStack(DATA, ROTATIONS, np.ones((3, 1)), "scalar", 3e-8, 0.0)
    for name in ("a.h5", "b.h5"):
        save_differenced(tmp_path / name, stack)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_another_kind_is_refused(tmp_path: Path) -> None:
    stack = DifferencedStack(DATA, ROTATIONS, np.ones((3, 1)), "scalar", 3e-8, 0.0)
    save_differenced(tmp_path / "s.h5", stack)
    with pytest.raises(InputError, match="expected a stack of kind 'phase', found 'differenced'"):
        load_phase(tmp_path / "s.h5")


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"

    def fail() -> None:
        with hdf5.write_hdf5(path) as file:
            file["half"] = 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
