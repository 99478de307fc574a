"""An object as runs of voxels along x, and which runs belong to one connected piece.

Masks of scans hold some hundred times fewer runs than voxels, so that finding the pieces costs little more than one look
at every voxel. Runs lie in scan order (z, y, x), and a piece is numbered by its first run: the numbers depend on the
voxels alone, not on how they were found.

.. code-block:: text

    mask       0 1 1 1 0 0 1 1        runs (1, 4) and (6, 8) of row y
               0 0 0 0 1 0 0 0        run (4, 5) of row y + 1: touches the first by a corner, the second not
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np

from tomoscale.geometry import Shape

Connectivity = Literal[6, 18, 26]

RUN_BYTES = 8
"""Two ends of 16 bits, and the number of the piece; rows of more than 65535 voxels take 12."""

_jit = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True)
class Runs:
    """The member voxels of a block, as runs along x in scan order.

    Attributes
    ----------
    shape : (Z, Y, X)
        Of the block.
    first : (Z * Y + 1,) int64 array
        Number of the first run of each row; the last entry is the number of runs.
    starts, stops : (n,) uint16 or int32 arrays
        Voxels ``starts[i]`` to ``stops[i] - 1`` of the row.
    """

    shape: Shape
    first: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def __len__(self) -> int:
        return self.starts.size


def find_runs(mask: np.ndarray, values: np.ndarray | None = None) -> Runs:
    """Runs of the set voxels of a mask; where `values` are given, a run ends where they change.

    Parameters
    ----------
    mask : (Z, Y, X) bool array, in C order
    values : (Z, Y, X) unsigned integer array, in C order, or None
    """
    depth, height, width = mask.shape
    rows = mask.view(np.uint8).reshape(depth * height, width)
    others = rows if values is None else values.reshape(depth * height, width)
    first = np.zeros(depth * height + 1, np.int64)
    _count_runs(rows, others, first)
    dtype = np.uint16 if width <= 0xFFFF else np.int32
    starts, stops = np.empty(first[-1], dtype), np.empty(first[-1], dtype)
    _fill_runs(rows, others, first, starts, stops)
    return Runs((depth, height, width), first, starts, stops)


def join_runs(runs: Runs, connectivity: Connectivity, values: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Number of the connected piece of every run, and how many pieces there are.

    Parameters
    ----------
    runs : Runs
    connectivity : 6, 18 or 26
        Voxels that share a face, an edge, or a corner belong together.
    values : (Z, Y, X) unsigned integer array, in C order, or None
        Where given, only runs of one value belong together.

    Returns
    -------
    (n,) int32 (or int64) array, int
        Pieces are numbered from 0 in the order of their first voxels.
    """
    pieces = np.arange(len(runs), dtype=np.int32 if len(runs) < 2**31 else np.int64)
    valued = values is not None
    rows = np.zeros((1, 1), np.uint8) if values is None else values.reshape(-1, runs.shape[2])
    _join_rows(runs.first, runs.starts, runs.stops, pieces, runs.shape[1], connectivity, rows, valued)
    return pieces, int(_number(pieces))


def piece_extents(runs: Runs, pieces: np.ndarray, n_pieces: int) -> tuple[np.ndarray, np.ndarray]:
    """First voxel (index in the block, z-major) and number of voxels of every piece.

    Returns
    -------
    (n_pieces,) and (n_pieces,) arrays, uint32, or int64 for blocks of 2^32 voxels and more.
    """
    dtype = np.uint32 if np.prod(runs.shape, dtype=np.int64) < 2**32 else np.int64
    first, voxels = np.zeros(n_pieces, dtype), np.zeros(n_pieces, dtype)
    _extents(runs.first, runs.starts, runs.stops, pieces, runs.shape[2], first, voxels)
    return first, voxels


def paint_pieces(target: np.ndarray, runs: Runs, pieces: np.ndarray, lookup: np.ndarray, kept: np.ndarray) -> None:
    """Set the voxels of every piece that is not kept to its value.

    Parameters
    ----------
    target : (Z, Y, X) array, in C order
        Changed in place.
    runs, pieces
        Of `find_runs` and `join_runs`.
    lookup : (n_pieces,) array of the type of `target`
    kept : (n_pieces,) bool array, or empty
        Pieces that are left as they are; empty for none.
    """
    _paint(target.reshape(-1, runs.shape[2]), runs.first, runs.starts, runs.stops, pieces, lookup, kept)


@_jit  # type: ignore[untyped-decorator]
def _count_runs(mask: np.ndarray, values: np.ndarray, first: np.ndarray) -> None:
    n_rows, width = mask.shape
    for row in range(n_rows):
        n = np.int64(mask[row, 0])
        for x in range(1, width):
            n += mask[row, x] & ((mask[row, x - 1] == 0) | (values[row, x] != values[row, x - 1]))
        first[row + 1] = first[row] + n


