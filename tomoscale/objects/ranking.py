"""Final numbers of components: the rank of their first voxel in scan order, without all of them in one memory.

The rank of a first voxel is the number of first voxels in the rows (z, y) before its own, plus those before it in its
row. Rows are counted from the tables of one block after the other into a file of one number per row, which is summed up
along the volume; then the blocks along x give out the numbers of each row in turn:

.. code-block:: text

    row (z, y)      block 0        block 1        block 2         12 first voxels lie in the rows before
                   |  a    b    |       c      |             |    a = 13, b = 14, c = 15; the next row starts at 16
"""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np

from tomoscale.objects.joining import Joined, Tables
from tomoscale.objects.painting import VALUES

_CHUNK = 2**20
_jit = numba.njit(cache=True, nogil=True)


def rank(tables: Tables, joined: Joined, folder: Path) -> tuple[int, np.dtype[np.unsignedinteger]]:
    """Number all components from 1 and write the number of every piece, ordered by block, to the file `VALUES`.

    Returns
    -------
    int, dtype
        How many components there are, and the type of the file: uint32, or uint64 from 2^32 components on.
    """
    depth, height, _ = tables.grid.shape
    rows = np.memmap(folder / "rows", np.int64, "w+", shape=(depth, height))
    leads = joined.leads
    for number, region in enumerate(tables.grid):
        _count_leads(_leading_rows(tables, joined, leads, number), np.asarray(rows[region[:2]]))
    n = _start_rows(rows)
    dtype: np.dtype[np.unsignedinteger] = np.dtype(np.uint32 if n < 2**32 else np.uint64)
    values = np.memmap(folder / VALUES, dtype, "w+", shape=(max(1, int(tables.pieces[-1])),))
    ids = np.zeros(leads.size, dtype)
    # Blocks along x take turns in every row, and come after each other.
    for number, region in enumerate(tables.grid):
        own = values[tables.pieces_of(number)]
        _give_out(_leading_rows(tables, joined, leads, number), np.asarray(rows[region[:2]]), np.asarray(own))
        nodes = tables.nodes_of(number)
        ids[nodes] = own[joined.border[nodes]]
    for number in range(len(tables.grid)):
        nodes = tables.nodes_of(number)
        values[tables.pieces[number] + joined.border[nodes]] = ids[joined.leader[nodes]]
    values.flush()
    del rows
    (folder / "rows").unlink()
    return n, dtype


def _leading_rows(tables: Tables, joined: Joined, leads: np.ndarray, number: int) -> np.ndarray:
    """Row of the block in which the first voxel of each piece lies, in scan order; -1 if another block's piece leads."""
    width, nodes = tables.grid.region(number)[2], tables.nodes_of(number)
    place: np.ndarray = tables.block(number).read("first").astype(np.int64) // (width.stop - width.start)
    place[joined.border[nodes][~leads[nodes]]] = -1
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


def _start_rows(rows: np.ndarray) -> int:
    """Turn counts into the number that each row starts with, the first with 1; give the sum of the counts."""
    total, flat = 0, rows.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        ends = np.cumsum(part)
        flat[start : start + _CHUNK] = total + 1 + ends - part
        total += int(ends[-1])
    return total
