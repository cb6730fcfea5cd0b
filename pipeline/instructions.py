"""What numba has no words for, as code for LLVM: to fetch memory ahead, to ask the clock, bytes eight at a time, values
by their address, and sums that stay in registers while they grow.

A loop over channels that adds to an array reads and writes every sum each time, and begins by finding out whether its
arrays overlap: of the narrow rows that pruning leaves, that takes longer than the arithmetic. Here LANES sums, or a
multiple, are one value, which is written once. What a product adds is rounded once with its sum where the processor
can, one after the other: how many rows are computed together changes no bit of them.

An instruction looks at nothing: indices must be sound, rows contiguous.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

LANES = 16  # numbers in a line of the processor's cache, and in the widest registers of today's
ROWS = 6  # that are multiplied together
CHANNELS = 8  # of a running sum that are one value
WHOLE = 1.5 * 2.0**52  # added to a number, leaves its nearest whole number in the last bits
TERMS = 12  # of the series of a power
KNOTS = 65  # of a channel's transform

# What levels of processors have, and which one this is. The code of products and of knots has a version for each: an
# image's is made for every processor of the architecture, and without these would take several times as long.
FEATURES = ("", "+avx,+avx2,+fma", "+avx,+avx2,+fma,+avx512f,+avx512bw,+avx512dq,+avx512vl")
AVX512 = 2


def _level() -> int:
    found = get_host_cpu_features()
    return max(n for n, wanted in enumerate(FEATURES) if all(found.get(name[1:]) for name in wanted.split(",") if name))


LEVEL = _level()

Floats = npt.NDArray[np.float32]
_arrays: Any = arrayobj  # numba ships no types
_code: Any = cgutils
_types: Any = numba.types

BYTE, NUMBER, WORD, LONG, SINGLE = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.IntType(128), ir.FloatType()
DOUBLE = ir.DoubleType()
BYTES = BYTE.as_pointer()


# ---- memory and time ----


@intrinsic
def _prefetch(_context: Any, array: Any, index: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        kind = ir.FunctionType(ir.VoidType(), [BYTES, NUMBER, NUMBER, NUMBER])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [BYTES], kind)
        builder.call(fetch, [place, NUMBER(0), NUMBER(3), NUMBER(1)])  # to be read, to stay near, no code
        return context.get_dummy_value()

    return _types.void(array, _types.intp), emit


@intrinsic
def _seconds(_context: Any) -> Any:
    def emit(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        found = _code.alloca_once(builder, ir.ArrayType(WORD, 2))  # seconds, nanoseconds
        kind = ir.FunctionType(NUMBER, [NUMBER, found.type])
        ask = _code.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(ask, [NUMBER(time.CLOCK_MONOTONIC), found])
        whole, rest = (builder.sitofp(builder.extract_value(builder.load(found), i), ir.DoubleType()) for i in range(2))
        return builder.fadd(whole, builder.fmul(rest, ir.DoubleType()(1e-9)))

    return _types.float64(), emit


# prefetch(array, index): have the processor fetch the line where array[index] begins, and go on. Of some forty lines
# that an event needs few are near the processor once a graph has a million nodes; those that are asked for in time come
# together. Any index will do, for nothing is read.
prefetch = cast(Callable[[npt.NDArray[Any], int], None], _prefetch)

# seconds(): `time.monotonic()`.
seconds = cast(Callable[[], float], _seconds)


# ---- bytes, eight at a time ----


@intrinsic
def _word(_context: Any, data: Any, index: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = builder.load(builder.bitcast(_place(context, builder, signature.args[0], *args), WORD.as_pointer()))
        found.align = 1
        return found

    return _types.uint64(data, _types.intp), emit


@intrinsic
def _folded(_context: Any, a: Any, b: Any) -> Any:
    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        product = builder.mul(*(builder.zext(number, LONG) for number in args))
        upper = builder.trunc(builder.lshr(product, LONG(64)), WORD)
        return builder.xor(upper, builder.trunc(product, WORD))

    return _types.uint64(_types.uint64, _types.uint64), emit


# word(data, index): the eight bytes from data[index] on, as a number.
word = cast(Callable[[npt.NDArray[np.uint8], int], np.uint64], _word)

# folded(a, b): the upper half of the product of two 64-bit numbers, mixed with the lower.
folded = cast(Callable[[np.uint64, np.uint64], np.uint64], _folded)


# ---- values by their address ----


@intrinsic
def _size_of(_context: Any, value: Any) -> Any:
    def emit(context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return WORD(context.get_abi_sizeof(context.get_data_type(value)))

    return _types.intp(value), emit


@intrinsic
def _write(_context: Any, address: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        data = context.data_model_manager[value].as_data(builder, args[1])
        builder.store(data, builder.inttoptr(args[0], data.type.as_pointer()))
        return context.get_dummy_value()

    return _types.void(address, value), emit


@intrinsic
def _taken_apart(_context: Any, address: Any, kind: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        model = context.data_model_manager[signature.return_type]
        return model.load_from_data_pointer(builder, builder.inttoptr(args[0], model.get_data_type().as_pointer()))

    return kind.instance_type(address, kind), emit


# Of any values, arrays and tuples of them too: size_of(value), the bytes that write(address, value) writes;
# taken_apart(address, kind) are the values of that type which were written there, see `Held`.
size_of = cast(Callable[[Any], int], _size_of)
write = cast(Callable[[int, Any], None], _write)
taken_apart = cast(Callable[[int, Any], Any], _taken_apart)


# ---- sums in registers ----


def _row_sum(lanes: int) -> Any:
    many = ir.VectorType(SINGLE, lanes)

    @intrinsic
    def row_sum(_context: Any, column: Any, value: Any, first: Any, end: Any, table: Any, c: Any, out: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds, (columns, values, first, end, rows, c, sums) = signature.args, args
            total = _code.alloca_once_value(builder, ir.Constant(many, [0.0] * lanes))
            with _code.for_range_slice(builder, first, end, WORD(1), intp=WORD) as (e, _):
                row = _index(builder, _place(context, builder, kinds[0], columns, e))
                number = _load(builder, _place(context, builder, kinds[1], values, e), SINGLE)
                place = _beyond(builder, _place(context, builder, kinds[4], rows, row), c)
                _add(builder, total, _spread(builder, number, many), _load(builder, place, many))
            _store(builder, builder.load(total), _place(context, builder, kinds[6], sums, c))
            return context.get_dummy_value()

        size = _types.intp
        return _types.void(column, value, size, size, table, size, out), emit

    return row_sum


RowSum = Callable[[npt.NDArray[np.int32], Floats, int, int, Floats, int, Floats], None]

# row_sum_N(column, value, first, end, table, c, out): write to out[c : c + N] the sum over e from `first` to `end` of
# value[e] * table[column[e], c : c + N].
row_sum_16, row_sum_32, row_sum_64 = (cast(RowSum, _row_sum(lanes)) for lanes in (LANES, 2 * LANES, 4 * LANES))


@intrinsic
def _dot(_context: Any, rows: Any, i: Any, weight: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds, (rows, i, weight) = signature.args, args
        row, other = _place(context, builder, kinds[0], rows, i), _place(context, builder, kinds[2], weight, WORD(0))
        width, parts = builder.lshr(_stride(context, builder, kinds[0], rows), WORD(2)), []
        for first, end, lanes in _steps(builder, width, LANES):
            many = ir.VectorType(SINGLE, lanes)
            total = _code.alloca_once_value(builder, ir.Constant(many, [0.0] * lanes))
            with _code.for_range_slice(builder, first, end, WORD(lanes), intp=WORD) as (c, _):
                _add(builder, total, *(_load(builder, _beyond(builder, place, c), many) for place in (row, other)))
            parts.append(_sum_of_lanes(builder, builder.load(total)))
        return builder.fadd(*parts)

    return _types.float32(rows, _types.intp, weight), emit


def _sum_of_lanes(builder: Any, numbers: Any) -> Any:
    """Add halves to one another until one number is left."""
    lanes = numbers.type.count
    while lanes > 1:
        lanes //= 2
        lower, upper = (
            builder.shuffle_vector(numbers, numbers, ir.Constant(ir.VectorType(NUMBER, lanes), list(which)))
            for which in (range(lanes), range(lanes, 2 * lanes))
        )
        numbers = builder.fadd(lower, upper)
    return builder.extract_element(numbers, NUMBER(0))


# dot(rows, i, weight): the sum over c of rows[i, c] * weight[c]; one sum that grows waits four cycles for each number.
dot = cast(Callable[[Floats, int, Floats], np.float32], _dot)


# ---- running sums ----


def _weighted(write: Callable[[Any, Any, Any, Any], None]) -> Any:
    """Return the instruction that goes over a running sum and a row of numbers, some channels at a time.

    write  (builder, place of the sums, place of the numbers, the weight as often as there are channels)
    """

    @intrinsic
    def weighted(_context: Any, sums: Any, own: Any, weight: Any, numbers: Any, i: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds, (sums, own, weight, numbers, i) = signature.args, args
            stride = _stride(context, builder, kinds[0], sums)
            total, row = _place(context, builder, kinds[0], sums, own), _place(context, builder, kinds[3], numbers, i)
            for first, end, lanes in _steps(builder, builder.lshr(stride, WORD(3)), CHANNELS):
                many = _spread(builder, weight, ir.VectorType(DOUBLE, lanes))
                with _code.for_range_slice(builder, first, end, WORD(lanes), intp=WORD) as (c, _):
                    write(builder, _beyond(builder, total, c, 8), _beyond(builder, row, c), many)
            return context.get_dummy_value()

        return _types.void(sums, _types.intp, _types.float64, numbers, _types.intp), emit

    return weighted


def _add_some(builder: Any, sums: Any, numbers: Any, weight: Any) -> None:
    found = _load(builder, numbers, ir.VectorType(SINGLE, weight.type.count))
    product = builder.fmul(weight, builder.fpext(found, weight.type))
    _store(builder, builder.fadd(_load(builder, sums, weight.type), product), sums)


def _read_some(builder: Any, sums: Any, numbers: Any, weight: Any) -> None:
    product = builder.fmul(weight, _load(builder, sums, weight.type))
    _store(builder, builder.fptrunc(product, ir.VectorType(SINGLE, weight.type.count)), numbers)


Weighted = Callable[[npt.NDArray[np.float64], int, float, Floats, int], None]

# add_row(sums, l, weight, values, i): sums[l] += weight * values[i]
# read_row(sums, l, weight, means, i): means[i] = weight * sums[l]
add_row, read_row = (cast(Weighted, _weighted(write)) for write in (_add_some, _read_some))


# ---- what fades ----


@intrinsic
def _fade(_context: Any, rates: Any, seconds: Any, left: Any, i: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds, (rates, seconds, left, i) = signature.args, args
        many = ir.VectorType(DOUBLE, CHANNELS)
        rate, out = _place(context, builder, kinds[0], rates, WORD(0)), _place(context, builder, kinds[2], left, i)
        passed = _spread(builder, builder.fneg(seconds), many)
        end = builder.lshr(_stride(context, builder, kinds[2], left), WORD(3))
        with _code.for_range_slice(builder, WORD(0), end, WORD(CHANNELS), intp=WORD) as (c, _):
            power = builder.fmul(_load(builder, _beyond(builder, rate, c, 8), many), passed)
            _store(builder, _power_of_two(builder, power), _beyond(builder, out, c, 8))
        return context.get_dummy_value()

    return _types.void(rates, _types.float64, left, _types.intp), emit


def _power_of_two(builder: Any, x: Any) -> Any:
    """Return 2 ** x for x <= 0, but for 1e-14 of it: the whole of x makes the exponent, the rest goes into a series."""
    many, words = x.type, ir.VectorType(WORD, x.type.count)

    def constant(number: float) -> Any:
        return ir.Constant(many, [number] * many.count)

    least = constant(-1000.0)
    x = builder.select(builder.fcmp_ordered(">", x, least), x, least)
    shifted = builder.fadd(x, constant(WHOLE))
    rest = builder.fsub(x, builder.fsub(shifted, constant(WHOLE)))
    # c0 + c1 r + c2 r^2 ...: neighbours first, then pairs of them, so that few steps wait for one another.
    terms = [constant(math.log(2.0) ** k / math.factorial(k)) for k in range(TERMS)]
    while len(terms) > 1:
        pairs = zip(terms[::2], terms[1::2], strict=True)
        terms = [_added(builder, lower, upper, rest) for lower, upper in pairs]
        if len(terms) > 1 and len(terms) % 2:
            terms.append(constant(0.0))
        rest = builder.fmul(rest, rest)
    exponent = builder.shl(builder.bitcast(shifted, words), ir.Constant(words, [52] * many.count))
    return builder.bitcast(builder.add(builder.bitcast(terms[0], words), exponent), many)


# fade(rates, seconds, left, i): left[i, k] = 2 ** (-seconds * rates[k]), what is left of 1 after so many seconds at so
# many halvings a second. A multiple of CHANNELS of them, all at once: a call of the C library takes 10 ns for each.
fade = cast(Callable[[npt.NDArray[np.float64], float, npt.NDArray[np.float64], int], None], _fade)


# ---- products ----


def _products(rows: int, lanes: int) -> Any:
    many = ir.VectorType(SINGLE, lanes)

    def multiply(builder: Any, given: Any) -> None:
        """The code of it, on places: of row i of `values` and `out`, of `first` of `keep` and `weight`, of `o`."""
        values, below, keep, count, weight, stride, bias, wanted, out, beneath = given
        totals = [_code.alloca_once_value(builder, _load(builder, bias, many)) for _ in range(rows)]
        places = [builder.gep(values, [builder.mul(below, WORD(r))]) for r in range(rows)]
        with _code.for_range(builder, count, intp=WORD) as loop:
            channel = _index(builder, _beyond(builder, keep, loop.index))
            weights = _load(builder, _beyond(builder, weight, builder.mul(loop.index, stride)), many)
            for total, place in zip(totals, places, strict=True):
                number = _load(builder, _beyond(builder, place, channel), SINGLE)
                _add(builder, total, _spread(builder, number, many), weights)
        zeros = ir.Constant(many, [0.0] * lanes)
        for r, total in enumerate(totals):
            numbers = builder.load(total)
            relu = builder.select(builder.fcmp_unordered(">", numbers, zeros), numbers, zeros)  # nan stays nan
            _store_some(builder, relu, builder.gep(out, [builder.mul(beneath, WORD(r))]), wanted)

    @intrinsic
    def products(
        _context: Any, values: Any, i: Any, keep: Any, first: Any, end: Any, weight: Any, w: Any, stride: Any,
        bias: Any, o: Any, wanted: Any, out: Any, c: Any, level: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds, (values, i, keep, first, end, weight, w, stride, bias, o, wanted, out, c, level) = (
                signature.args, args
            )  # fmt: skip
            at = partial(_place, context, builder)
            from_values, from_out = at(kinds[0], values, i), at(kinds[11], out, i)
            stride_of = partial(_stride, context, builder)
            below, beneath = stride_of(kinds[0], values), stride_of(kinds[11], out)
            given = (
                from_values, below, at(kinds[2], keep, first), builder.sub(end, first), at(kinds[5], weight, w), stride,
                at(kinds[8], bias, o), wanted, _beyond(builder, from_out, c), beneath,
            )  # fmt: skip
            _at_level(builder, level, f"products_{rows}x{lanes}", multiply, given)
            return context.get_dummy_value()

        size = _types.intp
        return _types.void(values, size, keep, size, size, weight, size, size, bias, size, size, out, size, size), emit

    return products


Products = Callable[
    [Floats, int, npt.NDArray[np.int32], int, int, Floats, int, int, Floats, int, int, Floats, int, int], None
]

# products_RxN(values, i, keep, first, end, weight, w, stride, bias, o, wanted, out, c, level): for each of R rows from
# i on, write to out[i, c : c + N], or to as many of it as are `wanted`, what is above 0 of bias[o : o + N] plus the sum
# over k from `first` to `end` of values[i, keep[k]] * weight[w + (k - first) * stride : ... + N].
#
# Of six rows and 32 outputs, twelve of AVX-512's registers grow at once, and one of weights is read once for six of
# them; of 16 outputs as many of AVX2's, which has but sixteen of half the width.
products_6x16, products_1x16, products_6x32, products_1x32 = (
    cast(Products, _products(rows, lanes)) for lanes in (LANES, 2 * LANES) for rows in (ROWS, 1)
)


# ---- lines between knots ----


def _lines_between(builder: Any, given: Any) -> None:
    """The code of `interpolate`, on places: of the first channel of each of the tables, and of the numbers."""
    x, z, slope, last, numbers, stride, first, end = given
    many = ir.VectorType(SINGLE, KNOTS - 1)
    with _code.for_range_slice(builder, first, end, WORD(1), intp=WORD) as (k, _):
        place, below = _beyond(builder, numbers, k), builder.mul(k, stride)
        knots, number = builder.gep(x, [below]), _load(builder, place, SINGLE)
        least, most = _load(builder, knots, SINGLE), _load(builder, _beyond(builder, last, k), SINGLE)
        number = builder.select(builder.fcmp_ordered(">", number, least), number, least)
        number = builder.select(builder.fcmp_ordered("<", number, most), number, most)
        behind_first = _load(builder, _beyond(builder, knots, WORD(1)), many)
        reached = builder.fcmp_ordered("<=", behind_first, _spread(builder, number, many))
        low = builder.add(below, builder.mul(builder.ctpop(builder.bitcast(reached, WORD)), WORD(4)))
        knot, start, rise = (_load(builder, builder.gep(table, [low]), SINGLE) for table in (x, z, slope))
        _store(builder, builder.fadd(start, builder.fmul(rise, builder.fsub(number, knot))), place)


@intrinsic
def _interpolate(
    _context: Any, x: Any, z: Any, slope: Any, last: Any, numbers: Any, i: Any, first: Any, end: Any, level: Any
) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds, (x, z, slope, last, numbers, i, first, end, level) = signature.args, args
        at = partial(_place, context, builder)
        given = (
            *(at(kind, table, WORD(0)) for kind, table in zip(kinds[:4], (x, z, slope, last), strict=True)),
            at(kinds[4], numbers, i), _stride(context, builder, kinds[0], x), first, end,
        )  # fmt: skip
        _at_level(builder, level, "interpolate", _lines_between, given)
        return context.get_dummy_value()

    size = _types.intp
    return _types.void(x, z, slope, last, numbers, size, size, size, size), emit


# interpolate(x, z, slope, last, numbers, i, first, end, level): make numbers[i, k], for k from `first` to `end`, what
# the line from the last knot that it reaches says. Channel k has KNOTS of them, x[k] ascending and z[k], infinite ones
# behind last[k]; slope[k] is that of the line behind each. All are compared with the number at once and counted.
interpolate = cast(Callable[[Floats, Floats, Floats, Floats, Floats, int, int, int, int], None], _interpolate)


# ---- what they are written with ----


def _at_level(builder: Any, level: Any, name: str, write: Callable[[Any, Any], None], given: Any) -> None:
    """Call the code that `write` gives, in its version for processors of that level."""
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
    for number, features in enumerate(FEATURES):
        function = builder.module.globals.get(f"{name}.{number}")
        if function is None:
            function = ir.Function(builder.module, kind, f"{name}.{number}")
            function.linkage = "internal"
            set.add(function.attributes, f'"target-features"="{features}"')  # llvmlite knows only those without a value
            inner = ir.IRBuilder(function.append_basic_block())
            write(inner, function.args)
            inner.ret_void()
        with builder.if_then(builder.icmp_signed("==", level, WORD(number))):
            builder.call(function, given)


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return where array[index] begins."""
    start = builder.bitcast(_arrays.make_array(kind)(context, builder, array).data, BYTES)
    return builder.gep(start, [builder.mul(index, _stride(context, builder, kind, array))])


