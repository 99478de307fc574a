"""Sums over the voxels of every object of a label volume: size, place, second moments, box, surface.

All are integers that add over blocks (the box by minimum and maximum), so that an object which several blocks share is
measured exactly. They are taken from runs of one label along x, of which a scan has some hundred times fewer than voxels.
"""

from __future__ import annotations

import numba
import numpy as np

from tomoscale.geometry import Block, Halo, Spacing
from tomoscale.kernels.row_runs import find_runs
from tomoscale.measures.cells import DIRECTIONS, direction_weights

PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Axes of the second moments, in their order."""

VOXELS = 0
FIRST = slice(1, 4)
SECOND = slice(4, 10)
LOW = slice(10, 13)
HIGH = slice(13, 16)
BORDER = 16
CHANGES = slice(17, 30)
COLUMNS = 30
"""Columns: voxels; sums of z, y, x, and of their products in the order of `PAIRS`; least and greatest z, y, x; voxel
faces on the border of the volume; pairs of a voxel of the object and one that is not, for each of the 13 directions."""

HALO = Halo(before=(0, 1, 1), after=(1, 1, 1))
"""A pair of voxels belongs to the block of the one that comes first (z, y, x)."""

_NOWHERE = np.iinfo(np.int64).max
_STEPS = DIRECTIONS.astype(np.int64)


def sum_objects(labels: np.ndarray, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the objects of a block.

    Parameters
    ----------
    labels : (Z, Y, X) integer or bool array
        Read with `HALO`, clipped at the volume's edge; 0 is no object.
    block : Block

    Returns
    -------
    (k,) integer array, (k, `COLUMNS`) int64 array
        Labels in order, and their sums. Sums of coordinates are about the first voxel of the block's core; boxes are in
        voxels of the volume.
    """
    values = np.ascontiguousarray(labels)
    values = values.view(np.uint8) if values.dtype == bool else values
    plain = values.view(f"u{values.dtype.itemsize}")
    runs = find_runs(np.ones(values.shape, bool), plain)
    rows = np.repeat(np.arange(runs.first.size - 1), np.diff(runs.first))
    found, places = np.unique(values.reshape(-1, values.shape[2])[rows, runs.starts], return_inverse=True)
    del rows
    background = int(np.searchsorted(found, 0))
    if background == found.size or found[background] != 0:
        background = -1
    sums = np.zeros((found.size, COLUMNS), np.int64)
    sums[:, LOW], sums[:, HIGH] = _NOWHERE, -1
    core = np.array([[c.start, c.stop] for c in block.core], np.int64)
    origin = np.array([w.start for w in block.write], np.int64)
    borders = np.array(
        [[w.start == 0, w.stop == n] for w, n in zip(block.write, block.source_shape, strict=True)], np.bool_
    )
    _add_sums(runs.first, runs.starts, runs.stops, places, values.shape[1], core, origin, borders, sums)
    _add_changes(runs.first, runs.starts, runs.stops, places, np.array(values.shape), core, _STEPS, sums)
    objects = np.arange(found.size) != background
    # A label only past the core, with no pair that this block owns, has nothing here.
    objects &= (sums[:, VOXELS] > 0) | (sums[:, CHANGES] > 0).any(axis=1)
    return found[objects], sums[objects]


