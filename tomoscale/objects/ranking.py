"""Final numbers of components: the rank of their first voxel in scan order, without all of them in one memory.

The rank of a first voxel is the number of first voxels in the rows (z, y) before its own, plus those before it in its
row. Rows are counted from the tables of one block after the other into a file of one number per row, which is summed up
along the volume; then the blocks along x give out the numbers of each row in turn:

.. code-block:: text

    row (z, y)      block 0        block 1        block 2         12 first voxels lie in the rows before
                   |  a    b    |       c      |             |    a = 13, b = 14, c = 15; the next row starts at 16
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tomoscale.geometry import Region
from tomoscale.objects.joining import Joined, Tables
from tomoscale.objects.painting import VALUES

_CHUNK = 2**20


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
        rows[region[:2]] += _row_counts(_leading_rows(tables, leads, number), region)
    n = _start_rows(rows)
    dtype: np.dtype[np.unsignedinteger] = np.dtype(np.uint32 if n < 2**32 else np.uint64)
    values = np.memmap(folder / VALUES, dtype, "w+", shape=(max(1, int(tables.pieces[-1])),))
    ids = np.zeros(leads.size, dtype)
    for column in _columns(tables):
        y_z = tables.grid.region(column[0])[:2]
        start = rows[y_z].reshape(-1).copy()
        for number in column:
            place = _leading_rows(tables, leads, number)
            numbers, counts = _give_out(place, start, tables.grid.region(number))
            start += counts
            own = np.zeros(place.size, dtype)
            own[place >= 0] = numbers
            values[tables.pieces_of(number)] = own
            ids[tables.nodes_of(number)] = own[tables.block(number).read("border")]
    for number in range(len(tables.grid)):
        border = tables.block(number).read("border").astype(np.int64)
        values[tables.pieces[number] + border] = ids[joined.leader[tables.nodes_of(number)]]
    values.flush()
    del rows
    (folder / "rows").unlink()
    return n, dtype


def _leading_rows(tables: Tables, leads: np.ndarray, number: int) -> np.ndarray:
    """Row of the block in which the first voxel of each piece lies, in scan order; -1 if another block's piece leads."""
    stored = tables.block(number)
    width = tables.grid.region(number)[2]
    place: np.ndarray = stored.read("first").astype(np.int64) // (width.stop - width.start)
    border = stored.read("border")
    place[border[~leads[tables.nodes_of(number)]]] = -1
    return place


def _row_counts(place: np.ndarray, region: Region) -> np.ndarray:
    shape = (region[0].stop - region[0].start, region[1].stop - region[1].start)
    counts = np.bincount(place[place >= 0], minlength=shape[0] * shape[1])
    return np.asarray(counts).reshape(shape)


def _give_out(place: np.ndarray, start: np.ndarray, region: Region) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the pieces that lead, given the next number of each row, and how many each row took."""
    place = place[place >= 0]
    counts = _row_counts(place, region).reshape(-1)
    before = np.cumsum(counts) - counts
    # Pieces come in scan order, so that within a row they are numbered as they come.
    return start[place] + np.arange(place.size) - before[place], counts


def _start_rows(rows: np.ndarray) -> int:
    """Turn counts into the number that each row starts with, the first with 1; give the sum of the counts."""
    total, flat = 0, rows.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        ends = np.cumsum(part)
        flat[start : start + _CHUNK] = total + 1 + ends - part
        total += int(ends[-1])
    return total


def _columns(tables: Tables) -> Iterator[range]:
    """Blocks along x, for each place along z and y."""
    along_x = tables.grid.counts[2]
    for first in range(0, len(tables.grid), along_x):
        yield range(first, first + along_x)
