"""Final numbers of components: the rank of their first voxel in scan order, without all of them in one memory.

The rank of a first voxel is the number of first voxels in the rows (z, y) before its own, plus those before it in its
row. Rows are counted from the tables of one block after the other into a file of one number per row, which is summed up
along the volume; then the blocks along x give out the numbers of each row in turn:

.. code-block:: text

    row (z, y)      block 0        block 1        block 2         12 first voxels lie in the rows before
                   |  a    b    |       c      |             |    a = 13, b = 14, c = 15; the next row starts at 16
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np

from tomoscale.geometry import Grid
from tomoscale.objects.joining import Joined, Tables
from tomoscale.objects.painting import VALUES

_CHUNK = 2**20
_ROWS = "rows"
_jit = numba.njit(cache=True, nogil=True)


def rank(tables: Tables, joined: Joined, folder: Path) -> tuple[int, np.dtype[np.unsignedinteger]]:
    """Number all components from 1 and write the number of every piece, ordered by block, to the file `VALUES`.

    Returns
    -------
    int, dtype
        How many components there are, and the type of the file: uint32, or uint64 from 2^32 components on.
    """
    _make_file(folder / _ROWS, 8 * math.prod(tables.grid.shape[:2]))
    for layer in _layers(tables.grid):
        rows = _rows(tables.grid, folder, layer)
        for number in layer:
            _count_leads(_leading_rows(tables, joined, number), _of_block(rows, tables.grid, number))
    n = 0
    for layer in _layers(tables.grid):
        n = _start_rows(_rows(tables.grid, folder, layer).reshape(-1), n)
    dtype: np.dtype[np.unsignedinteger] = np.dtype(np.uint32 if n < 2**32 else np.uint64)
    _make_file(folder / VALUES, dtype.itemsize * max(1, int(tables.pieces[-1])))
    ids = np.zeros(joined.leader.size, dtype)
    for layer in _layers(tables.grid):
        rows, values = _rows(tables.grid, folder, layer), _values(tables, folder, layer, dtype)
        # Blocks along x take turns in every row, and come after each other.
        for number, own in zip(layer, values, strict=True):
            _give_out(_leading_rows(tables, joined, number), _of_block(rows, tables.grid, number), own)
            nodes = tables.nodes_of(number)
            ids[nodes] = own[joined.border[nodes]]
    for layer in _layers(tables.grid):
        for number, own in zip(layer, _values(tables, folder, layer, dtype), strict=True):
            nodes = tables.nodes_of(number)
            own[joined.border[nodes]] = ids[joined.leader[nodes]]
    (folder / _ROWS).unlink()
    return n, dtype


def _layers(grid: Grid) -> Iterator[range]:
    """Blocks of one place along z after the other: files are mapped for a layer, so that a process holds no more."""
    size = grid.counts[1] * grid.counts[2]
    return (range(start, start + size) for start in range(0, len(grid), size))


def _make_file(path: Path, size: int) -> None:
    """Make a file of zeros, which take no room before they are changed."""
    with path.open("wb") as file:
        file.truncate(size)


def _rows(grid: Grid, folder: Path, layer: range) -> np.ndarray:
    """One number for each row (z, y) of a layer, mapped from the file."""
    z, height = grid.region(layer[0])[0], grid.shape[1]
    return np.asarray(
        np.memmap(folder / _ROWS, np.int64, "r+", offset=8 * z.start * height, shape=(z.stop - z.start, height))
    )


def _of_block(rows: np.ndarray, grid: Grid, number: int) -> np.ndarray:
    return rows[:, grid.region(number)[1]]


def _values(tables: Tables, folder: Path, layer: range, dtype: np.dtype[Any]) -> list[np.ndarray]:
    """Values of the pieces of each block of a layer, mapped from the file."""
    start, stop = int(tables.pieces[layer.start]), int(tables.pieces[layer.stop])
    if start == stop:
        return [np.zeros(0, dtype) for _ in layer]
    mapped = np.memmap(folder / VALUES, dtype, "r+", offset=start * dtype.itemsize, shape=(stop - start,))
    return np.split(np.asarray(mapped), tables.pieces[layer.start + 1 : layer.stop] - start)


def _leading_rows(tables: Tables, joined: Joined, number: int) -> np.ndarray:
    """Row of the block in which the first voxel of each piece lies, in scan order; -1 if another block's piece leads."""
    width, nodes = tables.grid.region(number)[2], tables.nodes_of(number)
    place: np.ndarray = tables.block(number).read("first").astype(np.int64) // (width.stop - width.start)
    place[joined.border[nodes][~joined.leads[nodes]]] = -1
    return place


@_jit  # type: ignore[untyped-decorator]
def _count_leads(place: np.ndarray, rows: np.ndarray) -> None:
    """Count the pieces that lead in each row, (Z, Y)."""
    height = rows.shape[1]
    for row in place:
        if row >= 0:
            rows[row // height, row % height] += 1


@_jit  # type: ignore[untyped-decorator]
def _give_out(place: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> None:
    """Give each piece that leads the next number of its row; pieces come in scan order."""
    height = rows.shape[1]
    for piece in range(place.size):
        row = place[piece]
        if row >= 0:
            numbers[piece] = rows[row // height, row % height]
            rows[row // height, row % height] += 1


def _start_rows(rows: np.ndarray, total: int) -> int:
    """Turn counts into the number that each row starts with, one more than `total` at first; add the counts to it."""
    for start in range(0, rows.size, _CHUNK):
        part = rows[start : start + _CHUNK]
        ends = np.cumsum(part)
        rows[start : start + _CHUNK] = total + 1 + ends - part
        total += int(ends[-1])
    return total
