"""Kernels that grow, shrink and smooth masks and classes, by exact Euclidean balls in micrometres.

A ball is the set of voxels whose centre lies at most the radius from the middle one's (`ball.make_ball`). All
operations are those on the whole volume: blocks are read clipped at the volume's edge, and what a block's artificial
edge falsifies lies in the halo.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Halo, Shape, Spacing, three
from tomoscale.kernels.ball import Ball, make_ball
from tomoscale.kernels.distance import select_near
from tomoscale.kernels.majority import ball_rows, check_labels, slabs, vote, voting_bytes, within
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike

Border = Literal["outside_is_ignored", "outside_is_background"]
"""What erosion takes the outside of the volume for: nothing, so that an object cut by the edge of the scan is not
eroded from there, or background, so that it is. Dilation has no such choice: nothing grows in from outside."""

MASK_BYTES = 9
"""Bytes per voxel that growing or shrinking a mask takes beyond its source, in blocks of 16 planes or more."""


def dilate_mask(mask: Array, ball: Ball) -> Array:
    """Grow a mask by a ball: every voxel with a set voxel within the ball around it. (Z, Y, X) bool in and out."""
    return select_near(mask, ball)


def erode_mask(mask: Array, ball: Ball, border: Border = "outside_is_ignored") -> Array:
    """Shrink a mask by a ball: every voxel with no unset voxel within the ball around it.

    Parameters
    ----------
    mask : (Z, Y, X) bool array, NumPy or CuPy
    ball : Ball
    border : Border
        Whether a ball that leaves the volume meets background there.

    Returns
    -------
    (Z, Y, X) bool array.
    """
    reached = select_near(mask, ball, near=False)
    eroded = namespace_for(mask).logical_not(reached, out=reached)
    if border == "outside_is_background":
        for axis, reach in enumerate(ball.reach):
            lines = eroded.swapaxes(0, axis)
            lines[:reach] = False
            lines[max(0, len(lines) - reach) :] = False
    return eroded


def open_mask(mask: Array, ball: Ball, border: Border = "outside_is_ignored") -> Array:
    """Remove the parts of a mask into which the ball does not fit: erosion under the rule `border`, then dilation."""
    return dilate_mask(erode_mask(mask, ball, border), ball)


def close_mask(mask: Array, ball: Ball, border: Border = "outside_is_ignored") -> Array:
    """Fill the gaps of a mask into which the ball does not fit: dilation, then erosion under the rule `border`.

    The dilated mask ends at the volume's edge. If the outside is ignored no voxel of the mask is lost; if it is
    background, those closer to the edge than the radius are, as with SciPy's default.
    """
    return erode_mask(dilate_mask(mask, ball), ball, border)


def dilation(radius_um: float, voxel_size_um: Spacing) -> Kernel:
    """Kernel of `dilate_mask` on voxels that are not 0; it reaches as far as the ball."""
    ball = make_ball(radius_um, voxel_size_um)
    parameters = {"radius_um": float(radius_um), "voxel_size_um": [float(h) for h in voxel_size_um]}
    function = partial(_of_mask, function=partial(dilate_mask, ball=ball))
    return Kernel("dilation", function, Halo.symmetric(ball.reach), np.dtype(bool), MASK_BYTES, parameters)


def erosion(radius_um: float, voxel_size_um: Spacing, border: Border = "outside_is_ignored") -> Kernel:
    """Kernel of `erode_mask` on voxels that are not 0; it reaches as far as the ball."""
    return _bordered("erosion", erode_mask, make_ball(radius_um, voxel_size_um), voxel_size_um, border)


def opening(radius_um: float, voxel_size_um: Spacing, border: Border = "outside_is_ignored") -> Kernel:
    """Kernel of `open_mask` on voxels that are not 0: erosion and dilation each reach as far as the ball."""
    return _bordered("opening", open_mask, make_ball(radius_um, voxel_size_um), voxel_size_um, border)


def closing(radius_um: float, voxel_size_um: Spacing, border: Border = "outside_is_ignored") -> Kernel:
    """Kernel of `close_mask` on voxels that are not 0: dilation and erosion each reach as far as the ball."""
    return _bordered("closing", close_mask, make_ball(radius_um, voxel_size_um), voxel_size_um, border)


def close_class(labels: Array, label: int, ball: Ball, overwrites: tuple[int, ...]) -> Array:
    """Close the gaps of one class of a label volume; the outside of the volume is ignored.

    Parameters
    ----------
    labels : (Z, Y, X) integer array, NumPy or CuPy
    label : int
        The class to close.
    ball : Ball
    overwrites : tuple of int
        Classes whose voxels may become `label`; all others stay as they are, and so does every voxel of `label`.

    Returns
    -------
    (Z, Y, X) array of the same type.
    """
    closed = close_mask(labels == label, ball)
    may_change = namespace_for(labels).zeros(labels.shape, bool)
    for other in overwrites:
        may_change |= labels == other
    closed &= may_change
    del may_change
    result = labels.copy()
    result[closed] = label
    return result


def close_label(
    label: int,
    radius_um: float,
    voxel_size_um: Spacing,
    overwrites: tuple[int, ...] = (0,),
    dtype: DTypeLike = np.uint8,
) -> Kernel:
    """Kernel of `close_class`, with the reach of a closing; `dtype` is that of the source.

    To close several classes chain the kernels with `Kernel.then`: the order then says which class wins.
    """
    if not overwrites or label in overwrites:
        raise ValueError(
            f"overwrites must name classes other than label {label}, got {overwrites}: nothing would change"
        )
    ball = make_ball(radius_um, voxel_size_um)
    dtype = np.dtype(dtype)
    function = partial(close_class, label=label, ball=ball, overwrites=tuple(overwrites))
    return Kernel(
        "close_label",
        partial(check_labels, function=function, dtype=dtype),
        Halo.symmetric(_twice(ball)),
        dtype,
        bytes_per_voxel=max(MASK_BYTES, dtype.itemsize + 3),
        parameters={
            "label": label,
            "radius_um": float(radius_um),
            "voxel_size_um": [float(h) for h in voxel_size_um],
            "overwrites": [int(c) for c in overwrites],
            "dtype": dtype.name,
        },
    )


def open_class(labels: Array, label: int, ball: Ball, n_classes: int, fill: int | None = None) -> Array:
    """Remove the parts of one class into which the ball does not fit; the outside of the volume is ignored.

    Parameters
    ----------
    labels : (Z, Y, X) integer array, NumPy or CuPy
        Values ``0 .. n_classes - 1``.
    label : int
        The class to open.
    ball : Ball
    n_classes : int
    fill : int or None
        What a removed voxel becomes; None for the most frequent of the other classes within the ball around it, the
        smallest of equally frequent ones. There is always one, or the ball would fit there.

    Returns
    -------
    (Z, Y, X) array of the same type.
    """
    mask = labels == label
    removed = mask & ~open_mask(mask, ball)
    del mask
    result = labels.copy()
    if fill is not None:
        result[removed] = fill
        return result
    classes = tuple(c for c in range(n_classes) if c != label)
    for part, padded in slabs(labels.shape[0], ball.reach[0]):
        if removed[part].any():
            winners = vote(labels[padded], within(part, padded), classes, ball_rows(ball))
            namespace_for(labels).copyto(result[part], winners, where=removed[part])
    return result


def open_label(
    label: int,
    radius_um: float,
    voxel_size_um: Spacing,
    n_classes: int,
    fill: int | None = None,
    dtype: DTypeLike = np.uint8,
) -> Kernel:
    """Kernel of `open_class`, with the reach of an opening; `dtype` is that of the source."""
    if not 0 <= label < n_classes or fill == label or (fill is not None and not 0 <= fill < n_classes):
        raise ValueError(
            f"label and fill must be two different classes of 0 .. {n_classes - 1}, got label {label} and fill {fill}"
        )
    ball = make_ball(radius_um, voxel_size_um)
    dtype = np.dtype(dtype)
    function = partial(open_class, label=label, ball=ball, n_classes=n_classes, fill=fill)
    return Kernel(
        "open_label",
        partial(check_labels, function=function, dtype=dtype, n_classes=n_classes),
        Halo.symmetric(_twice(ball)),
        dtype,
        bytes_per_voxel=max(MASK_BYTES, dtype.itemsize + 2 + voting_bytes(ball.reach[0], dtype)),
        parameters={
            "label": label,
            "radius_um": float(radius_um),
            "voxel_size_um": [float(h) for h in voxel_size_um],
            "n_classes": n_classes,
            "fill": fill,
            "dtype": dtype.name,
        },
    )


def _bordered(name: str, function: Callable[..., Array], ball: Ball, voxel_size_um: Spacing, border: Border) -> Kernel:
    """Kernel of an operation with a rule for the volume's border."""
    if border not in ("outside_is_ignored", "outside_is_background"):
        raise ValueError(f'border must be "outside_is_ignored" or "outside_is_background", got {border!r}')
    return Kernel(
        name,
        partial(_of_mask, function=partial(function, ball=ball, border=border)),
        Halo.symmetric(ball.reach if name == "erosion" else _twice(ball)),
        np.dtype(bool),
        bytes_per_voxel=MASK_BYTES,
        parameters={
            "radius_um": ball.radius_um,
            "voxel_size_um": [float(h) for h in voxel_size_um],
            "border": border,
        },
    )


def _of_mask(values: Array, function: Callable[[Array], Array]) -> Array:
    """Apply a function of a bool mask to the voxels that are not 0."""
    return function(values if values.dtype == bool else values != 0)


def _twice(ball: Ball) -> Shape:
    return three(2 * r for r in ball.reach)
