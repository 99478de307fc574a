"""Kernels in a row equal the steps after each other on the whole volume."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given

from tests.blocks import block_shapes, map_by_blocks, seeds, small_shapes
from tomoscale.geometry import Block, Halo
from tomoscale.step import Kernel, add_counts


def maximum(values: np.ndarray, radius: int) -> np.ndarray:
    return scipy.ndimage.maximum_filter(values, 2 * radius + 1, mode="nearest")


def ramp(values: np.ndarray, block: Block) -> np.ndarray:
    """Add each voxel's z, which only a located kernel knows."""
    z = np.arange(block.write[0].start, block.write[0].stop, dtype=values.dtype)
    return values[block.core] + z[:, None, None]


def dilation(radius: int) -> Kernel:
    return Kernel(
        "dilation", partial(maximum, radius=radius), Halo.uniform(radius), np.dtype(np.int64), 16, {"radius": radius}
    )


RAMP = Kernel("ramp", ramp, Halo(), np.dtype(np.int64), 24, located=True)


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_two_kernels_in_a_row_by_blocks_equal_the_whole(seed, shape, block_shape):
    values = np.random.default_rng(seed).integers(0, 1000, shape)
    chained = dilation(1).then(dilation(2))
    np.testing.assert_array_equal(map_by_blocks(chained, values, block_shape), maximum(maximum(values, 1), 2))


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_a_located_kernel_may_come_last(seed, shape, block_shape):
    values = np.random.default_rng(seed).integers(0, 1000, shape)
    expected = maximum(values, 1) + np.arange(shape[0])[:, None, None]
    np.testing.assert_array_equal(map_by_blocks(dilation(1).then(RAMP), values, block_shape), expected)


def test_a_kernel_that_reads_around_a_located_one_is_refused():
    with pytest.raises(ValueError, match="ramp returns only the core of a block, so dilation"):
        RAMP.then(dilation(1))


def test_a_chain_holds_the_first_result_while_the_second_works():
    first = Kernel("first", np.abs, Halo(), np.dtype(np.float32), 6)
    second = Kernel("second", np.abs, Halo(), np.dtype(np.uint8), 9)
    assert first.then(second).bytes_per_voxel == 13


def test_a_chain_names_the_parameters_of_every_step():
    smooth = Kernel("smooth", np.abs, Halo(), np.dtype(np.int64), 8, {"sigma_um": 3})
    chain = smooth.then(dilation(2)).then(dilation(1))
    assert chain.name == "smooth, dilation, dilation"
    assert chain.parameters == {"1 smooth": {"sigma_um": 3}, "2 dilation": {"radius": 2}, "3 dilation": {"radius": 1}}


def test_counts_add_by_name():
    total = add_counts({"a": np.array([1, 2])}, {"a": np.array([3, 4]), "b": np.array([5])})
    assert total["a"].tolist() == [4, 6]
    assert total["b"].tolist() == [5]
