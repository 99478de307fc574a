"""Kernels of the shells around an object: which of several distances from it a voxel lies within.

One volume of shell numbers holds every region of interest around an object: its inside, the object enlarged by any of
the distances, and a profile of whatever is counted shell by shell.

.. code-block:: text

    distance   0       edge 1      edge 2   ...   edge n
    shell        0 | 1       | 2         |    ...       | n + 1
               inside                                     beyond
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block, Halo, Shape, Spacing
from tomoscale.kernels.ball import Ball, make_ball
from tomoscale.kernels.distance import column_distance, mask_of, slabs, slice_distance
from tomoscale.kernels.parabolas import spread_squares
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SHELLS = 253
"""Shell numbers, with those of the inside and of what lies beyond, fit 8 bits with one value to spare."""
_TABLE = 1 << 22


def shells(edges_um: Sequence[float], voxel_size_um: Spacing, classes: tuple[int, ...] | None = None) -> Kernel:
    """Kernel of the shell of each voxel: 0 in the object, k within ``edges_um[k - 1]`` of it, n + 1 beyond, uint8.

    The distance is that to the nearest voxel of the object, centre to centre, in integers as for `within_distance`,
    whose region is that of the shells 0 to n. The halo is the last edge; where it makes blocks too large, run the three
    kernels of `shells_by_axis` instead.

    Parameters
    ----------
    edges_um : sequence of float
        Outer edges of the shells 1 to n, increasing, in micrometres.
    voxel_size_um : (z, y, x)
    classes : tuple of int or None
        Labels of the object; None for all but 0.

    Raises
    ------
    ValueError
        If the edges do not increase, are too many, or are less than a voxel.
    """
    ball, limits = _limits(edges_um, voxel_size_um)
    return Kernel(
        "shells",
        partial(_shells_of_block, ball=ball, limits=limits, classes=classes),
        Halo.symmetric(ball.reach),
        np.dtype(np.uint8),
        bytes_per_voxel=11,
        parameters=_parameters(edges_um, voxel_size_um, classes),
        located=True,
    )


def shells_by_axis(
    edges_um: Sequence[float], voxel_size_um: Spacing, classes: tuple[int, ...] | None = None
) -> tuple[Kernel, Kernel, Kernel]:
    """Three kernels that, run after each other on stored volumes, give what `shells` gives.

    Each reads a margin along one axis alone. The volumes between hold uint16, and int32 (int64 where the voxel edges
    have a very small common unit).
    """
    ball, limits = _limits(edges_um, voxel_size_um)
    z, y, x = ball.reach
    parameters = _parameters(edges_um, voxel_size_um, classes)
    squares = np.dtype(np.int32 if ball.limit < 2**31 - 1 else np.int64)

    def kernel(name: str, function: Any, reach: Shape, dtype: Any, bytes_per_voxel: float) -> Kernel:
        halo = Halo.symmetric(reach)
        return Kernel(name, function, halo, np.dtype(dtype), bytes_per_voxel, parameters, located=True)

    columns = partial(_columns_of_block, ball=ball, classes=classes)
    return (
        kernel("shells along z", columns, (z, 0, 0), np.uint16, 8),
        kernel("shells along x", partial(_slices_of_block, ball=ball), (0, 0, x), squares, 9 + squares.itemsize),
        kernel("shells along y", partial(_lines_of_block, ball=ball, limits=limits), (0, y, 0), np.uint8, 12),
    )


def number_squares(squares: Array, limits: tuple[int, ...], xp: Any) -> Array:
    """Shells of squared distances: 0 for 0, k for what is at most ``limits[k - 1]`` and more than the limit before."""
    edges = xp.asarray((0, *limits))
    if limits[-1] < _TABLE:
        # Looking a number up costs a tenth of searching for it.
        return xp.searchsorted(edges, xp.arange(limits[-1] + 2)).astype(np.uint8)[squares]
    return xp.searchsorted(edges, squares.ravel()).astype(np.uint8).reshape(squares.shape)


def _limits(edges_um: Sequence[float], voxel_size_um: Spacing) -> tuple[Ball, tuple[int, ...]]:
    """Ball of the last edge, and the squared edges in its units."""
    edges = [float(e) for e in edges_um]
    if not 1 <= len(edges) <= MAX_SHELLS or any(a >= b for a, b in pairwise(edges)):
        raise ValueError(f"edges_um must be 1 to {MAX_SHELLS} increasing distances, got {edges}")
    balls = [make_ball(edge, voxel_size_um) for edge in edges]
    return balls[-1], tuple(ball.limit for ball in balls)


def _shells_of_block(
    values: Array, block: Block, ball: Ball, limits: tuple[int, ...], classes: tuple[int, ...] | None
) -> Array:
    mask = mask_of(values, classes)
    xp = namespace_for(mask)
    if mask.all():
        return xp.zeros(block.write_shape, np.uint8)
    result = xp.full(block.write_shape, len(limits) + 1, np.uint8)
    if mask.any():
        along_z = column_distance(mask, ball, block.core[0])
        for part in slabs(along_z.shape[0]):
            _number_lines(slice_distance(along_z[part], ball)[:, :, block.core[2]], result[part], block, ball, limits)
    return result


def _columns_of_block(values: Array, block: Block, ball: Ball, classes: tuple[int, ...] | None) -> Array:
    return column_distance(mask_of(values, classes), ball, block.core[0])


def _slices_of_block(values: Array, block: Block, ball: Ball) -> Array:
    far = ball.limit + 1
    dtype = np.int32 if far < 2**31 else np.int64
    result = namespace_for(values).full(block.write_shape, far, dtype)
    for part in slabs(values.shape[0]):
        if (values[part] <= ball.reach[0]).any():
            result[part] = slice_distance(values[part], ball)[:, :, block.core[2]]
    return result


def _lines_of_block(values: Array, block: Block, ball: Ball, limits: tuple[int, ...]) -> Array:
    result = namespace_for(values).full(block.write_shape, len(limits) + 1, np.uint8)
    for part in slabs(values.shape[0]):
        _number_lines(values[part].astype(np.int64), result[part], block, ball, limits)
    return result


def _number_lines(nearest: Array, result: Array, block: Block, ball: Ball, limits: tuple[int, ...]) -> None:
    """Write the shells of a few planes whose squared distances within (z, x) slices are known."""
    xp = namespace_for(nearest)
    if not (nearest <= ball.limit).any():
        return
    lines = xp.ascontiguousarray(nearest.swapaxes(1, 2))
    squares = spread_squares(lines, ball.weights[1], ball.limit, ball.reach[1])[:, :, block.core[1]]
    result[...] = number_squares(squares, limits, xp).swapaxes(1, 2)


def _parameters(edges_um: Sequence[float], voxel_size_um: Spacing, classes: tuple[int, ...] | None) -> dict[str, Any]:
    return {
        "edges_um": [float(e) for e in edges_um],
        "voxel_size_um": [float(h) for h in voxel_size_um],
        "classes": None if classes is None else [int(c) for c in classes],
    }