@_jit  # type: ignore[untyped-decorator]
def _fill_runs(mask: np.ndarray, values: np.ndarray, first: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
    n_rows, width = mask.shape
    for row in range(n_rows):
        x = 0
        for run in range(first[row], first[row + 1]):
            while mask[row, x] == 0:
                x += 1
            starts[run] = x
            value = values[row, x]
            while x < width and mask[row, x] != 0 and values[row, x] == value:
                x += 1
            stops[run] = x


@_jit  # type: ignore[untyped-decorator]
def _root(parents: np.ndarray, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@_jit  # type: ignore[untyped-decorator]
def _unite(parents: np.ndarray, a: int, b: int) -> None:
    """Make the first run of two pieces that of both."""
    a, b = _root(parents, a), _root(parents, b)
    if a < b:
        parents[b] = a
    elif b < a:
        parents[a] = b


@_jit  # type: ignore[untyped-decorator]
def _join_pair(  # noqa: PLR0913 -- plain arrays, as compiled code takes them
    first: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    parents: np.ndarray,
    row: int,
    other: int,
    reach: int,
    values: np.ndarray,
    valued: bool,
) -> None:
    """Join the runs of two rows that overlap, or with a `reach` of 1 meet at a corner."""
    a, a_end, b, b_end = first[row], first[row + 1], first[other], first[other + 1]
    while a < a_end and b < b_end:
        # The ends are of 16 bits: sums must not wrap.
        a_stop, b_stop = np.int64(stops[a]), np.int64(stops[b])
        a_start, b_start = np.int64(starts[a]), np.int64(starts[b])
        if (
            a_start < b_stop + reach
            and b_start < a_stop + reach
            and (not valued or values[row, a_start] == values[other, b_start])
        ):
            _unite(parents, a, b)
        if a_stop == b_stop and valued and reach:
            # Where runs of several values follow without a gap, each also meets the one after the other.
            if b + 1 < b_end and starts[b + 1] == a_stop and values[row, a_start] == values[other, a_stop]:
                _unite(parents, a, b + 1)
            if a + 1 < a_end and starts[a + 1] == b_stop and values[other, b_start] == values[row, b_stop]:
                _unite(parents, a + 1, b)
        if a_stop <= b_stop:
            a += 1
        if b_stop <= a_stop:
            b += 1


@_jit  # type: ignore[untyped-decorator]
def _join_rows(  # noqa: PLR0913 -- plain arrays, as compiled code takes them
    first: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    parents: np.ndarray,
    height: int,
    connectivity: int,
    values: np.ndarray,
    valued: bool,
) -> None:
    """Join the runs of every row with those of the rows before it."""
    # How far a neighbour along x may be, given that the row differs along one axis, or along two.
    beside, across = (0, -1) if connectivity == 6 else (1, 0) if connectivity == 18 else (1, 1)
    for row in range(first.size - 1):
        if first[row] == first[row + 1]:
            continue
        y, above = row % height, row - height
        if y > 0:
            _join_pair(first, starts, stops, parents, row, row - 1, beside, values, valued)
        if above >= 0:
            if y > 0 and across >= 0:
                _join_pair(first, starts, stops, parents, row, above - 1, across, values, valued)
            _join_pair(first, starts, stops, parents, row, above, beside, values, valued)
            if y + 1 < height and across >= 0:
                _join_pair(first, starts, stops, parents, row, above + 1, across, values, valued)


@_jit  # type: ignore[untyped-decorator]
def _number(parents: np.ndarray) -> int:
    """Turn the tree into numbers of pieces, in place: a run's parent is an earlier run, which has its number already."""
    n = 0
    for run in range(parents.size):
        if parents[run] == run:
            parents[run] = n
            n += 1
        else:
            parents[run] = parents[parents[run]]
    return n


@_jit  # type: ignore[untyped-decorator]
def _extents(  # noqa: PLR0913 -- plain arrays, as compiled code takes them
    rows: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    pieces: np.ndarray,
    width: int,
    first: np.ndarray,
    voxels: np.ndarray,
) -> None:
    for row in range(rows.size - 1):
        for run in range(rows[row], rows[row + 1]):
            piece = pieces[run]
            if voxels[piece] == 0:
                first[piece] = row * width + starts[run]
            voxels[piece] += stops[run] - starts[run]


@_jit  # type: ignore[untyped-decorator]
def _paint(  # noqa: PLR0913 -- plain arrays, as compiled code takes them
    target: np.ndarray,
    first: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    pieces: np.ndarray,
    lookup: np.ndarray,
    kept: np.ndarray,
) -> None:
    for row in range(target.shape[0]):
        for run in range(first[row], first[row + 1]):
            piece = pieces[run]
            if kept.size and kept[piece]:
                continue
            value = lookup[piece]
            for x in range(starts[run], stops[run]):
                target[row, x] = value
