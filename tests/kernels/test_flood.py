"""Flooding of one array against scikit-image, and against the definition voxel by voxel where values tie."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from skimage.morphology import local_minima, reconstruction
from skimage.segmentation import watershed

from tests.blocks import seeds
from tomoscale.kernels.flood import Shell, flood
from tomoscale.kernels.pits import PIT, fill_pits

REACH = {6: 1, 18: 2, 26: 3}
NOTHING = Shell(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint32))
connectivities = st.sampled_from(list(REACH))
shapes = st.tuples(*(st.integers(1, 6),) * 3)


def by_definition(relief, markers, inside, connectivity):
    """Least costs by trying all neighbours until nothing changes; then labels, the least cost first."""
    steps = [o for o in itertools.product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, o)) <= REACH[connectivity]]
    voxels = [tuple(v) for v in np.argwhere(inside)]
    around = {v: [n for n in (tuple(np.add(v, o)) for o in steps) if n in set(voxels)] for v in voxels}
    costs = {v: (int(relief[v]), 0) for v in voxels if markers[v]}
    changed = True
    while changed:
        changed = False
        for v in voxels:
            for level, taken in (costs[n] for n in around[v] if n in costs):
                found = (int(relief[v]), 0) if relief[v] > level else (level, taken + 1)
                if v not in costs or found < costs[v]:
                    costs[v], changed = found, True
    labels = np.zeros_like(markers)
    for v in sorted(costs, key=costs.get):
        labels[v] = markers[v] or min((costs[n], labels[n]) for n in around[v] if n in costs and costs[n] < costs[v])[1]
    return labels


def drawn(seed, shape, values, share=0.08):
    random = np.random.default_rng(seed)
    markers = np.where(random.random(shape) < share, random.integers(1, 6, shape), 0).astype(np.uint32)
    return random.integers(0, values, shape).astype(np.uint8), markers, random.random(shape) < 0.9


@given(seed=seeds, shape=shapes, connectivity=connectivities)
def test_without_ties_it_is_the_watershed_of_scikit_image(seed, shape, connectivity):
    _, markers, inside = drawn(seed, shape, 2)
    relief = np.random.default_rng(seed).permutation(markers.size).reshape(shape).astype(np.uint32)
    found = flood(relief, inside, markers, NOTHING, connectivity)[1]
    if not (markers * inside).any():
        assert not found.any()
        return
    expected = watershed(
        relief.astype(np.int64), markers.astype(np.int32), mask=inside, connectivity=REACH[connectivity]
    )
    np.testing.assert_array_equal(found, expected)


@given(seed=seeds, shape=shapes, connectivity=connectivities, values=st.integers(1, 4))
def test_with_ties_it_is_what_the_definition_says(seed, shape, connectivity, values):
    relief, markers, inside = drawn(seed, shape, values)
    found = flood(relief, inside, markers, NOTHING, connectivity)[1]
    np.testing.assert_array_equal(found, by_definition(relief, markers, inside, connectivity))


def test_the_middle_of_a_plateau_goes_to_the_smaller_label():
    markers = np.zeros((1, 1, 7), np.uint32)
    markers[0, 0, [0, 6]] = 9, 4
    flat = np.zeros(markers.shape, np.uint8)
    found = flood(flat, np.ones(markers.shape, bool), markers, NOTHING, 6)[1]
    np.testing.assert_array_equal(found[0, 0], [9, 9, 9, 4, 4, 4, 4])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_the_highest_value_a_type_holds_is_a_level_like_others(dtype):
    top = np.iinfo(dtype).max
    relief = np.array([[[0, top, top, 1, 0]]], dtype)
    markers = np.array([[[1, 0, 0, 0, 2]]], np.uint32)
    found = flood(relief, np.ones(relief.shape, bool), markers, NOTHING, 6)[1]
    np.testing.assert_array_equal(found, [[[1, 1, 2, 2, 2]]])


@given(seed=seeds, shape=st.tuples(*(st.integers(2, 9),) * 3), connectivity=connectivities, depth=st.integers(1, 4))
def test_pits_are_the_minima_of_the_reconstruction(seed, shape, connectivity, depth):
    relief = np.random.default_rng(seed).integers(1, 9, shape).astype(np.uint32)
    costs = fill_pits(relief, relief + np.uint32(depth), np.ones(shape, bool), NOTHING, connectivity)
    footprint = scipy.ndimage.generate_binary_structure(3, REACH[connectivity])
    filled = reconstruction(relief + float(depth), relief.astype(float), "erosion", footprint)
    np.testing.assert_array_equal(costs >> np.uint64(1), filled)
    np.testing.assert_array_equal((costs & PIT) == PIT, local_minima(filled, footprint=footprint))
