from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, map_whole, seeds, small_shapes
from tests.traced import Traced
from tomoscale.geometry import Grid
from tomoscale.kernels.nine_planes import PLANES
from tomoscale.kernels.rotation import Rotation, rotate
from tomoscale.kernels.slice_sampling import sample, sample_on_host

axes = st.integers(0, 2)


def grey(shape, seed):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def turned_by_scipy(values, axis):
    """The rotation written down once more, plane by plane, by SciPy's interpolation in float64."""
    lines = np.moveaxis(values.astype(np.float64), axis, 0)
    nu, nv = lines.shape[1:]
    edge = math.ceil((nu + nv) / math.sqrt(2)) + 2
    du, dv = (np.indices((edge, edge)) - (edge - 1) / 2) / math.sqrt(2)
    places = [du + dv + (nu - 1) / 2, dv - du + (nv - 1) / 2]
    planes = [scipy.ndimage.map_coordinates(p, places, order=1, mode="grid-constant") for p in lines]
    return np.moveaxis(np.stack(planes), 0, axis)


def turned_back_by_scipy(values, axis, shape):
    lines = np.moveaxis(values.astype(np.float64), axis, 0)
    nu, nv = (n for a, n in enumerate(shape) if a != axis)
    centre = (lines.shape[1] - 1) / 2
    u, v = np.indices((nu, nv), dtype=np.float64)
    du, dv = u - (nu - 1) / 2, v - (nv - 1) / 2
    places = [(du - dv) / math.sqrt(2) + centre, (du + dv) / math.sqrt(2) + centre]
    planes = [scipy.ndimage.map_coordinates(p, places, order=1, mode="grid-constant") for p in lines]
    return np.moveaxis(np.stack(planes), 0, axis)


def back(values, axis, shape, region=None):
    region = region or tuple(slice(0, n) for n in shape)
    return Rotation(axis, shape).turn_back(values, (0, 0, 0), region)


@given(seed=seeds, shape=small_shapes, axis=axes)
@settings(max_examples=25)
def test_both_ways_are_those_of_scipy(seed, shape, axis):
    values = grey(shape, seed)
    turned = map_whole(rotate(axis, shape), values)
    np.testing.assert_allclose(turned, turned_by_scipy(values, axis), atol=1e-5)
    np.testing.assert_allclose(back(turned, axis, shape), turned_back_by_scipy(turned, axis, shape), atol=1e-5)


@given(seed=seeds, shape=small_shapes, axis=axes, block_shape=block_shapes)
@settings(max_examples=25)
def test_turning_by_blocks_equals_the_whole(seed, shape, axis, block_shape):
    values, kernel = grey(shape, seed), rotate(axis, shape)
    np.testing.assert_array_equal(map_by_blocks(kernel, values, block_shape), map_whole(kernel, values))


@given(seed=seeds, shape=small_shapes, axis=axes, block_shape=block_shapes)
@settings(max_examples=25)
def test_a_region_needs_no_more_than_its_box(seed, shape, axis, block_shape):
    values, rotation = grey(shape, seed), Rotation(axis, shape)
    turned = map_whole(rotate(axis, shape), values)
    whole = back(turned, axis, shape)
    for region in Grid(rotation.canvas, block_shape):
        box = rotation.volume_box(region)
        part = rotation.turn(values[box], tuple(b.start for b in box), region)
        np.testing.assert_array_equal(part, turned[region])
    for region in Grid(shape, block_shape):
        box = rotation.canvas_box(region)
        part = rotation.turn_back(turned[box], tuple(b.start for b in box), region)
        np.testing.assert_array_equal(part, whole[region])


@given(seed=seeds, shape=small_shapes, axis=axes, second=st.booleans())
@settings(max_examples=25)
def test_nothing_beyond_the_footprint_is_looked_at(seed, shape, axis, second):
    rotation = Rotation(axis, shape)
    turned = grey(rotation.canvas, seed)
    normal = rotation.in_plane[second]
    start, stop = rotation.footprint(normal)
    across = np.arange(rotation.edge)
    beyond = (across < start[:, None]) | (across >= stop[:, None])
    # Axes (line, normal, across).
    emptied = turned.copy().transpose(axis, normal, rotation.in_plane[not second])
    emptied[:, beyond] = np.nan
    emptied = emptied.transpose(np.argsort((axis, normal, rotation.in_plane[not second])))
    np.testing.assert_array_equal(back(emptied, axis, shape), back(turned, axis, shape))
    # Neither is there anything of the volume.
    ones = map_whole(rotate(axis, shape), np.ones(shape, np.float32))
    assert not ones.transpose(axis, normal, rotation.in_plane[not second])[:, beyond].any()


