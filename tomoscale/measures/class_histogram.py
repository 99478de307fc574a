"""Grey values of each class in at most 256 bins, and how many voxels are exactly zero: what a reader looks at first."""

from __future__ import annotations

from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block
from tomoscale.measures.choice import Voxels, spans_of
from tomoscale.measures.greys import count_keys, n_bins, values_of
from tomoscale.step import Counts, Measure

BINS = 256
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")


def class_histogram(dtype: str, n_classes: int) -> Measure:
    """Measure of the grey values of each class: inputs ("grey", "labels").

    Parameters
    ----------
    dtype : str
        Of the grey values, one of `INTEGERS`.
    n_classes : int
        Labels 0 to ``n_classes - 1`` may occur.

    Returns
    -------
    Measure
        Count ``"histogram"``, (n_classes, 256) int64: bins of equal width over all values of the type, see `centres`.
    """
    if dtype not in INTEGERS:
        raise ValueError(f"dtype must be one of {', '.join(INTEGERS)}, got {dtype!r}: floats have no range to divide")
    return Measure(
        "class histogram",
        partial(count_by_class, n_classes=n_classes),
        ("grey", "labels"),
        bytes_per_voxel=4.0,
        counts_bytes=8 * n_classes * BINS,
        parameters={"dtype": dtype, "n_classes": n_classes},
    )


def count_by_class(grey: Array, labels: Array, *, block: Block, n_classes: int) -> Counts:
    """Histogram of the core's grey values by class; labels that are no class are not counted."""
    voxels = Voxels(grey[block.core], spans_of(block, False), labels[block.core], n_classes=n_classes)
    fine, _ = count_keys(voxels)
    return {"histogram": fine.reshape(n_classes, BINS, -1).sum(axis=2)}


def centres(dtype: str) -> np.ndarray:
    """Grey value in the middle of each bin: (256,) float64; the values themselves for 8 bits."""
    width = (1 << 8 * np.dtype(dtype).itemsize) // BINS
    first = values_of(np.arange(BINS) * width, dtype).astype(np.float64)
    return np.asarray(first + (width - 1) / 2)


def zeros(name: str = "grey") -> Measure:
    """Measure of the voxels that are exactly zero: count ``"zeros"``, (2,) int64, zeros and all voxels."""
    return Measure("zeros", count_zeros, (name,), bytes_per_voxel=1.0, counts_bytes=16)


def count_zeros(grey: Array, *, block: Block) -> Counts:
    """Count the core's voxels that are zero, and all."""
    values = grey[block.core]
    xp = namespace_for(values)
    return {
        "zeros": xp.stack([xp.asarray(values.size) - xp.count_nonzero(values), xp.asarray(values.size)]).astype(
            np.int64
        )
    }


assert all(n_bins(dtype) % BINS == 0 for dtype in INTEGERS)
