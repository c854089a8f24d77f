"""Sums over taps for many lanes side by side, as vector instructions.

Numba cannot know that the arrays of a loop do not overlap, tests it anew at every entry, and moves
sums through memory. What takes most of the time of the projector by spectra is therefore written as
LLVM's own vectors of sixteen numbers: every sum stays in a register until it is complete, and the
weights of all taps do too where there are as many registers. On processors with narrower registers
LLVM cuts the vectors, in the same order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

TAPS = 6
"""Neighbours of a point along either axis."""

WIDTH = 16
"""Numbers of a vector; the length of every run is a multiple of it."""

FLOAT, INDEX = ir.FloatType(), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, WIDTH)

Value = Any
"""A value of LLVM's intermediate representation."""


def splat(builder: Value, number: Value) -> Value:
    """A vector of sixteen times the same number."""
    empty = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
    places = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(first, empty, places)


def at(builder: Value, start: Value, index: Value) -> Value:
    """Pointer to a vector that lies `index` numbers behind `start`."""
    return builder.bitcast(builder.gep(start, [index]), VECTOR.as_pointer())


def add_product(builder: Value, total: Value, left: Value, right: Value) -> Value:
    """`total + left right`, in one instruction where there is one."""
    flags = ("contract",)
    return builder.fadd(total, builder.fmul(left, right, flags=flags), flags=flags)


class _Taps:
    """What a run over the lanes needs: where the taps lie, and their weights as vectors."""

    def __init__(
        self, context: Value, builder: Value, given: Sequence[Value], kinds: Sequence[Value], n: int
    ) -> None:
        lanes, data, *tables = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(kinds[:6], given[:6], strict=True)
        )
        self.builder, self.lanes, self.length = builder, lanes, given[6]
        offsets, weights, starts, shares = (
            [builder.load(builder.gep(table, [ir.Constant(INDEX, tap)])) for tap in range(count)]
            for table, count in zip(tables, (n, n, TAPS, TAPS), strict=True)
        )
        self.rows = [builder.gep(data, [offset]) for offset in offsets]
        self.weights = [splat(builder, weight) for weight in weights]
        self.starts, self.shares = starts, [splat(builder, share) for share in shares]

    def run(self, body: Callable[[Value, list[Value]], None]) -> None:
        """Emit a loop over the vectors of a run: where each begins, and its columns in a row."""
        first, step = ir.Constant(INDEX, 0), ir.Constant(INDEX, WIDTH)
        with cgutils.for_range_slice(self.builder, first, self.length, step, intp=INDEX) as (i, _):
            body(i, [self.builder.add(i, start) for start in self.starts])

    def load(self, start: Value, index: Value) -> Value:
        """A vector from memory, aligned to numbers only."""
        return self.builder.load(at(self.builder, start, index), align=4)

    def store(self, value: Value, start: Value, index: Value) -> None:
        """A vector to memory."""
        self.builder.store(value, at(self.builder, start, index), align=4)


def _emit_take(taps: _Taps) -> None:
    builder = taps.builder

    def body(i: Value, columns: list[Value]) -> None:
        totals = [ir.Constant(VECTOR, [0.0] * WIDTH)] * TAPS
        for row, weight in zip(taps.rows, taps.weights, strict=True):
            totals = [
                add_product(builder, total, weight, taps.load(row, column))
                for total, column in zip(totals, columns, strict=True)
            ]
        sum_ = taps.load(taps.lanes, i)
        for share, total in zip(taps.shares, totals, strict=True):
            sum_ = add_product(builder, sum_, share, total)
        taps.store(sum_, taps.lanes, i)

    taps.run(body)


def _emit_spread(taps: _Taps) -> None:
    builder = taps.builder

    def body(i: Value, columns: list[Value]) -> None:
        value = taps.load(taps.lanes, i)
        parts = [builder.fmul(share, value) for share in taps.shares]
        for row, weight in zip(taps.rows, taps.weights, strict=True):
            for part, column in zip(parts, columns, strict=True):
                total = add_product(builder, taps.load(row, column), weight, part)
                taps.store(total, row, column)

    taps.run(body)


