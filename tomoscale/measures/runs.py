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
def _pair(table: Any, width: Any, volume: Any, address: Any, lower: Any, span: Any) -> Any:
    """Pair a run of labels, given by words of the ids in `span`, with the run at `address`; True if faulty."""
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
def _find_words(volume: Any, address: Any, lower: Any, fresh: Any) -> Any:
    """Fill the words of a run of labels, of which the bits in `fresh` are new; True if faulty."""
    size, ignored = _field(volume, SIZE), _field(volume, IGNORED)
    seen = _word(address, size, ignored) if ignored >= 0 else 0
    for k in range(_field(volume, IDS)):
        word = _word(address, size, k)
        seen |= word
        _store(lower + k * _ITEM, word & fresh)
    return seen != _ALL


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _table(places: Any, p: Any) -> Any:
    """Address of the counts of partner `p`, and bytes from one of its rows to the next."""
    return places[3] + p * places[4], places[5]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_voxels(places: Any, start: Any, stop: Any, beside: Any) -> Any:
    """Count the voxels `start` to `stop` of a row one by one; True if an id is out of range."""
    volumes, rows = places[0], places[1]
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
    """Count a mixed run of up to 16 ids, of which the bits in `fresh` are new; True if an id is out of range."""
    volumes, rows, lower = places[0], places[1], places[2]
    labels = volumes + LABELS * _ROW
    size, n = _field(labels, SIZE), _field(labels, IDS)
    address = _load(rows + LABELS * _ITEM) + x * size
    faulty = _find_words(labels, address, lower, fresh)
    for p in range(4):
        row, volume = _load(rows + p * _ITEM), volumes + p * _ROW
        if row != 0:
            table, width = _table(places, p)
            faulty |= _pair(table, width, volume, row + x * _field(volume, SIZE), lower, (0, n))
    if beside > 0:
        table, width = _table(places, BESIDE)
        faulty |= _pair_beside(table, width, labels, address, lower, x + RUN <= beside)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _four_words(address: Any, size: Any) -> Any:
    """Words of the ids 0 to 3."""
    if size == 1:
        return _word_8(address, 0), _word_8(address, 1), _word_8(address, 2), _word_8(address, 3)
    return _word_16(address, 0), _word_16(address, 1), _word_16(address, 2), _word_16(address, 3)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_four(row: Any, word: Any, others: Any) -> Any:
    """Add to four cells how often an id meets each of four others."""
    _store(row, _load(row) + _popcount(word & others[0]))
    _store(row + 8, _load(row + 8) + _popcount(word & others[1]))
    _store(row + 16, _load(row + 16) + _popcount(word & others[2]))
    _store(row + 24, _load(row + 24) + _popcount(word & others[3]))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_sixteen(places: Any, p: Any, words: Any, others: Any) -> Any:
    """Add to the table of partner `p` how often each of four ids meets each of four others."""
    row, width = _table(places, p)
    _add_four(row, words[0], others)
    _add_four(row + width, words[1], others)
    _add_four(row + 2 * width, words[2], others)
    _add_four(row + 3 * width, words[3], others)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _shifted(word: Any, after: Any) -> Any:
    """Word of the neighbours along x: each bit moves to the voxel before, `after` comes in at the end."""
    return (word >> 1 & _ALL_BUT_LAST) | (np.int64(after) << 63)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_run_of_four(places: Any, x: Any, fresh: Any, beside: Any) -> Any:
    """As `_count_run` for ids 0 to 3, the tables four wide: nothing loops, so that nothing is mispredicted."""
    volumes, rows, lower = places[0], places[1], places[2]
    size, ignored = _field(volumes + LABELS * _ROW, SIZE), _field(volumes + LABELS * _ROW, IGNORED)
    address = _load(rows + LABELS * _ITEM) + x * size
    found = _four_words(address, size)
    seen = found[0] | found[1] | found[2] | found[3]
    faulty = seen != _ALL and (ignored < 0 or seen | _word(address, size, ignored) != _ALL)
    words = (found[0] & fresh, found[1] & fresh, found[2] & fresh, found[3] & fresh)
    for k in range(4):
        _store(lower + k * _ITEM, words[k])
    for p in range(4):
        row, volume = _load(rows + p * _ITEM), volumes + p * _ROW
        if row == 0:
            continue
        there = row + x * _field(volume, SIZE)
        if p == ROI:
            table, width = _table(places, p)
            faulty |= _pair(table, width, volume, there, lower, (0, 4))
            continue
        others = _four_words(there, _field(volume, SIZE))
        seen, ignored = others[0] | others[1] | others[2] | others[3], _field(volume, IGNORED)
        faulty |= seen != _ALL and (ignored < 0 or seen | _word(there, _field(volume, SIZE), ignored) != _ALL)
        _add_sixteen(places, p, words, others)
    if beside > 0:
        after = _id(address + RUN * size, size) if x + RUN <= beside else -1
        others = (
            _shifted(found[0], after == 0),
            _shifted(found[1], after == 1),
            _shifted(found[2], after == 2),
            _shifted(found[3], after == 3),
        )
        faulty |= after > 3 and after != _field(volumes + LABELS * _ROW, IGNORED)
        _add_sixteen(places, BESIDE, words, others)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _flat_end(places: Any, x: Any, length: Any) -> Any:
    """Where the runs from `x` end in which every row has the one id that it has at `x`."""
    volumes, rows = places[0], places[1]
    size_l, size_t = _field(volumes + LABELS * _ROW, SIZE), _field(volumes + TRUTH * _ROW, SIZE)
    size_r = _field(volumes + ROI * _ROW, SIZE)
    labels, truth, roi = _load(rows + LABELS * _ITEM), _load(rows + TRUTH * _ITEM), _load(rows + ROI * _ITEM)
    above, behind = _load(rows + ABOVE * _ITEM), _load(rows + BEHIND * _ITEM)
    label = _id(labels + x * size_l, size_l)
    id_t = _id(truth + x * size_t, size_t) if truth != 0 else 0
    id_r = _id(roi + x * size_r, size_r) if roi != 0 else 0
    while x + RUN <= length:
        same = _word(labels + x * size_l, size_l, label)
        if truth != 0:
            same &= _word(truth + x * size_t, size_t, id_t)
        if above != 0:
            same &= _word(above + x * size_l, size_l, label)
        if behind != 0:
            same &= _word(behind + x * size_l, size_l, label)
        if roi != 0:
            same &= _word(roi + x * size_r, size_r, id_r)
        if same != _ALL:
            break
        x += RUN
    return x


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_flat(places: Any, x: Any, end: Any, beside: Any) -> Any:
    """Count the voxels `x` to `end`, all alike in every row; True if an id is out of range."""
    volumes, rows = places[0], places[1]
    # Only the last voxel has another neighbour along x, if any.
    faulty = _count_voxels(places, end - 1, end, beside)
    label = _id(_load(rows + LABELS * _ITEM) + x * _field(volumes + LABELS * _ROW, SIZE), _field(volumes + LABELS * _ROW, SIZE))
    if label >= _field(volumes + LABELS * _ROW, IDS):
        return faulty
    for p in range(5):
        row, volume = _load(rows + p * _ITEM), volumes + p * _ROW
        other = _id(row + x * _field(volume, SIZE), _field(volume, SIZE)) if row != 0 else 0
        if row != 0 and (p != BESIDE or beside > 0) and other < _field(volume, IDS):
            table, width = _table(places, p)
            _add(table, width, label, other, end - 1 - x)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_row(places: Any, length: Any, beside: Any) -> Any:
    """Count a row: stretches of one id at once, mixed runs by words; True if an id is out of range."""
    volumes = places[0]
    n, truth = _field(volumes + LABELS * _ROW, IDS), _field(volumes + TRUTH * _ROW, IDS)
    if length < RUN:
        return _count_voxels(places, 0, length, beside)
    x, faulty = 0, False
    while x < length:
        end = _flat_end(places, x, length)
        if end > x:
            faulty |= _count_flat(places, x, end, beside)
            x = end
            continue
        # The last run ends with the row and overlaps the one before.
        start = min(x, length - RUN)
        if n <= 4 and truth <= 4:
            faulty |= _count_run_of_four(places, start, _ALL << (x - start), beside)
        elif n <= FEW_IDS:
            faulty |= _count_run(places, start, _ALL << (x - start), beside)
        else:
            faulty |= _count_voxels(places, x, start + RUN, beside)
        x = start + RUN
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_rows(counts: Any, volumes: Any, shape: Any, upper: Any) -> Any:
    """Add to `counts` what the core of `shape` holds.

    Parameters
    ----------
    counts : (5, n labels, most ids) int64 array, at least (5, 4, 4)
        For truth, roi and the neighbours along z, y and x: voxels by (label, other id). What is found beyond the
        number of ids is out of range: the caller looks.
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
    lower = np.zeros(counts.shape[1], np.int64)
    rows = np.zeros(5, np.int64)
    width = counts.shape[2] * _ITEM
    tables = (counts.ctypes.data, counts.shape[1] * width, width)
    places = (volumes.ctypes.data, rows.ctypes.data, lower.ctypes.data) + tables
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
