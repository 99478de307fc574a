"""The distance over a whole volume, one axis after the other, is the exact one."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, seeds, small_shapes
from tests.traced import Traced
from tomoscale.geometry import Grid
from tomoscale.kernels.ball import covering_ball
from tomoscale.kernels.line_distance import distance_by_axis

spacings = st.sampled_from([(1.0, 1.0, 1.0), (2.76, 2.76, 2.76), (2.0, 1.0, 1.0), (0.92, 0.3, 1.5)])
densities = st.sampled_from([0.0, 0.003, 0.05, 0.5, 0.99, 1.0])


def in_turn(kernels, values, blocks, device="cpu"):
    for kernel in kernels:
        values = map_by_blocks(kernel, values, blocks, device)
    return values


def brute_force(mask, voxel_size_um):
    """Squared distance from every voxel to the nearest set one as a fraction of µm²; None where there is none."""
    edges = [Fraction(str(h)) for h in voxel_size_um]
    points = np.argwhere(mask)
    nearest = np.full(mask.shape, None, object)
    for at in np.ndindex(*mask.shape):
        if len(points):
            offsets = points - at
            nearest[at] = min(sum((h * int(o)) ** 2 for h, o in zip(edges, one, strict=True)) for one in offsets)
    return nearest


@given(seeds, st.tuples(*[st.integers(1, 6)] * 3), block_shapes, spacings, densities)
def test_squares_equal_brute_force_in_exact_arithmetic(seed, shape, blocks, voxel_size, density):
    mask = np.random.default_rng(seed).random(shape) < density
    ball = covering_ball(shape, voxel_size)
    unit = Fraction(ball.unit_um).limit_denominator(10**6)
    found = in_turn(distance_by_axis(shape, voxel_size, squared=True), mask, blocks)
    for at, square in np.ndenumerate(brute_force(mask, voxel_size)):
        assert found[at] == (ball.limit + 1 if square is None else square / unit**2)


@given(seeds, small_shapes, block_shapes, spacings, st.booleans())
def test_distances_equal_those_of_scipy(seed, shape, blocks, voxel_size, inside):
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    labels[0, 0, 0], labels[-1, -1, -1] = 1, 0  # something to measure to, unless the volume is one voxel
    in_object = np.isin(labels, (1, 2))
    if in_object.all() or not in_object.any():
        return
    found = in_turn(distance_by_axis(shape, voxel_size, (1, 2), inside=inside), labels, blocks)
    expected = scipy.ndimage.distance_transform_edt(in_object if inside else ~in_object, voxel_size)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_there_is_no_distance_where_there_is_nothing_to_measure_to():
    full = np.ones((3, 4, 5), bool)
    assert np.isinf(in_turn(distance_by_axis(full.shape, (1.0, 1.0, 1.0), inside=True), full, (2, 2, 2))).all()
    assert (in_turn(distance_by_axis(full.shape, (1.0, 1.0, 1.0)), full, (2, 2, 2)) == 0).all()


def test_distances_on_each_device_are_the_same(device):
    mask = np.random.default_rng(4).random((9, 10, 11)) < 0.02
    kernels = distance_by_axis(mask.shape, (2.0, 1.0, 1.5))
    np.testing.assert_array_equal(in_turn(kernels, mask, (4, 5, 6), device), in_turn(kernels, mask, mask.shape))


def test_long_volumes_need_64_bits_and_longer_ones_are_refused():
    kernels = distance_by_axis((3000, 40_000, 40_000), (1.0, 1.0, 1.0), squared=True)
    assert [k.dtype for k in kernels] == [np.uint16, np.int64, np.int64]
    assert distance_by_axis((3000, 20_000, 20_000), (1.0, 1.0, 1.0), squared=True)[2].dtype == np.int32
    with pytest.raises(ValueError, match="up to 65534 voxels along an axis, but the shape is"):
        distance_by_axis((70_000, 10, 10), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="no common unit"):
        distance_by_axis((10, 10, 10), (1.0, 1.000001, 1.0))


def test_memory_stays_below_what_is_declared_and_kernels_pickle():
    shape = (64, 64, 56)
    values = (np.random.default_rng(0).random(shape) < 0.01).astype(np.uint8)
    for kernel in distance_by_axis(shape, (1.0, 1.0, 1.0)):
        kernel = pickle.loads(pickle.dumps(kernel))
        block = kernel.block(Grid(shape, shape), 0, shape)
        result = kernel.apply(values, block)
        with Traced() as traced:
            kernel.apply(values, block)
        assert (
            0.6 * kernel.bytes_per_voxel * values.size
            < traced.peak_bytes
            <= kernel.bytes_per_voxel * values.size + 25_000
        )
        values = result
