"""Counts along one direction: voxels of an object along its axis, and ids on the six faces of the volume."""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.geometry import Block
from tomoscale.measures.cylinder import Cylinder
from tomoscale.measures.inertia import members
from tomoscale.step import Counts, Measure

SIDES = ("z low", "z high", "y low", "y high", "x low", "x high")


def along_axis(cylinder: Cylinder, classes: tuple[int, ...] | None = None, *, name: str = "labels") -> Measure:
    """Measure of the voxels of an object by the step along an axis that holds their centre.

    Parameters
    ----------
    cylinder : Cylinder
        Its sectors are not used.
    classes : tuple of int or None
        Labels of the object; None for all but 0.
    name : str
        Of the input.

    Returns
    -------
    Measure
        Count ``"along"``, (steps,) int64.
    """
    return Measure(
        "along the axis",
        partial(count_along, cylinder=cylinder, classes=classes),
        (name,),
        bytes_per_voxel=3.0,
        counts_bytes=8 * cylinder.n_steps,
        parameters={"cylinder": cylinder.parameters(), "classes": None if classes is None else list(classes)},
    )


def count_along(labels: Array, *, block: Block, cylinder: Cylinder, classes: tuple[int, ...] | None) -> Counts:
    """Count the core's voxels by their step along the axis."""
    mask = members(labels[block.core], classes)
    origin, n = [w.start for w in block.write], cylinder.n_steps
    # Rows of the cylinder take doubled indices.
    dz, dy, dx, start = (float(v) for v in cylinder.rows[0] * np.array([2.0, 2.0, 2.0, 1.0]))
    if on_host(mask):
        counts = np.zeros(n, np.int64)
        _count_along(mask.view(np.uint8), np.array(origin), (dz, dy, dx, start), counts)
        return {"along": counts}
    xp = namespace_for(mask)
    z, y, x = (i.astype(np.float64) + o for i, o in zip(xp.nonzero(mask), origin, strict=True))
    step = xp.clip(xp.floor(dz * z + dy * y + dx * x + start), 0, n - 1).astype(np.int64)
    return {"along": xp.bincount(step, minlength=n)}


def on_faces(n_ids: int, *, name: str = "labels") -> Measure:
    """Measure of the ids on the six faces of the volume, where objects and regions are cut by the field of view.

    Parameters
    ----------
    n_ids : int
        Ids 0 to ``n_ids - 1``; others are not counted.
    name : str
        Of the input.

    Returns
    -------
    Measure
        Count ``"on_faces"``, (6, n_ids) int64, sides in the order of `SIDES`.
    """
    return Measure(
        "on the faces",
        partial(count_on_faces, n_ids=n_ids),
        (name,),
        bytes_per_voxel=2.0,
        counts_bytes=48 * n_ids,
        parameters={"n_ids": n_ids},
    )


def count_on_faces(labels: Array, *, block: Block, n_ids: int) -> Counts:
    """Count the core's ids on the faces of the volume."""
    values = labels[block.core]
    xp = namespace_for(values)
    counts = xp.zeros((6, n_ids), np.int64)
    for axis, (owned, length) in enumerate(zip(block.write, block.source_shape, strict=True)):
        for side, index, at_face in ((0, 0, owned.start == 0), (1, -1, owned.stop == length)):
            if at_face:
                plane = xp.take(values, index, axis=axis).ravel()
                plane = plane[(plane >= 0) & (plane < n_ids)]
                counts[2 * axis + side] = xp.bincount(plane.astype(np.int64), minlength=n_ids)
    return {"on_faces": counts}


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_along(mask: Any, origin: Any, row: Any, counts: Any) -> None:
    """Add set voxels to their step; rows that stay within one step are counted at once."""
    dz, dy, dx, start = row
    depth, height, width = mask.shape
    last = counts.size - 1
    for z in range(depth):
        for y in range(height):
            number = np.uint32(0)
            for x in range(width):
                number += np.uint32(mask[z, y, x])
            if number == 0:
                continue
            offset = dz * np.float64(z + origin[0]) + dy * np.float64(y + origin[1])
            one = np.int64(np.floor(offset + dx * np.float64(origin[2]) + start))
            other = np.int64(np.floor(offset + dx * np.float64(origin[2] + width - 1) + start))
            if one == other:
                counts[min(max(one, 0), last)] += number
                continue
            for x in range(width):
                if mask[z, y, x]:
                    step = np.int64(np.floor(offset + dx * np.float64(x + origin[2]) + start))
                    counts[min(max(step, 0), last)] += 1
