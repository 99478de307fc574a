"""Moments by blocks equal sums over voxels, exactly and without end; axes are those of bodies one can name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tomoscale.geometry import Grid
from tomoscale.measures.inertia import axis_of, count_moments, inertia, moments_of
from tomoscale.step import add_counts

UNIT = (1.0, 1.0, 1.0)


def moments_by_voxel(mask: np.ndarray) -> list[int]:
    z, y, x = (i.astype(object) for i in np.nonzero(mask))
    products = (z, y, x, z * z, y * y, x * x, z * y, z * x, y * x)
    return [int(mask.sum()), *(int(p.sum()) for p in products)]


@given(seeds, small_shapes, block_shapes)
def test_moments_by_blocks_equal_sums_over_voxels(seed, shape, blocks):
    labels = np.random.default_rng(seed).integers(0, 5, shape).astype(np.uint8)
    found = moments_of(measure_by_blocks(inertia((1, 2)), (labels,), blocks))
    assert found == moments_by_voxel((labels == 1) | (labels == 2))
    found = moments_of(measure_by_blocks(inertia(), (labels > 3,), blocks))
    assert found == moments_by_voxel(labels > 3)


def test_moments_on_a_device_equal_those_on_the_host(device):
    labels = np.random.default_rng(1).integers(0, 3, (9, 10, 11)).astype(np.uint8)
    counts = measure_by_blocks(inertia(), (labels,), (4, 10, 5), device)
    assert moments_of(counts) == moments_by_voxel(labels > 0)


def test_moments_of_10_12_voxels_do_not_overflow():
    """A block far from the origin, added 2^20 times: sums of squares need 75 bits."""
    grid = Grid((16000, 16000, 16000), (100, 100, 100))
    block = inertia().block(grid, len(grid) - 1)
    one = count_moments(np.ones((100, 100, 100), np.uint8), block=block, classes=None)
    total = one
    for _ in range(20):
        total = add_counts(total, total)
    side = range(15900, 16000)
    first, second = 10**4 * sum(side), 10**4 * sum(n * n for n in side)
    cross = 100 * sum(side) ** 2
    times = 1 << 20
    assert moments_of(total) == [times * n for n in (10**6, *[first] * 3, *[second] * 3, *[cross] * 3)]
    assert times * second > 2**67
    assert (total["moments"] >= 0).all()
    # All of these copies lie in one cube, whose centre is known.
    axis = axis_of(total, UNIT)
    assert axis is not None
    assert axis.centre_um == (15949.5, 15949.5, 15949.5)
    assert axis.spread_um == pytest.approx([((100**2 - 1) / 12) ** 0.5] * 3)
    assert not axis.certain


def test_the_axis_of_a_rod_and_of_a_disc():
    for shape, along in (((40, 5, 5), 0), ((5, 40, 5), 1), ((3, 21, 21), 0), ((21, 21, 3), 2)):
        counts = measure_by_blocks(inertia(), (np.ones(shape, bool),), (7, 9, 11))
        axis = axis_of(counts, UNIT)
        assert axis is not None
        assert axis.certain
        assert axis.direction == tuple(float(a == along) for a in range(3))
        assert axis.centre_um == tuple((n - 1) / 2 for n in shape)


def test_the_axis_of_a_tilted_rod_of_flat_voxels_lies_in_micrometres():
    size, wanted = (2.0, 1.0, 1.0), np.array([0.8, 0.0, 0.6])
    places = np.stack(np.indices((60, 40, 90)), axis=-1) * size - np.array([60.0, 20.0, 45.0])
    along = places @ wanted
    across = np.linalg.norm(places - along[..., None] * wanted, axis=-1)
    rod = (np.abs(along) <= 40) & (across <= 8)
    axis = axis_of(measure_by_blocks(inertia(), (rod,), (16, 40, 33)), size)
    assert axis is not None
    np.testing.assert_allclose(axis.direction, wanted, atol=2e-3)
    np.testing.assert_allclose(axis.centre_um, [60.0, 20.0, 45.0], atol=0.05)
    # A rod of length L and radius R: variances L²/12 along and R²/4 across.
    np.testing.assert_allclose(axis.spread_um, [80 / 12**0.5, 4.0, 4.0], rtol=0.02)
    assert all(component * 2**20 == round(component * 2**20) for component in axis.direction)


def test_nothing_has_no_axis_and_one_voxel_no_certain_one():
    empty = measure_by_blocks(inertia(), (np.zeros((3, 4, 5), bool),), (3, 4, 5))
    assert axis_of(empty, UNIT) is None
    one = np.zeros((3, 4, 5), bool)
    one[1, 2, 3] = True
    axis = axis_of(measure_by_blocks(inertia(), (one,), (2, 2, 2)), (5.0, 2.0, 1.0))
    assert axis is not None
    assert axis.centre_um == (5.0, 4.0, 3.0)
    assert not axis.certain
