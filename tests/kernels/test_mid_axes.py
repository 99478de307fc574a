"""The mid-axes of a structure are the voxels whose own ball is the largest that covers them, for every block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tests.blocks import block_shapes, map_by_blocks, seeds, small_shapes
from tests.kernels.test_thickness import CUBES, brute_force, largest, random_structure, spacings, squared_inside
from tests.traced import Traced
from tomoscale.geometry import Grid
from tomoscale.kernels.ball import make_ball
from tomoscale.kernels.mid_axes import mid_axes


@given(seeds, small_shapes, block_shapes, spacings)
def test_mid_axes_by_blocks_are_those_of_brute_force(seed, shape, blocks, voxel_size):
    squared, ball = squared_inside(random_structure(seed, shape), voxel_size)
    found = map_by_blocks(mid_axes(largest(squared, ball)), squared, blocks)
    np.testing.assert_array_equal(found, (squared > 0) & (brute_force(squared, ball.weights) == squared))


@pytest.mark.parametrize("voxels", range(1, 9))
def test_the_mid_axis_of_a_plate_is_its_middle(voxels):
    mask = np.zeros((9, 10, voxels + 4), bool)
    mask[:, :, 2 : 2 + voxels] = True
    squared, ball = squared_inside(mask)
    expected = np.zeros_like(mask)
    expected[:, :, 2 + (voxels - 1) // 2 : 3 + voxels // 2] = True
    np.testing.assert_array_equal(map_by_blocks(mid_axes(largest(squared, ball)), squared, (4, 5, 6)), expected)


def test_a_bump_makes_no_branch_and_a_ball_has_a_centre():
    index = np.indices((27, 27, 27)) - 13
    away = (index**2).sum(axis=0)
    ball_of_9 = away <= 81
    ball_of_9[13, 13, 23] = True  # one voxel on the surface
    squared, ball = squared_inside(ball_of_9)
    found = map_by_blocks(mid_axes(largest(squared, ball)), squared, (9, 10, 11))
    assert np.argwhere(found & (away <= 64)).tolist() == [[13, 13, 13]]
    assert found.sum() == 1 + found[13, 13, 23]


def test_what_is_wider_than_the_largest_ball_is_all_mid_axis():
    mask = np.zeros((21, 21, 21), bool)
    mask[1:-1, 1:-1, 1:-1] = True
    squared, _ = squared_inside(mask)
    found = map_by_blocks(mid_axes(make_ball(4.0, CUBES)), squared, (8, 8, 8))
    np.testing.assert_array_equal(found, squared >= 16)


@pytest.mark.parametrize("density", [0.5, 0.9])
def test_memory_stays_below_what_is_declared(density):
    shape = (64, 64, 64)
    squared, ball = squared_inside(np.random.default_rng(0).random(shape) < density)
    kernel = mid_axes(largest(squared, ball))
    block = kernel.block(Grid(shape, shape), 0, shape)
    kernel.apply(squared, block)
    with Traced() as traced:
        kernel.apply(squared, block)
    assert 0.5 * kernel.bytes_per_voxel * squared.size < traced.peak_bytes <= kernel.bytes_per_voxel * squared.size


def test_devices_equal_the_host(device):
    squared, ball = squared_inside(random_structure(3, (9, 10, 11)))
    kernel = mid_axes(largest(squared, ball))
    np.testing.assert_array_equal(
        map_by_blocks(kernel, squared, (4, 5, 6), device), map_by_blocks(kernel, squared, squared.shape)
    )
