"""The surface of an implant face by face: what it touches, where, and how that depends on the gap one tolerates.

One pass over the voxels where labels change answers all of it; most voxels have only neighbours of their own label and
are passed over eight at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.geometry import Block, Halo
from tomoscale.measures.cylinder import Cylinder, bins_of
from tomoscale.measures.ids import origin_of
from tomoscale.measures.inertia import members
from tomoscale.measures.touching import beside, grown
from tomoscale.step import Counts, Measure

OTHER, IMPLANT, BONE, FREE = range(4)
"""What a label is to the surface."""


@dataclass(frozen=True)
class Roles:
    """Which labels are what.

    Attributes
    ----------
    implant : tuple of int or None
        Classes of the implant; None for all but 0, as in a mask.
    bone, background : int
    """

    implant: tuple[int, ...] | None = (1, 2)
    bone: int = 3
    background: int = 0

    def __post_init__(self) -> None:
        classes = (*(self.implant or (-1,)), self.bone, self.background)
        if self.implant == () or (self.implant is not None and len(set(classes)) != len(classes)):
            raise ValueError(
                f"implant {self.implant}, bone {self.bone} and background {self.background} must be different classes"
            )

    @property
    def table(self) -> np.ndarray:
        """Role of each label of 8 bits: (256,) uint8."""
        table = np.full(256, OTHER if self.implant is not None else IMPLANT, np.uint8)
        table[[self.background, self.bone]] = FREE, BONE
        if self.implant is None:
            table[self.bone] = IMPLANT
        else:
            table[list(self.implant)] = IMPLANT
        return table

    def of(self, labels: Array) -> Array:
        """Role of each voxel, uint8."""
        xp = namespace_for(labels)
        if labels.dtype.itemsize == 1 and labels.dtype != np.int8:
            return xp.asarray(self.table)[labels.view(np.uint8)]
        roles = xp.full(labels.shape, OTHER, np.uint8)
        for role, classes in ((FREE, (self.background,)), (BONE, (self.bone,)), (IMPLANT, self.implant)):
            roles[members(labels, classes)] = role
        return roles


def surface_map(
    roles: Roles | None = None,
    cylinder: Cylinder | None = None,
    *,
    gaps_voxels: tuple[int, ...] = (0,),
    name: str = "labels",
) -> Measure:
    """Measure of the implant's faces and voxels that touch bone or background, by gap tolerance and by place.

    Parameters
    ----------
    roles : Roles
    cylinder : Cylinder, optional
        Bins of the map; without it there is none.
    gaps_voxels : tuple of int
        Increasing. Background up to this far from bone (Euclidean, between voxel centres) counts as bone; 0 is the
        published definition, and that of the map.
    name : str
        Of the input.

    Returns
    -------
    Measure
        Counts, int64: ``"touching_voxels"`` (gaps, 2), implant voxels that have bone, and bone or background, among
        their six neighbours; ``"touching_faces"`` (gaps, 3, 2), faces across z, y, x to bone and to background;
        ``"map"`` (steps, sectors, 2), faces to bone and to background by the place of their middle. A face at the
        border of the volume is a cut and no surface.

    Raises
    ------
    ValueError
        If classes are named twice or gaps are negative or do not increase.
    """
    roles = roles or Roles()
    if not gaps_voxels or gaps_voxels[0] < 0 or any(a >= b for a, b in pairwise(gaps_voxels)):
        raise ValueError(f"gaps_voxels must be increasing distances of 0 or more, got {gaps_voxels}")
    shape = (0, 0) if cylinder is None else (cylinder.n_steps, cylinder.n_sectors)
    return Measure(
        "surface map",
        partial(count_surface, roles=roles, cylinder=cylinder, gaps_voxels=tuple(gaps_voxels)),
        (name,),
        Halo.uniform(1 + gaps_voxels[-1]),
        bytes_per_voxel=4.0,
        counts_bytes=8 * (8 * len(gaps_voxels) + 2 * shape[0] * shape[1]),
        parameters={
            "implant": None if roles.implant is None else list(roles.implant),
            "bone": roles.bone,
            "background": roles.background,
            "gaps_voxels": list(gaps_voxels),
            "cylinder": None if cylinder is None else cylinder.parameters(),
        },
    )


def count_surface(
    labels: Array, *, block: Block, roles: Roles, cylinder: Cylinder | None, gaps_voxels: tuple[int, ...]
) -> Counts:
    """Count the surface that the core's implant voxels have."""
    shape = (0, 0) if cylinder is None else (cylinder.n_steps, cylinder.n_sectors)
    rows = np.zeros((3, 4)) if cylinder is None else cylinder.rows
    sines = np.zeros((2, 0)) if cylinder is None else cylinder.sines
    count = _count_on_host if on_host(labels) else count_by_masks
    counts = count(labels, block, roles, gaps_voxels, (rows, sines, shape))
    return counts if cylinder is not None else {k: v for k, v in counts.items() if k != "map"}


