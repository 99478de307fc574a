"""What one 2×2×2 neighbourhood of voxels, a *cell*, adds to the quantities of an object, and how many of each there are.

The code of a cell has one bit per voxel, z-major: voxel ``(dz, dy, dx)`` is bit ``4 * dz + 2 * dy + dx``. Its kind
says axis by axis whether it sticks out of the volume below (0), lies inside (1) or sticks out above (2). What a cell
adds is a table of 256 integers, one per code.
"""

from __future__ import annotations

from itertools import product

import numba
import numpy as np
from scipy.spatial import SphericalVoronoi

from tomoscale.arrays import Array, namespace_for, on_host

BELOW, INSIDE, ABOVE = 0, 1, 2
CORNERS = np.array(list(product((0, 1), repeat=3)))
"""(8, 3) offsets (dz, dy, dx) of the voxels of a cell, in the order of the bits of its code."""

DIRECTIONS = np.array([d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)])
"""(13, 3) lattice directions (z, y, x): one of each opposite pair of the 26 neighbours of a voxel."""

SET = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (256, 8): is this voxel of the cell object?
KINDS = (3, 3, 3)
PRESENT = np.array(  # (27, 8): does this voxel of a cell of this kind lie in the volume?
    [
        [all(not (k == BELOW and c == 0) and not (k == ABOVE and c == 1) for k, c in zip(kind, corner, strict=True))
         for corner in CORNERS.tolist()]
        for kind in product((BELOW, INSIDE, ABOVE), repeat=3)
    ]
)  # fmt: skip


def count_cells(mask: Array, below: tuple[int, ...], above: tuple[int, ...]) -> Array:
    """Count the cells of a mask by kind and code.

    Parameters
    ----------
    mask : (Z + 1, Y + 1, X + 1) uint8 array of 0 and 1, NumPy or CuPy
        Holds Z × Y × X cells.
    below, above : (z, y, x)
        1 where the first, the last cell of the axis sticks out of the volume, else 0.

    Returns
    -------
    (3, 3, 3, 256) int64 array of the same kind as `mask`.
    """
    counts = namespace_for(mask).zeros((*KINDS, 256), np.int64)
    if on_host(mask):
        kinds = (_kinds(n - 1, b, a) for n, b, a in zip(mask.shape, below, above, strict=True))
        _count_cells(mask, *kinds, counts)
    else:
        _count_cells_by_slabs(mask, below, above, counts)
    return counts


def direction_weights(directions: np.ndarray) -> np.ndarray:
    """Share of the sphere that is nearer to ±d than to any other of the (n, 3) directions: (n,) float64, sums to 1."""
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    areas = SphericalVoronoi(np.concatenate([units, -units])).calculate_areas()
    weights: np.ndarray = areas.reshape(2, -1).sum(axis=0)
    return np.asarray(weights / weights.sum())


def pairs_along(direction: np.ndarray) -> list[tuple[int, int]]:
    """Corner pairs (a, b) of a cell with b - a = direction: 4 along an axis, 2 along a face diagonal, 1 otherwise."""
    return [(a, b) for a, b in product(range(8), repeat=2) if (CORNERS[b] - CORNERS[a] == direction).all()]


def euler_table(connectivity: int) -> np.ndarray:
    """Eight times what a cell of each code adds to the Euler number: (256,) int64."""
    corners = SET.sum(axis=1)
    sides = [SET[:, CORNERS[:, axis] == side] for axis in range(3) for side in (0, 1)]
    pairs = [SET[:, [a, b]] for d in DIRECTIONS if np.abs(d).sum() == 1 for a, b in pairs_along(d)]
    if connectivity == 26:
        # Around the corner in the middle: an edge touches the four voxels of a side, a face touches two voxels.
        edges = sum(side.any(axis=1).astype(np.int64) for side in sides)
        faces = sum(pair.any(axis=1).astype(np.int64) for pair in pairs)
        return np.asarray(8 * SET.any(axis=1) - 4 * edges + 2 * faces - corners)
    both = sum(pair.all(axis=1).astype(np.int64) for pair in pairs)  # each pair lies in four cells
    squares = sum(side.all(axis=1).astype(np.int64) for side in sides)  # each square in two
    return np.asarray(corners - 2 * both + 4 * squares - 8 * SET.all(axis=1))


def flat_euler_table(axes: tuple[int, ...]) -> np.ndarray:
    """2 ** (3 - n) times what a cell adds to the Euler number in a face, edge or corner of the box: (256,) int64.

    `axes` are the n axes along which the cell sticks out. What is left of the cell are the 2 ** (3 - n) voxels in
    the volume, the others are not set; 26-connected, as in `euler_table`.
    """
    free = [axis for axis in range(3) if axis not in axes]
    # Project along the axes that stick out: a voxel of the flat cell is set if either of its two voxels is.
    flat = np.stack(
        [SET[:, (CORNERS[:, free] == place).all(axis=1)].any(axis=1) for place in product((0, 1), repeat=len(free))],
        axis=1,
    ).astype(np.int64)
    count = flat.sum(axis=1)
    if len(free) == 0:
        return np.asarray(count)
    if len(free) == 1:
        return np.asarray(2 * flat.any(axis=1) - count)
    lines = sum(flat[:, list(pair)].any(axis=1).astype(np.int64) for pair in ((0, 1), (2, 3), (0, 2), (1, 3)))
    return np.asarray(4 * flat.any(axis=1) - 2 * lines + count)


