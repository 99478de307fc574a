"""Which voxels of a block count: within a disc, inside a label, not zero, finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tomoscale.geometry import Block, Region

SLABS = 8
"""Array functions take an eighth of the planes at a time, so that their work space is small beside the block."""


@dataclass(frozen=True)
class Voxels:
    """The core of one block and which of its voxels count.

    Attributes
    ----------
    values : (Z, Y, X) integer or float array, NumPy or CuPy
    spans : (Y, 2) int64 array on the host
        First x that counts and the one after the last, row by row.
    labels : (Z, Y, X) bool or integer array or None
    inside : (Z, Y, X) bool array or None
        A further choice of voxels.
    n_classes : int
        Labels 0 to ``n_classes - 1`` may occur; 1 without labels.
    skip_zeros : bool
        Voxels that are exactly zero do not count.
    """

    values: Array
    spans: np.ndarray
    labels: Array | None = None
    inside: Array | None = None
    n_classes: int = 1
    skip_zeros: bool = False


@dataclass(frozen=True)
class Found:
    """What was met besides numbers that count; places are (z, y, x) in the core, the first in z-major order.

    Attributes
    ----------
    n_nan, n_inf : int
        Voxels that would count if they were numbers.
    non_finite, foreign, outside : tuple of int or None
        Places of the first of these, of the first label that is no class, and of the first value out of range.
    """

    n_nan: int
    n_inf: int
    non_finite: tuple[int, ...] | None
    foreign: tuple[int, ...] | None
    outside: tuple[int, ...] | None

    @classmethod
    def of(cls, met: np.ndarray, shape: tuple[int, ...]) -> Found:
        """Read the five numbers a loop fills: two counts, three indices in the core, -1 for none."""
        n_nan, n_inf, *first = (int(number) for number in met)
        places = [None if i < 0 else tuple(int(p) for p in np.unravel_index(i, shape)) for i in first]
        return cls(n_nan, n_inf, *places)


def nothing_met() -> np.ndarray:
    """Return what a loop fills for `Found`: (5,) int64."""
    return np.array([0, 0, -1, -1, -1], np.int64)


def spans_of(block: Block, disc: bool) -> np.ndarray:
    """First and one-after-last x of the core that count, row by row: (Y, 2) int64.

    With `disc`, only voxels whose centre lies in the disc inscribed in the (y, x) section, as reconstructions of
    parallel beams are zero or meaningless outside of it. All in integers, in half voxels from the middle.
    """
    _, rows, columns = block.write
    _, height, width = block.source_shape
    spans = np.tile(np.array([0, columns.stop - columns.start]), (rows.stop - rows.start, 1))
    if not disc:
        return spans
    diameter = min(height, width)
    for i, y in enumerate(range(rows.start, rows.stop)):
        square = diameter**2 - (2 * y - (height - 1)) ** 2
        reach = math.isqrt(square) if square >= 0 else -2  # an empty span
        first, stop = -((reach - (width - 1)) // 2), (width - 1 + reach) // 2 + 1
        spans[i] = np.clip([first, max(first, stop)], columns.start, columns.stop) - columns.start
    return spans


def interior_of(labels: Array, core: Region, radius: int) -> Array:
    """Tell which voxels of the core have only their own label within `radius` voxels (a Euclidean ball).

    Where `labels` end, the volume ends: what lies outside is taken to be like the voxel itself, because the edge of the
    field of view is no edge of a material.

    Returns
    -------
    bool array of the shape of the core.
    """
    inside = namespace_for(labels).ones(tuple(c.stop - c.start for c in core), bool)
    reach = range(-radius, radius + 1)
    ball = [(z, y, x) for z in reach for y in reach for x in reach if z * z + y * y + x * x <= radius * radius]
    if on_host(labels):
        _keep_interior(loopable(labels, labels.shape), np.array([c.start for c in core]), np.array(ball), inside)
        return inside
    for offset in ball:
        # Cut so that both voxels of each comparison exist.
        low = [max(c.start, -o) for c, o in zip(core, offset, strict=True)]
        high = [min(c.stop, n - o) for c, o, n in zip(core, offset, labels.shape, strict=True)]
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        there = tuple(slice(a + o, b + o) for a, b, o in zip(low, high, offset, strict=True))
        target = tuple(slice(a - c.start, b - c.start) for a, b, c in zip(low, high, core, strict=True))
        inside[target] &= labels[here] == labels[there]
    return inside


def loopable(values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Array a compiled loop takes: contiguous, bool as uint8; of no voxel where there is none, so one loop serves both."""
    if values is None:
        return np.empty((0, *shape[1:]), np.uint8)
    contiguous = np.ascontiguousarray(values)
    return contiguous.view(np.uint8) if contiguous.dtype == bool else contiguous


def slabs(voxels: Voxels, met: np.ndarray) -> Iterator[tuple[Array, Array, Array | None]]:
    """Which voxels count, their values and labels as flat arrays, an eighth of the planes at a time.

    The array-function counterpart of the compiled loops; fills `met` as they do.
    """
    values, labels = voxels.values, voxels.labels
    xp = namespace_for(values)
    depth, _, width = values.shape
    x, spans = xp.arange(width), xp.asarray(voxels.spans)
    in_span = (x >= spans[:, :1]) & (x < spans[:, 1:])
    step = max(1, depth // SLABS)
    for start in range(0, depth, step):
        planes = slice(start, min(start + step, depth))
        part, first = values[planes], start * in_span.size
        keep = xp.broadcast_to(in_span, part.shape)
        if voxels.inside is not None:
            keep = keep & voxels.inside[planes]
        if voxels.skip_zeros:
            keep = keep & (part != 0)
        if part.dtype.kind == "f":
            finite = xp.isfinite(part)
            met[0] += int((keep & xp.isnan(part)).sum())
            met[1] += int((keep & xp.isinf(part)).sum())
            note_first(met, 2, keep & ~finite, first)
            keep = keep & finite
        if labels is None:
            yield keep, part[keep], None
            continue
        known = (labels[planes] >= 0) & (labels[planes] < voxels.n_classes)
        note_first(met, 3, keep & ~known, first)
        keep = keep & known
        yield keep, part[keep], labels[planes][keep]


def note_first(met: np.ndarray, which: int, wrong: Array, start: int) -> None:
    """Write the index of the first true voxel into `met` unless an earlier one is known."""
    if met[which] < 0 and bool(wrong.any()):
        met[which] = start + int(wrong.ravel().argmax())


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _keep_interior(labels: np.ndarray, start: np.ndarray, ball: np.ndarray, inside: np.ndarray) -> None:
    """Clear `inside` where a voxel of the ball has another label; whole rows, which the compiler vectorises."""
    depth, height, width = inside.shape
    for z in range(start[0], start[0] + depth):
        for y in range(start[1], start[1] + height):
            for i in range(ball.shape[0]):
                oz, oy, ox = z + ball[i, 0], y + ball[i, 1], ball[i, 2]
                if oz < 0 or oz >= labels.shape[0] or oy < 0 or oy >= labels.shape[1]:
                    continue
                first, last = max(start[2], -ox), min(start[2] + width, labels.shape[2] - ox)
                if first < last:
                    _keep_equal(
                        labels[z, y, first:last],
                        labels[oz, oy, first + ox : last + ox],
                        inside[z - start[0], y - start[1], first - start[2] : last - start[2]],
                    )


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _keep_equal(here: np.ndarray, there: np.ndarray, kept: np.ndarray) -> None:
    for x in range(kept.size):
        kept[x] &= here[x] == there[x]
