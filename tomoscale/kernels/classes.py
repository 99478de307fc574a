"""Kernels that turn grey values into classes and classes into other classes, and the threshold between two of them."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.errors import InputError
from tomoscale.geometry import Block, Halo
from tomoscale.kernels.filters import first_true, write_start
from tomoscale.kernels.majority import slabs
from tomoscale.step import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike

_MAX_LABEL = 2**28


def select_between(values: Array, low: float | None, high: float | None, dtype: DTypeLike = np.bool_) -> Array:
    """Select the voxels above `low` and not above `high`: ``low < x <= high``; NaN is never selected."""
    selected = namespace_for(values).ones(values.shape, bool) if low is None else values > low
    if high is not None:
        selected &= values <= high
    return selected.astype(dtype, copy=False)


def threshold(low: float | None = None, high: float | None = None, dtype: DTypeLike = np.bool_) -> Kernel:
    """Kernel of `select_between`; half-open ranges, so that ranges that meet share no voxel.

    ``threshold(low=t)`` with the `t` of `tomoscale.measures.otsu` is the brighter of its two classes.
    """
    if low is None and high is None:
        raise ValueError("threshold needs low, high or both, got neither: it would select every voxel")
    if low is not None and high is not None and not low < high:
        raise ValueError(f"low must be less than high, got {low} and {high}: no voxel would be selected")
    if np.dtype(dtype) not in (np.dtype(bool), np.dtype(np.uint8)):
        raise ValueError(f"dtype of a mask must be bool or uint8, got {np.dtype(dtype)}")
    limits = {"low": None if low is None else float(low), "high": None if high is None else float(high)}
    return Kernel(
        "threshold",
        partial(select_between, **limits, dtype=np.dtype(dtype)),
        Halo(),
        np.dtype(dtype),
        # While both limits are compared two masks are held, as while one is converted.
        bytes_per_voxel=1 if high is None and np.dtype(dtype) == bool else 2,
        parameters={**limits, "dtype": np.dtype(dtype).name},
    )


def look_up_labels(labels: Array, block: Block, table: np.ndarray, known: np.ndarray | None) -> Array:
    """Replace every label by ``table[label]``.

    Parameters
    ----------
    labels : (Z, Y, X) integer array, NumPy or CuPy
    block : Block
        Where the labels lie; the result has the shape of ``block.write``.
    table : (N,) integer array
    known : (N,) bool array or None
        Labels that may occur; None for all of ``0 .. N - 1``.

    Raises
    ------
    InputError
        If a label is not in the table, or if `labels` are not integers.
    """
    xp = namespace_for(labels)
    labels = labels[block.core]
    n = len(table)
    if labels.dtype.kind not in "iub":
        raise InputError(f"labels must be integers, but the source holds {labels.dtype}: it looks like grey values")
    if int(labels.min()) < 0 or int(labels.max()) >= n:
        raise InputError(_unknown(labels, (labels < 0) | (labels >= n), block))
    new, accepted = xp.asarray(table), None if known is None else xp.asarray(known)
    result = xp.empty(labels.shape, new.dtype)
    # Arrays are indexed by 8 bytes a voxel: a few planes at a time need them for a part of the block only.
    for part, _ in slabs(labels.shape[0], 0):
        index = labels[part].astype(np.intp, copy=False)
        if accepted is not None and not accepted[index].all():
            raise InputError(_unknown(labels, ~accepted[labels.astype(np.intp, copy=False)], block))
        result[part] = new[index]
    return result


def map_labels(mapping: Mapping[int, int] | np.ndarray, dtype: DTypeLike) -> Kernel:
    """Kernel of `look_up_labels`; pointwise, so no halo.

    Parameters
    ----------
    mapping : mapping of old to new labels, or (N,) array of new labels
        An array gives the new label of ``0 .. N - 1``. A label of the volume that is missing here is an error.
    dtype : integer or bool dtype of the result

    Raises
    ------
    ValueError
        If old labels are negative or above 2^28 (the table would not fit beside the blocks), or if `dtype` does not
        hold a new label.
    """
    dtype = np.dtype(dtype)
    table, known = _table(mapping)
    if dtype.kind not in "iub" or not np.array_equal(table.astype(dtype), table):
        raise ValueError(f"dtype {dtype} does not hold the new labels {int(table.min())} to {int(table.max())}")
    table = table.astype(dtype)
    allowed = np.ones(len(table), bool) if known is None else known
    digest = hashlib.sha256(table.tobytes() + allowed.tobytes()).hexdigest()
    return Kernel(
        "map_labels",
        partial(look_up_labels, table=table, known=known),
        Halo(),
        dtype,
        # The result, and for an eighth of the block at most (see `slabs`) indices and what they give.
        bytes_per_voxel=dtype.itemsize + (9 + dtype.itemsize) / 8,
        parameters={"labels": int(allowed.sum()), "sha256": digest, "dtype": dtype.name},
        located=True,
        fixed_bytes=table.nbytes + allowed.nbytes,
    )


def _table(mapping: Mapping[int, int] | np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """New label by old label, and which old labels have one (None: all)."""
    if len(mapping) == 0:
        raise ValueError("mapping is empty: no label could be mapped")
    if isinstance(mapping, np.ndarray):
        return mapping, None
    if min(mapping) < 0 or max(mapping) > _MAX_LABEL:
        raise ValueError(f"labels of mapping must lie in 0 .. {_MAX_LABEL}, got {min(mapping)} to {max(mapping)}")
    old = np.fromiter(mapping.keys(), np.int64)
    table, known = np.zeros(max(mapping) + 1, np.int64), np.zeros(max(mapping) + 1, bool)
    table[old] = np.fromiter(mapping.values(), np.int64)
    known[old] = True
    return table, None if known.all() else known


def _unknown(labels: Array, wrong: Array, block: Block) -> str:
    at = first_true(wrong, write_start(block))
    label = int(labels[tuple(a - o for a, o in zip(at, write_start(block), strict=True))])
    return (
        f"label {label} at voxel (z, y, x) = {at} is not in the mapping, nor are {int(wrong.sum()) - 1} further voxels "
        f"of block {block.number}: add it, or check that mapping and labels belong together"
    )
