"""The clean-up of the thickness map is that of Fiji and BoneJ, for every block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, seeds, small_shapes
from tests.kernels.test_thickness import CUBES, largest, random_structure, spacings, squared_inside
from tests.traced import Traced
from tomoscale.geometry import Grid
from tomoscale.kernels.thickness import thickness
from tomoscale.kernels.thickness_cleanup import cleaned_thickness


def as_fiji_does(squared, ball):
    """Voxel by voxel: paint everything, flag the surface, average interior neighbours, mask."""
    index, best = np.indices(squared.shape), np.zeros_like(squared)
    for centre in np.argwhere(squared > 0):
        norm = sum(w * (i - c) ** 2 for w, i, c in zip(ball.weights, index, centre, strict=True))
        best = np.maximum(best, np.where(norm <= squared[tuple(centre)], squared[tuple(centre)], 0))
    diameter = 2 * ball.unit_um * np.sqrt(best)

    def around(place):
        return tuple(slice(max(p - 1, 0), p + 2) for p in place)

    interior = np.zeros(best.shape, bool)
    for place in np.argwhere(best > 0):
        interior[tuple(place)] = (best[around(place)] > 0).all()
    result = diameter.copy()
    for place in np.argwhere((best > 0) & ~interior):
        near = around(place)
        if interior[near].any():
            result[tuple(place)] = diameter[near][interior[near]].mean()
    return np.where(squared > 0, result, 0)


def boxes(seed, shape):
    """Some boxes, whose edges balls do not fill, and at least one voxel outside."""
    random, mask = np.random.default_rng(seed), np.zeros(shape, bool)
    for _ in range(3):
        ends = [np.sort(random.integers(0, n + 1, 2)) for n in shape]
        mask[tuple(slice(a, b) for a, b in ends)] = True
    mask.flat[random.integers(mask.size)] = False
    return mask


@given(seeds, small_shapes, block_shapes, spacings, st.booleans())
def test_cleaning_by_blocks_is_what_fiji_does_on_the_whole(seed, shape, blocks, voxel_size, clumps):
    squared, ball = squared_inside((random_structure if clumps else boxes)(seed, shape), voxel_size)
    kernel = cleaned_thickness(largest(squared, ball), voxel_size)
    found = map_by_blocks(kernel, squared, blocks)
    np.testing.assert_allclose(found, as_fiji_does(squared, ball), rtol=1e-6)
    np.testing.assert_array_equal(found, map_by_blocks(kernel, squared, shape))


def test_edges_of_a_cube_change_and_plates_do_not():
    cube = np.zeros((13, 13, 13), bool)
    cube[3:10, 3:10, 3:10] = True
    squared, ball = squared_inside(cube)
    one, other = (
        map_by_blocks(k(largest(squared, ball), CUBES), squared, (6, 7, 8)) for k in (thickness, cleaned_thickness)
    )
    changed = one != other
    assert changed[3, 3, 3]
    assert 8 <= changed.sum() < 0.5 * cube.sum()
    assert (other[changed] > one[changed]).all()
    plate = np.zeros((12, 13, 9), bool)
    plate[:, :, 2:7] = True
    squared, ball = squared_inside(plate)
    found = map_by_blocks(cleaned_thickness(largest(squared, ball), CUBES, 1.0), squared, (5, 6, 7))
    np.testing.assert_array_equal(found[plate], 2 * 3 - 1)
    assert not found[~plate].any()


def test_devices_equal_the_host(device):
    squared, ball = squared_inside(random_structure(3, (9, 10, 11)))
    kernel = cleaned_thickness(largest(squared, ball), CUBES)
    np.testing.assert_array_equal(
        map_by_blocks(kernel, squared, (4, 5, 6), device), map_by_blocks(kernel, squared, squared.shape)
    )


@pytest.mark.parametrize("density", [0.5, 0.9])
def test_memory_stays_below_what_is_declared(density):
    shape = (64, 64, 64)
    squared, ball = squared_inside(np.random.default_rng(0).random(shape) < density)
    kernel = cleaned_thickness(largest(squared, ball), CUBES)
    block = kernel.block(Grid(shape, shape), 0, shape)
    kernel.apply(squared, block)
    with Traced() as traced:
        kernel.apply(squared, block)
    assert 0.4 * kernel.bytes_per_voxel * squared.size < traced.peak_bytes <= kernel.bytes_per_voxel * squared.size
