"""Kernels of a pyramid: cells of one or two voxels along each axis become one voxel, by their mean or their mode.

.. code-block:: text

    source   | 0  1 | 2  3 | 4 |        of an odd length the last cell is made of the one voxel that is there
    target   |  0   |  1   | 2 |

A cell cut off at the end takes its last plane twice: mean and mode of what is there do not change by that, and every
cell is computed from as many voxels. On the host compiled loops (`cells`) work on the voxels in place; values elsewhere are
taken apart into as many arrays as a cell has voxels. Both give the same bits.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.errors import InputError
from tomoscale.geometry import Block, Halo, Shape, three
from tomoscale.kernels.cells import average_floats, average_integers, vote
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike


def average_cells(values: Array, block: Block, factor: Shape, dtype: DTypeLike) -> Array:
    """Average cells of `factor` voxels.

    Parameters
    ----------
    values : (Z, Y, X) array of type `dtype`, NumPy or CuPy
        What `block` reads: whole cells, save those that the end of the volume cuts off.
    block : Block
    factor : (z, y, x)
        Voxels of a cell, each 1 or 2.
    dtype : integer or floating dtype

    Returns
    -------
    array of type `dtype`
        Of the shape of ``block.write``. Means of integers are exact, rounded half to even; floats are added up in
        float64, in one fixed order.

    Raises
    ------
    InputError
        If the source is of another type.
    """
    dtype = np.dtype(dtype)
    _check_dtype(values, dtype)
    if on_host(values) and _compiled(dtype):
        means = np.empty(block.write_shape, dtype)
        row = np.empty(values.shape[2], np.float64 if dtype.kind == "f" else np.int64)
        (average_floats if dtype.kind == "f" else average_integers)(np.ascontiguousarray(values), factor, row, means)
        return means
    n = math.prod(factor)
    if dtype.kind != "f":
        return _integer_means(values, factor, n)
    xp = namespace_for(values)
    halves = [xp.zeros(block.write_shape, np.float64) for _ in range(factor[2])]
    for number, part in enumerate(_parts(values, factor)):
        halves[number % factor[2]] += part
    for half in halves[1:]:
        halves[0] += half
    halves[0] *= 1 / n
    return halves[0].astype(dtype, copy=False)


def mean_cells(factor: Shape, dtype: DTypeLike) -> Kernel:
    """Kernel of `average_cells`; `dtype` is that of the source.

    Raises
    ------
    ValueError
        If a factor is not 1 or 2, or `dtype` is neither an integer nor a floating type.
    """
    dtype = np.dtype(dtype)
    if dtype.kind not in "fui":
        raise ValueError(f"dtype must be an integer or a floating type, got {dtype}: a mask or labels have a mode")
    # Where nothing is compiled: sums, and one part as it is, converted or divided.
    held = dtype.itemsize if _compiled(dtype) else 24 + 4 * dtype.itemsize
    return _kernel("mean_cells", partial(average_cells, factor=factor, dtype=dtype), factor, dtype, held)


def vote_cells(labels: Array, block: Block, factor: Shape, dtype: DTypeLike) -> Array:
    """Take the most frequent label of cells of `factor` voxels.

    Of equally frequent ones 0, the background, loses against any other, and else the smallest wins: a thin phase lives
    on where it can, and no label appears that is not in the cell.

    Parameters
    ----------
    labels : (Z, Y, X) array of type `dtype`, NumPy or CuPy
        What `block` reads: whole cells, save those that the end of the volume cuts off.
    block : Block
    factor : (z, y, x)
        Voxels of a cell, each 1 or 2.
    dtype : integer or bool dtype

    Returns
    -------
    array of type `dtype`
        Of the shape of ``block.write``.

    Raises
    ------
    InputError
        If the source is of another type.
    """
    dtype = np.dtype(dtype)
    _check_dtype(labels, dtype)
    if not on_host(labels):
        return _modes(labels, factor)
    modes = np.empty(block.write_shape, dtype)
    plain = np.uint8 if dtype.kind == "b" else dtype
    alike = np.empty(labels.shape[2], np.bool_)
    vote(np.ascontiguousarray(labels).view(plain), factor, alike, np.empty(8, plain), modes.view(plain))
    return modes


def mode_cells(factor: Shape, dtype: DTypeLike) -> Kernel:
    """Kernel of `vote_cells`; `dtype` is that of the source.

    Raises
    ------
    ValueError
        If a factor is not 1 or 2, or `dtype` is neither an integer type nor bool.
    """
    dtype = np.dtype(dtype)
    if dtype.kind not in "uib":
        raise ValueError(f"dtype must be an integer type or bool, got {dtype}: floats have a mean")
    return _kernel("mode_cells", partial(vote_cells, factor=factor, dtype=dtype), factor, dtype, dtype.itemsize)


def coarsened_shape(source_shape: Shape, factor: Shape) -> Shape:
    """Shape of a volume whose cells become voxels: every voxel is in one, the last of an odd length is alone in its.

    Examples
    --------
    >>> coarsened_shape((5, 6, 7), (2, 2, 1))
    (3, 3, 7)
    """
    return three(-(-n // f) for n, f in zip(source_shape, factor, strict=True))


def _kernel(name: str, function: partial[Array], factor: Shape, dtype: np.dtype, held_bytes: float) -> Kernel:
    """Kernel on cells; `held_bytes` are those held per cell beyond the source."""
    if any(f not in (1, 2) for f in factor):
        raise ValueError(f"factor must be 1 or 2 voxels along (z, y, x), got {factor}")
    # A short odd length yields half a cell more than its half: 1/16 of 8 voxels.
    cells = math.prod(1 / f + (f - 1) / 16 for f in factor)
    return Kernel(
        name,
        function,
        # The centre of a cell of two lies behind its first voxel.
        Halo(after=three(f - 1 for f in factor)),
        dtype,
        bytes_per_voxel=cells * held_bytes,
        parameters={"factor": list(factor), "dtype": dtype.name},
        factor=(float(factor[0]), float(factor[1]), float(factor[2])),
        target_shape=partial(coarsened_shape, factor=factor),
        located=True,
    )


def _compiled(dtype: np.dtype) -> bool:
    """Whether means are compiled: sums of wider integers do not fit, and there is no float16."""
    return dtype.name in ("float32", "float64") or (dtype.kind in "iu" and dtype.itemsize <= 4)


def _parts(values: Array, factor: Shape) -> Iterator[Array]:
    """First voxels of all cells, then second ones, and so on, x changing fastest."""
    xp = namespace_for(values)
    for offset in product(*(range(f) for f in factor)):
        axes = list(zip(offset, factor, values.shape, strict=True))
        if all(length % f == 0 for _, f, length in axes):
            yield values[tuple(slice(start, None, f) for start, f, _ in axes)]
        else:
            indices = (xp.minimum(xp.arange(-(-length // f)) * f + start, length - 1) for start, f, length in axes)
            yield values[xp.ix_(*indices)]


def _integer_means(values: Array, factor: Shape, n: int) -> Array:
    """Means of integers of any width, in their own type: quotients and remainders are added apart, so none overflows."""
    shift, last = n.bit_length() - 1, values.dtype.type(n - 1)
    mean = rest = None
    for part in _parts(values, factor):
        mean = part >> shift if mean is None else mean + (part >> shift)
        rest = part & last if rest is None else rest + (part & last)
    assert mean is not None
    assert rest is not None
    mean += rest >> shift
    rest &= last
    rest *= 2
    mean += (rest > n) | ((rest == n) & (mean & 1 == 1))
    return mean


def _modes(labels: Array, factor: Shape) -> Array:
    """Modes by comparing every part with every other; see `vote_cells`."""
    xp = namespace_for(labels)
    parts = list(_parts(labels, factor))
    best, most = parts[0].copy(), xp.zeros(parts[0].shape, np.uint8)
    for part in parts:
        votes = xp.zeros(part.shape, np.uint8)
        for other in parts:
            votes += part == other
        wins = (votes == most) & (part != 0) & ((best == 0) | (part < best))
        wins |= votes > most
        best[wins] = part[wins]
        xp.maximum(most, votes, out=most)
    return best


def _check_dtype(values: Array, dtype: np.dtype) -> None:
    if values.dtype != dtype:
        raise InputError(
            f"the source holds {values.dtype} but the kernel was made for {dtype}: give dtype={values.dtype}"
        )
