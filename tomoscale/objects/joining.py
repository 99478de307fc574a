"""Which pieces of different blocks are one component: a union-find over the pieces at shared sides alone.

Held in memory are a few numbers for every piece at a shared side (a *node*), nothing for the others: of 10^8 lacunae
in blocks of 512^3 voxels one in ten is a node. The union-find is compiled and works on the runs of all blocks of a
strip at once, so that 10^6 blocks take minutes. The first voxel of a component decides who leads it, so the result does
not depend on the order in which sides are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from tomoscale.geometry import Grid
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.objects.pieces import file_of, unsigned
from tomoscale.objects.stored import StoredArrays
from tomoscale.objects.strips import meetings, root, unite_strips

NODE_BYTES = 40
"""Memory that a node takes at most while pieces are joined and numbered: leader, first voxel and size, 8 bytes each, the
number of its piece, two marks, and its label or its number, up to 8."""


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

    def in_volume(self, number: int, voxels: np.ndarray) -> np.ndarray:
        """Index in the volume, z-major, of voxels given by their index in a block: int64."""
        z, y, x = self.grid.region(number)
        local = voxels.astype(np.int64)
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
    border : (n_nodes,) uint32 array
        Number of the piece in its block.
    first : (n_nodes,) int64 array
        Index in the volume of the first voxel of the node itself.
    voxels : (n_nodes,) int64 array
        Of the whole component, at its leader; 0 elsewhere.
    outer : (n_nodes,) bool array
        Whether the component touches the border of the volume, at its leader.
    leads : (n_nodes,) bool array
        Which nodes lead.
    """

    leader: np.ndarray
    border: np.ndarray
    first: np.ndarray
    voxels: np.ndarray
    outer: np.ndarray
    leads: np.ndarray


def join(tables: Tables, connectivity: Connectivity) -> Joined:
    """Compare all shared sides and unite the pieces that touch across them."""
    n = int(tables.nodes[-1])
    border, first, voxels = np.empty(n, np.uint32), np.empty(n, np.int64), np.empty(n, np.int64)
    outer, labels = np.empty(n, bool), np.empty(0, np.uint8)
    for number in range(len(tables.grid)):
        stored, nodes = tables.block(number), tables.nodes_of(number)
        pieces = stored.read("border")
        border[nodes] = pieces
        first[nodes] = tables.in_volume(number, stored.read("first")[pieces])
        voxels[nodes] = stored.read("voxels")[pieces]
        outer[nodes] = stored.read("outer")[pieces]
        if "label" in stored:
            own = unsigned(stored.read("label")[pieces])
            labels = labels if labels.size else np.empty(n, own.dtype)
            labels[nodes] = own
    parents, reach = np.arange(n), {6: 0, 18: 1, 26: 2}[connectivity]
    for here, there, meeting in meetings(tables, edges=reach > 0):
        unite_strips(here, there, meeting, reach, parents, first, labels)
    leads = np.zeros(n, bool)
    _gather(parents, voxels, outer, leads)
    return Joined(parents, border, first, voxels, outer, leads)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _gather(parents: np.ndarray, voxels: np.ndarray, outer: np.ndarray, leads: np.ndarray) -> None:
    """Point every node to its leader, and give that what the others hold."""
    for node in range(parents.size):
        leader = root(parents, node)
        parents[node] = leader
        leads[leader] = True
        if leader != node:
            voxels[leader] += voxels[node]
            outer[leader] |= outer[node]
            voxels[node], outer[node] = 0, False
