"""Distances by blocks equal the whole, and both equal brute force in exact arithmetic."""

from __future__ import annotations

import itertools
import pickle
from fractions import Fraction

import edt
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, map_whole, seeds, small_shapes
from tests.traced import Traced
from tomoscale.geometry import Grid, Halo
from tomoscale.kernels.ball import make_ball
from tomoscale.kernels.distance import (
    clipped_distance,
    select_near,
    squared_distance,
    within_distance,
    within_distance_by_axis,
)
from tomoscale.kernels.parabolas import least_of_shifts, spread_squares

spacings = st.sampled_from([(1.0, 1.0, 1.0), (2.76, 2.76, 2.76), (2.0, 1.0, 1.0), (0.92, 0.3, 1.5), (0.1, 0.2, 0.3)])
reaches = st.sampled_from(["1", "1.5", "1.75", "2.3", "4", "17"])
densities = st.sampled_from([0.0, 0.003, 0.05, 0.5, 0.99, 1.0])


def exact(radius_um: float, voxel_size_um: tuple[float, ...]) -> tuple[Fraction, list[Fraction]]:
    """The decimals as written, without the ball's own arithmetic."""
    return Fraction(f"{radius_um:.9f}"), [Fraction(str(h)) for h in voxel_size_um]


def brute_force(mask, radius_um, voxel_size_um):
    """Squared distances to the nearest set voxel as fractions, None beyond the radius."""
    radius, edges = exact(radius_um, voxel_size_um)
    reach = [int(radius / h) for h in edges]
    offsets = itertools.product(*(range(-min(r, n), min(r, n) + 1) for r, n in zip(reach, mask.shape, strict=True)))
    squares = [(sum((h * o) ** 2 for h, o in zip(edges, at, strict=True)), at) for at in offsets]
    squares = sorted(s for s in squares if s[0] <= radius**2)
    points = np.argwhere(mask)
    nearest = np.full(mask.shape, None, object)
    for square, offset in reversed(squares):
        moved = points + offset
        inside = ((moved >= 0) & (moved < mask.shape)).all(axis=1)
        nearest[tuple(moved[inside].T)] = square
    return nearest


def random_mask(seed, shape, density):
    return np.random.default_rng(seed).random(shape) < density


@given(seeds, small_shapes, block_shapes, spacings, reaches, densities)
def test_within_distance_by_blocks_equals_brute_force(seed, shape, blocks, voxel_size, reach, density):
    mask = random_mask(seed, shape, density)
    radius = float(Fraction(reach) * Fraction(str(min(voxel_size))))
    kernel = within_distance(radius, voxel_size)
    expected = np.not_equal(brute_force(mask, radius, voxel_size), None)
    np.testing.assert_array_equal(map_by_blocks(kernel, mask, blocks), expected)
    between = mask
    for step in within_distance_by_axis(radius, voxel_size):
        between = map_by_blocks(step, between, blocks)
    np.testing.assert_array_equal(between, expected)


@given(seeds, small_shapes, block_shapes, spacings, reaches, densities)
def test_clipped_distance_by_blocks_equals_brute_force(seed, shape, blocks, voxel_size, reach, density):
    mask = random_mask(seed, shape, density)
    radius = float(Fraction(reach) * Fraction(str(min(voxel_size))))
    nearest = brute_force(mask, radius, voxel_size)
    expected = np.array([radius if s is None else float(s) ** 0.5 for s in nearest.ravel()]).reshape(shape)
    found = map_by_blocks(clipped_distance(radius, voxel_size), mask, blocks)
    np.testing.assert_array_equal(found, map_whole(clipped_distance(radius, voxel_size), mask))
    np.testing.assert_allclose(found, expected, rtol=2e-7)


@pytest.mark.parametrize("voxel_size", [(1.0, 1.0, 1.0), (3.0, 1.0, 2.0)])
@pytest.mark.parametrize("density", [0.5, 1e-3, 2e-5])
def test_squared_distance_equals_other_programs(voxel_size, density):
    mask = random_mask(3, (50, 61, 47), density)
    mask[25, 30, 20] = True
    ball = make_ball(40.0, voxel_size)
    found = squared_distance(mask, ball)
    assert found.dtype == np.int32
    whole = edt.edtsq(~mask, anisotropy=voxel_size)
    np.testing.assert_array_equal(found, np.minimum(whole, 1601))
    root = scipy.ndimage.distance_transform_edt(~mask, sampling=voxel_size)
    np.testing.assert_allclose(np.sqrt(found), np.minimum(root, 1601**0.5), rtol=1e-12)
    np.testing.assert_array_equal(select_near(mask, ball), whole <= 1600)


def test_distances_are_exact_where_float32_is_not():
    ball = make_ball(6000.0, (1.0, 1.0, 1.0))
    line = np.zeros((1, 4098, 4098), bool)
    line[0, 0, 0] = True
    found = squared_distance(line, ball, (slice(0, 1), slice(4097, 4098), slice(4096, 4098)))
    assert found.tolist() == [[[4097**2 + 4096**2, 2 * 4097**2]]]
    assert int(np.float32(4097**2 + 4096**2)) != 4097**2 + 4096**2


@given(seeds, st.integers(1, 40), st.sampled_from([1, 4, 9, 2**32]), st.integers(1, 45))
def test_envelope_equals_shifts(seed, length, weight, reach):
    limit = weight * reach * reach + weight // 2
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 2 * limit, (3, 5, length))
    expected = least_of_shifts(costs, weight, limit, reach)
    np.testing.assert_array_equal(spread_squares(costs, weight, limit, reach), expected)
    i = np.arange(length)
    brute = (costs[..., None] + weight * (i[:, None] - i) ** 2).min(axis=2)
    np.testing.assert_array_equal(expected, np.minimum(brute, limit + 1))


