"""Compare ids 64 voxels at a time: the compiled part of `pairs`.

A run of 64 voxels becomes one 64-bit word per id, bit i saying "voxel i has this id". The number of voxels with id k
here and id j there is ``popcount(word_k & word_j)``, so that a run costs a few instructions instead of 64 table updates
that wait for each other; and most runs hold one id, for which one comparison is enough.

.. code-block:: text

    labels         1 1 1 1 1 3 3 3 ...     id 1: 11111000...   id 3: 00000111...
    truth          1 1 1 1 3 3 3 3 ...     id 1: 11110000...   id 3: 00001111...
                                           labels 1, truth 3:  popcount(00001000...) = 1

Arrays are given as addresses and strides: one compiled function then serves every type and memory layout, and nothing
counts references to arrays in the innermost loops, which costs more there than the counting.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

RUN = 64
"""Voxels compared at once: the bits of one word."""

FEW_IDS = 16
"""Up to this many ids a mixed run is counted by words of each of them; above, by the ids found or voxel by voxel."""

TRUTH, ROI, ABOVE, BEHIND, BESIDE = range(5)
"""What the labels are paired with: two other volumes, and their own neighbours along z, y and x."""
LABELS = BESIDE
"""Row of the labels themselves among the volumes."""

ADDRESS, STEP_Z, STEP_Y, SIZE, IDS, IGNORED = range(6)
"""Columns of what describes a volume: first core voxel, strides and size of an id in bytes, ids, ignored id or -1."""

_ITEM = 8
_ROW = 6 * _ITEM
_ALL = -1
_ALL_BUT_LAST = (1 << 63) - 1


def _word_of(bits: int) -> Any:
    """Compiled function (address, id) -> word of the 64 voxels that have this id, for ids of `bits` bits."""

    @intrinsic  # type: ignore[untyped-decorator]
    def equal(context: Any, address: Any, number: Any) -> Any:
        vector, index = ir.VectorType(ir.IntType(bits), RUN), ir.IntType(32)
        nothing = ir.Constant(vector, ir.Undefined)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            values = builder.load(builder.inttoptr(arguments[0], vector.as_pointer()), align=1)
            one = builder.trunc(arguments[1], ir.IntType(bits))
            first = builder.insert_element(nothing, one, ir.Constant(index, 0))
            every = builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(index, RUN), [0] * RUN))
            return builder.bitcast(builder.icmp_unsigned("==", values, every), ir.IntType(RUN))

        return numba.types.int64(numba.types.int64, numba.types.int64), generate

    return equal


def _load_of(bits: int) -> Any:
    """Compiled function (address) -> the number of `bits` bits stored there."""

    @intrinsic  # type: ignore[untyped-decorator]
    def load(context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            value = builder.load(place, align=bits // 8)
            return value if bits == 64 else builder.zext(value, ir.IntType(64))

        return numba.types.int64(numba.types.int64), generate

    return load


@intrinsic  # type: ignore[untyped-decorator]
def _store(context: Any, address: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=_ITEM)
        return context.get_dummy_value()

    return numba.types.void(numba.types.int64, numba.types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _popcount(context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.types.int64(numba.types.int64), generate


_word_8, _word_16 = _word_of(8), _word_of(16)
_load_8, _load_16, _load = _load_of(8), _load_of(16), _load_of(64)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _word(address: Any, size: Any, number: Any) -> Any:
    return _word_8(address, number) if size == 1 else _word_16(address, number)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _id(address: Any, size: Any) -> Any:
    return _load_8(address) if size == 1 else _load_16(address)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _field(volume: Any, column: Any) -> Any:
    return _load(volume + column * _ITEM)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add(table: Any, width: Any, k: Any, j: Any, number: Any) -> Any:
    """Add `number` to cell (k, j) of a table whose rows are `width` bytes apart."""
    cell = table + k * width + j * _ITEM
    _store(cell, _load(cell) + number)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pair_found(table: Any, width: Any, volume: Any, address: Any, lower: Any, span: Any) -> Any:
    """As `_pair`, going through the ids that are there instead of all: there may be thousands."""
    size, faulty, rest = _field(volume, SIZE), False, _ALL
    while rest != 0:
        before_first = (rest & -rest) - 1
        other = _id(address + _popcount(before_first) * size, size)
        word = _word(address, size, other)
        rest &= ~word
        if other >= _field(volume, IDS):
            faulty |= other != _field(volume, IGNORED)
            continue
        for k in range(span[0], span[1]):
            _add(table, width, k, other, _popcount(_load(lower + k * _ITEM) & word))
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pair(table: Any, width: Any, volume: Any, address: Any, lower: Any, span: Any) -> Any:
    """Pair a run of labels, given by words of the ids in `span`, with the run at `address`; True if faulty."""
    size, n, ignored = _field(volume, SIZE), _field(volume, IDS), _field(volume, IGNORED)
    first = _id(address, size)
    if _word(address, size, first) == _ALL:
        if first >= n:
            return first != ignored
        for k in range(span[0], span[1]):
            _add(table, width, k, first, _popcount(_load(lower + k * _ITEM)))
        return False
    if n > FEW_IDS:
        return _pair_found(table, width, volume, address, lower, span)
    seen = _word(address, size, ignored) if ignored >= 0 else 0
    for j in range(n):
        word = _word(address, size, j)
        seen |= word
        for k in range(span[0], span[1]):
            _add(table, width, k, j, _popcount(_load(lower + k * _ITEM) & word))
    return seen != _ALL


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pair_beside(table: Any, width: Any, volume: Any, address: Any, lower: Any, continues: Any) -> Any:
    """Count the faces along x of a mixed run of labels; True if the voxel after the run is faulty."""
    size, n = _field(volume, SIZE), _field(volume, IDS)
    after = _id(address + RUN * size, size) if continues else -1
    for j in range(n):
        beside = (_word(address, size, j) >> 1 & _ALL_BUT_LAST) | (np.int64(after == j) << 63)
        for k in range(n):
            _add(table, width, k, j, _popcount(_load(lower + k * _ITEM) & beside))
    return after >= n and after != _field(volume, IGNORED)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pair_beside_flat(table: Any, width: Any, volume: Any, address: Any, fresh: Any, continues: Any) -> Any:
    """Count the faces along x of a run of one id; True if the voxel after the run is faulty."""
    size = _field(volume, SIZE)
    first = _id(address, size)
    _add(table, width, first, first, _popcount(fresh) - 1)
    if continues:
        after = _id(address + RUN * size, size)
        if after >= _field(volume, IDS):
            return after != _field(volume, IGNORED)
        _add(table, width, first, after, 1)
    return False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find_words(volume: Any, address: Any, lower: Any, fresh: Any) -> Any:
    """Fill the words of a run of labels; return their span, (0, 0) if all is ignored and (-1, -1) if faulty.

    `fresh` has the bits of the voxels that no run before has counted.
    """
    size, n, ignored = _field(volume, SIZE), _field(volume, IDS), _field(volume, IGNORED)
    first = _id(address, size)
    if _word(address, size, first) == _ALL:
        if first >= n:
            return (0, 0) if first == ignored else (-1, -1)
        _store(lower + first * _ITEM, fresh)
        return first, first + 1
    if n > FEW_IDS:
        return 0, n
    seen = _word(address, size, ignored) if ignored >= 0 else 0
    for k in range(n):
        word = _word(address, size, k)
        seen |= word
        _store(lower + k * _ITEM, word & fresh)
    return (0, n) if seen == _ALL else (-1, -1)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _table(places: Any, p: Any) -> Any:
    """Address of the counts of partner `p`, and bytes from one of its rows to the next."""
    counts, width, volumes, _, _ = places
    return counts + p * _field(volumes + LABELS * _ROW, IDS) * width, width


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_voxels(places: Any, start: Any, stop: Any, beside: Any) -> Any:
    """Count the voxels `start` to `stop` of a row one by one; True if an id is out of range."""
    _, _, volumes, rows, _ = places
    labels, faulty = volumes + LABELS * _ROW, False
    for x in range(start, stop):
        label = _id(_load(rows + LABELS * _ITEM) + x * _field(labels, SIZE), _field(labels, SIZE))
        if label >= _field(labels, IDS):
            faulty |= label != _field(labels, IGNORED)
            continue
        for p in range(5):
            row, volume = _load(rows + p * _ITEM), volumes + p * _ROW
            if row == 0 or (p == BESIDE and x >= beside):
                continue
            # The neighbour along x is the same row, one voxel on.
            other = _id(row + (x + (p == BESIDE)) * _field(volume, SIZE), _field(volume, SIZE))
            if other < _field(volume, IDS):
                table, width = _table(places, p)
                _add(table, width, label, other, 1)
            else:
                faulty |= other != _field(volume, IGNORED)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_run(places: Any, x: Any, fresh: Any, beside: Any) -> Any:
    """Count the run of labels from `x`, of which the bits in `fresh` are new; True if an id is out of range."""
    _, _, volumes, rows, lower = places
    labels = volumes + LABELS * _ROW
    address = _load(rows + LABELS * _ITEM) + x * _field(labels, SIZE)
    span = _find_words(labels, address, lower, fresh)
    if span[0] == span[1]:
        return span[0] < 0
    if span[1] - span[0] > FEW_IDS:
        return _count_voxels(places, x + RUN - _popcount(fresh), x + RUN, beside)
    faulty = False
    for p in range(4):
        row, volume = _load(rows + p * _ITEM), volumes + p * _ROW
        if row != 0:
            table, width = _table(places, p)
            faulty |= _pair(table, width, volume, row + x * _field(volume, SIZE), lower, span)
    if beside > 0:
        table, width = _table(places, BESIDE)
        if span[1] - span[0] == 1:
            faulty |= _pair_beside_flat(table, width, labels, address, fresh, x + RUN <= beside)
        else:
            faulty |= _pair_beside(table, width, labels, address, lower, x + RUN <= beside)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_row(places: Any, length: Any, beside: Any) -> Any:
    """Count a row; True if an id is out of range."""
    if length < RUN:
        return _count_voxels(places, 0, length, beside)
    faulty = False
    for start in range(0, length, RUN):
        # The last run ends with the row and overlaps the one before.
        x = min(start, length - RUN)
        faulty |= _count_run(places, x, _ALL << (start - x), beside)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_rows(counts: Any, volumes: Any, shape: Any, upper: Any) -> Any:
    """Add to `counts` what the core of `shape` holds.

    Parameters
    ----------
    counts : (5, n labels, most ids) int64 array
        For truth, roi and the neighbours along z, y and x: voxels by (label, other id).
    volumes : (5, 6) int64 array
        Volumes by truth, roi, labels, labels, labels; address 0 where there is none.
    shape : (3,) int64 array
    upper : (3,) int64 array
        Core voxels along each axis that have an upper neighbour; 0 where its faces are not asked for.

    Returns
    -------
    bool
        True if an id is out of range; the counts are then worthless.
    """
    lower = np.zeros(volumes[LABELS, IDS], np.int64)
    rows = np.zeros(5, np.int64)
    places = (counts.ctypes.data, counts.shape[2] * _ITEM, volumes.ctypes.data, rows.ctypes.data, lower.ctypes.data)
    faulty = False
    for z in range(shape[0]):
        for y in range(shape[1]):
            for p in range(5):
                if volumes[p, ADDRESS] != 0:
                    rows[p] = volumes[p, ADDRESS] + z * volumes[p, STEP_Z] + y * volumes[p, STEP_Y]
            rows[ABOVE] = rows[LABELS] + volumes[LABELS, STEP_Z] if z < upper[0] else 0
            rows[BEHIND] = rows[LABELS] + volumes[LABELS, STEP_Y] if y < upper[1] else 0
            faulty |= _count_row(places, shape[2], upper[2])
    # What is passed as an address is not seen as used: without these, it could be freed before the loop.
    lower[0] = rows[0] = 0
    return faulty
