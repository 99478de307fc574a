"""Grey values as unsigned integers that sort alike, and the loops that count them.

The *key* of a grey value is an unsigned integer of the same width with the same order: of signed integers the sign bit
is flipped; of float32 all bits are flipped where the sign is set and the sign bit elsewhere, so that keys sort as the
numbers do (-0.0 becomes 0.0; NaN and infinities never become keys).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.measures.choice import Found, Voxels, loopable, nothing_met, slabs

COUNTED_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
HALF = 16
"""Bits of a half of a 32-bit key."""

_SIGN = 0x80000000
_MAGNITUDE = 0x7FFFFFFF
_EXPONENT = 0x7F800000


def n_bins(dtype: str) -> int:
    """Bins of a histogram of keys, or of their high halves where they have 32 bits."""
    return 1 << min(8 * np.dtype(dtype).itemsize, HALF)


def keys_of(values: Array) -> Array:
    """Unsigned integers of the same width that sort as `values` do."""
    if values.dtype.kind == "f":
        bits = (values + values.dtype.type(0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
        return namespace_for(values).where(bits >> 31, ~bits, bits | np.uint32(_SIGN))
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    return values.view(unsigned) ^ unsigned.type(_flip(values.dtype))


def values_of(keys: np.ndarray, dtype: str) -> np.ndarray:
    """Undo `keys_of`."""
    unsigned = keys.astype(f"u{np.dtype(dtype).itemsize}")
    if np.dtype(dtype).kind == "f":
        return np.where(unsigned >> 31, unsigned & np.uint32(_MAGNITUDE), ~unsigned).view(dtype)
    return np.asarray(unsigned ^ unsigned.dtype.type(_flip(np.dtype(dtype)))).view(dtype)


def count_keys(voxels: Voxels, slots: np.ndarray | None = None) -> tuple[Array, Found]:
    """Histogram of keys per class, and what else was met.

    Parameters
    ----------
    voxels : Voxels
        Values of one of `COUNTED_TYPES`.
    slots : (65 536,) int64 array, optional
        For 32-bit keys: rank of each high half among those whose low halves are asked for, -1 for the others.

    Returns
    -------
    (n_classes, bins) int64 array of the same kind as the values
        Counts of the keys, of their high halves if they have 32 bits; with `slots` (n_classes, n_slots * 65 536), of the
        low halves.
    Found
    """
    dtype = voxels.values.dtype
    bins = n_bins(dtype.name) if slots is None else (int(slots.max()) + 1) << HALF
    shape, met = (voxels.n_classes, bins), nothing_met()
    if on_host(voxels.values):
        rule = (_flip(dtype), dtype.kind == "f", voxels.skip_zeros, HALF if dtype.itemsize == 4 else 0)
        bits = np.ascontiguousarray(voxels.values).view(f"u{dtype.itemsize}")
        lanes = np.zeros((2, voxels.n_classes * bins + 1), np.int64)
        labels, inside = loopable(voxels.labels, bits.shape), loopable(voxels.inside, bits.shape)
        _count_keys(
            bits, labels, inside, voxels.spans, rule, np.arange(0) if slots is None else slots, shape, lanes, met
        )
        table = (lanes[0, :-1] + lanes[1, :-1]).reshape(shape)
    else:
        table = _count_by_slabs(voxels, slots, shape, met)
    return table, Found.of(met, voxels.values.shape)


def _flip(dtype: np.dtype[Any]) -> int:
    """Bits that differ between an integer and its key."""
    return 1 << (8 * dtype.itemsize - 1) if dtype.kind == "i" else 0


def _count_by_slabs(voxels: Voxels, slots: np.ndarray | None, shape: tuple[int, int], met: np.ndarray) -> Array:
    """Do what `_count_keys` does with array functions only."""
    xp = namespace_for(voxels.values)
    table = xp.zeros(shape, np.int64)
    bins = shape[1]
    for _, values, labels in slabs(voxels, met):
        place = keys_of(values).astype(np.int64)
        row = xp.zeros(1, np.int64) if labels is None else labels.astype(np.int64)
        if slots is not None:
            slot = xp.asarray(slots)[place >> HALF]
            place = (slot << HALF) | (place & ((1 << HALF) - 1))
            place = (place + row * bins)[slot >= 0]
        else:
            place = (place >> HALF if values.dtype.itemsize == 4 else place) + row * bins
        table += xp.bincount(place, minlength=table.size).reshape(shape)
    return table


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_keys(  # noqa: PLR0913 -- one pass over the memory decides everything
    bits: np.ndarray,
    labels: np.ndarray,
    inside: np.ndarray,
    spans: np.ndarray,
    rule: tuple[int, bool, bool, int],
    slots: np.ndarray,
    shape: tuple[int, int],
    lanes: np.ndarray,
    met: np.ndarray,
) -> None:
    """Add to (2, n_classes * bins + 1) lanes, two because of `_add`; `met` is that of `Found`.

    Arrays that are not asked for have size 0. Row by row each voxel gets a place in the table, and the place after the
    last one if it does not count: loops without branches, which the compiler vectorises.
    """
    depth, height, width = bits.shape
    keys, keep, place = np.empty(width, np.uint32), np.empty(width, np.bool_), np.empty(width, np.uint32)
    for z in range(depth):
        for y in range(height):
            first, last = spans[y]
            size = last - first
            start = (z * height + y) * width + first
            _read_row(bits[z, y, first:last], rule, keys[:size], keep[:size])
            if inside.size:
                keep[:size] &= inside[z, y, first:last] != 0
            if rule[1]:
                _leave_non_finite(bits[z, y, first:last], keep[:size], start, met)
            _place_keys(keys[:size], slots, rule[3], keep[:size], place[:size])
            if labels.size:
                _place_classes(labels[z, y, first:last], shape, keep[:size], place[:size], start, met)
            _add(place[:size], keep[:size], lanes)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _read_row(row: np.ndarray, rule: tuple[int, bool, bool, int], keys: np.ndarray, keep: np.ndarray) -> None:
    """Keys of a row of bits; `keep` is false at zeros if they do not count."""
    flip, zero, sign, last_bit = np.uint32(rule[0]), np.uint32(0), np.uint32(_SIGN), np.uint32(31)
    if rule[1]:
        for x in range(row.size):
            number = zero if row[x] == sign else np.uint32(row[x])
            keys[x] = number ^ (sign | (zero - (number >> last_bit)))
    else:
        for x in range(row.size):
            keys[x] = np.uint32(row[x]) ^ flip
    key_of_zero = sign if rule[1] else flip
    for x in range(row.size):
        keep[x] = (not rule[2]) | (keys[x] != key_of_zero)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _leave_non_finite(row: np.ndarray, keep: np.ndarray, start: int, met: np.ndarray) -> None:
    """Clear `keep` at NaN and infinities and count them."""
    exponent = np.uint32(_EXPONENT)
    some = False
    for x in range(row.size):
        some |= (np.uint32(row[x]) & exponent) == exponent
    if not some:
        return
    for x in range(row.size):
        if keep[x] and (np.uint32(row[x]) & exponent) == exponent:
            keep[x] = False
            met[1 if (np.uint32(row[x]) & np.uint32(_MAGNITUDE)) == exponent else 0] += 1
            if met[2] < 0:
                met[2] = start + x


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _place_keys(keys: np.ndarray, slots: np.ndarray, shift: int, keep: np.ndarray, place: np.ndarray) -> None:
    """Bins of the keys: all bits, the high half, or the low half where the high half has a slot."""
    if slots.size == 0:
        for x in range(keys.size):
            place[x] = keys[x] >> np.uint32(shift)
    else:
        for x in range(keys.size):
            slot = slots[keys[x] >> np.uint32(HALF)]
            keep[x] &= slot >= 0
            place[x] = (np.uint32(slot) << np.uint32(HALF)) | (keys[x] & np.uint32((1 << HALF) - 1))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _place_classes(
    labels: np.ndarray, shape: tuple[int, int], keep: np.ndarray, place: np.ndarray, start: int, met: np.ndarray
) -> None:
    """Move places to the row of their class; clear `keep` at labels that are no class."""
    foreign = False
    for x in range(labels.size):
        foreign |= keep[x] & ((labels[x] < 0) | (labels[x] >= shape[0]))
        place[x] += np.uint32(labels[x]) * np.uint32(shape[1])
    if not foreign:
        return
    for x in range(labels.size):
        if keep[x] and (labels[x] < 0 or labels[x] >= shape[0]):
            keep[x] = False
            if met[3] < 0:
                met[3] = start + x


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add(place: np.ndarray, keep: np.ndarray, lanes: np.ndarray) -> None:
    """Count places in two lanes by turns: equal neighbours would wait for each other in one."""
    even, odd = lanes[0], lanes[1]
    nowhere = np.uint32(lanes.shape[1] - 1)
    for x in range(place.size):
        place[x] = place[x] if keep[x] else nowhere
    for x in range(0, place.size - 1, 2):
        even[place[x]] += 1
        odd[place[x + 1]] += 1
    if place.size & 1:
        even[place[place.size - 1]] += 1
