"""Run a step by blocks on a plain array, without storage: what property tests compare with the whole."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tomoscale.arrays import to_device, to_host
from tomoscale.geometry import Grid
from tomoscale.step import Counts, Kernel, Measure, add_counts

seeds = st.integers(0, 2**31 - 1)
small_shapes = st.tuples(st.integers(1, 13), st.integers(1, 14), st.integers(1, 15))
block_shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


def map_by_blocks(
    kernel: Kernel, values: np.ndarray, block_shape: tuple[int, int, int], device: str = "cpu"
) -> np.ndarray:
    """The kernel's result on the whole array, computed block by block."""
    grid = Grid(kernel.shape_of_target(values.shape), block_shape)
    result = np.empty(grid.shape, kernel.dtype)
    for number in range(len(grid)):
        block = kernel.block(grid, number, values.shape)
        part = to_host(kernel.apply(to_device(values[block.read], device), block))
        assert part.shape == block.write_shape
        assert part.dtype == kernel.dtype
        result[block.write] = part
    return result


def map_whole(kernel: Kernel, values: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The kernel's result with one block that is the whole volume."""
    return map_by_blocks(kernel, values, kernel.shape_of_target(values.shape), device)


def measure_by_blocks(
    measure: Measure, volumes: tuple[np.ndarray, ...], block_shape: tuple[int, int, int], device: str = "cpu"
) -> Counts:
    """The sum of the measure's counts over all blocks."""
    grid = Grid(volumes[0].shape, block_shape)
    total: Counts = {}
    for number in range(len(grid)):
        block = measure.block(grid, number)
        counts = measure.function(*(to_device(v[block.read], device) for v in volumes), block=block)
        total = add_counts(total, {name: to_host(values) for name, values in counts.items()})
    return total
