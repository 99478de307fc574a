"""Kernels of the exact Euclidean distance over a whole volume, one axis after the other.

.. code-block:: text

    along z   voxels to the nearest one of the column                 reads whole columns      uint16
    along x   least squared distance within the slice                 reads whole rows         int32 or int64
    along y   least squared distance of all, and its root             reads whole lines        float32, or as above

Squares are whole multiples of a squared unit that fits all three voxel edges, so nothing depends on rounding or on the
blocks. Each pass reads its source once: lines are whole, so there is no margin.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block, Halo, Shape, Spacing
from tomoscale.kernels.ball import Ball, covering_ball
from tomoscale.kernels.distance import column_distance, mask_of, slabs
from tomoscale.kernels.parabolas import spread_squares
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 2**16 - 2
"""Voxels of an axis whose distances fit into 16 bits, the mark for "none in this column" included."""


def distance_by_axis(
    shape: Shape,
    voxel_size_um: Spacing,
    classes: tuple[int, ...] | None = None,
    *,
    inside: bool = False,
    squared: bool = False,
) -> tuple[Kernel, Kernel, Kernel]:
    """Three kernels that, run after each other on stored volumes, give the distance to an object, centre to centre.

    Parameters
    ----------
    shape : (Z, Y, X)
        Of the volume.
    voxel_size_um : (z, y, x)
    classes : tuple of int or None
        Labels of the object; None for all but 0.
    inside : bool
        The distance of the object's voxels to the nearest voxel that is not of it, 0 elsewhere; otherwise that of all
        other voxels to the nearest one of the object, 0 in it. What lies beyond the volume is neither.
    squared : bool
        End with squared distances in squared units (``covering_ball(shape, voxel_size_um).unit_um``), exactly.

    Returns
    -------
    three Kernels
        The last one gives float32 micrometres, the root taken in float64 and rounded once, infinite where there is no
        voxel to measure to; or, squared, int32 or int64, with one more than the largest square there can be instead.

    Raises
    ------
    ValueError
        If an axis is longer than 65534 voxels, or the voxel edges have no common unit.
    """
    if max(shape) > LONGEST:
        raise ValueError(
            f"distances are counted in 16 bits, up to {LONGEST} voxels along an axis, but the shape is {shape}"
        )
    ball = covering_ball(shape, voxel_size_um)
    parameters = {
        "voxel_size_um": [float(h) for h in voxel_size_um],
        "classes": None if classes is None else [int(c) for c in classes],
        "inside": inside,
    }
    square = np.dtype(np.int32 if ball.limit + 1 < 2**31 else np.int64)
    last = square if squared else np.dtype(np.float32)

    def kernel(name: str, function: Any, axis: int, dtype: Any, working: float, more: Mapping[str, Any]) -> Kernel:
        whole = [shape[axis] - 1 if a == axis else 0 for a in range(3)]
        halo = Halo.symmetric((whole[0], whole[1], whole[2]))
        dtype = np.dtype(dtype)
        return Kernel(name, function, halo, dtype, dtype.itemsize + working, {**parameters, **more}, located=True)

    # Of the ball only its reach along z is looked at: as far as the column goes.
    column = Ball((1, 1, 1), (shape[0] - 1) ** 2, ball.unit_um, ball.radius_um)
    columns = partial(_columns_of_block, ball=column, classes=classes, inside=inside)
    return (
        kernel("distance along z", columns, 0, np.uint16, 1.5, {}),
        kernel("distance along x", partial(_rows_of_block, ball=ball, far=shape[0], dtype=square), 2, square, 2.5, {}),
        kernel("distance along y", partial(_lines_of_block, ball=ball, dtype=last), 1, last, 4.0, {"squared": squared}),
    )


def _columns_of_block(values: Array, block: Block, ball: Ball, classes: tuple[int, ...] | None, inside: bool) -> Array:
    return column_distance(mask_of(values, classes), ball, block.core[0], near=not inside)


def _rows_of_block(values: Array, block: Block, ball: Ball, far: int, dtype: np.dtype[Any]) -> Array:
    xp = namespace_for(values)
    result = xp.empty(block.write_shape, dtype)
    for part in slabs(values.shape[0]):
        costs = values[part].astype(np.int64)
        none = costs == far
        costs *= costs
        costs *= ball.weights[0]
        costs[none] = ball.limit + 1
        result[part] = spread_squares(costs, ball.weights[2], ball.limit, ball.reach[2])[:, :, block.core[2]]
    return result


def _lines_of_block(values: Array, block: Block, ball: Ball, dtype: np.dtype[Any]) -> Array:
    xp = namespace_for(values)
    result = xp.empty(block.write_shape, dtype)
    for part in slabs(values.shape[0]):
        lines = xp.ascontiguousarray(values[part].swapaxes(1, 2)).astype(np.int64)
        nearest = spread_squares(lines, ball.weights[1], ball.limit, ball.reach[1]).swapaxes(1, 2)[:, block.core[1]]
        if dtype.kind == "i":
            result[part] = nearest
            continue
        length = xp.sqrt(nearest, dtype=np.float64) * ball.unit_um
        result[part] = xp.where(nearest > ball.limit, np.inf, length)
    return result
