"""The local thickness is twice the radius of the largest ball that covers a voxel, for every block."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, seeds, small_shapes
from tests.traced import Traced
from tomoscale.geometry import Grid, whole
from tomoscale.kernels import thickness as module
from tomoscale.kernels.ball import Ball, covering_ball, make_ball
from tomoscale.kernels.line_distance import distance_by_axis
from tomoscale.kernels.thickness import paint_largest, thickness

CUBES = (1.0, 1.0, 1.0)
spacings = st.sampled_from([CUBES, (2.0, 1.0, 1.0), (0.5, 0.3, 0.4)])


def squared_inside(mask, voxel_size=CUBES):
    """Squared distances to the outside, of a mask that has an outside, and the ball of their units."""
    squared = mask
    for kernel in distance_by_axis(mask.shape, voxel_size, inside=True, squared=True):
        squared = map_by_blocks(kernel, squared, mask.shape)
    ball = covering_ball(mask.shape, voxel_size)
    return np.where(squared > ball.limit, 0, squared), ball


def brute_force(squared, weights):
    """Largest ball over each voxel by looking at every centre."""
    best = np.zeros_like(squared)
    index = np.indices(squared.shape)
    for centre in np.argwhere(squared > 0):
        norm = sum(w * (i - c) ** 2 for w, i, c in zip(weights, index, centre, strict=True))
        radius = squared[tuple(centre)]
        best = np.maximum(best, np.where(norm <= radius, radius, 0))
    return np.where(squared > 0, best, 0)


def largest(squared, ball) -> Ball:
    """The ball of the largest square, as the plan of a whole volume finds it."""
    return Ball(ball.weights, int(max(squared.max(), 1)), ball.unit_um, ball.unit_um * float(squared.max()) ** 0.5)


def random_structure(seed, shape):
    """Clumps a few voxels thick."""
    random = np.random.default_rng(seed)
    mask = np.ones(shape, bool)
    for _ in range(random.integers(1, 4)):
        mask[tuple(random.integers(0, n) for n in shape)] = False
    return mask


@given(seeds, small_shapes, spacings)
def test_painting_equals_brute_force(seed, shape, voxel_size):
    squared, ball = squared_inside(random_structure(seed, shape), voxel_size)
    found = paint_largest(squared, largest(squared, ball), whole(shape))
    np.testing.assert_array_equal(found, brute_force(squared, ball.weights))


@given(seeds, small_shapes, block_shapes, spacings)
def test_thickness_by_blocks_equals_whole(seed, shape, blocks, voxel_size):
    squared, ball = squared_inside(random_structure(seed, shape), voxel_size)
    kernel = thickness(largest(squared, ball), voxel_size)
    found = map_by_blocks(kernel, squared, blocks)
    expected = 2 * np.sqrt(brute_force(squared, ball.weights)) * ball.unit_um
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(found, map_by_blocks(pickle.loads(pickle.dumps(kernel)), squared, shape))


@given(seeds, small_shapes, spacings)
def test_the_formulation_for_devices_gives_the_same(seed, shape, voxel_size):
    squared, ball = squared_inside(random_structure(seed, shape), voxel_size)
    ball = largest(squared, ball)
    core = tuple(slice(n // 3, n) for n in shape)
    np.testing.assert_array_equal(module._largest_of_shifts(squared, ball, core), paint_largest(squared, ball, core))


def test_devices_equal_the_host(device):
    squared, ball = squared_inside(random_structure(3, (9, 10, 11)))
    kernel = thickness(largest(squared, ball), CUBES)
    np.testing.assert_array_equal(
        map_by_blocks(kernel, squared, (4, 5, 6), device), map_by_blocks(kernel, squared, squared.shape)
    )


@pytest.mark.parametrize(("voxels", "diameter"), list(enumerate([2, 2, 4, 4, 6, 6, 8, 8], start=1)))
def test_plates_have_the_thickness_between_voxel_centres(voxels, diameter):
    mask = np.zeros((21, 21, voxels + 2), bool)
    mask[:, :, 1:-1] = True
    squared, ball = squared_inside(mask)
    kernel = thickness(largest(squared, ball), CUBES)
    np.testing.assert_array_equal(map_by_blocks(kernel, squared, (8, 8, 8))[mask], diameter)
    corrected = thickness(largest(squared, ball), CUBES, correction_um=1.0)
    np.testing.assert_array_equal(map_by_blocks(corrected, squared, mask.shape)[mask], diameter - 1)


def test_a_ball_is_as_thick_as_it_is_wide():
    index = np.indices((31, 31, 31)) - 15
    mask = (index**2).sum(axis=0) <= 12**2
    squared, ball = squared_inside(mask)
    found = map_by_blocks(thickness(largest(squared, ball), CUBES), squared, (16, 16, 16))
    assert found[15, 15, 15] == found[mask].max() == pytest.approx(2 * np.sqrt(squared.max()))
    assert (found[mask] >= 0.8 * found.max()).mean() > 0.9


def test_balls_beyond_a_given_radius_are_cut_to_it():
    mask = np.zeros((25, 25, 25), bool)
    mask[1:-1, 1:-1, 1:-1] = True
    squared, _ = squared_inside(mask)
    cut = make_ball(5.0, CUBES)
    found = map_by_blocks(thickness(cut, CUBES), squared, (9, 9, 9))
    assert found.max() == 10
    np.testing.assert_array_equal(found, map_by_blocks(thickness(cut, CUBES), squared, mask.shape))
    exact = brute_force(np.minimum(squared, 25), (1, 1, 1))
    np.testing.assert_allclose(found, 2 * np.sqrt(exact), rtol=1e-6)


def test_tables_that_would_be_too_large_are_cut_and_change_nothing(monkeypatch):
    squared, ball = squared_inside(random_structure(5, (14, 15, 16)), (2.0, 1.0, 1.0))
    expected = brute_force(squared, ball.weights)
    module._cover_tables.cache_clear()
    monkeypatch.setattr(module, "LARGEST_TABLE", 60)
    np.testing.assert_array_equal(paint_largest(squared, largest(squared, ball), whole(squared.shape)), expected)
    module._cover_tables.cache_clear()


def test_few_balls_remain_to_be_painted():
    index = np.indices((40, 40, 40))
    mask = np.sin(index[0] / 6) + np.sin(index[1] / 6) + np.sin(index[2] / 6) > 0
    squared, ball = squared_inside(mask)
    kept = module._ridge(squared, *module._cover_tables(largest(squared, ball)))
    assert kept.sum() < 0.35 * mask.sum()


@pytest.mark.parametrize("density", [0.5, 0.9])
def test_memory_stays_below_what_is_declared(density):
    shape = (64, 64, 64)
    squared, ball = squared_inside(np.random.default_rng(0).random(shape) < density)
    kernel = thickness(largest(squared, ball), CUBES)
    block = kernel.block(Grid(shape, shape), 0, shape)
    kernel.apply(squared, block)
    with Traced() as traced:
        kernel.apply(squared, block)
    assert 0.5 * kernel.bytes_per_voxel * squared.size < traced.peak_bytes <= kernel.bytes_per_voxel * squared.size
