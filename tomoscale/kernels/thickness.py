"""Kernel of the local thickness: the largest ball that fits into the structure and covers a voxel.

Hildebrand and Rüegsegger, Journal of Microscopy 185 (1997) 67: the thickness at p is twice the radius of the largest
ball inside the structure that holds p. Here a ball is centred at a voxel, reaches to the centre of the nearest voxel
outside (a squared distance of `line_distance`), and covers the voxels whose centres lie within that distance. All in
integers, so that the map is the same for every block.

.. code-block:: text

    ridge    leave out each ball that a neighbour's covers whole: a few percent of all remain
    paint    halve the block again and again, keeping for each part the balls that reach it, the largest first, up to
             the first that covers the part whole
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.geometry import Block, Halo, Shape, Spacing, three
from tomoscale.kernels.ball import Ball
from tomoscale.kernels.distance import slabs
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAF_VOXELS = 4
"""Edge of the boxes in which voxels look through the list of balls one by one."""
NEIGHBOURS = 2
"""How far away, along each axis, a ball is looked for that covers another whole."""
LARGEST_TABLE = 2**22
"""Grid points up to which balls are compared with those of their neighbours; larger balls are all painted."""


def paint_largest(squared: Array, ball: Ball, core: tuple[slice, slice, slice], *, beyond: bool = False) -> Array:
    """Squared radius of the largest ball that covers each voxel of the core.

    Parameters
    ----------
    squared : (Z, Y, X) int32 or int64 array, NumPy or CuPy
        Squared distance from each voxel of the structure to the nearest voxel outside, 0 outside; in squared units.
    ball : Ball
        The largest ball there is.
    core : Region
    beyond : bool
        Also where a ball reaches voxels outside the structure, which lie at exactly its radius.

    Returns
    -------
    array of the type of `squared` and the shape of the core
        0 outside the structure; with `beyond`, outside of all balls.
    """
    if not on_host(squared):
        return _largest_of_shifts(squared, ball, core, beyond=beyond)
    result = np.zeros(tuple(c.stop - c.start for c in core), squared.dtype)
    centres, radii = _ridge_balls(squared, ball, [c.start for c in core])
    box = np.array([(0, n) for n in result.shape], np.int64)
    numbers = np.arange(len(radii), dtype=np.int32)
    painted = np.ones(result.shape, np.bool_) if beyond else squared[core] > 0
    _descend(numbers, box, centres, radii, np.array(ball.weights, np.int64), painted, result)
    return result


def _ridge_balls(squared: Array, ball: Ball, start: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the balls that are to be painted, counted from `start`, and their squared radii; the largest first."""
    places = np.flatnonzero(_ridge(squared, *_cover_tables(ball)))
    radii = squared.reshape(-1)[places]
    order = np.argsort(radii, kind="stable")[::-1]
    places, radii = places[order], radii[order]
    del order
    centres = np.empty((len(places), 3), np.int32)
    for axis, length in ((2, squared.shape[2]), (1, squared.shape[1]), (0, squared.shape[0])):
        np.subtract(places % length, start[axis], out=centres[:, axis], casting="unsafe")
        places //= length
    return centres, radii


def thickness(largest: Ball, voxel_size_um: Spacing, correction_um: float = 0.0) -> Kernel:
    """Kernel of the local thickness in micrometres, from squared distances to the outside; 0 outside the structure.

    A voxel may be covered by a ball centred one radius away, which is the halo; the source is of the whole volume, so
    its distances are final.

    Parameters
    ----------
    largest : Ball
        At least as large as the largest ball that fits, in the units of the source: balls beyond it are cut to it.
    voxel_size_um : (z, y, x)
    correction_um : float
        Taken off the diameter. Between voxel centres a plate of w voxels has 2 * ceil(w / 2), which is up to a voxel too
        much; one voxel edge takes that off.
    """
    return Kernel(
        "local thickness",
        partial(_thickness_of_block, ball=largest, correction_um=correction_um),
        Halo.symmetric(largest.reach),
        np.dtype(np.float32),
        # Squares cut and painted, the result, and some 50 bytes for each ball of the ridge: up to half of all voxels.
        bytes_per_voxel=40,
        parameters={
            "radius_um": largest.radius_um,
            "voxel_size_um": [float(h) for h in voxel_size_um],
            "correction_um": float(correction_um),
        },
        located=True,
    )


