"""Which pieces of different blocks are one component: a union-find over the pieces at shared sides alone.

Held in memory are a few numbers for every piece at a shared side (a *node*), nothing for the others: of 10^8 lacunae
in blocks of 512^3 voxels one in ten is a node. The union-find is compiled and works on plain arrays. The first voxel of
a component decides who leads it, so the result does not depend on the order in which sides are compared.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from tomoscale.geometry import Grid, Shape, three
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.objects.pieces import file_of, unsigned
from tomoscale.objects.stored import StoredArrays

FORWARD = tuple(three(d) for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0))
"""The 13 blocks after a block that touch it by a side, an edge or a corner."""

_jit = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True)
class Tables:
    """The files of all blocks of a grid, and where their pieces and nodes lie in the order of all.

    Attributes
    ----------
    folder : Path
    grid : Grid
    pieces, nodes : (n_blocks + 1,) int64 arrays
        Number of the first piece, and of the first node, of each block; the last entry is their number.
    """

    folder: Path
    grid: Grid
    pieces: np.ndarray
    nodes: np.ndarray

    @classmethod
    def open(cls, folder: Path, grid: Grid) -> Tables:
        """Look into the header of every file."""
        pieces, nodes = (np.zeros(len(grid) + 1, np.int64) for _ in range(2))
        for number in range(len(grid)):
            stored = StoredArrays.open(file_of(folder, number))
            (pieces[number + 1],), (nodes[number + 1],) = stored.shape("first"), stored.shape("border")
        return cls(folder, grid, np.cumsum(pieces), np.cumsum(nodes))

    def block(self, number: int) -> StoredArrays:
        """File of a block."""
        return StoredArrays.open(file_of(self.folder, number))

    def nodes_of(self, number: int) -> slice:
        """Nodes of a block."""
        return slice(int(self.nodes[number]), int(self.nodes[number + 1]))

    def pieces_of(self, number: int) -> slice:
        """Pieces of a block."""
        return slice(int(self.pieces[number]), int(self.pieces[number + 1]))

    def first_voxels(self, number: int, stored: StoredArrays) -> np.ndarray:
        """Index in the volume, z-major, of the first voxel of each piece: int64."""
        z, y, x = self.grid.region(number)
        local = stored.read("first").astype(np.int64)
        height, width = y.stop - y.start, x.stop - x.start
        rows, along = np.divmod(local, width)
        planes, rows = np.divmod(rows, height)
        volume = self.grid.shape
        return np.asarray(((planes + z.start) * volume[1] + rows + y.start) * volume[2] + along + x.start)


@dataclass(frozen=True)
class Joined:
    """What is known of the nodes once all sides are compared.

    Attributes
    ----------
    leader : (n_nodes,) int64 array
        Node of the component's first voxel; a component has one leader.
    first : (n_nodes,) int64 array
        Index in the volume of the first voxel of the node itself.
    voxels : (n_nodes,) int64 array
        Of the whole component, at its leader; 0 elsewhere.
    outer : (n_nodes,) bool array
        Whether the component touches the border of the volume, at its leader.
    """

    leader: np.ndarray
    first: np.ndarray
    voxels: np.ndarray
    outer: np.ndarray

    @property
    def leads(self) -> np.ndarray:
        """Mask of the nodes that lead: (n_nodes,) bool."""
        return np.asarray(self.leader == np.arange(self.leader.size))


def join(tables: Tables, connectivity: Connectivity) -> Joined:
    """Compare all shared sides and unite the pieces that touch across them."""
    n = int(tables.nodes[-1])
    first, voxels, outer = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, bool)
    labels: np.ndarray | None = None
    for number in range(len(tables.grid)):
        stored, nodes = tables.block(number), tables.nodes_of(number)
        border = stored.read("border")
        first[nodes] = tables.first_voxels(number, stored)[border]
        voxels[nodes] = stored.read("voxels")[border]
        outer[nodes] = stored.read("outer")[border]
        if "label" in stored:
            own = unsigned(stored.read("label")[border])
            labels = np.empty(n, own.dtype) if labels is None else labels
            labels[nodes] = own
    parents = np.arange(n)
    for number in range(len(tables.grid)):
        _join_block(tables, number, parents, first, labels, connectivity)
    _flatten(parents)
    total, touching = np.zeros(n, np.int64), np.zeros(n, bool)
    np.add.at(total, parents, voxels)
    touching[parents[outer]] = True
    return Joined(parents, first, total, touching)


def _join_block(
    tables: Tables,
    number: int,
    parents: np.ndarray,
    first: np.ndarray,
    labels: np.ndarray | None,
    connectivity: Connectivity,
) -> None:
    """Unite the pieces of a block with those of the blocks after it."""
    grid, at = tables.grid, tables.grid.position(number)
    most = {6: 1, 18: 2, 26: 3}[connectivity]
    stored = tables.block(number)
    for direction in FORWARD:
        there = three(a + d for a, d in zip(at, direction, strict=True))
        steps = sum(map(abs, direction))
        if steps > most or not all(0 <= t < n for t, n in zip(there, grid.counts, strict=True)):
            continue
        other = (there[0] * grid.counts[1] + there[1]) * grid.counts[2] + there[2]
        here = _facing(stored, direction)
        beyond = _facing(tables.block(other), three(-d for d in direction))
        offsets = int(tables.nodes[number]) - 1, int(tables.nodes[other]) - 1
        valued = labels is not None
        _unite_sides(here, beyond, offsets, most - steps, parents, first, first if labels is None else labels, valued)


def _facing(stored: StoredArrays, direction: Shape) -> np.ndarray:
    """What of a block's sides faces a neighbouring block: a side, one of its edges, or a corner; 2-D."""
    axis = next(a for a in range(3) if direction[a])
    name = f"{'zyx'[axis]}{int(direction[axis] > 0)}"
    if sum(map(abs, direction)) == 1:
        return stored.read(name)
    rest = [direction[a] for a in range(3) if a != axis]
    ends = {0: slice(None), 1: slice(-1, None), -1: slice(0, 1)}
    # Sides are read whole, and held against their checksums, where they face each other; here a row is enough.
    return np.array(stored.view(name)[ends[rest[0]], ends[rest[1]]])


