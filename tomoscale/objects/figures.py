"""Figures of objects with their units, from the exact sums over their voxels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tomoscale.geometry import Spacing
from tomoscale.measures.object_sums import (
    BORDER,
    CHANGES,
    FIRST,
    HIGH,
    LOW,
    PAIRS,
    SECOND,
    VOXELS,
    surface_of_crofton,
    surface_of_faces,
)

_FITS = 2.0**60
"""Sums bounded by this are made in 64 bits, others as Python integers."""
_EXACT = 2.0**53
"""Integers below this are floats without loss."""
_GRAIN = 1 << 20


@dataclass(frozen=True)
class Objects:
    """Some objects, whole.

    Attributes
    ----------
    label : (k,) integer array
    voxels, border : (k,) int64 arrays
        Number of voxels; voxel faces on the border of the volume.
    low, high : (k, 3) int64 arrays
        First and last voxel of the box, (z, y, x).
    first : (k, 3) array
        Sums of z, y, x about `low`: Python integers, or int64.
    spread : (k, 6) float64 array
        Variances and covariances of the voxels as boxes of edge 1, in voxels, in the order of `PAIRS`.
    changes : (k, 13) int64 array
    """

    label: np.ndarray
    voxels: np.ndarray
    border: np.ndarray
    low: np.ndarray
    high: np.ndarray
    first: np.ndarray
    spread: np.ndarray
    changes: np.ndarray

    @classmethod
    def joined(cls, label: np.ndarray, sums: np.ndarray, origin: np.ndarray, block_length: int) -> Objects:
        """Objects from their parts in several blocks.

        Parameters
        ----------
        label : (n,) integer array
            Of each part; an object may have several.
        sums : (n, COLUMNS) int64 array
            Of `sum_objects`.
        origin : (n, 3) int64 array
            Voxel that sums of coordinates are about.
        block_length : int
            Voxels along the longest edge of a block: no coordinate of a part is as large.
        """
        order = np.argsort(label, kind="stable")
        label, sums, origin = label[order], sums[order], origin[order]
        new = np.ones(label.size, bool)
        new[1:] = label[1:] != label[:-1]
        starts = np.flatnonzero(new)
        low, high = np.minimum.reduceat(sums[:, LOW], starts), np.maximum.reduceat(sums[:, HIGH], starts)
        added = np.add.reduceat(sums, starts)
        origin = origin - np.repeat(low, np.diff(starts, append=label.size), axis=0)
        first, second = _moments(sums, origin, starts, block_length)
        spread = _spread(added[:, VOXELS], first, second, (high - low).max(axis=1) + 1)
        return cls(label[starts], added[:, VOXELS], added[:, BORDER], low, high, first, spread, added[:, CHANGES])


def figures(objects: Objects, voxel_size_um: Spacing) -> Mapping[str, np.ndarray]:
    """Columns of the table, by name: (k,) arrays each."""
    size = np.array(voxel_size_um)
    lengths, directions = _axes(objects.spread, size)
    centroid = (objects.low + _mean(objects.first, objects.voxels)) * size
    columns: dict[str, np.ndarray] = {
        "label": objects.label,
        "voxels": objects.voxels,
        "volume_um3": objects.voxels * float(np.prod(size)),
    }
    for a, axis in enumerate("zyx"):
        columns[f"{axis}_start_voxels"] = objects.low[:, a]
        columns[f"{axis}_stop_voxels"] = objects.high[:, a] + 1
    columns.update({f"centroid_{axis}_um": centroid[:, a] for a, axis in enumerate("zyx")})
    columns.update({f"axis_{i + 1}_um": lengths[:, i] for i in range(3)})
    columns.update({f"axis_{i + 1}_{axis}": directions[:, i, a] for i in range(3) for a, axis in enumerate("zyx")})
    columns["surface_faces_um2"] = surface_of_faces(objects.changes, voxel_size_um)
    columns["surface_crofton_um2"] = surface_of_crofton(objects.changes, voxel_size_um)
    columns["border_faces"] = objects.border
    columns["touches_border"] = (objects.border > 0).astype(np.uint8)
    return columns


def _moments(
    sums: np.ndarray, origin: np.ndarray, starts: np.ndarray, block_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and second moments of objects about the corner of their box, from which the sums' origins lie `origin`."""
    reach = block_length + np.abs(origin).max(axis=1, initial=0)
    bounds = 3.0 * sums[:, VOXELS] * reach.astype(np.float64) ** 2
    if np.add.reduceat(bounds, starts).max(initial=0.0) >= _FITS:
        sums, origin = sums.astype(object), origin.astype(object)
    n, first, second = sums[:, VOXELS], sums[:, FIRST], sums[:, SECOND]
    moved = first + n[:, None] * origin
    products = [
        second[:, i] + origin[:, a] * first[:, b] + origin[:, b] * first[:, a] + n * origin[:, a] * origin[:, b]
        for i, (a, b) in enumerate(PAIRS)
    ]
    return np.add.reduceat(moved, starts), np.add.reduceat(np.stack(products, axis=1), starts)


def _mean(first: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Sums of coordinates over voxels, rounded once: (k, 3) float64."""
    exact = np.asarray(first < _EXACT, bool).all(axis=1)
    mean = first.astype(np.float64) / voxels[:, None]
    for i in np.flatnonzero(~exact):
        mean[i] = [int(s) / int(voxels[i]) for s in first[i]]
    return np.asarray(mean)


def _spread(voxels: np.ndarray, first: np.ndarray, second: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Variances and covariances of voxels as boxes of edge 1: (k, 6) float64, each from one division of integers.

    The twelfth that a box adds to a variance makes those of any cuboid exact.
    """
    spread = np.empty((voxels.size, 6))
    exact = 12.0 * (voxels.astype(np.float64) * (extent + 1)) ** 2 < _EXACT
    n, own, products = voxels[exact], first[exact].astype(np.int64), second[exact].astype(np.int64)
    for i, (a, b) in enumerate(PAIRS):
        top = 12 * (n * products[:, i] - own[:, a] * own[:, b]) + (a == b) * n * n
        spread[exact, i] = top / (12 * n * n)
    for k in np.flatnonzero(~exact):
        # Python integers: no digits are lost where the terms need more than the 53 bits of a float.
        size, sums = int(voxels[k]), [int(s) for s in first[k]]
        for i, (a, b) in enumerate(PAIRS):
            top = 12 * (size * int(second[k, i]) - sums[a] * sums[b]) + (a == b) * size * size
            spread[k, i] = top / (12 * size * size)
    return spread


def _axes(spread: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (k, 3) in micrometres of the axes of the ellipsoids of this spread, longest first, and directions (k, 3, 3)."""
    matrix = np.zeros((len(spread), 3, 3))
    for i, (a, b) in enumerate(PAIRS):
        matrix[:, a, b] = matrix[:, b, a] = spread[:, i] * size[a] * size[b]
    squares, vectors = np.linalg.eigh(matrix)
    # Along an axis of length d an ellipsoid has the variance d * d / 20.
    lengths = np.sqrt(np.maximum(squares[:, ::-1], 0) * 20)
    vectors = np.swapaxes(vectors[:, :, ::-1], 1, 2)
    largest = np.argmax(np.abs(vectors).round(6), axis=2)
    signs = np.sign(np.take_along_axis(vectors, largest[:, :, None], axis=2))
    # Rounded to multiples of 2^-20, so that linear algebra that differs in the last bit gives the same direction.
    return lengths, np.round(vectors * signs * _GRAIN) / _GRAIN + 0.0
