"""Kernels in which the labels around a voxel vote, and the footprints they vote over.

Labels are integers ``0 .. n_classes - 1``; only voxels inside the volume vote. Votes are counted for one class after
the other, as sums of rows along x, in array operations on some planes at a time.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.errors import InputError
from tomoscale.geometry import Halo
from tomoscale.kernels.ball import Ball, make_ball
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import DTypeLike

    from tomoscale.kernels.filters import Footprint

Rows = dict[tuple[int, int], int]
"""A footprint as rows along x: half length in voxels by offset (z, y)."""


def cube_rows(radius: int) -> Rows:
    """Rows of a cube of ``2 * radius + 1`` voxels."""
    reach = range(-radius, radius + 1)
    return {(z, y): radius for z in reach for y in reach}


def ball_rows(ball: Ball) -> Rows:
    """Rows of a ball."""
    (wz, wy, wx), (rz, ry, _) = ball.weights, ball.reach
    offsets = ((z, y) for z in range(-rz, rz + 1) for y in range(-ry, ry + 1))
    rests = {(z, y): ball.limit - wz * z * z - wy * y * y for z, y in offsets}
    return {at: math.isqrt(rest // wx) for at, rest in rests.items() if rest >= 0}


def filter_majority(labels: Array, rows: Rows, n_classes: int) -> Array:
    """Replace every label by the most frequent one of its neighbourhood.

    Of equally frequent labels the voxel keeps its own if it is among them, else it takes the smallest.

    Parameters
    ----------
    labels : (Z, Y, X) integer array, NumPy or CuPy
        Values ``0 .. n_classes - 1``.
    rows : Rows
        The neighbourhood, from `cube_rows` or `ball_rows`.
    n_classes : int

    Returns
    -------
    (Z, Y, X) array of the same type.
    """
    result = namespace_for(labels).empty_like(labels)
    # Scores are as narrow as the labels that occur allow, not those that might.
    present = range(min(n_classes, int(labels.max()) + 1))
    for part, padded in slabs(labels.shape[0], max(z for z, _ in rows)):
        result[part] = vote(labels[padded], within(part, padded), present, rows)
    return result


def majority(radius: int, n_classes: int, dtype: DTypeLike = np.uint8, footprint: Footprint = "cube") -> Kernel:
    """Kernel of `filter_majority`, which reaches `radius` voxels; `dtype` is that of the source.

    Parameters
    ----------
    radius : int
        Half width of the cube in voxels, or radius of the ball (a ball of 1 voxel is the centre and its 6 neighbours).
    n_classes : int
        Any label that is not one of ``0 .. n_classes - 1`` is an error. Time grows with the classes that occur.
    dtype : integer dtype
    footprint : "cube" or "ball"
    """
    if radius < 1 or n_classes < 2:
        raise ValueError(f"radius must be at least 1 voxel and n_classes at least 2, got {radius} and {n_classes}")
    if footprint not in ("cube", "ball"):
        raise ValueError(f'footprint must be "cube" or "ball", got {footprint!r}')
    rows = cube_rows(radius) if footprint == "cube" else ball_rows(make_ball(radius, (1.0, 1.0, 1.0)))
    dtype = np.dtype(dtype)
    return Kernel(
        "majority",
        partial(
            check_labels,
            dtype=dtype,
            n_classes=n_classes,
            function=partial(filter_majority, rows=rows, n_classes=n_classes),
        ),
        Halo.uniform(radius),
        dtype,
        bytes_per_voxel=dtype.itemsize + voting_bytes(radius, dtype),
        parameters={"radius": radius, "n_classes": n_classes, "footprint": footprint, "dtype": dtype.name},
    )


def check_labels(
    labels: Array, function: Callable[[Array], Array], dtype: np.dtype[Any], n_classes: int | None = None
) -> Array:
    """Apply a function of labels that keeps their type.

    Raises
    ------
    InputError
        If the labels are not of type `dtype`, which the target was made for, or not all in ``0 .. n_classes - 1``, if given.
    """
    if labels.dtype != dtype:
        raise InputError(
            f"the source holds {labels.dtype} but the kernel was made for {dtype}: give dtype={labels.dtype}"
        )
    if n_classes is None:
        return function(labels)
    least, greatest = int(labels.min()), int(labels.max())
    if least < 0 or greatest >= n_classes:
        raise InputError(
            f"labels must lie in 0 .. {n_classes - 1} but one is {least if least < 0 else greatest}: check that these are labels "
            "and no grey values, and convert them with kind='labels', or map them to these"
        )
    return function(labels)


def vote(labels: Array, inner: slice, classes: Sequence[int], rows: Rows) -> Array:
    """Most frequent of some classes around every voxel; of equally frequent ones its own, else the smallest.

    Parameters
    ----------
    labels : (Z, Y, X) integer array
    inner : slice
        The planes to give.
    classes : sequence of int
        The classes that may win.
    rows : Rows
        A footprint with a voxel of one of the classes, wherever the result matters.

    Returns
    -------
    (inner, Y, X) array of the type of `labels`.
    """
    xp = namespace_for(labels)
    shape = (inner.stop - inner.start, *labels.shape[1:])
    voters = sum(2 * half + 1 for half in rows.values())
    # One number holds, from the highest bit: votes, whether the label is the voxel's own, and the label from the last.
    bits = max(classes).bit_length()
    last = 2**bits - 1
    dtype = np.min_scalar_type((voters + 1) << (bits + 1))
    best, score = xp.zeros(shape, dtype), xp.empty(shape, dtype)
    for label in classes:
        member = labels == label
        if not member.any():
            continue
        xp.multiply(_count(member, inner, rows, np.min_scalar_type(voters)), dtype.type(2), out=score)
        score += member[inner]
        score <<= dtype.type(bits)
        score |= dtype.type(last - label)
        xp.maximum(best, score, out=best)
    best &= dtype.type(last)
    return xp.subtract(dtype.type(last), best, out=best).astype(labels.dtype)


def slabs(planes: int, reach: int) -> Iterator[tuple[slice, slice]]:
    """Cut an axis into some 16 parts: each without and with `reach` planes on either side, clipped at the ends."""
    step = max(1, planes // 16)
    for start in range(0, planes, step):
        stop = min(start + step, planes)
        yield slice(start, stop), slice(max(0, start - reach), min(stop + reach, planes))


def within(part: slice, padded: slice) -> slice:
    """Return a slice of an axis as seen from a larger one."""
    return slice(part.start - padded.start, part.stop - padded.start)


def voting_bytes(reach: int, dtype: np.dtype[Any]) -> float:
    """Bytes per voxel of the block that `vote` takes for one of its `slabs`, for blocks of 32 planes and more."""
    return (13 + dtype.itemsize) * min(1, (1 + reach) / 16)


def _count(member: Array, inner: slice, rows: Rows, dtype: np.dtype[Any]) -> Array:
    """Count the set voxels of a footprint around every voxel of the planes `inner`."""
    sums = member.astype(dtype)
    counts = namespace_for(member).zeros((inner.stop - inner.start, *member.shape[1:]), dtype)
    for half in range(max(rows.values()) + 1):
        if 0 < half < member.shape[2]:
            sums[..., half:] += member[..., :-half]
            sums[..., :-half] += member[..., half:]
        for z, y in (at for at, length in rows.items() if length == half):
            to_z, from_z = _overlap(counts.shape[0], member.shape[0], inner.start + z)
            to_y, from_y = _overlap(counts.shape[1], member.shape[1], y)
            counts[to_z, to_y] += sums[from_z, from_y]
    return counts


def _overlap(length: int, source_length: int, offset: int) -> tuple[slice, slice]:
    """Indices ``i`` of a target for which ``i + offset`` lies in the source, and these."""
    start, stop = max(0, -offset), min(length, source_length - offset)
    if start >= stop:
        return slice(0, 0), slice(0, 0)
    return slice(start, stop), slice(start + offset, stop + offset)
