from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_gradient_magnitude

from tests.blocks import map_by_blocks, map_whole
from tests.traced import Traced
from tomoscale.kernels.gradient import gradient_magnitude
from tomoscale.kernels.ranges import classes_of_ranges


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gradient_by_blocks_equals_whole_and_scipy(dtype, device):
    values = np.random.default_rng(1).integers(0, 200, (11, 12, 13)).astype(dtype)
    kernel = gradient_magnitude(2.0, (2.0, 2.0, 2.0))
    whole = map_whole(kernel, values, device)
    np.testing.assert_array_equal(map_by_blocks(kernel, values, (4, 5, 6), device), whole)
    expected = gaussian_gradient_magnitude(values.astype(np.float64), 1.0, mode="nearest") / 2
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slope_of_three_per_micrometre_is_three_on_voxels_that_are_no_cubes(axis):
    edges = (4.0, 2.0, 1.0)
    values = np.indices((41, 41, 41))[axis].astype(np.float32) * np.float32(3 * edges[axis])
    found = map_whole(gradient_magnitude(4.0, edges), values)
    np.testing.assert_allclose(found[20, 20, 20], 3.0, rtol=1e-3)


def test_declared_memory_bounds_the_measured_peak():
    values = np.random.default_rng(1).integers(0, 200, (50, 50, 50)).astype(np.float32)
    for kernel in (gradient_magnitude(1.0, (1.0, 1.0, 1.0)), classes_of_ranges({1: [(3, 9)], 2: [(50, 90)]})):
        with Traced() as traced:
            kernel.function(values)
        declared = kernel.bytes_per_voxel * values.size
        assert declared / 2 < traced.peak_bytes < 1.02 * declared + 20_000


def test_lengths_that_are_none_are_refused():
    with pytest.raises(ValueError, match="must be positive, got 0"):
        gradient_magnitude(0.0, (1.0, 1.0, 1.0))


def test_ranges_are_half_open_and_mark_each_voxel_once():
    values = np.array([[[0, 40, 41, 90, 91, 120, 121, np.nan]]], np.float32)
    kernel = classes_of_ranges({1: [(90, 120)], 2: [(None, 40), (120, None)]})
    np.testing.assert_array_equal(map_whole(kernel, values), [[[2, 2, 0, 0, 1, 1, 2, 0]]])


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({1: [(10, 20)], 2: [(15, 30)]}, "overlap: one voxel cannot mark two classes"),
        ({1: [(10, 20), (None, 11)]}, "overlap"),
        ({1: [(20, 10)]}, "end above its start, got 20.0 to 10.0"),
        ({1: [(None, None)]}, "must have a limit"),
        ({1: []}, "class 1 must be one of 1 to 255 and have at least one range"),
        ({0: [(1, 2)]}, "class 0 must be one of 1 to 255"),
        ({1: [(float("nan"), 3)]}, "end above its start"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(ranges, message):
    with pytest.raises(ValueError, match=message):
        classes_of_ranges(ranges)
