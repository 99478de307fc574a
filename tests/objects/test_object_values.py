"""Values over objects, by blocks and files, against scipy.ndimage on the whole."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from tests.blocks import block_shapes, seeds, small_shapes
from tests.traced import Traced
from tomoscale.geometry import Grid
from tomoscale.objects.object_values import COLUMNS, ObjectValues, joined, object_values

EDGE = 0.5


def by_blocks(objects, block_shape, n, values=None, absent=None):
    """Rows of objects 1 to n from the files of all blocks."""
    grid = Grid(objects.shape, block_shape)
    with tempfile.TemporaryDirectory() as name:
        names = (None if values is None else "values", None if absent is None else "absent")
        measure = object_values(Path(name), EDGE, values=names[0], absent=names[1])
        for number in range(len(grid)):
            block = measure.block(grid, number)
            parts = [v[block.read] for v in (objects, values, absent) if v is not None]
            measure.function(*parts, block=block)
        with joined(Path(name), grid, n) as rows:
            return np.array(rows)


@given(
    seed=seeds, shape=small_shapes, block_shape=block_shapes, dtype=st.sampled_from([np.uint8, np.uint32, np.uint64])
)
def test_number_mean_deviation_and_largest(seed, shape, block_shape, dtype):
    random = np.random.default_rng(seed)
    objects = (random.integers(0, 6, shape) * (random.random(shape) < 0.7)).astype(dtype)
    values = (random.integers(1, 4000, shape) * EDGE / 1024).astype(np.float32)
    found = ObjectValues.of(by_blocks(objects, block_shape, 5, values), EDGE)
    present = [k for k in range(1, 6) if (objects == k).any()]
    places = np.array(present, int) - 1
    exact = values.astype(float)
    np.testing.assert_array_equal(found.voxels, [(objects == k).sum() for k in range(1, 6)])
    np.testing.assert_allclose(found.mean[places], [exact[objects == k].mean() for k in present], rtol=1e-12)
    np.testing.assert_allclose(found.deviation[places], [exact[objects == k].std() for k in present], atol=1e-9)
    np.testing.assert_allclose(found.largest[places], [exact[objects == k].max() for k in present], rtol=1e-12)
    gone = np.setdiff1d(np.arange(5), places)
    assert np.isnan(found.mean[gone]).all()
    assert np.isnan(found.largest[gone]).all()


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_objects_beside_what_is_absent_or_at_the_border_are_outer(seed, shape, block_shape):
    random = np.random.default_rng(seed)
    phases = (random.random(shape) < 0.85).astype(np.uint8)
    objects, n = ndimage.label(phases & (random.random(shape) < 0.4))
    found = ObjectValues.of(by_blocks(objects.astype(np.uint32), block_shape, n, absent=phases), EDGE)
    # Beyond the border is absent too, so that one dilation by faces finds both.
    beside = ndimage.binary_dilation(np.pad(phases == 0, 1, constant_values=True))[1:-1, 1:-1, 1:-1]
    np.testing.assert_array_equal(found.outer, [beside[objects == k].any() for k in range(1, n + 1)])


def test_an_absent_voxel_on_any_side_makes_an_object_outer_and_one_at_a_corner_does_not():
    objects = np.zeros((5, 5, 5), np.uint8)
    objects[2, 2, 2] = 1
    for place in np.ndindex(3, 3, 3):
        phases = np.ones((5, 5, 5), np.uint8)
        phases[tuple(p + 1 for p in place)] = 0
        if place == (1, 1, 1):
            continue
        beside = sum(abs(p - 1) for p in place) == 1
        for block_shape in ((5, 5, 5), (2, 2, 2), (3, 3, 3)):
            found = ObjectValues.of(by_blocks(objects, block_shape, 1, absent=phases), EDGE)
            assert found.outer[0] == beside


def test_sums_of_squares_lose_no_digit():
    # A thickness of 2^13 edges over 10^12 voxels: its square in steps has 46 bits, the sum 86.
    n, step = 10**12, 2**23 + 1
    rows = np.array([[n, n * step, n * (step * step >> 24), n * (step * step & 0xFFFFFF), step, 0]], np.int64)
    found = ObjectValues.of(rows, 1024.0)
    assert found.mean[0] == step
    assert found.deviation[0] == 0.0
    assert rows.shape == (1, COLUMNS)


def test_the_declared_memory_holds(tmp_path):
    random = np.random.default_rng(6)
    objects = np.zeros((32, 48, 65), np.uint32)
    objects.reshape(-1)[::2] = random.permutation(objects.size // 2) + 1
    phases = np.ones(objects.shape, np.uint8)
    values = random.random(objects.shape).astype(np.float32)
    measure = object_values(tmp_path, EDGE, values="values", absent="phases")
    block = measure.block(Grid(objects.shape, objects.shape), 0)
    measure.function(objects, values, phases, block=block)
    with Traced() as traced:
        measure.function(objects, values, phases, block=block)
    assert traced.peak_bytes <= measure.bytes_per_voxel * objects.size
