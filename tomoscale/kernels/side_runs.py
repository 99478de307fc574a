"""What of an object lies on the sides of a block, as runs: what neighbouring blocks must know of each other.

A side across z or y holds the runs of its rows along x; a side across x is seen along y. A side of 512 x 512 voxels of
bone takes some 50 KiB this way, as a picture it would take a MiB.
"""

from __future__ import annotations

import numba
import numpy as np

from tomoscale.geometry import Shape
from tomoscale.kernels.row_runs import Runs

SIDES = tuple((axis, last) for axis in range(3) for last in (False, True))
"""Axis that a side lies across, and whether it is the last plane along it, in the order in which sides are stored."""


def side_rows(block_shape: Shape) -> tuple[int, ...]:
    """Rows of each of the sides."""
    depth, height, _ = block_shape
    return height, height, depth, depth, depth, depth


def side_runs(runs: Runs, pieces: np.ndarray, axis: int, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Runs on one side of a block.

    Returns
    -------
    (n_rows,) int64 array
        How many there are in each row of the side.
    (n, 3) uint32 array
        First voxel, the one after the last, and the piece, in scan order. Neighbours in a row are of different pieces,
        or not neighbours.
    """
    depth, height, _ = runs.shape
    if axis == 2:
        return _across_x(runs, pieces, last)
    every, place = np.arange(depth * height).reshape(depth, height), -1 if last else 0
    rows = every[place] if axis == 0 else every[:, place]
    counts = runs.first[rows + 1] - runs.first[rows]
    skipped = runs.first[rows] - np.cumsum(counts) + counts
    which = np.repeat(skipped, counts) + np.arange(counts.sum())
    found = np.empty((which.size, 3), np.uint32)
    for column, values in enumerate((runs.starts, runs.stops, pieces)):
        found[:, column] = values[which]
    return counts, found


def _across_x(runs: Runs, pieces: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray]:
    depth, height, width = runs.shape
    side = np.zeros((depth, height + 2), np.int64)
    _fill_ends(runs.first, runs.starts, runs.stops, pieces, width if last else 0, side[:, 1:-1])
    changes = side[:, 1:] != side[:, :-1]
    rows, starts = np.nonzero(changes & (side[:, 1:] != 0))
    stops = np.nonzero(changes & (side[:, :-1] != 0))[1]
    found = np.empty((rows.size, 3), np.uint32)
    found[:, 0], found[:, 1], found[:, 2] = starts, stops, side[rows, starts + 1] - 1
    return np.bincount(rows, minlength=depth), found


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fill_ends(
    first: np.ndarray, starts: np.ndarray, stops: np.ndarray, pieces: np.ndarray, width: int, side: np.ndarray
) -> None:
    """Pieces, counted from 1, at the start of rows, or, if `width` is not 0, at their end."""
    for z in range(side.shape[0]):
        for y in range(side.shape[1]):
            row = z * side.shape[1] + y
            if first[row] < first[row + 1]:
                run = first[row] if width == 0 else first[row + 1] - 1
                if (starts[run] == 0) if width == 0 else (stops[run] == width):
                    side[z, y] = pieces[run] + 1
