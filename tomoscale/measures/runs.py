"""Compare ids 64 voxels at a time: the compiled part of `pairs`.

A run of 64 voxels becomes one 64-bit word per id, bit i saying "voxel i has this id". The number of voxels with id k
here and id j there is ``popcount(word_k & word_j)``, so that a run costs a few instructions instead of 64 table updates
that wait for each other; and most runs hold one id, for which one comparison is enough.

.. code-block:: text

    labels         1 1 1 1 1 3 3 3 ...     id 1: 11111000...   id 3: 00000111...
    truth          1 1 1 1 3 3 3 3 ...     id 1: 11110000...   id 3: 00001111...
                                           labels 1, truth 3:  popcount(00001000...) = 1

Ids are bytes. Arrays are given as addresses and strides: one compiled function then serves every memory layout, and
nothing counts references to arrays in the innermost loops, which costs more there than the counting.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
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

IGNORED_BYTE, WRONG_BYTE = 254, 255
"""What the ignored id and those out of range become in volumes of wider types."""

_ITEM = 8
_ROW = 5 * _ITEM
_ALL = -1
_ALL_BUT_LAST = (1 << 63) - 1


@intrinsic  # type: ignore[untyped-decorator]
def _word(context: Any, address: Any, number: Any) -> Any:
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
def _id(context: Any, address: Any) -> Any:
    """The id stored at `address`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(place, align=1), ir.IntType(64))

    return numba.types.int64(numba.types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _popcount(context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.types.int64(numba.types.int64), generate


# The following would be plain functions, were not each compiled anew for every constant it is called with.


@intrinsic  # type: ignore[untyped-decorator]
def _load(context: Any, address: Any, index: Any) -> Any:
    """The 64-bit number at `index` in the array at `address`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_cell(builder, arguments[0], (arguments[1], _ITEM)), align=_ITEM)

    return numba.types.int64(numba.types.int64, numba.types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _store(context: Any, address: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _cell(builder, arguments[0], (arguments[1], _ITEM)), align=_ITEM)
        return context.get_dummy_value()

    return numba.types.void(numba.types.int64, numba.types.int64, numba.types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _field(context: Any, volumes: Any, p: Any, column: Any) -> Any:
    """What column `column` says of volume `p`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_cell(builder, arguments[0], (arguments[1], _ROW), (arguments[2], _ITEM)), align=_ITEM)

    return numba.types.int64(*[numba.types.int64] * 3), generate


@intrinsic  # type: ignore[untyped-decorator]
def _add(context: Any, places: Any, p: Any, k: Any, j: Any, number: Any) -> Any:
    """Add `number` to the cell of label `k` and id `j` in the table of partner `p`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cell = _count_cell(builder, *arguments[:4])
        builder.store(builder.add(builder.load(cell), arguments[4]), cell)
        return context.get_dummy_value()

    return numba.types.void(places, *[numba.types.int64] * 4), generate


@intrinsic  # type: ignore[untyped-decorator]
def _add_all(context: Any, places: Any, p: Any, ids: Any, words: Any, others: Any) -> Any:
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
    return _cell(builder, counts, (p, table), (k, row), (j, _ITEM))


def _cell(builder: Any, address: Any, *steps: tuple[Any, Any]) -> Any:
    """Pointer to a 64-bit number, so many steps of so many bytes from an address."""
    for number, size in steps:
        width = ir.Constant(ir.IntType(64), size) if isinstance(size, int) else size
        address = builder.add(address, builder.mul(number, width))
    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _allowed(volumes: Any, p: Any, number: Any) -> Any:
    return number < _field(volumes, p, IDS) or number == _field(volumes, p, IGNORED)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_voxels(places: Any, start: Any, stop: Any, beside: Any) -> Any:
    """Count the voxels `start` to `stop` of a row one by one; True if an id is out of range."""
    volumes, rows, faulty = places[0], places[1], False
    for x in range(start, stop):
        label = _id(_load(rows, LABELS) + x)
        if label >= _field(volumes, LABELS, IDS):
            faulty |= not _allowed(volumes, LABELS, label)
            continue
        for p in range(5):
            if _load(rows, p) == 0 or (p == BESIDE and x >= beside):
                continue
            # The neighbour along x is the same row, one voxel on.
            other = _id(_load(rows, p) + x + (p == BESIDE))
            if other < _field(volumes, p, IDS):
                _add(places, p, label, other, 1)
            else:
                faulty |= not _allowed(volumes, p, other)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pair(places: Any, p: Any, n: Any, address: Any) -> Any:
    """Pair a run of labels, given by the words of `n` ids, with the run at `address`; True if an id is out of range."""
    volumes, lower, faulty, rest = places[0], places[2], False, _ALL
    while rest != 0:
        before_first = (rest & -rest) - 1
        other = _id(address + _popcount(before_first))
        word = _word(address, other)
        rest &= ~word
        if other >= _field(volumes, p, IDS):
            faulty |= not _allowed(volumes, p, other)
            continue
        for k in range(n):
            _add(places, p, k, other, _popcount(_load(lower, k) & word))
    return faulty


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _shifted(word: Any, after: Any) -> Any:
    """Word of the neighbours along x: each bit moves to the voxel before, `after` comes in at the end."""
    return (word >> 1 & _ALL_BUT_LAST) | (np.int64(after) << 63)


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _two_ids(volumes: Any, rows: Any, x: Any) -> Any:
    """The id of the labels at `x`, and the first other id that a row holds in the run, or the same twice."""
    labels, truth = _load(rows, LABELS) + x, _load(rows, TRUTH) + x
    above, behind = _load(rows, ABOVE) + x, _load(rows, BEHIND) + x
    first = _id(labels)
    alike = _word(labels, first)
    alike &= _word(truth, first) if truth != x else _ALL
    alike &= _word(above, first) if above != x else _ALL
    alike &= _word(behind, first) if behind != x else _ALL
    if alike == _ALL:
        return first, first
    at = _popcount((~alike & -~alike) - 1)
    for row in (labels, truth, above, behind):
        if row != x and _id(row + at) != first:
            return first, _id(row + at)
    return first, first


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _two_words(row: Any, x: Any, ids: Any) -> Any:
    """Words of two different ids, and whether the run holds only these; for a row that is not there, no voxel at all."""
    if row == 0:
        return 0, 0, True
    a, b = _word(row + x, ids[0]), _word(row + x, ids[1])
    return a, b, a | b == _ALL


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_run_of_two(places: Any, x: Any, fresh: Any, beside: Any) -> Any:
    """Count a run in which all rows together hold two ids, as along most surfaces; False if they hold more."""
    volumes, rows = places[0], places[1]
    labels, roi = _load(rows, LABELS), _load(rows, ROI)
    ids = _two_ids(volumes, rows, x)
    a, b = ids
    after = _id(labels + x + RUN) if x + RUN <= beside else -1
    region = _id(roi + x) if roi != 0 else 0
    most = min(_field(volumes, LABELS, IDS), _field(volumes, TRUTH, IDS) if _load(rows, TRUTH) != 0 else 255)
    if a == b or max(a, b) >= most or (after not in (-1, a, b)) or region >= max(1, _field(volumes, ROI, IDS)):
        return False
    if roi != 0 and _word(roi + x, region) != _ALL:
        return False
    own = _two_words(labels, x, ids)
    truth = _two_words(_load(rows, TRUTH), x, ids)
    above = _two_words(_load(rows, ABOVE), x, ids)
    behind = _two_words(_load(rows, BEHIND), x, ids)
    if not (own[2] and truth[2] and above[2] and behind[2]):
        return False
    words = (own[0] & fresh, own[1] & fresh)
    _add_all(places, TRUTH, ids, words, truth[:2])
    _add_all(places, ABOVE, ids, words, above[:2])
    _add_all(places, BEHIND, ids, words, behind[:2])
    if beside > 0:
        _add_all(places, BESIDE, ids, words, (_shifted(own[0], after == a), _shifted(own[1], after == b)))
    if roi != 0:
        _add(places, ROI, a, region, _popcount(words[0]))
        _add(places, ROI, b, region, _popcount(words[1]))
    return True


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _four_words(address: Any) -> Any:
    """Words of the ids 0 to 3."""
    return _word(address, 0), _word(address, 1), _word(address, 2), _word(address, 3)


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _beyond_four(volumes: Any, p: Any, address: Any, words: Any) -> Any:
    """Whether a run holds an id that is neither one of four nor ignored."""
    seen, ignored = words[0] | words[1] | words[2] | words[3], _field(volumes, p, IGNORED)
    return seen != _ALL and (ignored < 0 or seen | _word(address, ignored) != _ALL)


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _pair_four(places: Any, p: Any, x: Any, words: Any) -> Any:
    address = _load(places[1], p)
    if address == 0:
        return False
    others = _four_words(address + x)
    _add_all(places, p, (0, 1, 2, 3), words, others)
    return _beyond_four(places[0], p, address + x, others)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_run_of_four(places: Any, x: Any, fresh: Any, beside: Any) -> Any:
    """Count a run of the ids 0 to 3; True if an id is out of range. Nothing loops: no branch is mispredicted."""
    volumes, rows, lower = places[0], places[1], places[2]
    address = _load(rows, LABELS) + x
    found = _four_words(address)
    words = (found[0] & fresh, found[1] & fresh, found[2] & fresh, found[3] & fresh)
    faulty = _beyond_four(volumes, LABELS, address, found)
    faulty |= _pair_four(places, TRUTH, x, words)
    faulty |= _pair_four(places, ABOVE, x, words)
    faulty |= _pair_four(places, BEHIND, x, words)
    if beside > 0:
        after = _id(address + RUN) if x + RUN <= beside else -1
        others = (
            _shifted(found[0], after == 0),
            _shifted(found[1], after == 1),
            _shifted(found[2], after == 2),
            _shifted(found[3], after == 3),
        )
        _add_all(places, BESIDE, (0, 1, 2, 3), words, others)
        faulty |= not _allowed(volumes, LABELS, after)
    if _load(rows, ROI) != 0:
        for k in range(4):
            _store(lower, k, words[k])
        faulty |= _pair(places, ROI, 4, _load(rows, ROI) + x)
    return faulty


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _flat_end(rows: Any, x: Any, length: Any) -> Any:
    """Where the runs from `x` end in which every row has the one id that it has at `x`."""
    labels, above, behind = _load(rows, LABELS), _load(rows, ABOVE), _load(rows, BEHIND)
    # A row that is not there is replaced by the labels: comparing them twice is cheaper than asking each time.
    truth, roi = _load(rows, TRUTH), _load(rows, ROI)
    above, behind = above if above != 0 else labels, behind if behind != 0 else labels
    truth, roi = truth if truth != 0 else labels, roi if roi != 0 else labels
    label, id_t, id_r = _id(labels + x), _id(truth + x), _id(roi + x)
    while x + RUN <= length:
        same = _word(labels + x, label) & _word(above + x, label) & _word(behind + x, label)
        if same & _word(truth + x, id_t) & _word(roi + x, id_r) != _ALL:
            break
        x += RUN
    return x


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _add_flat(places: Any, p: Any, x: Any, label: Any, number: Any) -> Any:
    """Add `number` voxels of `label` and of what partner `p` holds at `x`; True if that is out of range."""
    if _load(places[1], p) == 0:
        return False
    other = _id(_load(places[1], p) + x)
    if other >= _field(places[0], p, IDS):
        return not _allowed(places[0], p, other)
    _add(places, p, label, other, number)
    return False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_flat(places: Any, x: Any, end: Any, beside: Any) -> Any:
    """Count the voxels `x` to `end`, all alike in every row; True if an id is out of range."""
    volumes, rows = places[0], places[1]
    label = _id(_load(rows, LABELS) + x)
    if label >= _field(volumes, LABELS, IDS):
        return not _allowed(volumes, LABELS, label)
    faulty = _add_flat(places, TRUTH, x, label, end - x)
    faulty |= _add_flat(places, ABOVE, x, label, end - x)
    faulty |= _add_flat(places, BEHIND, x, label, end - x)
    faulty |= _add_flat(places, ROI, x, label, end - x)
    if beside > 0:
        _add(places, BESIDE, label, label, end - 1 - x)
    # Only the last voxel has another neighbour along x, if any.
    if end <= beside:
        faulty |= _add_flat(places, BESIDE, end, label, 1)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_row(places: Any, length: Any, beside: Any) -> Any:
    """Count a row: stretches of one id at once, mixed runs by words; True if an id is out of range."""
    few = max(_field(places[0], LABELS, IDS), _field(places[0], TRUTH, IDS)) <= 4
    if length < RUN:
        return _count_voxels(places, 0, length, beside)
    x, faulty = 0, False
    while x < length:
        end = _flat_end(places[1], x, length)
        if end > x:
            faulty |= _count_flat(places, x, end, beside)
            x = end
            continue
        # The last run ends with the row and overlaps the one before.
        start = min(x, length - RUN)
        fresh = _ALL << (x - start)
        if few:
            faulty |= _count_run_of_four(places, start, fresh, beside)
        elif not _count_run_of_two(places, start, fresh, beside):
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
    volumes : (5, 5) int64 array
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
    places = (volumes.ctypes.data, rows.ctypes.data, lower.ctypes.data, tables[0], tables[1], tables[2])
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


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def narrow(values: Any, small: Any, n_ids: Any, ignored: Any) -> None:
    """Write `values` as bytes; `ignored` becomes 254 and what is out of range 255."""
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                number = np.int64(values[z, y, x])
                kept = number if 0 <= number < n_ids else WRONG_BYTE
                small[z, y, x] = IGNORED_BYTE if number == ignored else kept