def _thickness_of_block(squared: Array, block: Block, ball: Ball, correction_um: float) -> Array:
    xp = namespace_for(squared)
    painted = paint_largest(xp.minimum(squared, ball.limit), ball, block.core)
    result = xp.zeros(painted.shape, np.float32)
    for part in slabs(len(painted)):
        diameter = 2 * ball.unit_um * xp.sqrt(painted[part], dtype=np.float64) - correction_um
        result[part] = xp.where(painted[part] > 0, diameter, 0)
    return result


@lru_cache(maxsize=8)
def _cover_tables(ball: Ball) -> tuple[np.ndarray, np.ndarray]:
    """For each squared radius of a ball on the grid, how large a neighbour's ball must be to cover it whole.

    Returns
    -------
    (K,) int64
        Squared radii that occur, ascending.
    (n, n, n, K) int64
        By ``|z|, |y|, |x|`` of a neighbour up to `NEIGHBOURS`: the squared distance from it to the farthest grid point of
        the ball.
    """
    reach = _tabulated(ball.reach)
    axes = [np.arange(r + 1, dtype=np.int64) for r in reach]
    lengths = [w * a * a for w, a in zip(ball.weights, axes, strict=True)]
    norms = lengths[0][:, None, None] + lengths[1][:, None] + lengths[2]
    # Within the box of the table all points up to its shortest reach are there, and no more.
    complete = min(w * r * r for w, r in zip(ball.weights, reach, strict=True))
    kept = norms <= (ball.limit if reach == ball.reach else complete)
    found = norms[kept]
    order = np.argsort(found, kind="stable")
    radii, ends = np.unique(found[order], return_index=True)
    ends = np.append(ends[1:], len(found)) - 1
    steps = (NEIGHBOURS + 1,) * 3
    farthest = np.zeros((*steps, len(radii)), np.int64)
    for step in np.ndindex(*steps):
        z, y, x = (w * (a + s) ** 2 for w, a, s in zip(ball.weights, axes, step, strict=True))
        far = z[:, None, None] + y[:, None] + x
        farthest[step] = np.maximum.accumulate(far[kept][order])[ends]
    return radii, farthest


