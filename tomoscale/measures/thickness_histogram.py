"""How many voxels have which local thickness, in bins of half a voxel that any tiling fills alike."""

from __future__ import annotations

from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block
from tomoscale.kernels.majority import slabs
from tomoscale.step import Counts, Measure

BINS = 4096
"""The last one also takes what is thicker than 2048 voxels."""
STEPS_PER_EDGE = 1024
"""Thickness is counted in whole steps of this part of the shortest voxel edge, so that sums do not depend on order."""
_STEPS_PER_BIN = STEPS_PER_EDGE // 2


def thickness_histogram(edge_um: float, *, name: str = "thickness") -> Measure:
    """Measure of the thickness of all voxels that have one: count ``"histogram"``, (4096,) int64.

    Parameters
    ----------
    edge_um : float
        Shortest edge of a voxel; bin i holds thicknesses from i / 2 edges on, below (i + 1) / 2.
    name : str
        Of the input, the map of `tomoscale.objects.thickness`; voxels of thickness 0 are none.
    """
    if not edge_um > 0:
        raise ValueError(f"edge_um must be positive, got {edge_um}")
    return Measure(
        "thickness histogram",
        partial(count_thickness, edge_um=float(edge_um)),
        (name,),
        bytes_per_voxel=4.0,
        counts_bytes=8 * BINS,
        parameters={"edge_um": float(edge_um), "bins": BINS},
    )


def count_thickness(values: Array, *, block: Block, edge_um: float) -> Counts:
    """Histogram of the core's thicknesses, in bins of half an edge."""
    xp = namespace_for(values)
    core = values[block.core]
    counts = xp.zeros(BINS, np.int64)
    for part, _ in slabs(len(core), 0):
        found = core[part][core[part] > 0]
        bins = xp.minimum(steps_of(found, edge_um) // _STEPS_PER_BIN, BINS - 1)
        counts += xp.bincount(bins, minlength=BINS)
    return {"histogram": counts}


def steps_of(values: Array, edge_um: float) -> Array:
    """Thicknesses in whole steps of 1/1024 of an edge, int64: a multiple of the edge stays one, whatever its binary rest."""
    return namespace_for(values).rint(values.astype(np.float64) * (STEPS_PER_EDGE / edge_um)).astype(np.int64)


def filled(counts: Counts, edge_um: float) -> dict[str, list[float] | list[int]]:
    """Edges of the bins in micrometres, and counts, up to the last bin that holds a voxel."""
    histogram = np.asarray(counts["histogram"])
    last = int(np.flatnonzero(histogram)[-1]) if histogram.any() else -1
    return {"edges": [edge_um / 2 * i for i in range(last + 2)], "counts": histogram[: last + 1].tolist()}
