"""Counts along an axis and on the faces of the volume, by blocks, against sums over the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tomoscale.measures.cylinder import cylinder_around
from tomoscale.measures.inertia import Axis
from tomoscale.measures.profile import SIDES, along_axis, on_faces

axes = st.sampled_from([(1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.8, -0.36, 0.48)])


@given(seeds, small_shapes, block_shapes, axes)
def test_voxels_along_the_axis_by_blocks_equal_a_histogram(seed, shape, blocks, direction):
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    size = (3.0, 2.0, 2.5)
    cylinder = cylinder_around(Axis((2.3, 1.1, 4.7), direction, (1.0, 1.0, 1.0), True), shape, size, steps=7)
    # Moved a little, so that no voxel lies on an edge, where the last bit of the oracle would decide.
    cylinder = replace(cylinder, low_um=cylinder.low_um - 0.0123, step_um=cylinder.step_um * 1.0317)
    found = measure_by_blocks(along_axis(cylinder, (1, 2)), (labels,), blocks)["along"]
    places = np.argwhere((labels == 1) | (labels == 2)) * size - np.array([2.3, 1.1, 4.7])
    step = np.floor((places @ direction - cylinder.low_um) / cylinder.step_um).astype(int)
    np.testing.assert_array_equal(found, np.bincount(step, minlength=cylinder.n_steps))


def test_a_device_counts_along_the_axis_as_the_host_does(device):
    labels = np.random.default_rng(2).integers(0, 4, (8, 9, 10)).astype(np.uint8)
    cylinder = cylinder_around(Axis((4, 4, 4), (0.8, -0.36, 0.48), (1, 1, 1), True), labels.shape, (1.0, 1.0, 1.0))
    found = measure_by_blocks(along_axis(cylinder), (labels,), (3, 9, 4), device)["along"]
    np.testing.assert_array_equal(found, measure_by_blocks(along_axis(cylinder), (labels,), (8, 9, 10))["along"])
    assert found.sum() == np.count_nonzero(labels)


@given(seeds, small_shapes, block_shapes)
def test_ids_on_the_faces_by_blocks_equal_the_planes(seed, shape, blocks):
    labels = np.random.default_rng(seed).integers(0, 6, shape).astype(np.uint8)
    found = measure_by_blocks(on_faces(5), (labels,), blocks)["on_faces"]
    planes = (labels[0], labels[-1], labels[:, 0], labels[:, -1], labels[..., 0], labels[..., -1])
    assert len(planes) == len(SIDES)
    for side, plane in enumerate(planes):
        np.testing.assert_array_equal(found[side], np.bincount(plane.ravel(), minlength=6)[:5])