def test_classes_count_as_set():
    labels = np.zeros((1, 1, 9), np.uint8)
    labels[0, 0, [0, 4, 8]] = 1, 2, 3
    near = map_whole(within_distance(1.0, (1.0, 1.0, 1.0), classes=(1, 3)), labels)
    assert near[0, 0].tolist() == [True, True, False, False, False, False, False, True, True]
    assert map_whole(within_distance(1.0, (1.0, 1.0, 1.0)), labels)[0, 0, 3:6].all()


def test_clipped_distance_along_a_line_is_in_micrometres():
    mask = np.zeros((1, 1, 6), bool)
    mask[0, 0, 0] = True
    distance = map_whole(clipped_distance(10.0, (5.0, 5.0, 2.5)), mask)
    assert distance[0, 0].tolist() == [0.0, 2.5, 5.0, 7.5, 10.0, 10.0]


@pytest.mark.parametrize("value", [False, True])
def test_blocks_without_or_full_of_set_voxels(value, device):
    mask = np.full((3, 4, 5), value)
    assert (map_by_blocks(within_distance(2.0, (1.0, 1.0, 1.0)), mask, (2, 2, 2), device) == value).all()
    distance = map_by_blocks(clipped_distance(2.0, (1.0, 1.0, 1.0)), mask, (2, 2, 2), device)
    assert (distance == (0.0 if value else 2.0)).all()


def test_device_equals_host(device):
    mask = random_mask(5, (20, 21, 22), 0.003)
    for kernel in (within_distance(7.0, (2.0, 1.0, 1.0)), clipped_distance(7.0, (2.0, 1.0, 1.0))):
        np.testing.assert_array_equal(map_by_blocks(kernel, mask, (9, 8, 7), device), map_whole(kernel, mask))


@pytest.mark.parametrize(
    ("radius", "voxel_size", "reach", "limit"),
    [
        (1000.0, (0.92, 0.92, 0.92), (1086, 1086, 1086), 1181474),
        (1000.0, (5.0, 5.0, 5.0), (200, 200, 200), 40000),
        (3 * 0.1, (0.1, 0.1, 0.1), (3, 3, 3), 9),
        (2.0, (2 / 3, 2 / 3, 2 / 3), (3, 3, 3), 9),
        (0.92, (0.9200000000000001,) * 3, (1, 1, 1), 1),
        (6.0, (3.0, 1.5, 1.0), (2, 4, 6), 144),
    ],
)
def test_halo_is_the_radius_in_whole_voxels(radius, voxel_size, reach, limit):
    assert make_ball(radius, voxel_size).limit == limit
    assert within_distance(radius, voxel_size).halo == Halo.symmetric(reach)
    z, y, x = within_distance_by_axis(radius, voxel_size)
    assert z.halo + y.halo + x.halo == Halo.symmetric(reach)


@pytest.mark.parametrize(
    ("radius", "voxel_size", "message"),
    [
        (0.5, (1.0, 1.0, 1.0), "at least one and less than 8192 voxels"),
        (9000.0, (1.0, 1.0, 1.0), "at least one and less than 8192 voxels"),
        (0.0, (1.0, 1.0, 1.0), "must be positive"),
        (float("nan"), (1.0, 1.0, 1.0), "must be positive"),
        (1.0, (1.0, -1.0, 1.0), "must be positive"),
        (1.0, (0.123457, 0.765432, 1.0), "no common unit"),
    ],
)
def test_refusals_name_the_value(radius, voxel_size, message):
    with pytest.raises(ValueError, match=message):
        within_distance(radius, voxel_size)


def test_lines_too_long_for_exact_distances_are_refused():
    with pytest.raises(ValueError, match="take smaller blocks"):
        spread_squares(np.zeros((1, 1, 2**14), np.int64), 2**36, 2**40, 5)


def test_parameters_tell_kernels_apart_and_kernels_pickle():
    one, two = within_distance(2.0, (1.0, 1.0, 1.0)), within_distance(3.0, (1.0, 1.0, 1.0))
    assert one.parameters != two.parameters
    assert pickle.loads(pickle.dumps(one)).parameters == one.parameters


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
@pytest.mark.parametrize("name", ["within", "clipped", "z", "x", "y"])
def test_memory_stays_below_what_is_declared(name, dtype):
    shape, voxel_size = (48, 64, 56), (1.0, 1.0, 1.0)
    steps = within_distance_by_axis(5.0, voxel_size)
    kernels = {"within": within_distance(5.0, voxel_size), "clipped": clipped_distance(5.0, voxel_size)}
    kernel = (kernels | dict(zip("zxy", steps, strict=True)))[name]
    values = (np.random.default_rng(0).random(shape) < 0.01).astype(dtype)
    if name in "xy":
        values = steps[0].function(values, steps[0].block(Grid(shape, shape), 0, shape))
    if name == "y":
        values = steps[1].function(values, steps[1].block(Grid(shape, shape), 0, shape))
    block = kernel.block(Grid(shape, shape), 0, shape)
    kernel.apply(values, block)  # compile
    with Traced() as traced:
        kernel.apply(values, block)
    assert traced.peak_bytes <= kernel.bytes_per_voxel * values.size