class _Factor:
    """A complex factor of vectors whose numbers are real and imaginary parts in turn."""

    def __init__(self, builder: Value, factor: Value, sign: Value) -> None:
        self.builder = builder
        real, imaginary = (
            builder.load(builder.gep(factor, [ir.Constant(INDEX, index)])) for index in (0, 1)
        )
        imaginary = builder.fmul(sign, imaginary)
        self.real = splat(builder, real)
        even = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0, WIDTH + 1] * (WIDTH // 2))
        negative = splat(builder, builder.fneg(imaginary))
        self.imaginary = builder.shuffle_vector(negative, splat(builder, imaginary), even)

    def times(self, value: Value) -> Value:
        """A vector times the factor."""
        places = [place ^ 1 for place in range(WIDTH)]
        other = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), places)
        swapped = self.builder.shuffle_vector(value, value, other)
        product = self.builder.fmul(self.real, value, flags=("contract",))
        return add_product(self.builder, product, self.imaginary, swapped)


@intrinsic
def turn_lanes(
    _: Value, lanes: Value, factor: Value, sign: Value, length: Value, turned: Value
) -> Any:
    """`turned = factor lanes`, to the same bits as the blocks below take it.

    Parameters: lanes and turned (n,) float32, real and imaginary parts in turn; factor (2,)
    float32; sign, float32, of its imaginary part; length, int64, a multiple of `WIDTH`.
    """

    def generate(context: Value, builder: Value, signature: Value, given: Value) -> Value:
        kinds = signature.args
        source, values, target = (
            context.make_array(kinds[k])(context, builder, given[k]).data for k in (0, 1, 4)
        )
        times = _Factor(builder, values, given[2])
        first, step = ir.Constant(INDEX, 0), ir.Constant(INDEX, WIDTH)
        with cgutils.for_range_slice(builder, first, given[3], step, intp=INDEX) as (i, _count):
            value = builder.load(at(builder, source, i), align=4)
            builder.store(times.times(value), at(builder, target, i), align=4)
        return context.get_dummy_value()

    return types.void(lanes, factor, sign, length, turned), generate


class _Block(_Taps):
    """Taps of a point whose rows and columns follow each other in memory, and its complex factor.

    Nothing about them passes through memory, as it does where they may wrap round.
    """

    def __init__(
        self, context: Value, builder: Value, given: Sequence[Value], kinds: Sequence[Value], n: int
    ) -> None:
        lanes, data, taps, coefficients, factor = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(kinds[:5], given[:5], strict=True)
        )
        first, field, pitch, step, sign, self.length = given[5:]
        self.builder, self.lanes = builder, lanes

        def number(table: Value, index: int) -> Value:
            return builder.load(builder.gep(table, [ir.Constant(INDEX, index)]))

        self.rows, self.weights = [], []
        for r in range(n):
            share, offset = number(coefficients, r), first
            for d in range(TAPS):
                self.rows.append(builder.gep(data, [offset]))
                self.weights.append(splat(builder, builder.fmul(number(taps, d), share)))
                offset = builder.add(offset, pitch)
            first = builder.add(first, field)
        self.starts = [builder.mul(step, ir.Constant(INDEX, e)) for e in range(TAPS)]
        self.shares = [splat(builder, number(taps, TAPS + e)) for e in range(TAPS)]
        self.factor = _Factor(builder, factor, sign)


def _emit_take_block(taps: _Block) -> None:
    builder = taps.builder

    def body(i: Value, columns: list[Value]) -> None:
        totals = [ir.Constant(VECTOR, [0.0] * WIDTH)] * TAPS
        for row, weight in zip(taps.rows, taps.weights, strict=True):
            totals = [
                add_product(builder, total, weight, taps.load(row, column))
                for total, column in zip(totals, columns, strict=True)
            ]
        sum_ = builder.fmul(taps.shares[0], totals[0])
        for share, total in zip(taps.shares[1:], totals[1:], strict=True):
            sum_ = add_product(builder, sum_, share, total)
        taps.store(taps.factor.times(sum_), taps.lanes, i)

    taps.run(body)


