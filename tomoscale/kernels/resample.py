"""Kernels that change the voxel size: means of whole voxels, and samples of a line, a spline or a mean at any factor.

Centres of voxels map as ``source = (target + 0.5) * factor - 0.5``, so the outer border stays where it is. Positions
are computed in float64 from the index in the whole volume, never from the block. Along each axis a target voxel is a
sum over source voxels with weights that only depend on its own index, in one fixed order; so blocks equal the whole
bit for bit. Beyond the border the source continues with its border values.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.errors import InputError
from tomoscale.geometry import Block, Halo, Region, Shape, Spacing, three
from tomoscale.kernels.sampling import Antialias, Order, sampling_reach, sampling_table
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


def average_bins(values: Array, block: Block, factor: Shape, dtype: DTypeLike) -> Array:
    """Average boxes of `factor` voxels.

    Parameters
    ----------
    values : (Z, Y, X) array, NumPy or CuPy
        What `block` reads; integers of at most 32 bits, or floats.
    block : Block
    factor : (z, y, x)
        Voxels of a box.
    dtype : numpy dtype
        A floating type, or the integer type of the source: means of integers are then exact, rounded half to even.

    Returns
    -------
    array of `dtype`
        Of the shape of ``block.write``.

    Raises
    ------
    InputError
        If `dtype` is an integer type and the source has another.
    """
    xp = namespace_for(values)
    _check_dtype(values, np.dtype(dtype), same=np.dtype(dtype).kind != "f")
    boxed = values[_boxes(block, factor)]
    z, y, x = factor
    # Float sums in one fixed order, one voxel of every box after the other; integer sums are exact in any.
    total = xp.zeros(block.write_shape, np.float64 if values.dtype.kind == "f" else np.int64)
    for dz, dy, dx in product(range(z), range(y), range(x)):
        total += boxed[dz::z, dy::y, dx::x]
    n = z * y * x
    if np.dtype(dtype).kind == "f":
        return (total / n).astype(dtype, copy=False)
    quotient = total // n
    total -= quotient * n
    total *= 2
    quotient += (total > n) | ((total == n) & (quotient % 2 == 1))
    return quotient.astype(dtype)


def bin_mean(factor: Shape, dtype: DTypeLike) -> Kernel:
    """Kernel of `average_bins`; voxels at the end of the volume that do not fill a box are dropped.

    Raises
    ------
    ValueError
        If a factor is less than 1, or `dtype` is neither a floating type nor an integer type of at most 32 bits.
    """
    dtype = np.dtype(dtype)
    if min(factor) < 1 or any(f != int(f) for f in factor):
        raise ValueError(f"factor must be three whole numbers of voxels (z, y, x), at least 1, got {factor}")
    if dtype.kind not in "fui" or (dtype.kind != "f" and dtype.itemsize > 4):
        raise ValueError(f"dtype must be a floating or an integer type of at most 32 bits, got {dtype}")
    # The centre of a box of f voxels has (f - 1) // 2 of them before it and f // 2 after it.
    return Kernel(
        "bin_mean",
        partial(average_bins, factor=factor, dtype=dtype),
        Halo(three((f - 1) // 2 for f in factor), three(f // 2 for f in factor)),
        dtype,
        # Sum, quotient and their temporaries, each 8 bytes a box.
        bytes_per_voxel=32 / math.prod(factor),
        parameters={"factor": list(factor), "dtype": dtype.name},
        factor=(float(factor[0]), float(factor[1]), float(factor[2])),
        target_shape=partial(binned_shape, factor=factor),
        located=True,
    )


def binned_shape(source_shape: Shape, factor: Shape) -> Shape:
    """Shape of a volume binned by `factor`."""
    return _at_least_one_voxel(three(n // f for n, f in zip(source_shape, factor, strict=True)), source_shape, factor)


def scale_factor(source_voxel_size_um: Spacing, target_voxel_size_um: Spacing) -> Spacing:
    """Factor (z, y, x) of `resample` that leads from one voxel size to another."""
    if not min(source_voxel_size_um + target_voxel_size_um) > 0:
        raise ValueError(f"voxel sizes must be positive, got {source_voxel_size_um} and {target_voxel_size_um}")
    z, y, x = (target / source for source, target in zip(source_voxel_size_um, target_voxel_size_um, strict=True))
    return z, y, x


def resampled_shape(source_shape: Shape, factor: Spacing) -> Shape:
    """Shape of a volume resampled by `factor`: voxels over factor, rounded half to even."""
    shape = three(round(n / f) for n, f in zip(source_shape, factor, strict=True))
    return _at_least_one_voxel(shape, source_shape, factor)


def resample_values(
    values: Array, block: Block, factor: Spacing, order: Order, dtype: DTypeLike, antialias: Antialias
) -> Array:
    """Sample grey values or labels at the voxel centres of another grid.

    Parameters
    ----------
    values : (Z, Y, X) array, NumPy or CuPy
        What `block` reads.
    block : Block
    factor : (z, y, x)
        Target voxel size over source voxel size.
    order, dtype, antialias
        See `resample`.

    Returns
    -------
    array of `dtype`
        Of the shape of ``block.write``. NaN and infinities spread over the reach of the method.

    Raises
    ------
    InputError
        If the source's type is not `dtype`, where that is an integer type or `order` is 0.
    """
    xp = namespace_for(values)
    _check_dtype(values, np.dtype(dtype), same=order == 0 or np.dtype(dtype).kind != "f")
    for axis in range(3):
        write, read, length, f = block.write[axis], block.read[axis], block.source_shape[axis], factor[axis]
        index, weights = sampling_table(np.arange(write.start, write.stop), f, order, antialias)
        index = np.clip(index, 0, length - 1) - read.start
        values = (
            xp.take(values, xp.asarray(index[:, 0]), axis=axis)
            if weights.shape[1] == 1
            else _weighted_sum(values, axis, index, weights)
        )
    if np.dtype(dtype).kind != "f" and values.dtype.kind == "f":
        xp.rint(values, out=values)
    return values.astype(dtype, copy=False)


def resample(factor: Spacing, order: Order, dtype: DTypeLike = np.float32, antialias: Antialias = "none") -> Kernel:
    """Kernel of `resample_values`.

    Parameters
    ----------
    factor : (z, y, x)
        Target voxel size over source voxel size, see `scale_factor`.
    order : 0, 1, 2, 3
        0 takes the nearest voxel, of two equally near ones that with the higher index: for labels. 1 is trilinear.
        2 and 3 are B-splines through the voxel values. Their coefficients are sums over the 10 (order 2) or 13
        (order 3) nearest voxels on each side, where the recursive filter of other programs sees the whole line; what
        is cut off weighs less than 2^-24 of the grey value, and the remaining weights still add up to 1.
    dtype : numpy dtype
        float32, or for order 0 the type of the source, or for order 1 that type if it has at most 16 bits (rounded
        half to even). Splines overshoot at edges, hence float32 only.
    antialias : "none" or "area"
        "area" gives the mean over the target voxel's extent along axes that become coarser, where linear sampling
        would leave out voxels and keep their noise; order 1 only.

    Raises
    ------
    ValueError
        If the arguments exclude each other as said above.
    """
    dtype = np.dtype(dtype)
    if not (min(factor) > 0 and max(factor) < math.inf):
        raise ValueError(f"factor must be three positive numbers (z, y, x), got {factor}")
    _check_choices(order, dtype, antialias)
    halos = [sampling_reach(f, order, antialias) for f in factor]
    return Kernel(
        "resample",
        partial(resample_values, factor=factor, order=order, dtype=dtype, antialias=antialias),
        Halo(three(before for before, _ in halos), three(after for _, after in halos)),
        dtype,
        bytes_per_voxel=_peak_bytes(factor, dtype, order),
        parameters={"factor": list(factor), "order": order, "dtype": dtype.name, "antialias": antialias},
        factor=factor,
        target_shape=partial(resampled_shape, factor=factor),
        located=True,
    )


def _weighted_sum(values: Array, axis: int, index: np.ndarray, weights: np.ndarray) -> Array:
    """Float32 array whose planes across `axis` are sums of planes ``index[:, k]`` with ``weights[:, k]``, k ascending."""
    if on_host(values):
        n = values.shape[axis]
        rows = np.ascontiguousarray(values).reshape(math.prod(values.shape[:axis]), n, -1)
        total = np.zeros((rows.shape[0], len(index), rows.shape[2]), np.float32)
        _add_rows(rows, index, weights, total)
        return total.reshape(*values.shape[:axis], len(index), *values.shape[axis + 1 :])
    xp = namespace_for(values)
    shape = tuple(-1 if a == axis else 1 for a in range(3))
    result = None
    for k in range(index.shape[1]):
        plane = xp.take(values, xp.asarray(index[:, k]), axis=axis).astype(np.float32, copy=False)
        plane *= xp.asarray(weights[:, k]).reshape(shape)
        result = plane if result is None else xp.add(result, plane, out=result)
    return result


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_rows(rows: Array, index: Array, weights: Array, total: Array) -> None:
    """Add up rows ``index[m, k]`` with ``weights[m, k]`` into row m, for every slab; float32."""
    for slab in range(rows.shape[0]):
        for m in range(index.shape[0]):
            target = total[slab, m]
            for k in range(index.shape[1]):
                weight, source = weights[m, k], rows[slab, index[m, k]]
                for x in range(target.shape[0]):
                    target[x] += weight * np.float32(source[x])


def _boxes(block: Block, factor: Shape) -> Region:
    """Source voxels of a block's boxes, in the block as read."""
    z, y, x = (
        slice(w.start * f - r.start, w.stop * f - r.start)
        for w, r, f in zip(block.write, block.read, factor, strict=True)
    )
    return z, y, x