Bins = tuple[np.ndarray, np.ndarray, tuple[int, int]]


def _count_on_host(labels: np.ndarray, block: Block, roles: Roles, gaps: tuple[int, ...], bins: Bins) -> Counts:
    if labels.dtype.itemsize == 1 and labels.dtype != np.int8:
        small, table = np.ascontiguousarray(labels).view(np.uint8), roles.table
    else:
        small, table = roles.of(labels), np.arange(256, dtype=np.uint8)
    core = np.array([(c.start, c.stop) for c in block.core])
    near = (*_ball(gaps[-1]), np.array([g * g for g in gaps]))
    voxels = np.zeros((len(gaps), 2), np.int64)
    faces = np.zeros((len(gaps), 3, 2), np.int64)
    table_of_bins = np.zeros((*bins[2], 2), np.int64)
    size = block.write_shape[1] * block.write_shape[2]
    found, middles = np.empty((size, 2), np.int32), np.empty((0, 4), np.int32)
    for z in range(core[0, 0], core[0, 1]):
        n = _find_surface(small, table, core, z, found)
        if 6 * n > len(middles):
            middles = np.empty((8 * n, 4), np.int32)
        n = _count_faces(small, table, z, found[:n], near, voxels, faces, middles)
        if n and bins[2][0]:
            doubled = middles[:n, :3] + 2 * np.array(origin_of(block))
            _add_places(table_of_bins, doubled, middles[:n, 3], bins)
    return {"touching_voxels": voxels, "touching_faces": faces, "map": table_of_bins}


def count_by_masks(labels: Array, block: Block, roles: Roles, gaps: tuple[int, ...], bins: Bins) -> Counts:
    """Do what the compiled loop does with array functions only: on a GPU, and as an oracle."""
    found = roles.of(labels)
    xp = namespace_for(found)
    inside, bone, free = (found == role for role in (IMPLANT, BONE, FREE))
    voxels, faces = xp.zeros((len(gaps), 2), np.int64), xp.zeros((len(gaps), 3, 2), np.int64)
    places = xp.zeros((*bins[2], 2), np.int64)
    for g, gap in enumerate(gaps):
        bridged = grown(bone, gap) & free if gap else xp.zeros_like(free)
        targets = (bone | bridged, free & ~bridged)
        near = [xp.zeros(block.write_shape, bool) for _ in range(2)]
        for axis in range(3):
            for step in (-1, 1):
                here, there = beside(block.core, labels.shape, axis, step)
                for t, target in enumerate(targets):
                    met = inside[block.core][here] & target[there]
                    near[t][here] |= met
                    faces[g, axis, t] += xp.count_nonzero(met)
                    if gap == gaps[0] and bins[2][0]:
                        met = inside[block.core][here] & (bone, free)[t][there]
                        doubled = 2 * xp.stack(xp.nonzero(met), axis=1)
                        doubled += 2 * xp.asarray([h.start + w.start for h, w in zip(here, block.write, strict=True)])
                        doubled[:, axis] += step
                        _add_places(places, doubled, t, bins)
        voxels[g, 0], voxels[g, 1] = near[0].sum(), (near[0] | near[1]).sum()
    return {"touching_voxels": voxels, "touching_faces": faces, "map": places}


def _add_places(table: Array, doubled: Array, kinds: Array, bins: Bins) -> None:
    """Add faces, given by the doubled indices of their middles and 0 (bone) or 1 (free), to a (steps, sectors, 2) table."""
    xp = namespace_for(doubled)
    step, sector = bins_of(doubled, *bins)
    code = (step * bins[2][1] + sector) * 2 + kinds
    table += xp.bincount(code, minlength=table.size).reshape(table.shape)