def surface_of_faces(changes: np.ndarray, voxel_size_um: Spacing) -> np.ndarray:
    """Sum of the voxel faces between an object and what is not of it, in square micrometres: (k,) float64.

    Faces on the border of the volume are none: there the volume cuts the object.

    Parameters
    ----------
    changes : (k, 13) integers
        Columns `CHANGES`.
    voxel_size_um : (z, y, x)
    """
    hz, hy, hx = voxel_size_um
    along = {tuple(d): i for i, d in enumerate(DIRECTIONS.tolist())}
    z, y, x = (changes[:, along[d]] for d in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    return np.asarray(z * (hy * hx) + y * (hz * hx) + x * (hz * hy))


def surface_of_crofton(changes: np.ndarray, voxel_size_um: Spacing) -> np.ndarray:
    """Surface in square micrometres from intersections with lines in 13 directions: (k,) float64.

    As `tomoscale.measures.topology.surface_area`, for many objects; parameters as for `surface_of_faces`.
    """
    lengths = DIRECTIONS * np.array(voxel_size_um)
    weights = direction_weights(lengths) / np.linalg.norm(lengths, axis=1)
    return np.asarray(2 * float(np.prod(voxel_size_um)) * (changes @ weights))


_jit = numba.njit(cache=True, nogil=True)


@_jit  # type: ignore[untyped-decorator]
def _squares(n: int) -> int:
    """Sum of the squares of 0 .. n - 1."""
    return (n - 1) * n * (2 * n - 1) // 6


@_jit  # type: ignore[untyped-decorator]
def _add_sums(  # noqa: PLR0913 -- plain arrays, as compiled code takes them
    first: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    places: np.ndarray,
    height: int,
    core: np.ndarray,
    origin: np.ndarray,
    borders: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add what the runs of the core bring to size, moments and box."""
    depth, rows, width = core[0, 1] - core[0, 0], core[1, 1] - core[1, 0], core[2, 1] - core[2, 0]
    for z in range(depth):
        for y in range(rows):
            row = (core[0, 0] + z) * height + core[1, 0] + y
            faces = (z == 0 and borders[0, 0]) + (z == depth - 1 and borders[0, 1])
            faces += (y == 0 and borders[1, 0]) + (y == rows - 1 and borders[1, 1])
            for run in range(first[row], first[row + 1]):
                start = max(np.int64(starts[run]) - core[2, 0], 0)
                stop = min(np.int64(stops[run]) - core[2, 0], width)
                if start >= stop:
                    continue
                own = sums[places[run]]
                n = stop - start
                along = n * (start + stop - 1) // 2
                own[0] += n
                own[1] += n * z
                own[2] += n * y
                own[3] += along
                own[4] += n * z * z
                own[5] += n * y * y
                own[6] += _squares(stop) - _squares(start)
                own[7] += n * z * y
                own[8] += along * z
                own[9] += along * y
                own[10] = min(own[10], z + origin[0])
                own[11] = min(own[11], y + origin[1])
                own[12] = min(own[12], start + origin[2])
                own[13] = max(own[13], z + origin[0])
                own[14] = max(own[14], y + origin[1])
                own[15] = max(own[15], stop - 1 + origin[2])
                own[16] += faces * n + (start == 0 and borders[2, 0]) + (stop == width and borders[2, 1])


@_jit  # type: ignore[untyped-decorator]
def _add_changes(  # noqa: PLR0913, C901 -- plain arrays, as compiled code takes them, in one loop
    first: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    places: np.ndarray,
    shape: np.ndarray,
    core: np.ndarray,
    steps: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add the pairs of voxels of different labels whose first one lies in the core."""
    for z in range(core[0, 0], core[0, 1]):
        for y in range(core[1, 0], core[1, 1]):
            for d in range(steps.shape[0]):
                to_z, to_y, dx = z + steps[d, 0], y + steps[d, 1], steps[d, 2]
                if to_z >= shape[0] or not 0 <= to_y < shape[1]:
                    continue
                # Every row is covered by runs without gaps: both are walked along together.
                here, there = first[z * shape[1] + y], first[to_z * shape[1] + to_y]
                x, end = max(core[2, 0], -dx), min(core[2, 1], shape[2] - dx)
                while x < end:
                    while stops[here] <= x:
                        here += 1
                    while stops[there] <= x + dx:
                        there += 1
                    stop = min(np.int64(stops[here]), np.int64(stops[there]) - dx, end)
                    a, b = places[here], places[there]
                    if a != b:
                        sums[a, 17 + d] += stop - x
                        sums[b, 17 + d] += stop - x
                    x = stop
