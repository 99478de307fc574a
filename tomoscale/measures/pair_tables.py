"""Tables of pairs of ids: on the host by `runs`, on a GPU by a histogram of pairs."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Region, Shape, region_shape
from tomoscale.measures.ids import (
    NO_ID,
    Ids,
    stored_ignored,
    wrong_ids,
)
from tomoscale.measures.runs import count_rows
from tomoscale.measures.words import (
    ABOVE,
    BEHIND,
    IDS,
    IGNORED,
    LABELS,
)

IGNORED_BYTE, WRONG_BYTE = 254, 255
"""What the ignored id and those out of range become in volumes of wider types."""
_CODES = 1 << 22


def count_on_host(partners: list[Ids | None], core: Region, upper: Shape) -> tuple[np.ndarray, bool]:
    """Count pairs of ids with compiled code; see `runs.count_rows`.

    Parameters
    ----------
    partners : list of Ids or None
        Truth, regions and labels.
    core : Region
        What to count, in voxels of the padded block.
    upper : (z, y, x)
        Core voxels along each axis that have an upper neighbour.

    Returns
    -------
    (5, n labels, most ids) int64 array, and whether an id is out of range.
    """
    arrays: list[np.ndarray] = []
    volumes = np.zeros((5, 5), np.int64)
    for p, volume in enumerate(partners):
        if volume is not None:
            values, ignored = _bytes_of(volume)
            inner = values[core]
            volumes[p] = (inner.ctypes.data, *inner.strides[:2], volume.n_ids, ignored)
            arrays.append(values)
    volumes[BEHIND:] = volumes[ABOVE]  # the labels are their own partners along all three axes
    counts = np.zeros(_table_shape(partners), np.int64)
    faulty = count_rows(counts, volumes, np.array(region_shape(core)), np.array(upper))
    # The compiled code sees addresses only: the arrays must live until here.
    arrays.clear()
    return counts, bool(faulty) or _found_beyond(counts, volumes)


def _found_beyond(counts: np.ndarray, volumes: np.ndarray) -> bool:
    """Tell whether ids are in the tables that no volume may hold: `runs` always counts four."""
    for table, volume in zip(counts, volumes, strict=True):
        beyond = table.copy()
        beyond[: volumes[LABELS, IDS], : volume[IDS]] = 0
        for ids, ignored in ((beyond, volumes[LABELS, IGNORED]), (beyond.T, volume[IGNORED])):
            if 0 <= ignored < len(ids):
                ids[ignored] = 0
        if beyond.any():
            return True
    return False


def _table_shape(partners: list[Ids | None]) -> Shape:
    """Shape of the counts: five partners, label, other id."""
    labels = partners[-1]
    assert labels is not None
    return 5, max(4, labels.n_ids), max(4, *(p.n_ids for p in partners if p is not None))


def _bytes_of(volume: Ids) -> tuple[np.ndarray, int]:
    """Ids as bytes that are neighbours in memory along x, and the ignored one or -1; copied only if need be."""
    values, ignored = volume.values, stored_ignored(volume)
    # A byte with sign cannot tell -1 from the id 255.
    if values.itemsize > 1 or (values.dtype == np.int8 and volume.n_ids > 128):
        return _narrowed(volume), IGNORED_BYTE
    if values.strides[2] != 1:
        values = np.ascontiguousarray(values)
    return values.view(np.uint8), -1 if ignored == NO_ID else ignored & 255


def _narrowed(volume: Ids) -> np.ndarray:
    """Copy in which the ignored id, and all that is out of range, are bytes of their own: wrapping would hide them."""
    small = np.empty(volume.values.shape, np.uint8)
    ignored = stored_ignored(volume)
    values = volume.values.astype(volume.values.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.uint64:  # there is no wider type to compare it in
        values, ignored = values.astype(np.int64), -1 if ignored == np.iinfo(np.uint64).max else ignored
    _narrow(values, small, volume.n_ids, ignored)
    return small


def count_by_codes(partners: list[Ids | None], core: Region, upper: Shape) -> tuple[Array, bool]:
    """Count pairs of ids as `count_on_host` does, on a GPU too."""
    labels = partners[-1]
    assert labels is not None
    xp = namespace_for(labels.values)
    counts = xp.zeros(_table_shape(partners), xp.int64)
    faulty = False
    planes = max(1, _CODES // max(1, (core[1].stop - core[1].start) * (core[2].stop - core[2].start)))
    for start in range(core[0].start, core[0].stop, planes):
        part = (slice(start, min(start + planes, core[0].stop)), core[1], core[2])
        for p, volume in enumerate(partners[:2]):
            if volume is not None:
                faulty |= _add_codes(counts[p], labels, part, volume, part)
        for axis in range(3):
            # Core voxels with an upper neighbour, and these neighbours.
            stop = min(part[axis].stop, core[axis].start + upper[axis])
            lower = _along(part, axis, part[axis].start, stop)
            if stop > part[axis].start:
                faulty |= _add_codes(
                    counts[2 + axis], labels, lower, labels, _along(lower, axis, lower[axis].start + 1, stop + 1)
                )
    return counts, faulty


def _along(region: Region, axis: int, start: int, stop: int) -> Region:
    z, y, x = (slice(start, stop) if a == axis else r for a, r in enumerate(region))
    return z, y, x


def _add_codes(table: Array, labels: Ids, here: Region, other: Ids, there: Region) -> bool:
    """Add the pairs of labels here and other ids there to `table`; True if an id is out of range."""
    xp = namespace_for(table)
    ids, faulty = [], False
    for volume, region in ((labels, here), (other, there)):
        values = volume.values[region]
        outside = (values < 0) | (values >= volume.n_ids)
        faulty |= bool(wrong_ids(volume, values).any())
        # One more id than are counted, for what is not.
        ids.append(xp.where(outside, volume.n_ids, values).astype(xp.int32))
    n, m = labels.n_ids + 1, other.n_ids + 1
    codes = ids[0] * m + ids[1]
    pairs = xp.bincount(codes.ravel(), minlength=n * m).reshape(n, m)
    table[: n - 1, : m - 1] += pairs[: n - 1, : m - 1]
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _narrow(values: Any, small: Any, n_ids: Any, ignored: Any) -> None:
    """Write `values` as bytes; `ignored` becomes 254 and what is out of range 255."""
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                number = np.int64(values[z, y, x])
                kept = number if 0 <= number < n_ids else WRONG_BYTE
                small[z, y, x] = IGNORED_BYTE if number == ignored else kept
