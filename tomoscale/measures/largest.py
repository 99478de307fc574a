"""The largest of the squared distances of a volume, from counts: a maximum does not add, a histogram does."""

from __future__ import annotations

from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for, to_host
from tomoscale.geometry import Block
from tomoscale.kernels.distance import slabs
from tomoscale.step import Counts, Measure

MANTISSA_BITS = 4
"""Leading bits of a number that its bin keeps, beside how many it has: bins are at most a sixteenth of their value wide."""
_BINS = 64 << MANTISSA_BITS


def sizes_of_integers(unmeasured: int) -> Measure:
    """Measure of how many values of an integer volume are of which size, and how many are `unmeasured` or larger.

    Returns
    -------
    Measure
        Input ``"values"``, integers from 0 on; counts ``"sizes"``, (1024,) int64, and ``"unmeasured"``, (1,).
    """
    return Measure(
        "sizes",
        partial(_count_sizes, unmeasured=unmeasured),
        ("values",),
        bytes_per_voxel=3.0,
        counts_bytes=8 * (_BINS + 1),
        parameters={"unmeasured": unmeasured},
    )


def upper_bound(counts: Counts) -> int:
    """Largest value of the last bin that holds one: at least the largest value, at most a sixteenth more; 0 of none."""
    filled = np.flatnonzero(counts["sizes"])
    if not len(filled):
        return 0
    exponent, mantissa = divmod(int(filled[-1]), 1 << MANTISSA_BITS)
    shift = exponent - MANTISSA_BITS
    return (((1 << MANTISSA_BITS) + mantissa + 1) << shift) - 1 if shift >= 0 else 1 << exponent


def _count_sizes(values: Array, *, block: Block, unmeasured: int) -> Counts:
    xp = namespace_for(values)
    sizes, none = np.zeros(_BINS, np.int64), 0
    core = values[block.core]
    for part in slabs(len(core)):
        found = core[part][core[part] > 0].astype(np.int64)
        none += int((found >= unmeasured).sum())
        found = found[found < unmeasured]
        # Exact below 2^53, and rounding up to the next power of two only moves a bin up, which a bound may do.
        exponent = xp.frexp(found.astype(np.float64))[1].astype(np.int64) - 1
        shift = exponent - MANTISSA_BITS
        mantissa = xp.where(shift >= 0, (found >> xp.maximum(shift, 0)) & ((1 << MANTISSA_BITS) - 1), 0)
        sizes += to_host(xp.bincount((exponent << MANTISSA_BITS) + mantissa, minlength=_BINS))
    return {"sizes": sizes, "unmeasured": np.array([none], np.int64)}
