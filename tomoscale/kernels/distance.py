"""Kernels of the Euclidean distance to a mask, from voxel centre to voxel centre, cut off at a radius.

A squared distance is an integer multiple of a squared unit that fits all three voxel edges. It is found in 64-bit
integers, one axis after the other, so no result depends on rounding, on the tiling or on where it was computed:

.. code-block:: text

    along z   voxels to the nearest set voxel of the column                     halo along z
    along x   least squared distance within the slice                           halo along x
    along y   least squared distance, or: does a voxel of this line reach here? halo along y

(The `edt` package computes in float32, which rounds anisotropic distances and squares past 2**24.) What is
declared as ``bytes_per_voxel`` holds for blocks of 16 planes or more.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block, Halo, Region, Shape, Spacing, whole
from tomoscale.kernels.ball import Ball, make_ball
from tomoscale.kernels.parabolas import spread_squares
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator


def select_near(mask: Array, ball: Ball, core: Region | None = None, *, near: bool = True) -> Array:
    """Select the voxels whose centre lies within a ball around the centre of a set voxel.

    Parameters
    ----------
    mask : (Z, Y, X) bool array, NumPy or CuPy
    ball : Ball
    core : Region or None
        The part to give; None for all. Only what it needs is computed.
    near : bool
        False looks for voxels near an unset one instead.

    Returns
    -------
    bool array of the shape of `core`.
    """
    core = core or whole(mask.shape)
    xp = namespace_for(mask)
    # Most blocks lie wholly in or wholly off an object: they need no distances.
    some, all_of_it = (mask.any(), mask.all()) if near else (not mask.all(), not mask.any())
    result = xp.full(tuple(c.stop - c.start for c in core), bool(all_of_it))
    if some and not all_of_it:
        along_z = column_distance(mask, ball, core[0], near=near)
        along_y = slice_reach(along_z, ball, core[2])
        del along_z
        cover_lines(along_y, core[1], result)
    return result


def within_distance(radius_um: float, voxel_size_um: Spacing, classes: tuple[int, ...] | None = None) -> Kernel:
    """Kernel of `select_near`: the set voxels and all that lie at most `radius_um` from one, centre to centre.

    Whether a voxel is selected depends on voxels up to the radius away, which is the halo. Where the halo makes blocks
    too large (1 mm is 1087 voxels of 0.92 µm), run the three kernels of `within_distance_by_axis` instead.

    Parameters
    ----------
    radius_um : float
        Micrometres.
    voxel_size_um : (z, y, x)
    classes : tuple of int or None
        Labels that count as set; None for all but 0.
    """
    ball = make_ball(radius_um, voxel_size_um)
    return Kernel(
        "within_distance",
        partial(_near_block, ball=ball, classes=classes),
        Halo.symmetric(ball.reach),
        np.dtype(bool),
        bytes_per_voxel=9,
        parameters=_parameters(radius_um, voxel_size_um, classes),
        located=True,
    )


def within_distance_by_axis(
    radius_um: float, voxel_size_um: Spacing, classes: tuple[int, ...] | None = None
) -> tuple[Kernel, Kernel, Kernel]:
    """Three kernels that, run after each other on stored volumes, give what `within_distance` gives.

    Each reads a margin along one axis alone, so that a block of 512 voxels and a radius of 1087 read 5 times the volume
    in each pass instead of 144 times in one. The volumes between hold uint16 and int16.
    """
    ball = make_ball(radius_um, voxel_size_um)
    z, y, x = ball.reach
    parameters = _parameters(radius_um, voxel_size_um, classes)

    def kernel(name: str, function: Any, reach: Shape, dtype: Any, bytes_per_voxel: float) -> Kernel:
        halo = Halo.symmetric(reach)
        return Kernel(name, function, halo, np.dtype(dtype), bytes_per_voxel, parameters, located=True)

    columns = partial(_columns_of_block, ball=ball, classes=classes)
    return (
        kernel("distance along z", columns, (z, 0, 0), np.uint16, 4),
        kernel("reach along y", partial(_reach_of_block, ball=ball), (0, 0, x), np.int16, 5),
        kernel("cover along y", _cover_block, (0, y, 0), bool, 2),
    )


def squared_distance(mask: Array, ball: Ball, core: Region | None = None) -> Array:
    """Squared distance from every voxel's centre to that of the nearest set voxel, exactly.

    Parameters
    ----------
    mask : (Z, Y, X) bool array, NumPy or CuPy
    ball : Ball
        Where to stop looking.
    core : Region or None
        The part to give; None for all.

    Returns
    -------
    int32 or int64 array of the shape of `core`
        In squared units of ``ball.unit_um`` (squared voxels, for cubic voxels); ``ball.limit + 1`` where no set voxel
        lies within the ball.
    """
    core = core or whole(mask.shape)
    xp = namespace_for(mask)
    far = ball.limit + 1
    dtype = np.int32 if far < 2**31 else np.int64
    result = xp.full(tuple(c.stop - c.start for c in core), far, dtype)
    if mask.any():
        along_z = column_distance(mask, ball, core[0])
        for part in slabs(along_z.shape[0]):
            nearest = slice_distance(along_z[part], ball)[:, :, core[2]]
            lines = xp.ascontiguousarray(nearest.swapaxes(1, 2))
            nearest = spread_squares(lines, ball.weights[1], ball.limit, ball.reach[1]).swapaxes(1, 2)
            result[part] = nearest[:, core[1]]
    return result


def clipped_distance(radius_um: float, voxel_size_um: Spacing, classes: tuple[int, ...] | None = None) -> Kernel:
    """Kernel of the distance to the nearest set voxel in micrometres, float32; `radius_um` where there is none nearer.

    The square root of `squared_distance`, taken in float64 and rounded once; parameters as for `within_distance`.
    """
    ball = make_ball(radius_um, voxel_size_um)
    return Kernel(
        "clipped_distance",
        partial(_distance_of_block, ball=ball, classes=classes),
        Halo.symmetric(ball.reach),
        np.dtype(np.float32),
        bytes_per_voxel=11 if ball.limit < 2**31 - 1 else 15,
        parameters=_parameters(radius_um, voxel_size_um, classes),
        located=True,
    )


def column_distance(mask: Array, ball: Ball, core: slice, *, near: bool = True) -> Array:
    """Voxels along z to the nearest set (or unset) voxel of the column, at most one more than the reach: uint16."""
    xp = namespace_for(mask)
    far = ball.reach[0] + 1
    distance = xp.full((core.stop - core.start, *mask.shape[1:]), far, np.uint16)
    for planes in (range(core.stop), range(mask.shape[0] - 1, core.start - 1, -1)):
        current = xp.full(mask.shape[1:], far, np.uint16)
        for z in planes:
            current += np.uint16(1)
            xp.minimum(current, np.uint16(far), out=current)
            current *= ~mask[z] if near else mask[z]
            if core.start <= z < core.stop:
                kept = distance[z - core.start]
                xp.minimum(kept, current, out=kept)
    return distance


def slice_reach(along_z: Array, ball: Ball, core: slice) -> Array:
    """How many voxels along y each voxel's ball still reaches from the nearest set voxel of its slice: int16, -1 if none.

    `along_z` is a result of `column_distance`; the result has the part `core` of its x axis.
    """
    xp = namespace_for(along_z)
    result = xp.empty((*along_z.shape[:2], core.stop - core.start), np.int16)
    for part in slabs(along_z.shape[0]):
        if not (along_z[part] <= ball.reach[0]).any():
            result[part] = -1
            continue
        rest = slice_distance(along_z[part], ball)[:, :, core]
        xp.subtract(ball.limit, rest, out=rest)
        outside = rest < 0
        if ball.weights[1] > 1:
            rest //= ball.weights[1]
        rest[outside] = 0
        # The quotient is at most the squared reach, less than 2**26: float64 takes its root without error.
        root = xp.sqrt(rest, dtype=np.float64)
        result[part] = root  # the assignment cuts off the fraction
        result[part][outside] = -1
    return result


def cover_lines(along_y: Array, core: slice, result: Array) -> None:
    """Set the voxels of `result` that a voxel of the same line along y reaches; `along_y` is from `slice_reach`."""
    xp = namespace_for(along_y)
    for lines in (range(core.stop), range(along_y.shape[1] - 1, core.start - 1, -1)):
        current = xp.full((along_y.shape[0], along_y.shape[2]), -1, np.int16)
        for y in lines:
            current -= np.int16(1)
            xp.maximum(current, along_y[:, y], out=current)
            if core.start <= y < core.stop:
                result[:, y - core.start] |= current >= 0


def slice_distance(along_z: Array, ball: Ball) -> Array:
    """Least squared distance to a set voxel of the same (z, x) slice, at most ``ball.limit + 1``: int64.

    `along_z` is a result of `column_distance`.
    """
    costs = along_z.astype(np.int64)
    costs *= costs
    costs *= ball.weights[0]
    return spread_squares(costs, ball.weights[2], ball.limit, ball.reach[2])


def slabs(planes: int) -> Iterator[slice]:
    """Cut an axis into 16 parts or so: 64-bit numbers are then held for a small part of a block only."""
    step = max(1, planes // 16)
    return (slice(start, min(start + step, planes)) for start in range(0, planes, step))


def mask_of(values: Array, classes: tuple[int, ...] | None) -> Array:
    """Set voxels of a mask or of a label volume."""
    if classes is None:
        return values if values.dtype == bool else values != 0
    mask = namespace_for(values).zeros(values.shape, bool)
    for label in classes:
        mask |= values == label
    return mask


def _near_block(values: Array, block: Block, ball: Ball, classes: tuple[int, ...] | None) -> Array:
    return select_near(mask_of(values, classes), ball, block.core)


def _distance_of_block(values: Array, block: Block, ball: Ball, classes: tuple[int, ...] | None) -> Array:
    xp = namespace_for(values)
    squared = squared_distance(mask_of(values, classes), ball, block.core)
    result = xp.full(squared.shape, ball.radius_um, np.float32)
    for part in slabs(squared.shape[0]):
        within = squared[part] <= ball.limit
        result[part] = xp.where(within, xp.sqrt(squared[part], dtype=np.float64) * ball.unit_um, ball.radius_um)
    return result


def _columns_of_block(values: Array, block: Block, ball: Ball, classes: tuple[int, ...] | None) -> Array:
    return column_distance(mask_of(values, classes), ball, block.core[0])


def _reach_of_block(values: Array, block: Block, ball: Ball) -> Array:
    return slice_reach(values, ball, block.core[2])


def _cover_block(values: Array, block: Block) -> Array:
    result = namespace_for(values).zeros(block.write_shape, bool)
    cover_lines(values, block.core[1], result)
    return result


def _parameters(radius_um: float, voxel_size_um: Spacing, classes: tuple[int, ...] | None) -> dict[str, Any]:
    return {
        "radius_um": float(radius_um),
        "voxel_size_um": [float(h) for h in voxel_size_um],
        "classes": None if classes is None else [int(c) for c in classes],
    }
