"""Compare ids 64 voxels at a time: the compiled part of `pairs`.

A run of 64 voxels becomes one 64-bit word per id, bit i saying "voxel i has this id". The number of voxels with id k
here and id j there is ``popcount(word_k & word_j)``, so that a run costs a few instructions instead of 64 table updates
that wait for each other; and most runs hold one id, for which one comparison is enough.

.. code-block:: text

    labels         1 1 1 1 1 3 3 3 ...     id 1: 11111000...   id 3: 00000111...
    truth          1 1 1 1 3 3 3 3 ...     id 1: 11110000...   id 3: 00001111...
                                           labels 1, truth 3:  popcount(00001000...) = 1

Ids are bytes, and arrays are given as addresses and strides (`words`).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from tomoscale.measures.mixed_runs import ALL, allowed, count_run_of_four, count_run_of_two, count_voxels
from tomoscale.measures.words import (
    ABOVE,
    ADDRESS,
    BEHIND,
    BESIDE,
    IDS,
    ITEM,
    LABELS,
    ROI,
    RUN,
    STEP_Y,
    STEP_Z,
    TRUTH,
    add_to,
    field_of,
    id_at,
    load,
    word_at,
)


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _flat_end(rows: Any, x: Any, length: Any) -> Any:
    """Where the runs from `x` end in which every row has the one id that it has at `x`."""
    labels, above, behind = load(rows, LABELS), load(rows, ABOVE), load(rows, BEHIND)
    # A row that is not there is replaced by the labels: comparing them twice is cheaper than asking each time.
    truth, roi = load(rows, TRUTH), load(rows, ROI)
    above, behind = above if above != 0 else labels, behind if behind != 0 else labels
    truth, roi = truth if truth != 0 else labels, roi if roi != 0 else labels
    label, id_t, id_r = id_at(labels + x), id_at(truth + x), id_at(roi + x)
    while x + RUN <= length:
        same = word_at(labels + x, label) & word_at(above + x, label) & word_at(behind + x, label)
        if same & word_at(truth + x, id_t) & word_at(roi + x, id_r) != ALL:
            break
        x += RUN
    return x


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _add_flat(places: Any, p: Any, x: Any, label: Any, number: Any) -> Any:
    """Add `number` voxels of `label` and of what partner `p` holds at `x`; True if that is out of range."""
    if load(places[1], p) == 0:
        return False
    other = id_at(load(places[1], p) + x)
    if other >= field_of(places[0], p, IDS):
        return not allowed(places[0], p, other)
    add_to(places, p, label, other, number)
    return False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_flat(places: Any, x: Any, end: Any, beside: Any) -> Any:
    """Count the voxels `x` to `end`, all alike in every row; True if an id is out of range."""
    volumes, rows = places[0], places[1]
    label = id_at(load(rows, LABELS) + x)
    if label >= field_of(volumes, LABELS, IDS):
        return not allowed(volumes, LABELS, label)
    faulty = _add_flat(places, TRUTH, x, label, end - x)
    faulty |= _add_flat(places, ABOVE, x, label, end - x)
    faulty |= _add_flat(places, BEHIND, x, label, end - x)
    faulty |= _add_flat(places, ROI, x, label, end - x)
    if beside > 0:
        add_to(places, BESIDE, label, label, end - 1 - x)
    # Only the last voxel has another neighbour along x, if any.
    if end <= beside:
        faulty |= _add_flat(places, BESIDE, end, label, 1)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_row(places: Any, length: Any, beside: Any) -> Any:
    """Count a row: stretches of one id at once, mixed runs by words; True if an id is out of range."""
    few = max(field_of(places[0], LABELS, IDS), field_of(places[0], TRUTH, IDS)) <= 4
    if length < RUN:
        return count_voxels(places, 0, length, beside)
    x, faulty = 0, False
    while x < length:
        end = _flat_end(places[1], x, length)
        if end > x:
            faulty |= _count_flat(places, x, end, beside)
            x = end
            continue
        # The last run ends with the row and overlaps the one before.
        start = min(x, length - RUN)
        fresh = ALL << (x - start)
        if few:
            faulty |= count_run_of_four(places, start, fresh, beside)
        elif not count_run_of_two(places, start, fresh, beside):
            faulty |= count_voxels(places, x, start + RUN, beside)
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
    width = counts.shape[2] * ITEM
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
