"""Fourier transforms of many lanes side by side, as vector instructions.

Rows, columns and lines of spectra, all of their lanes, are transformed where they have just been
loaded or computed, in the caches of a core; what a library transforms goes through memory before
and after. Parts of 2, 3, 4, 5, 7 or 11 points are combined in Stockham's order of Cooley and
Tukey's scheme (doi 10.1090/S0025-5718-1965-0178586-1), in which no bits are reversed; opposite
points of a part are added and subtracted first, so that every factor is a real number.

Speed: 0.5 to 0.8 ns a point of a lane in the caches of one core, where `scipy.fft` takes 1.7 to 2.3
with its way through memory (Zen 5; 99 to 735 points, 32 lanes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from pipeline.tomography.kernels.lanes import INDEX, VECTOR, WIDTH, add_product, at, splat

PARTS = (11, 7, 5, 3, 4, 2)
"""Of which numbers of points are made, in this order: the factors of the first one are one."""

Value = Any


class _Points:
    """Complex vectors of a part: real and imaginary parts in turn."""

    def __init__(self, builder: Value, sign: int) -> None:
        self.builder = builder
        places = [place ^ 1 for place in range(WIDTH)]
        self.swap = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), places)
        # i (x + i y) = -y + i x, and its opposite.
        self.turn = ir.Constant(VECTOR, [-float(sign), float(sign)] * (WIDTH // 2))

    def turned(self, value: Value) -> Value:
        """Times i, or minus i for the other direction."""
        swapped = self.builder.shuffle_vector(value, value, self.swap)
        return self.builder.fmul(swapped, self.turn)

    def times(self, value: Value, real: Value, imaginary: Value) -> Value:
        """Times `real + i imaginary`, the latter with the signs of `turn`."""
        swapped = self.builder.shuffle_vector(value, value, self.swap)
        product = self.builder.fmul(real, value, flags=("contract",))
        return add_product(self.builder, product, imaginary, swapped)

    def transform(self, values: Sequence[Value]) -> list[Value]:
        """Discrete Fourier transform of a part's points."""
        builder, n = self.builder, len(values)
        if n == 2:
            return [builder.fadd(*values), builder.fsub(*values)]
        if n == 4:
            plus, minus = self.transform(values[::2]), self.transform(values[1::2])
            (a, b), (c, d) = plus, minus
            d = self.turned(d)
            return [builder.fadd(a, c), builder.fadd(b, d), builder.fsub(a, c), builder.fsub(b, d)]
        half = range(1, n // 2 + 1)
        sums = [builder.fadd(values[k], values[n - k]) for k in half]
        differences = [builder.fsub(values[k], values[n - k]) for k in half]
        first = values[0]
        for value in sums:
            first = builder.fadd(first, value)
        found = [first] * n
        for t in half:
            even, odd = values[0], None
            for k, (plus, minus) in enumerate(zip(sums, differences, strict=True), 1):
                angle = 2.0 * np.pi * (t * k % n) / n
                cosine, sine = (
                    ir.Constant(VECTOR, [float(np.float32(f(angle)))] * WIDTH)
                    for f in (np.cos, np.sin)
                )
                even = add_product(builder, even, cosine, plus)
                odd = (
                    builder.fmul(sine, minus, flags=("contract",))
                    if odd is None
                    else add_product(builder, odd, sine, minus)
                )
            odd = self.turned(odd)
            found[t], found[n - t] = builder.fadd(even, odd), builder.fsub(even, odd)
        return found


def _part(n: int, sign: int, *, factors: bool) -> Any:
    """A function for compiled code: transforms of `n` points, for a run of lanes."""

    @intrinsic
    def run(
        _: Value, source: Value, target: Value, table: Value, start: Value, step: Value, to: Value,
        stride: Value, row: Value, length: Value,
    ) -> Any:  # fmt: skip
        def generate(context: Value, builder: Value, signature: Value, given: Value) -> Value:
            read, written, turns = (
                context.make_array(kind)(context, builder, value).data
                for kind, value in zip(signature.args[:3], given[:3], strict=True)
            )
            first, between, there, apart, at_row, end = given[3:]
            points = _Points(builder, sign)

            def number(index: int) -> Value:
                place = builder.add(at_row, ir.Constant(INDEX, index))
                return builder.load(builder.gep(turns, [place]))

            reals, imaginaries = [], []
            for k in range(1, n if factors else 1):
                reals.append(splat(builder, number(2 * k)))
                imaginaries.append(builder.fmul(points.turn, splat(builder, number(2 * k + 1))))
            inputs, outputs = [first], [there]
            for _k in range(1, n):
                inputs.append(builder.add(inputs[-1], between))
                outputs.append(builder.add(outputs[-1], apart))
            zero, width = ir.Constant(INDEX, 0), ir.Constant(INDEX, WIDTH)
            with cgutils.for_range_slice(builder, zero, end, width, intp=INDEX) as (i, _count):
                values = [
                    builder.load(at(builder, read, builder.add(i, offset)), align=4)
                    for offset in inputs
                ]
                if factors:
                    values[1:] = [
                        points.times(*each)
                        for each in zip(values[1:], reals, imaginaries, strict=True)
                    ]
                for value, offset in zip(points.transform(values), outputs, strict=True):
                    builder.store(value, at(builder, written, builder.add(i, offset)), align=4)
            return context.get_dummy_value()

        arrays = source, target, table
        return types.void(*arrays, start, step, to, stride, row, length), generate

    return run


def _any_part(sign: int, *, factors: bool) -> Any:
    """The transform of a part of any size, compiled."""
    by_11, by_7, by_5, by_3, by_4, by_2 = (_part(n, sign, factors=factors) for n in PARTS)

    @njit(cache=True, inline="always", error_model="numpy")
    def run(
        part: int,
        source: NDArray[np.float32],
        target: NDArray[np.float32],
        turns: NDArray[np.float32],
        places: tuple[int, int, int, int, int, int],
    ) -> None:
        if part == 2:
            by_2(source, target, turns, *places)
        elif part == 3:
            by_3(source, target, turns, *places)
        elif part == 4:
            by_4(source, target, turns, *places)
        elif part == 5:
            by_5(source, target, turns, *places)
        elif part == 7:
            by_7(source, target, turns, *places)
        else:
            by_11(source, target, turns, *places)

    return run


def _direction(sign: int) -> Any:
    """The transform of one direction, compiled."""
    begin, proceed = _any_part(sign, factors=False), _any_part(sign, factors=True)

    @njit(cache=True, error_model="numpy")
    def transform(
        lines: NDArray[np.float32],
        other: NDArray[np.float32],
        parts: NDArray[np.int64],
        turns: NDArray[np.float32],
        width: int,
    ) -> bool:
        source, target = lines, other
        n = len(lines) // width
        done, row = 1, 0
        for part in parts:
            left = n // (done * part)
            step, stride = left * done * width, done * width
            for p in range(left):
                for j in range(done):
                    start, to = (p * done + j) * width, (p * done * part + j) * width
                    places = start, step, to, stride, row + 2 * j * part, width
                    if done == 1:
                        begin(part, source, target, turns, places)
                    else:
                        proceed(part, source, target, turns, places)
            row += 2 * done * part
            done *= part
            source, target = target, source
        return len(parts) % 2 == 1

    return transform


forward, backward = _direction(-1), _direction(1)
"""Unscaled transform of a line of points of many lanes, `exp(-2πi jk/n)` and its conjugate.

Parameters: lines and other, (n width,) float32 each, both changed, complex lanes with real and
imaginary part in turn; parts and turns of `plan_points`; width, a multiple of 16. Returns whether
the transform is in `other`.
"""


def plan_points(n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Parts of a number of points, and the factors between them.

    Returns
    -------
    parts : (k,) int64, whose product is `n`.
    turns : (m,) float32, cosine and sine of `2π j t / (done part)` for every stage, `j` and `t`;
        the direction is the kernel's.
    """
    parts, rest = [], n
    for part in PARTS:
        while rest % part == 0:
            parts.append(part)
            rest //= part
    if rest != 1 or n < 2:
        raise ValueError(f"expected a product of {PARTS}, found {n}")
    tables, done = [], 1
    for part in parts:
        angles = 2.0 * np.pi * np.outer(np.arange(done), np.arange(part)) / (done * part)
        tables.append(np.stack([np.cos(angles), np.sin(angles)], axis=-1).ravel())
        done *= part
    return np.array(parts, np.int64), np.concatenate(tables).astype(np.float32)
