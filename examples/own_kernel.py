"""Your own kernel and your own measure over a volume of any size, and the proof that blocks do not show."""

from __future__ import annotations

import tempfile

import numpy as np
import scipy.ndimage

from tomoscale import Volume, plan_map, plan_measure, run
from tomoscale.geometry import Block, Halo
from tomoscale.memory_array import MemoryArray
from tomoscale.step import Kernel, Measure


def local_range(values: np.ndarray) -> np.ndarray:
    """Largest minus least grey value among 5 x 5 x 5 voxels: high at edges."""
    greatest = scipy.ndimage.maximum_filter(values, size=5, mode="nearest")
    return greatest - scipy.ndimage.minimum_filter(values, size=5, mode="nearest")


def count_edges(values: np.ndarray, block: Block) -> dict[str, np.ndarray]:
    """Voxels with a local range above 60; integers in the core of the block, so that blocks add up exactly."""
    return {"edges": np.array([np.count_nonzero(values[block.core] > 60)])}


# What a plan must know: a cube of 5 reaches 2 voxels, and source, two extremes and the result are held at once.
kernel = Kernel("local range", local_range, Halo.uniform(2), np.dtype(np.uint8), bytes_per_voxel=6)
measure = Measure("edges", count_edges, inputs=("range",))

if __name__ == "__main__":
    noise = np.random.default_rng(0).normal(size=(50, 60, 70))
    grey = (128 + 500 * scipy.ndimage.gaussian_filter(noise, 3)).astype(np.uint8)
    scan = Volume(MemoryArray(grey), (5.0, 5.0, 5.0))  # or open_volume("scan.zarr"), of any size
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_map(kernel, scan, f"{folder}/range.zarr", block_shape=(16, 64, 32))
        print(plan)
        edges = run(plan)
        counts = run(plan_measure(measure, edges, block_shape=(7, 60, 11)))
        assert np.array_equal(edges.read(), local_range(grey)), "blocks must equal the whole"
        assert counts["edges"][0] == np.count_nonzero(local_range(grey) > 60)
    print(f"{len(plan.grid)} blocks equal the whole; {counts['edges'][0]} voxels lie at edges")