def _ball(radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets within a radius but the centre, the nearest first, and their squared lengths."""
    reach = range(-radius, radius + 1)
    offsets = [(z * z + y * y + x * x, z, y, x) for z in reach for y in reach for x in reach]
    kept = sorted(o for o in offsets if 0 < o[0] <= radius * radius)
    array = np.array(kept, np.int64).reshape(-1, 4)
    return np.ascontiguousarray(array[:, 1:]), np.ascontiguousarray(array[:, 0])


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _mark(row: Any, neighbours: Any, marks: Any) -> Any:
    """Mark the voxels of a row that have another label than one of six neighbours; tell whether there are any."""
    below, above, before, behind = neighbours
    n = row.size
    for x in range(n):
        marks[x] = (row[x] ^ below[x]) | (row[x] ^ above[x]) | (row[x] ^ before[x]) | (row[x] ^ behind[x])
    for x in range(1, n):
        marks[x] |= row[x] ^ row[x - 1]
    for x in range(n - 1):
        marks[x] |= row[x] ^ row[x + 1]
    some = np.uint8(0)
    for x in range(n):
        some |= marks[x]
    return some


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find_surface(labels: Any, table: Any, core: Any, z: Any, found: Any) -> Any:
    """Write (y, x) of the implant voxels of a plane of the core that may have a surface; tell how many these are."""
    depth, height, _ = labels.shape
    first, last = core[2, 0], core[2, 1]
    buffer = np.zeros((last - first + 7) // 8 * 8, np.uint8)
    marks, words = buffer[: last - first], buffer.view(np.uint64)
    n = 0
    for y in range(core[1, 0], core[1, 1]):
        row = labels[z, y, first:last]
        neighbours = (
            labels[max(z - 1, 0), y, first:last],
            labels[min(z + 1, depth - 1), y, first:last],
            labels[z, max(y - 1, 0), first:last],
            labels[z, min(y + 1, height - 1), first:last],
        )
        _mark(row, neighbours, marks)
        # The neighbours of the ends lie outside the row: these two are always looked at.
        marks[0] = marks[-1] = 1
        for word in range(words.size):
            if words[word] != 0:
                for x in range(8 * word, min(8 * word + 8, marks.size)):
                    if marks[x] and table[row[x]] == IMPLANT:
                        found[n, 0], found[n, 1] = y, first + x
                        n += 1
    return n


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_faces(  # noqa: C901, PLR0913 -- calls would count references to arrays for every face, which costs more than it
    labels: Any, table: Any, z: Any, places: Any, near: Any, voxels: Any, faces: Any, middles: Any
) -> Any:
    """Count the faces of the voxels at `places` in plane z; write (z, y, x, kind) of them, doubled; tell how many."""
    offsets, squares, limits = near
    depth, height, width = labels.shape
    n = 0
    for i in range(places.shape[0]):
        y, x = places[i, 0], places[i, 1]
        to_bone, to_free = 0, 0  # one bit for each gap
        for side in range(6):
            axis, step = side >> 1, 2 * (side & 1) - 1
            a, b, c = z + step * (axis == 0), y + step * (axis == 1), x + step * (axis == 2)
            if a < 0 or a >= depth or b < 0 or b >= height or c < 0 or c >= width:
                continue
            role = table[labels[a, b, c]]
            if role != BONE and role != FREE:
                continue
            square = 0 if role == BONE else 1 << 62
            if role == FREE:
                for k in range(squares.size):
                    d, e, f = a + offsets[k, 0], b + offsets[k, 1], c + offsets[k, 2]
                    inside = d >= 0 and d < depth and e >= 0 and e < height and f >= 0 and f < width
                    if inside and table[labels[d, e, f]] == BONE:
                        square = squares[k]
                        break
            for g in range(limits.size):
                bone = square <= limits[g]
                faces[g, axis, 0 if bone else 1] += 1
                to_bone |= bone << g
                to_free |= (not bone) << g
            middles[n, 0], middles[n, 1], middles[n, 2], middles[n, 3] = z + a, y + b, x + c, role == FREE
            n += 1
        for g in range(limits.size):
            voxels[g, 0] += to_bone >> g & 1
            voxels[g, 1] += (to_bone | to_free) >> g & 1
    return n
