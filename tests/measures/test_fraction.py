"""Regions by blocks against brute force, and the fractions against answers a person can check."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tomoscale.errors import InputError
from tomoscale.measures import fraction


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes, n_regions=st.integers(1, 5))
def test_regions_by_blocks_equal_brute_force(seed, shape, block_shape, n_regions):
    rng = np.random.default_rng(seed)
    labels, roi = rng.integers(0, 4, shape, dtype=np.uint8), rng.integers(0, n_regions, shape, dtype=np.uint8)
    counts = measure_by_blocks(fraction.roi_fractions(4, n_regions), (labels, roi), block_shape)["roi"]
    expected = [[((roi == r) & (labels == k)).sum() for k in range(4)] for r in range(n_regions)]
    np.testing.assert_array_equal(counts, expected)


def test_regions_of_a_mask_on_the_device(device):
    rng = np.random.default_rng(0)
    labels, mask = rng.integers(0, 4, (5, 6, 130), dtype=np.uint8), rng.random((5, 6, 130)) < 0.5
    counts = measure_by_blocks(fraction.roi_fractions(4), (labels, mask), (2, 6, 100), device)["roi"]
    np.testing.assert_array_equal(counts[1], np.bincount(labels[mask], minlength=4))


def test_a_region_that_was_not_announced_is_refused():
    labels = np.zeros((2, 2, 2), np.uint8)
    with pytest.raises(InputError, match="roi holds the label 2 at z 0, y 0, x 0, but only 0 to 1 are expected"):
        measure_by_blocks(fraction.roi_fractions(4), (labels, labels + 2), (2, 2, 2))


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_voxels_on_the_six_faces_by_blocks_equal_the_whole(seed, shape, block_shape):
    roi = np.random.default_rng(seed).random(shape) < 0.5
    counts = measure_by_blocks(fraction.cut_by_edge(), (roi,), block_shape)["cut"]
    planes = [np.take(roi, index, axis) for axis in range(3) for index in (0, -1)]
    np.testing.assert_array_equal(counts, [plane.sum() for plane in planes])


def test_a_region_inside_the_volume_is_not_cut(device):
    roi = np.zeros((5, 5, 5), np.uint8)
    roi[1:4, 1:4, 1:5] = 1
    counts = measure_by_blocks(fraction.cut_by_edge(), (roi,), (2, 2, 2), device)["cut"]
    np.testing.assert_array_equal(counts, [0, 0, 0, 0, 0, 9])


def test_metal_and_layer_are_in_no_bone_fraction():
    row = np.array([30, 100, 100, 10])
    assert fraction.bone_fraction(row) == 0.25
    assert math.isnan(fraction.bone_fraction(np.array([0, 5, 5, 0])))


def test_porosity_and_void_to_bone():
    row = np.array([2, 0, 0, 98])
    assert fraction.porosity(row) == 0.02
    assert fraction.void_to_bone(row) == 2 / 98
    assert math.isnan(fraction.void_to_bone(np.array([2, 0, 0, 0])))


def test_volumes_have_the_volume_of_anisotropic_voxels():
    np.testing.assert_array_equal(fraction.class_volumes(np.array([0, 3]), (2.0, 1.0, 0.5)), [0.0, 3.0])


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_what_is_not_valid_is_in_no_region(seed, shape, block_shape):
    rng = np.random.default_rng(seed)
    valid, roi = rng.random(shape) < 0.7, rng.integers(0, 2, shape).astype(np.uint8)
    labels = np.where(valid, rng.integers(0, 4, shape), 77).astype(np.uint8)
    counts = measure_by_blocks(fraction.roi_fractions(4, valid=True), (labels, roi, valid), block_shape)["roi"]
    expected = [[((roi == r) & (labels == k) & valid).sum() for k in range(4)] for r in range(2)]
    np.testing.assert_array_equal(counts, expected)