def _tabulated(reach: Shape) -> Shape:
    """Reach of the tables: that of the largest ball, or less where this would be too many points."""
    points = math.prod(r + 1 for r in reach)
    share = min(1.0, (LARGEST_TABLE / points) ** (1 / 3))
    return three(max(1, int(r * share)) for r in reach) if share < 1 else reach


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ridge(squared: Array, radii: Array, farthest: Array) -> Array:
    """Voxels whose ball is covered by no neighbour's: bool."""
    nz, ny, nx = squared.shape
    kept = np.zeros(squared.shape, np.bool_)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                own = squared[z, y, x]
                if own > 0:
                    kept[z, y, x] = not _is_covered(squared, z, y, x, own, radii, farthest)
    return kept


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_covered(squared: Array, z: int, y: int, x: int, own: int, radii: Array, farthest: Array) -> bool:  # noqa: PLR0913
    if own > radii[-1]:
        return False
    place = np.searchsorted(radii, own)
    nz, ny, nx = squared.shape
    for i in range(max(z - NEIGHBOURS, 0), min(z + NEIGHBOURS + 1, nz)):
        for j in range(max(y - NEIGHBOURS, 0), min(y + NEIGHBOURS + 1, ny)):
            for k in range(max(x - NEIGHBOURS, 0), min(x + NEIGHBOURS + 1, nx)):
                other = squared[i, j, k]
                if other > own and other >= farthest[abs(i - z), abs(j - y), abs(k - x), place]:
                    return True
    return False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _descend(  # noqa: PLR0913 -- a recursion over compiled arrays
    balls: Array,
    box: Array,
    centres: Array,
    radii: Array,
    weights: Array,
    inside: Array,
    result: Array,
) -> None:
    """Give each voxel of a box the squared radius of the first ball of a list that covers it; the largest come first.

    A box is halved along its axes until it is small. Of the list of the whole, a part keeps the balls that reach it, up
    to the first that covers it whole: those after that are smaller and change nothing.
    """
    if not inside[box[0, 0] : box[0, 1], box[1, 0] : box[1, 1], box[2, 0] : box[2, 1]].any():
        return
    reaching = _reaching(balls, box, centres, radii, weights)
    longest = max(box[0, 1] - box[0, 0], box[1, 1] - box[1, 0], box[2, 1] - box[2, 0])
    if longest <= LEAF_VOXELS:
        _paint(reaching, box, centres, radii, weights, inside, result)
        return
    half = (longest + 1) // 2
    part = np.empty((3, 2), np.int64)
    for z in range(box[0, 0], box[0, 1], half):
        part[0] = z, min(z + half, box[0, 1])
        for y in range(box[1, 0], box[1, 1], half):
            part[1] = y, min(y + half, box[1, 1])
            for x in range(box[2, 0], box[2, 1], half):
                part[2] = x, min(x + half, box[2, 1])
                _descend(reaching, part, centres, radii, weights, inside, result)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _reaching(balls: Array, box: Array, centres: Array, radii: Array, weights: Array) -> Array:
    """Those of some balls that reach a box, up to the first that covers it whole."""
    kept = np.empty(len(balls), np.int32)
    count = 0
    for ball in balls:
        near = far = 0
        for a in range(3):
            centre = centres[ball, a]
            low, high = box[a, 0] - centre, centre - (box[a, 1] - 1)
            gap = max(low, high, 0)
            reach = max(-low, -high) if gap == 0 else gap + box[a, 1] - box[a, 0] - 1
            near += weights[a] * gap * gap
            far += weights[a] * reach * reach
        if near <= radii[ball]:
            kept[count] = ball
            count += 1
            if far <= radii[ball]:
                break
    return kept[:count].copy()  # what was set aside for more balls than there are is freed


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _paint(  # noqa: PLR0913 -- a recursion over compiled arrays
    balls: Array, box: Array, centres: Array, radii: Array, weights: Array, inside: Array, result: Array
) -> None:
    for z in range(box[0, 0], box[0, 1]):
        for y in range(box[1, 0], box[1, 1]):
            for x in range(box[2, 0], box[2, 1]):
                if not inside[z, y, x]:
                    continue
                for ball in balls:
                    dz, dy, dx = z - centres[ball, 0], y - centres[ball, 1], x - centres[ball, 2]
                    if weights[0] * dz * dz + weights[1] * dy * dy + weights[2] * dx * dx <= radii[ball]:
                        result[z, y, x] = radii[ball]
                        break


def _largest_of_shifts(squared: Array, ball: Ball, core: tuple[slice, slice, slice], *, beyond: bool = False) -> Array:
    """`paint_largest` in array operations, for a device: time grows with the volume of the largest ball."""
    xp = namespace_for(squared)
    inside = squared[core] > 0
    best = xp.zeros(inside.shape, squared.dtype)
    for offset, norm in _offsets(ball):
        low = [max(c.start + o, 0) for c, o in zip(core, offset, strict=True)]
        high = [min(c.stop + o, n) for c, o, n in zip(core, offset, squared.shape, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            continue
        centres = squared[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        here = tuple(
            slice(a - o - c.start, b - o - c.start) for a, b, o, c in zip(low, high, offset, core, strict=True)
        )
        xp.maximum(best[here], xp.where(centres >= norm, centres, 0), out=best[here])
    if not beyond:
        best *= inside
    return best


def _offsets(ball: Ball) -> Iterator[tuple[Shape, int]]:
    """Grid points of a ball and their squared distance from its centre."""
    spans: list[Any] = [range(-r, r + 1) for r in ball.reach]
    for z in spans[0]:
        for y in spans[1]:
            for x in spans[2]:
                norm = sum(w * o * o for w, o in zip(ball.weights, (z, y, x), strict=True))
                if norm <= ball.limit:
                    yield (z, y, x), norm