def _emit_spread_block(taps: _Block) -> None:
    builder = taps.builder

    def body(i: Value, columns: list[Value]) -> None:
        value = taps.factor.times(taps.load(taps.lanes, i))
        parts = [builder.fmul(share, value) for share in taps.shares]
        for row, weight in zip(taps.rows, taps.weights, strict=True):
            for part, column in zip(parts, columns, strict=True):
                total = add_product(builder, taps.load(row, column), weight, part)
                taps.store(total, row, column)

    taps.run(body)


def _over_block(emit: Callable[[_Block], None], n_fields: int) -> Any:
    """A function for compiled code: emitted loops over `TAPS²` neighbours in so many fields."""

    @intrinsic
    def run(
        _: Value, lanes: Value, data: Value, taps: Value, coefficients: Value, factor: Value,
        first: Value, field: Value, pitch: Value, step: Value, sign: Value, length: Value,
    ) -> Any:  # fmt: skip
        def generate(context: Value, builder: Value, signature: Value, given: Value) -> Value:
            emit(_Block(context, builder, given, signature.args, n_fields))
            return context.get_dummy_value()

        arrays = lanes, data, taps, coefficients, factor
        return types.void(*arrays, first, field, pitch, step, sign, length), generate

    return run


def _over_lanes(emit: Callable[[_Taps], None], n_rows: int) -> Any:
    """A function for compiled code: emitted loops over `TAPS` columns of so many rows."""

    @intrinsic
    def run(
        _: Value, lanes: Value, data: Value, offsets: Value, weights: Value, starts: Value,
        shares: Value, length: Value,
    ) -> Any:  # fmt: skip
        def generate(context: Value, builder: Value, signature: Value, given: Value) -> Value:
            emit(_Taps(context, builder, given, signature.args, n_rows))
            return context.get_dummy_value()

        return types.void(lanes, data, offsets, weights, starts, shares, length), generate

    return run


take_6, take_18 = _over_lanes(_emit_take, TAPS), _over_lanes(_emit_take, 3 * TAPS)
"""`lanes[i] += Σ_e shares[e] Σ_t weights[t] data[offsets[t] + starts[e] + i]`, i below `length`.

Parameters: lanes (n,) float32, data (m,) float32; rows by offsets (t,) int64 and weights (t,)
float32, 6 or 18 of them; columns by starts (TAPS,) int64 and shares (TAPS,) float32; length, int64,
a multiple of `WIDTH`. Nothing is checked.
"""

spread_1, spread_6, spread_18 = (_over_lanes(_emit_spread, n) for n in (1, TAPS, 3 * TAPS))
"""Adjoint: `data[offsets[t] + starts[e] + i] += weights[t] shares[e] lanes[i]`; no two overlap."""

take_block_1, take_block_3 = _over_block(_emit_take_block, 1), _over_block(_emit_take_block, 3)
"""`lanes[i] = factor Σ_r Σ_d Σ_e c[r] taps[0, d] taps[1, e] data[first + r field + d pitch + e step
+ i]`, complex numbers with real and imaginary part in turn.

Parameters: lanes (n,) float32, data (m,) float32, taps (2, TAPS) float32, coefficients c (1,) or
(3,) float32, factor (2,) float32, real and imaginary; first, field, pitch, step, int64; sign,
float32, of the factor's imaginary part; length, int64, a multiple of `WIDTH`. Arrays are
contiguous. Nothing is checked.
"""

spread_block_1, spread_block_3 = (
    _over_block(_emit_spread_block, 1),
    _over_block(_emit_spread_block, 3),
)
"""Adjoint, with the sign turned by whoever calls: `data[...] += c[r] taps[0, d] taps[1, e] (factor
lanes)[i]`. Parameters as there; no two places overlap."""
