"""Where an object lies and along which axis: first and second moments of its voxels, as exact integers.

A moment of 10^12 voxels of a volume of 10^4 voxels edge needs 67 bits: each is kept in two words of 32 bits, which add
over blocks without overflow and are joined to Python integers at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numba
import numpy as np

from tomoscale.arrays import Array, on_host, to_host
from tomoscale.geometry import Block, Spacing
from tomoscale.measures.ids import origin_of
from tomoscale.step import Counts, Measure

_WORD = 32
_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
_GRAIN = 1 << 20
_ALIKE = 1.1
"""Spreads that differ less than this tell no axis."""


@dataclass(frozen=True)
class Axis:
    """The axis of an object.

    Attributes
    ----------
    centre_um : (z, y, x)
        Centroid of the voxels; the centre of the first voxel of the volume is (0, 0, 0).
    direction : (z, y, x)
        Of length 1 to six digits, its largest component positive. Rounded to multiples of 2^-20, so that linear algebra
        that differs in the last bit between machines gives the same axis.
    spread_um : (float, float, float)
        Standard deviations of the voxels along the principal axes, the largest first.
    certain : bool
        Whether the spreads tell the axis from the other two.
    """

    centre_um: Spacing
    direction: Spacing
    spread_um: tuple[float, float, float]
    certain: bool


def inertia(classes: tuple[int, ...] | None = None, *, name: str = "labels") -> Measure:
    """Measure of number, first and second moments of the voxels of an object.

    Parameters
    ----------
    classes : tuple of int or None
        Labels of the object; None for all but 0.
    name : str
        Of the input.

    Returns
    -------
    Measure
        Count ``"moments"``, (10, 2) int64: number; sums of z, y, x; of zz, yy, xx, zy, zx, yx; upper and lower words.
    """
    return Measure(
        "inertia",
        partial(count_moments, classes=classes),
        (name,),
        bytes_per_voxel=3.0,
        counts_bytes=160,
        parameters={"classes": None if classes is None else list(classes)},
    )


def count_moments(labels: Array, *, block: Block, classes: tuple[int, ...] | None) -> Counts:
    """Count the moments of the core's voxels about the first voxel of the volume."""
    zy, zx, yx = projections(members(labels[block.core], classes))
    tables = {(0, 1): zy, (0, 2): zx, (1, 2): yx}
    along = (zy.sum(axis=1), zy.sum(axis=0), zx.sum(axis=0))
    origin = [o + c.start for o, c in zip(origin_of(block), block.core, strict=True)]
    places = [np.arange(o, o + n.size) for o, n in zip(origin, along, strict=True)]
    moments = [int(along[0].sum())]
    moments += [_dot(n, p) for n, p in zip(along, places, strict=True)]
    for a, b in _PAIRS:
        if a == b:
            moments.append(_dot(along[a], places[a] ** 2))
        else:
            moments.append(_dot(tables[a, b] @ places[b], places[a]))
    words = [(m >> _WORD, m & ((1 << _WORD) - 1)) for m in moments]
    return {"moments": np.array(words, np.int64)}


def moments_of(counts: Counts) -> list[int]:
    """Join the words: number, sums of z, y, x, of zz, yy, xx, zy, zx, yx, as Python integers."""
    return [(int(high) << _WORD) + int(low) for high, low in counts["moments"]]


def axis_of(counts: Counts, voxel_size_um: Spacing) -> Axis | None:
    """Axis of an object from the counts of `inertia`; None for an object without voxels.

    The axis is the principal axis whose spread has no near equal: that of a rod as well as that of a disc, since what
    turns about an axis spreads alike in all directions across it.
    """
    n, *rest = moments_of(counts)
    if n == 0:
        return None
    first, second = rest[:3], dict(zip(_PAIRS, rest[3:], strict=True))
    size = [float(h) for h in voxel_size_um]
    covariance = np.zeros((3, 3))
    for (a, b), moment in second.items():
        # One division of integers: no digits are lost where a small spread lies far from the origin.
        covariance[a, b] = covariance[b, a] = (n * moment - first[a] * first[b]) / (n * n) * size[a] * size[b]
    squares, vectors = np.linalg.eigh(covariance)
    low, middle, high = np.sqrt(np.maximum(squares, 0.0))
    rod, disc = _times(high, middle), _times(middle, low)
    vector = vectors[:, 2] if rod >= disc else vectors[:, 0]
    vector = vector * np.sign(vector[np.argmax(np.abs(vector).round(6))])
    direction = [round(float(v) * _GRAIN) / _GRAIN for v in vector]
    centre = [h * (s / n) for h, s in zip(size, first, strict=True)]
    return Axis(_three(centre), _three(direction), _three([high, middle, low]), bool(max(rod, disc) >= _ALIKE))


def members(labels: Array, classes: tuple[int, ...] | None) -> Array:
    """Mask of the voxels of `classes`; of all that are not 0 where it is None."""
    if classes is None:
        return labels if labels.dtype == bool else labels != 0
    mask = labels == classes[0]
    for k in classes[1:]:
        mask |= labels == k
    return mask


def projections(mask: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Set voxels of a mask along x, y and z: (Z, Y), (Z, X) and (Y, X) int64 on the host; all moments follow from these."""
    depth, height, width = mask.shape
    if not on_host(mask):
        return tuple(to_host(mask.sum(axis=axis, dtype=np.int64)) for axis in (2, 1, 0))  # type: ignore[return-value]
    zy = np.zeros((depth, height), np.int64)
    zx, yx = np.zeros((depth, width), np.uint32), np.zeros((height, width), np.uint32)
    _project(mask.view(np.uint8), zy, zx, yx)
    return zy, zx.astype(np.int64), yx.astype(np.int64)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _project(mask: np.ndarray, zy: np.ndarray, zx: np.ndarray, yx: np.ndarray) -> None:
    """Add up a mask along each axis in one pass; row by row, which the compiler vectorises."""
    depth, height, width = mask.shape
    for z in range(depth):
        for y in range(height):
            n = np.uint32(0)
            for x in range(width):
                n += np.uint32(mask[z, y, x])
            zy[z, y] = n
            if n:
                for x in range(width):
                    zx[z, x] += np.uint32(mask[z, y, x])
                    yx[y, x] += np.uint32(mask[z, y, x])


def _dot(numbers: np.ndarray, places: np.ndarray) -> int:
    """Exact sum of products, which needs more than 64 bits."""
    return sum(n * p for n, p in zip(numbers.tolist(), places.tolist(), strict=True))


def _times(larger: float, smaller: float) -> float:
    return float("inf") if smaller == 0 and larger > 0 else float(larger / smaller) if smaller else 1.0


def _three(values: list[float]) -> tuple[float, float, float]:
    z, y, x = (float(v) for v in values)
    return z, y, x