def section_table(k: int, background: bool) -> np.ndarray:
    """24 times what a cell adds to the Euler number of sections with planes of normal `DIRECTIONS[k]`: (27, 256).

    The corners of a cell on one such plane form a square or rectangle, or a triangle. A rectangle adds a quarter if one
    of its voxels is set and minus a quarter if three are; a triangle a sixth for one and minus a sixth for two. Squares
    normal to an axis lie in two cells, the others in one. Without `background` all their voxels must lie in the volume.
    """
    height = CORNERS @ DIRECTIONS[k]
    table = np.zeros((27, 256), np.int64)
    along_axis = np.abs(DIRECTIONS[k]).sum() == 1
    for value in np.unique(height):
        section = np.flatnonzero(height == value)
        if len(section) < 3:
            continue
        n_set = SET[:, section].sum(axis=1)
        share = 4 if len(section) == 3 else 3 if along_axis else 6
        adds = share * ((n_set == 1).astype(np.int64) - (n_set == len(section) - 1))
        counted = np.logical_or(background, PRESENT[:, section].all(axis=1))
        table += counted.astype(np.int64)[:, None] * adds
    return table


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_cells(
    mask: np.ndarray, kinds_z: np.ndarray, kinds_y: np.ndarray, kinds_x: np.ndarray, counts: np.ndarray
) -> None:
    """Add the cells of a uint8 mask (0 or 1) to (3, 3, 3, 256) counts, given how the cells of each axis lie."""
    depth, height, width = kinds_z.size, kinds_y.size, kinds_x.size
    columns = np.empty(width + 1, np.uint8)
    codes = np.zeros((width + 7) // 8 * 8, np.uint8)
    words = codes.view(np.uint64)
    for z in range(depth):
        for y in range(height):
            row, row_y, row_z, row_zy = mask[z, y], mask[z, y + 1], mask[z + 1, y], mask[z + 1, y + 1]
            for x in range(width + 1):
                columns[x] = row[x] | row_y[x] << 2 | row_z[x] << 4 | row_zy[x] << 6
            for x in range(width):
                codes[x] = columns[x] | columns[x + 1] << 1
            at = counts[kinds_z[z], kinds_y[y]]
            _tally(words, codes, at[INSIDE])
            at[INSIDE, 0] -= codes.size - width  # what fills the last word
            for x in range(0, width, max(1, width - 1)):  # only the first and the last cell can stick out
                at[INSIDE, codes[x]] -= 1
                at[kinds_x[x], codes[x]] += 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _tally(words: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> None:
    """Count codes by value; most of a volume is inside or outside, where eight equal codes are one comparison."""
    n_empty, n_full = 0, 0
    for i in range(words.size):
        if words[i] == 0:
            n_empty += 8
        elif words[i] == np.uint64(0xFFFFFFFFFFFFFFFF):
            n_full += 8
        else:
            for x in range(8 * i, 8 * i + 8):
                counts[codes[x]] += 1
    counts[0] += n_empty
    counts[255] += n_full


def _kinds(n_cells: int, below: int, above: int) -> np.ndarray:
    """How the cells along one axis lie to the volume; `below`, `above`: 1 if the first, the last sticks out."""
    kinds = np.full(n_cells, INSIDE)
    kinds[:below] = BELOW
    kinds[n_cells - above :] = ABOVE
    return kinds


def _count_cells_by_slabs(mask: Array, below: tuple[int, ...], above: tuple[int, ...], counts: Array) -> None:
    """Do what `_count_cells` does with array functions only, an eighth of the planes at a time."""
    depth = mask.shape[0] - 1
    step = max(1, depth // 8)
    for start in range(0, depth, step):
        stop = min(start + step, depth)
        codes = _codes(mask[start : stop + 1])
        first = (int(bool(below[0]) and start == 0), *below[1:])
        last = (int(bool(above[0]) and stop == depth), *above[1:])
        spans = [
            (slice(0, b), slice(b, n - a), slice(n - a, n)) for b, a, n in zip(first, last, codes.shape, strict=True)
        ]
        for kind in product((BELOW, INSIDE, ABOVE), repeat=3):
            counts[kind] += _count_codes(codes[tuple(span[k] for span, k in zip(spans, kind, strict=True))])


def _codes(mask: Array) -> Array:
    """Codes of all cells of a uint8 mask, one fewer along each axis."""
    shape = tuple(n - 1 for n in mask.shape)
    codes = namespace_for(mask).zeros(shape, mask.dtype)
    for bit, corner in enumerate(CORNERS.tolist()):
        codes |= mask[tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))] << bit
    return codes


def _count_codes(codes: Array) -> Array:
    """Count codes by value: (256,). Few are mixed; without the others the counters of a GPU need not queue."""
    counts = namespace_for(codes).bincount(codes[(codes != 0) & (codes != 255)], minlength=256)
    counts[0] = (codes == 0).sum()
    counts[255] = (codes == 255).sum()
    return counts
