"""The machine instructions of `runs`: words of 64 voxels, and 64-bit numbers at addresses.

Arrays are given as addresses and strides: one compiled function then serves every memory layout, and nothing counts
references to arrays in the innermost loops, which costs more there than the counting.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.extending import intrinsic

RUN = 64
"""Voxels compared at once: the bits of one word."""
TRUTH, ROI, ABOVE, BEHIND, BESIDE = range(5)
"""What the labels are paired with: two other volumes, and their own neighbours along z, y and x."""
LABELS = BESIDE
"""Row of the labels themselves among the volumes."""
ADDRESS, STEP_Z, STEP_Y, IDS, IGNORED = range(5)
"""Columns of what describes a volume: address of the first core voxel, strides in bytes, ids, ignored id or -1."""
ITEM = 8
_ROW = 5 * ITEM


@intrinsic  # type: ignore[untyped-decorator]
def word_at(context: Any, address: Any, number: Any) -> Any:
    """Word of the 64 voxels from `address`: the bits of those whose id is `number`."""
    vector, index = ir.VectorType(ir.IntType(8), RUN), ir.IntType(32)
    nothing = ir.Constant(vector, ir.Undefined)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = builder.load(builder.inttoptr(arguments[0], vector.as_pointer()), align=1)
        first = builder.insert_element(nothing, builder.trunc(arguments[1], ir.IntType(8)), ir.Constant(index, 0))
        every = builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(index, RUN), [0] * RUN))
        return builder.bitcast(builder.icmp_unsigned("==", values, every), ir.IntType(RUN))

    return numba.types.int64(numba.types.int64, numba.types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def id_at(context: Any, address: Any) -> Any:
    """The id stored at `address`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(place, align=1), ir.IntType(64))

    return numba.types.int64(numba.types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def popcount(context: Any, word: Any) -> Any:
    """How many bits of a word are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.types.int64(numba.types.int64), generate


# The following would be plain functions, were not each compiled anew for every constant it is called with.


@intrinsic  # type: ignore[untyped-decorator]
def load(context: Any, address: Any, index: Any) -> Any:
    """The 64-bit number at `index` in the array at `address`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_cell(builder, arguments[0], (arguments[1], ITEM)), align=ITEM)

    return numba.types.int64(numba.types.int64, numba.types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(context: Any, address: Any, index: Any, value: Any) -> Any:
    """Set the 64-bit number at `index` in the array at `address`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _cell(builder, arguments[0], (arguments[1], ITEM)), align=ITEM)
        return context.get_dummy_value()

    return numba.types.void(numba.types.int64, numba.types.int64, numba.types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def field_of(context: Any, volumes: Any, p: Any, column: Any) -> Any:
    """What column `column` says of volume `p`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_cell(builder, arguments[0], (arguments[1], _ROW), (arguments[2], ITEM)), align=ITEM)

    return numba.types.int64(*[numba.types.int64] * 3), generate


@intrinsic  # type: ignore[untyped-decorator]
def add_to(context: Any, places: Any, p: Any, k: Any, j: Any, number: Any) -> Any:
    """Add `number` to the cell of label `k` and id `j` in the table of partner `p`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cell = _count_cell(builder, *arguments[:4])
        builder.store(builder.add(builder.load(cell), arguments[4]), cell)
        return context.get_dummy_value()

    return numba.types.void(places, *[numba.types.int64] * 4), generate


@intrinsic  # type: ignore[untyped-decorator]
def add_all(context: Any, places: Any, p: Any, ids: Any, words: Any, others: Any) -> Any:
    """Add to the table of partner `p` how often each of `ids` here, by its word, meets each of them there."""
    each = numba.types.UniTuple(numba.types.int64, len(ids))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        places, p, ids, words, others = arguments
        for k in range(len(each)):
            here, word = builder.extract_value(ids, k), builder.extract_value(words, k)
            for j in range(len(each)):
                cell = _count_cell(builder, places, p, here, builder.extract_value(ids, j))
                both = builder.ctpop(builder.and_(word, builder.extract_value(others, j)))
                builder.store(builder.add(builder.load(cell), both), cell)
        return context.get_dummy_value()

    return numba.types.void(places, numba.types.int64, each, each, each), generate


def _count_cell(builder: Any, places: Any, p: Any, k: Any, j: Any) -> Any:
    """Pointer to the count of label `k` and id `j` in the table of partner `p`."""
    counts, table, row = (builder.extract_value(places, i) for i in (3, 4, 5))
    return _cell(builder, counts, (p, table), (k, row), (j, ITEM))


def _cell(builder: Any, address: Any, *steps: tuple[Any, Any]) -> Any:
    """Pointer to a 64-bit number, so many steps of so many bytes from an address."""
    for number, size in steps:
        width = ir.Constant(ir.IntType(64), size) if isinstance(size, int) else size
        address = builder.add(address, builder.mul(number, width))
    return builder.inttoptr(address, ir.IntType(64).as_pointer())
