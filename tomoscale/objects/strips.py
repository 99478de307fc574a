"""Strips: the blocks of one row along x, whose sides are read and compared together.

.. code-block:: text

    strip of (z, y)       block 0 | block 1 | block 2 ...       each with the next: their sides across x
                                                                with strip (z, y + 1): their sides across y
                                                                with strips (z + 1, y - 1 .. y + 1): those across z

Blocks that touch by an edge or a corner need no case of their own: their sides lie in one plane, beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

from tomoscale.geometry import Shape, region_shape
from tomoscale.kernels.side_runs import side_rows

if TYPE_CHECKING:
    from tomoscale.objects.joining import Tables

_STRIPS_AT_ONCE = 6
_jit = numba.njit(cache=True, nogil=True)


class Strip(NamedTuple):
    """Sides of the blocks of a strip; a tuple, since compiled code takes it as it is.

    Attributes
    ----------
    rows : (n_blocks, n_rows + 1) uint32 array
        First run of each row of the sides, among those of its block.
    runs : (n, 3) uint32 array
        First voxel, the one after the last, node of the block.
    starts, nodes : (n_blocks,) int64 arrays
        First run, and first node, of each block among all.
    """

    rows: np.ndarray
    runs: np.ndarray
    starts: np.ndarray
    nodes: np.ndarray


class Meeting(NamedTuple):
    """Which sides of two strips are compared, and how they lie to each other.

    Attributes
    ----------
    here, there : (int, int)
        First row of the side, and how many it has.
    down : int
        Rows that the side there lies below.
    along : int
        Voxels from one block to the next along a row.
    neighbours : (int, int)
        Blocks there that block i meets: from i + the first up to i + the last.
    """

    here: tuple[int, int]
    there: tuple[int, int]
    down: int
    along: int
    neighbours: tuple[int, int]


def meetings(tables: Tables, *, edges: bool) -> Iterator[tuple[Strip, Strip, Meeting]]:
    """All strips that touch, and how; those that touch by an edge only with `edges`. Held are six strips at most."""
    counts = tables.grid.counts

    @lru_cache(maxsize=_STRIPS_AT_ONCE)
    def strip(z: int, y: int) -> tuple[Strip, Shape]:
        first = (z * counts[1] + y) * counts[2]
        return _read_strip(tables, first), region_shape(tables.grid.region(first))

    _, height, width = tables.grid.block_shape
    beside = (-1, 1) if edges else (0, 0)
    for z, y in np.ndindex(*counts[:2]):
        here, shape = strip(z, y)
        yield here, here, Meeting(_side(shape, 5), _side(shape, 4), 0, 0, (1, 1))
        if y + 1 < counts[1]:
            there, other = strip(z, y + 1)
            yield here, there, Meeting(_side(shape, 3), _side(other, 2), 0, width, beside)
        for step in range(beside[0], beside[1] + 1) if z + 1 < counts[0] else ():
            if 0 <= y + step < counts[1]:
                there, other = strip(z + 1, y + step)
                yield here, there, Meeting(_side(shape, 1), _side(other, 0), step * height, width, beside)


def _read_strip(tables: Tables, first: int) -> Strip:
    numbers = range(first, first + tables.grid.counts[2])
    files = [tables.block(number) for number in numbers]
    runs = [file.read("runs") for file in files]
    starts = np.cumsum([0, *(len(r) for r in runs[:-1])])
    return Strip(np.stack([f.read("rows") for f in files]), np.concatenate(runs), starts, tables.nodes[numbers])


def _side(shape: Shape, number: int) -> tuple[int, int]:
    rows = side_rows(shape)
    return sum(rows[:number]), rows[number]


@_jit  # type: ignore[untyped-decorator]
def unite_strips(  # noqa: PLR0913 -- plain arrays, as compiled code takes them
    here: Strip,
    there: Strip,
    meeting: Meeting,
    reach: int,
    parents: np.ndarray,
    first: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Unite the nodes on two sides that face each other.

    Parameters
    ----------
    here, there : Strip
    meeting : Meeting
    reach : int
        Steps sideways that voxels may be apart: 0, 1 or 2.
    parents, first : (n_nodes,) int64 arrays
        The union-find; index in the volume of the first voxel of each node.
    labels : (n_nodes,) array, or empty
        Where given, only nodes of equal label are united.
    """
    (top, height), (other_top, other_height) = meeting.here, meeting.there
    for block in range(here.starts.size):
        for step in range(meeting.neighbours[0], meeting.neighbours[1] + 1):
            if not 0 <= block + step < there.starts.size:
                continue
            for y in range(max(0, meeting.down - 1), min(height, meeting.down + other_height + 1)):
                for dy in range(-min(reach, 1), min(reach, 1) + 1):
                    other = y + dy - meeting.down
                    if 0 <= other < other_height:
                        a, b = (block, top + y), (block + step, other_top + other)
                        sideways = min(reach - abs(dy), 1)
                        _unite_rows(here, a, there, b, step * meeting.along, sideways, parents, first, labels)


@_jit  # type: ignore[untyped-decorator]
def _unite_rows(  # noqa: PLR0913 -- plain arrays, as compiled code takes them
    here: Strip,
    row: tuple[int, int],
    there: Strip,
    other: tuple[int, int],
    along: int,
    reach: int,
    parents: np.ndarray,
    first: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Unite the nodes of runs that overlap, or with a `reach` of 1 meet at a corner; those there lie `along` further."""
    a = here.starts[row[0]] + here.rows[row[0], row[1]]
    a_end = here.starts[row[0]] + here.rows[row[0], row[1] + 1]
    b = there.starts[other[0]] + there.rows[other[0], other[1]]
    b_end = there.starts[other[0]] + there.rows[other[0], other[1] + 1]
    if a == a_end or b == b_end:
        return
    # Blocks beside each other meet at their ends only.
    if here.runs[a_end - 1, 1] + reach <= along + there.runs[b, 0]:
        return
    for run in range(a, a_end):
        start, stop = np.int64(here.runs[run, 0]), np.int64(here.runs[run, 1])
        while b < b_end and along + there.runs[b, 1] + reach <= start:
            b += 1
        node = here.nodes[row[0]] + here.runs[run, 2]
        for c in range(b, b_end):
            if along + there.runs[c, 0] >= stop + reach:
                break
            beyond = there.nodes[other[0]] + there.runs[c, 2]
            if labels.size == 0 or labels[node] == labels[beyond]:
                _unite(parents, first, node, beyond)


@_jit  # type: ignore[untyped-decorator]
def _unite(parents: np.ndarray, first: np.ndarray, a: int, b: int) -> None:
    """Let the node with the earlier first voxel lead both components."""
    a, b = root(parents, a), root(parents, b)
    if first[a] < first[b]:
        parents[b] = a
    elif first[b] < first[a]:
        parents[a] = b


@_jit  # type: ignore[untyped-decorator]
def root(parents: np.ndarray, node: int) -> int:
    """Leader of a node, halving the path to it."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node