def _peak_bytes(factor: Spacing, dtype: np.dtype, order: Order) -> float:
    """Most bytes held at once beyond the source, per source voxel.

    The result of the axis before, and that of this axis. The nearest voxel (order 0) keeps its type and is just taken.
    """
    itemsize = dtype.itemsize if order == 0 else max(4, dtype.itemsize)
    # A short block yields up to half a voxel more than its length over the factor: 1/16 for 8 voxels.
    sizes = [1.0]
    for f in factor:
        sizes.append(sizes[-1] * (1 / f + 1 / 16))
    return itemsize * max((a if i else 0) + b for i, (a, b) in enumerate(pairwise(sizes)))


def _check_dtype(values: Array, dtype: np.dtype, same: bool) -> None:
    if same and values.dtype != dtype:
        raise InputError(
            f"the source holds {values.dtype} but the target was made for {dtype}, and this keeps the type: "
            f"give dtype={values.dtype}"
        )


def _check_choices(order: Order, dtype: np.dtype, antialias: Antialias) -> None:
    if order not in (0, 1, 2, 3):
        raise ValueError(f"order must be 0, 1, 2 or 3, got {order}")
    if antialias not in ("none", "area") or (antialias == "area" and order != 1):
        raise ValueError(f'antialias must be "none", or "area" with order 1, got {antialias!r} with order {order}')
    small = dtype.kind in "ui" and dtype.itemsize <= 2
    if order and dtype != np.float32 and not (order == 1 and small):
        allowed = "float32 or an integer type of at most 16 bits" if order == 1 else "float32, since splines overshoot"
        raise ValueError(f"dtype for order {order} must be {allowed}, got {dtype}")


def _at_least_one_voxel(shape: Shape, source_shape: Shape, factor: tuple[float, ...]) -> Shape:
    if min(shape) < 1:
        raise ValueError(f"a volume of {source_shape} voxels has no voxel left at factor {factor}: {shape}")
    return shape