def test_half_of_a_large_canvas_is_beyond_the_footprint():
    start, stop = Rotation(0, (10, 400, 400)).footprint(1)
    assert 0.49 < (stop - start).sum() / len(start) ** 2 < 0.52


@given(seed=seeds, shape=small_shapes, axis=axes)
@settings(max_examples=15)
def test_any_device_computes_what_the_host_does(seed, shape, axis):
    rotation = Rotation(axis, shape)
    values = np.moveaxis(grey(shape, seed), axis, 0)
    tables = rotation._tables(slice(0, rotation.edge), slice(1, rotation.edge))
    results = [np.empty((len(values), rotation.edge, rotation.edge - 1), np.float32) for _ in range(2)]
    sample(values, results[0], tables, (0, 0))
    sample_on_host(values, results[1], tables, (0, 0))
    np.testing.assert_array_equal(*results)


@given(shape=small_shapes, axis=axes)
@settings(max_examples=25)
def test_constant_probabilities_come_back_as_they_were(shape, axis):
    rotation = Rotation(axis, shape)
    share = np.full(rotation.canvas, np.float32(0.3))
    np.testing.assert_array_equal(back(share, axis, shape), np.float32(0.3))


@given(seed=seeds, shape=small_shapes, axis=axes)
@settings(max_examples=15)
def test_probabilities_turned_back_still_add_up_to_one(seed, shape, axis):
    shares = np.random.default_rng(seed).dirichlet(np.ones(4), Rotation(axis, shape).canvas).astype(np.float32)
    total = sum(back(np.ascontiguousarray(shares[..., c]), axis, shape).astype(np.float64) for c in range(4))
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_equal_along_the_axis_stays_so(axis):
    # What a slicing across that axis sees is one slice, turned in itself: such planes add nothing and are left out.
    shape = (6, 7, 8)
    line = grey(shape, 1).take([0], axis)
    values = np.repeat(line, shape[axis], axis)
    turned = map_whole(rotate(axis, shape), values)
    np.testing.assert_array_equal(turned, np.repeat(turned.take([0], axis), shape[axis], axis))
    returned = back(turned, axis, shape)
    np.testing.assert_array_equal(returned, np.repeat(returned.take([0], axis), shape[axis], axis))
    assert all(plane.normal != plane.rotation for plane in PLANES)


def test_normals_are_three_faces_and_six_diagonals():
    normals = {}
    for plane in PLANES:
        normal = np.eye(3)[plane.normal]
        if plane.rotation is not None:
            # A linear ramp tells which way the normal points in the volume: its gradient on the canvas, turned back.
            shape = (21, 21, 21)
            rotation = Rotation(plane.rotation, shape)
            ramp = np.broadcast_to(
                np.arange(rotation.canvas[plane.normal], dtype=np.float32).reshape(
                    [-1 if a == plane.normal else 1 for a in range(3)]
                ),
                rotation.canvas,
            )
            came_back = back(np.ascontiguousarray(ramp), plane.rotation, shape)
            normal = np.array([np.diff(came_back, axis=a).mean() for a in range(3)])
        normals[plane.name] = normal
    half = math.sqrt(0.5)
    expected = {
        "rc": (1, 0, 0),
        "cp": (0, 1, 0),
        "pr": (0, 0, 1),
        "z1": (0, half, half),
        "z2": (0, half, -half),
        "y1": (half, 0, half),
        "y2": (half, 0, -half),
        "x1": (half, half, 0),
        "x2": (half, -half, 0),
    }
    assert list(normals) == list(expected)
    for name, normal in expected.items():
        np.testing.assert_allclose(normals[name], normal, atol=1e-5, err_msg=name)


def test_the_canvas_of_the_papers_slices():
    assert Rotation(0, (1000, 1200, 1200)).canvas == (1000, 1700, 1700)


@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 60, 70)), (1, (60, 4, 70)), (2, (90, 30, 4))])
def test_declared_memory_bounds_the_measured_peak(axis, shape):
    kernel, values = rotate(axis, shape), grey(shape, 0)
    map_whole(kernel, values)
    block = kernel.block(Grid(kernel.shape_of_target(shape), kernel.shape_of_target(shape)), 0, shape)
    with Traced() as traced:
        kernel.apply(values, block)
    assert traced.peak_bytes <= kernel.bytes_per_voxel * values.size + 30_000


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="is for a volume of shape"):
        map_whole(rotate(0, (3, 4, 5)), grey((3, 4, 6), 0))


@pytest.mark.gpu
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_gpu_turns_to_the_same_bits(axis):
    values = grey((9, 12, 10), 2)
    kernel = rotate(axis, values.shape)
    np.testing.assert_array_equal(map_whole(kernel, values, "cuda"), map_whole(kernel, values))