@_jit  # type: ignore[untyped-decorator]
def _root(parents: np.ndarray, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@_jit  # type: ignore[untyped-decorator]
def _unite_sides(  # noqa: PLR0913 -- plain arrays, as compiled code takes them, and loops over neighbours
    here: np.ndarray,
    beyond: np.ndarray,
    offsets: tuple[int, int],
    reach: int,
    parents: np.ndarray,
    first: np.ndarray,
    labels: np.ndarray,
    valued: bool,
) -> None:
    """Unite the nodes of two sides that face each other, `reach` steps sideways allowed."""
    height, width = here.shape
    last_a, last_b = -1, -1
    for y in range(height):
        for x in range(width):
            if here[y, x] == 0:
                continue
            a = here[y, x] + offsets[0]
            for dy in range(-1 if y > 0 else 0, 2 if y + 1 < height else 1):
                for dx in range(-1 if x > 0 else 0, 2 if x + 1 < width else 1):
                    if abs(dy) + abs(dx) > reach or beyond[y + dy, x + dx] == 0:
                        continue
                    b = beyond[y + dy, x + dx] + offsets[1]
                    # Most voxels repeat the pair before them.
                    if (a != last_a or b != last_b) and (not valued or labels[a] == labels[b]):
                        last_a, last_b = a, b
                        _unite(parents, first, a, b)


@_jit  # type: ignore[untyped-decorator]
def _unite(parents: np.ndarray, first: np.ndarray, a: int, b: int) -> None:
    """Let the node with the earlier first voxel lead both components."""
    a, b = _root(parents, a), _root(parents, b)
    if first[a] < first[b]:
        parents[b] = a
    elif first[b] < first[a]:
        parents[a] = b


@_jit  # type: ignore[untyped-decorator]
def _flatten(parents: np.ndarray) -> None:
    for node in range(parents.size):
        parents[node] = _root(parents, node)
