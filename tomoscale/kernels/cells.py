"""Compiled loops of `coarsen`: means and modes of cells of one or two voxels along each axis, in place."""

from __future__ import annotations

import numba

from tomoscale.arrays import Array
from tomoscale.geometry import Shape


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def average_integers(values: Array, factor: Shape, row: Array, means: Array) -> None:
    """Means of cells of integers of at most 32 bits; `row` (int64) holds sums over z and y."""
    fz, fy, fx = factor
    n = fz * fy * fx
    shift = 0
    while (1 << shift) < n:
        shift += 1
    for z in range(means.shape[0]):
        for y in range(means.shape[1]):
            _add_rows(values, z, y, factor, row)
            for x in range(means.shape[2]):
                total = row[x]
                if fx == 2:
                    total = row[2 * x] + row[min(2 * x + 1, row.size - 1)]
                mean, twice = total >> shift, 2 * (total & (n - 1))
                if twice > n or (twice == n and mean & 1):
                    mean += 1
                means[z, y, x] = mean


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def average_floats(values: Array, factor: Shape, row: Array, means: Array) -> None:
    """Means of cells of floats; `row` (float64) holds sums over z and y."""
    fz, fy, fx = factor
    scale = 1.0 / (fz * fy * fx)
    for z in range(means.shape[0]):
        for y in range(means.shape[1]):
            _add_rows(values, z, y, factor, row)
            for x in range(means.shape[2]):
                total = row[x]
                if fx == 2:
                    total = row[2 * x] + row[min(2 * x + 1, row.size - 1)]
                means[z, y, x] = total * scale


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_rows(values: Array, z: int, y: int, factor: Shape, row: Array) -> None:
    """Add up the rows along x of one row of cells, z before y."""
    row[:] = 0
    for dz in range(factor[0]):
        for dy in range(factor[1]):
            source = values[min(factor[0] * z + dz, values.shape[0] - 1), min(factor[1] * y + dy, values.shape[1] - 1)]
            for x in range(row.size):
                row[x] += source[x]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def vote(labels: Array, factor: Shape, alike: Array, cell: Array, modes: Array) -> None:
    """Modes of cells; see `vote_cells`. `alike` has room for a row along x, `cell` for the eight voxels of a cell.

    A cell that has fewer votes with some of them twice or four times, all as often.
    """
    fz, fy, fx = factor
    for z in range(modes.shape[0]):
        z0, z1 = fz * z, min(fz * z + fz, labels.shape[0]) - 1
        for y in range(modes.shape[1]):
            y0, y1 = fy * y, min(fy * y + fy, labels.shape[1]) - 1
            a, b, c, d = labels[z0, y0], labels[z0, y1], labels[z1, y0], labels[z1, y1]
            for x in range(alike.size):
                alike[x] = (a[x] == b[x]) & (a[x] == c[x]) & (a[x] == d[x])
            for x in range(modes.shape[2]):
                x0, x1 = fx * x, min(fx * x + fx, labels.shape[2]) - 1
                # So it is in nearly all cells of a segmentation, and five votes of eight are not outvoted.
                if alike[x0] & (a[x0] == a[x1]):
                    modes[z, y, x] = a[x0]
                    continue
                cell[0], cell[1], cell[2], cell[3] = a[x0], a[x1], b[x0], b[x1]
                cell[4], cell[5], cell[6], cell[7] = c[x0], c[x1], d[x0], d[x1]
                modes[z, y, x] = _mode(cell)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mode(cell: Array) -> int:
    """Most frequent of the labels; of equally frequent ones 0 loses, else the smallest wins."""
    best, most = cell[0], 0
    for k in range(cell.size):
        votes = 0
        for other in range(cell.size):
            votes += cell[other] == cell[k]
        if votes > most or (votes == most and cell[k] != 0 and (best == 0 or cell[k] < best)):
            best, most = cell[k], votes
    return best  # type: ignore[no-any-return]