def _stride(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return how many bytes array[1] lies behind array[0]."""
    return _code.unpack_tuple(builder, _arrays.make_array(kind)(context, builder, array).strides)[0]


def _beyond(builder: Any, place: Any, count: Any, size: int = 4) -> Any:
    """Return the place of the number that comes `count` numbers later, of `size` bytes each."""
    return builder.gep(place, [builder.mul(count, WORD(size))])


def _steps(builder: Any, width: Any, lanes: int) -> tuple[tuple[Any, Any, int], ...]:
    """Return how to go over so many numbers: from where to where `lanes` at a time, and then one by one."""
    whole = builder.and_(width, WORD(-lanes))
    return (WORD(0), whole, lanes), (whole, width, 1)


def _index(builder: Any, place: Any) -> Any:
    """Load an int32 as an index."""
    return builder.sext(_load(builder, place, NUMBER), WORD)


def _load(builder: Any, place: Any, kind: Any) -> Any:
    found = builder.load(builder.bitcast(place, kind.as_pointer()))
    found.align = 4
    return found


def _store(builder: Any, numbers: Any, place: Any) -> None:
    builder.store(numbers, builder.bitcast(place, numbers.type.as_pointer())).align = 4


def _store_some(builder: Any, numbers: Any, place: Any, wanted: Any) -> None:
    """Write all numbers, or the first ones where fewer are wanted."""
    lanes = numbers.type.count
    with builder.if_else(builder.icmp_signed(">=", wanted, WORD(lanes))) as (all_of_them, some):
        with all_of_them:
            _store(builder, numbers, place)
        with some:
            room = _code.alloca_once(builder, numbers.type)
            builder.store(numbers, room)
            with _code.for_range_slice(builder, WORD(0), wanted, WORD(1), intp=WORD) as (n, _):
                number = _load(builder, _beyond(builder, builder.bitcast(room, BYTES), n), SINGLE)
                _store(builder, number, _beyond(builder, place, n))


def _spread(builder: Any, number: Any, many: Any) -> Any:
    """Return as many times the number as there are lanes."""
    nothing = ir.Constant(many, ir.Undefined)
    one = builder.insert_element(nothing, number, NUMBER(0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(NUMBER, many.count), [0] * many.count))


def _add(builder: Any, total: Any, a: Any, b: Any) -> None:
    """Add a product to the sums that `total` points to."""
    builder.store(_added(builder, builder.load(total), a, b), total)


def _added(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Return a sum with a product, rounded once where the processor can."""
    together = ["contract"]
    return builder.fadd(total, builder.fmul(a, b, flags=together), flags=together)
