"""Kernels that change grey values, voxel by voxel or over a small neighbourhood, on the grid of the source.

Every factory returns a `Kernel` whose result on a block is, bit for bit, the result on the whole volume. What is
declared as ``bytes_per_voxel`` holds for sources of every type.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tomoscale.arrays import Array, namespace_for, ndimage_for, on_host
from tomoscale.errors import InputError
from tomoscale.geometry import Block, Halo, Shape, Spacing, three
from tomoscale.kernels.rank import select_median
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike

Footprint = Literal["cube", "ball"]


def replace_not_finite(values: Array, block: Block, dtype: DTypeLike, nan_policy: Literal["refuse", "zero"]) -> Array:
    """Return grey values as `dtype`, with NaN and infinities refused or set to zero.

    Parameters
    ----------
    values : (Z, Y, X) array, NumPy or CuPy
    block : Block
        Where the values lie.
    dtype : numpy dtype
        Must hold every value of the source's type.
    nan_policy : "refuse" or "zero"

    Returns
    -------
    array of `dtype`
        Of the shape of ``block.write``.

    Raises
    ------
    InputError
        If `dtype` cannot hold the source's type, or if values are not finite and the policy is to refuse them.
    """
    xp = namespace_for(values)
    if not np.can_cast(values.dtype, dtype, "safe"):
        raise InputError(f"{values.dtype} values do not fit into {np.dtype(dtype)} without loss: choose a wider dtype")
    values = values[block.core]  # all of it, unless a kernel with a halo came before in the same pass
    if values.dtype.kind == "f":
        finite = xp.isfinite(values)
        if not finite.all():
            if nan_policy == "refuse":
                raise InputError(_not_finite(values, ~finite, write_start(block), f"in block {block.number}"))
            return xp.where(finite, values, values.dtype.type(0)).astype(dtype, copy=False)
        del finite
    return values.astype(dtype, copy=False)


def cast(dtype: DTypeLike, nan_policy: Literal["refuse", "zero"] = "refuse") -> Kernel:
    """Kernel of `replace_not_finite`: copies a volume, to a wider type if asked; pointwise, so no halo."""
    if nan_policy not in ("refuse", "zero"):
        raise ValueError(f'nan_policy must be "refuse" or "zero", got {nan_policy!r}')
    return Kernel(
        "cast",
        partial(replace_not_finite, dtype=np.dtype(dtype), nan_policy=nan_policy),
        Halo(),
        np.dtype(dtype),
        # A float source is at most as wide as the result: a mask, perhaps a filled copy, the result.
        bytes_per_voxel=1 + 2 * np.dtype(dtype).itemsize if nan_policy == "zero" else np.dtype(dtype).itemsize,
        parameters={"dtype": np.dtype(dtype).name, "nan_policy": nan_policy},
        located=True,
    )


def scale_values(values: Array, low: float, high: float, dtype: DTypeLike = np.float32) -> Array:
    """Clip grey values to ``low .. high`` and map this range linearly to ``0 .. 1``.

    ``(clip(x, low, high) - low) / (high - low)``, computed in float32 (in float64 if that is the result's type).

    Raises
    ------
    InputError
        If a value is not finite; the position is that in `values`.
    """
    xp = namespace_for(values)
    work = np.result_type(dtype, np.float32)
    bottom, top = work.type(low), work.type(high)
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite and is refused below
        scaled = values.astype(work)
    if values.dtype.kind == "f":
        finite = xp.isfinite(scaled)
        if not finite.all():
            raise InputError(_not_finite(scaled, ~finite, (0, 0, 0), "counted from the first voxel of the block read"))
        del finite
    xp.clip(scaled, bottom, top, out=scaled)
    scaled -= bottom
    scaled /= top - bottom
    return scaled.astype(dtype, copy=False)


def clip_and_scale(low: float, high: float, dtype: DTypeLike = np.float32) -> Kernel:
    """Kernel of `scale_values`; `low` and `high` are limits of the whole volume, never of a block.

    Raises
    ------
    ValueError
        If `dtype` is not a floating type, or if the limits are not finite, out of order, or equal at the precision
        of the computation.
    """
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise ValueError(f"dtype must be a floating type because results lie in 0 .. 1, got {dtype}")
    work = np.result_type(dtype, np.float32)
    if not (np.isfinite([low, high]).all() and work.type(low) < work.type(high)):
        raise ValueError(
            f"low must be less than high, got low {low!r} and high {high!r} (compared as {work}): "
            "a volume with one grey value has no contrast to scale"
        )
    return Kernel(
        "clip_and_scale",
        partial(scale_values, low=low, high=high, dtype=dtype),
        Halo(),
        dtype,
        bytes_per_voxel=work.itemsize + (1 if dtype == work else dtype.itemsize),
        parameters={"low": float(low), "high": float(high), "dtype": dtype.name},
    )


def smooth_gaussian(values: Array, sigma_voxels: Spacing, truncate: float = 4.0) -> Array:
    """Smooth grey values with a Gaussian; values beyond the border are those at the border.

    Parameters
    ----------
    values : (Z, Y, X) array, NumPy or CuPy
    sigma_voxels : (z, y, x)
        Standard deviations in voxels; 0 leaves an axis as it is.
    truncate : float
        Standard deviations at which the Gaussian is cut off.

    Returns
    -------
    (Z, Y, X) float32 array; NaN and infinities spread over the reach of the filter.
    """
    ndimage = ndimage_for(values)
    return ndimage.gaussian_filter(values, sigma_voxels, output=np.float32, mode="nearest", truncate=truncate)


def gaussian(sigma_um: float, voxel_size_um: Spacing, truncate: float = 4.0) -> Kernel:
    """Kernel of `smooth_gaussian`, equally wide in micrometres along all axes.

    SciPy cuts the filter ``int(truncate * sigma + 0.5)`` voxels from its centre; this is the halo. Every voxel is a sum
    over that reach in one fixed order, so the position in the block does not change its rounding.
    """
    if not (sigma_um > 0 and min(voxel_size_um) > 0 and truncate > 0):
        raise ValueError(
            f"sigma_um, voxel_size_um and truncate must be positive, got {sigma_um}, {voxel_size_um} and {truncate}"
        )
    z, y, x = (float(sigma_um / h) for h in voxel_size_um)
    reach = three(int(truncate * sigma + 0.5) for sigma in (z, y, x))
    return Kernel(
        "gaussian",
        partial(smooth_gaussian, sigma_voxels=(z, y, x), truncate=truncate),
        Halo.symmetric(reach),
        np.dtype(np.float32),
        bytes_per_voxel=4,
        parameters={"sigma_voxels": [z, y, x], "truncate": truncate},
    )


def filter_median(values: Array, radius: int, footprint: Footprint = "cube") -> Array:
    """Replace every voxel by the median of its neighbourhood; values beyond the border are those at the border.

    Parameters
    ----------
    values : (Z, Y, X) array without NaN, NumPy or CuPy
    radius : int
        Half width of the neighbourhood, in voxels.
    footprint : "cube" or "ball"
        The cube of ``2 * radius + 1`` voxels, or what of it lies within `radius` of the centre (for a radius of 1
        voxel the centre and its 6 neighbours).

    Returns
    -------
    (Z, Y, X) array of the same type.

    Raises
    ------
    InputError
        If a value is NaN, which has no rank.
    """
    xp = namespace_for(values)
    if values.dtype.kind == "f" and xp.isnan(values).any():
        where = "counted from the first voxel of the block read"
        raise InputError(_not_finite(values, xp.isnan(values), (0, 0, 0), where))
    if not on_host(values):
        mask = xp.zeros((2 * radius + 1,) * 3, bool)
        for offset in _offsets(radius, footprint):
            mask[tuple(o + radius for o in offset)] = True
        return ndimage_for(values).median_filter(values, footprint=mask, mode="nearest")
    numbers = values.view(np.uint8) if values.dtype == bool else values
    return select_median(np.ascontiguousarray(numbers), np.array(_offsets(radius, footprint))).view(values.dtype)


def median(radius: int, dtype: DTypeLike, footprint: Footprint = "cube") -> Kernel:
    """Kernel of `filter_median`, which reaches `radius` voxels; `dtype` is that of the source."""
    if radius < 1:
        raise ValueError(f"radius must be at least 1 voxel, got {radius}")
    if footprint not in ("cube", "ball"):
        raise ValueError(f'footprint must be "cube" or "ball", got {footprint!r}')
    return Kernel(
        "median",
        partial(
            _keep_dtype, function=partial(filter_median, radius=radius, footprint=footprint), dtype=np.dtype(dtype)
        ),
        Halo.uniform(radius),
        np.dtype(dtype),
        bytes_per_voxel=np.dtype(dtype).itemsize,
        parameters={"radius": radius, "footprint": footprint, "dtype": np.dtype(dtype).name},
    )


def _keep_dtype(values: Array, function: Callable[[Array], Array], dtype: np.dtype[Any]) -> Array:
    """Apply a function that keeps the type, refusing a source that is not of the type the target was made for."""
    if values.dtype != dtype:
        raise InputError(
            f"the source holds {values.dtype} but the kernel was made for {dtype}: give dtype={values.dtype}"
        )
    return function(values)


def first_true(wrong: Array, offset: Shape) -> Shape:
    """Voxel (z, y, x) of the first true value, z-major."""
    found = np.unravel_index(int(wrong.ravel().argmax()), wrong.shape)
    return three(int(f) + o for f, o in zip(found, offset, strict=True))


def write_start(block: Block) -> Shape:
    """First voxel (z, y, x) that a block writes."""
    return three(w.start for w in block.write)


def _not_finite(values: Array, wrong: Array, offset: Shape, where: str) -> str:
    at = first_true(wrong, offset)
    value = float(values[tuple(a - o for a, o in zip(at, offset, strict=True))])
    return (
        f"{value} at voxel (z, y, x) = {at}, {where}; {int(wrong.sum())} of its {values.size} voxels are not usable: "
        'repair the source, or copy it with cast(nan_policy="zero") first'
    )


def _offsets(radius: int, footprint: Footprint) -> list[Shape]:
    """Offsets (z, y, x) of a footprint; symmetric with its centre, hence odd in number."""
    reach = range(-radius, radius + 1)
    cube = itertools.product(reach, reach, reach)
    return [(z, y, x) for z, y, x in cube if footprint == "cube" or z * z + y * y + x * x <= radius * radius]
