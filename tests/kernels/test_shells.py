"""Shells by blocks equal the whole, and both equal distances of SciPy and the kernel of the solid region."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, map_whole, seeds, small_shapes
from tests.traced import Traced
from tomoscale.geometry import Grid, Halo
from tomoscale.kernels.distance import within_distance
from tomoscale.kernels.shells import number_squares, shells, shells_by_axis

spacings = st.sampled_from([(2.76, 2.76, 2.76), (1.0, 3.0, 2.0), (2.0, 1.0, 1.5), (0.1, 0.2, 0.3)])
reaches = st.sampled_from([("1",), ("1", "2"), ("1.5", "2.3", "4"), ("2", "3", "5", "17")])
densities = st.sampled_from([0.0, 0.003, 0.05, 0.5, 1.0])


def by_scipy(mask: np.ndarray, edges: list[float], size: tuple[float, float, float]) -> np.ndarray:
    """Shells from the distances of SciPy, rounded so that a distance that is an edge lies within it."""
    if not mask.any():
        return np.full(mask.shape, len(edges) + 1, np.uint8)
    distance = scipy.ndimage.distance_transform_edt(~mask, sampling=size).round(9)
    return np.searchsorted([0.0, *np.round(edges, 9)], distance).astype(np.uint8)


@given(seeds, small_shapes, block_shapes, spacings, reaches, densities)
def test_shells_by_blocks_equal_scipy(seed, shape, blocks, size, reach, density):
    mask = np.random.default_rng(seed).random(shape) < density
    edges = [float(Fraction(r) * Fraction(str(max(size)))) for r in reach]
    expected = by_scipy(mask, edges, size)
    np.testing.assert_array_equal(map_by_blocks(shells(edges, size), mask, blocks), expected)
    between = mask
    for step in shells_by_axis(edges, size):
        between = map_by_blocks(step, between, blocks)
    np.testing.assert_array_equal(between, expected)


@given(seeds, small_shapes, reaches)
def test_the_solid_region_is_made_of_the_shells_within(seed, shape, reach):
    labels = np.random.default_rng(seed).integers(0, 9, shape).astype(np.uint8)
    edges, size = [3 * float(r) for r in reach], (3.0, 3.0, 3.0)
    found = map_whole(shells(edges, size, (1, 2)), labels)
    for k, edge in enumerate(edges, 1):
        np.testing.assert_array_equal(found <= k, map_whole(within_distance(edge, size, (1, 2)), labels))
    np.testing.assert_array_equal(found == 0, (labels == 1) | (labels == 2))


def test_shells_of_a_point_on_a_line():
    line = np.zeros((1, 1, 9), np.uint8)
    line[0, 0, 1] = 7
    # voxels of 2 µm: distances 2, 0, 2, 4, 6, 8, 10, 12, 14
    assert map_whole(shells((2.0, 7.0, 10.0), (2.0, 2.0, 2.0)), line).tolist() == [[[1, 0, 1, 2, 2, 3, 3, 4, 4]]]


def test_large_limits_are_searched_like_small_ones_are_looked_up():
    squares = np.array([[0, 1, 4, 5, 9, 10]])
    expected = [[0, 1, 1, 2, 2, 3]]
    assert number_squares(squares, (4, 9), np).tolist() == expected
    assert number_squares(squares * 10**12, (4 * 10**12, 9 * 10**12), np).tolist() == expected


def test_the_margin_is_the_last_edge_and_the_parameters_pickle():
    kernel = shells((10.0, 20.0), (5.0, 2.0, 2.0), (1, 2))
    assert kernel.halo == Halo.symmetric((4, 10, 10))
    assert pickle.loads(pickle.dumps(kernel)).parameters == kernel.parameters
    assert kernel.parameters == {"edges_um": [10.0, 20.0], "voxel_size_um": [5.0, 2.0, 2.0], "classes": [1, 2]}
    assert [k.halo for k in shells_by_axis((10.0, 20.0), (5.0, 2.0, 2.0))] == [
        Halo.symmetric(reach) for reach in ((4, 0, 0), (0, 0, 10), (0, 10, 0))
    ]


@pytest.mark.parametrize("edges", [(), (2.0, 2.0), (3.0, 2.0), tuple(range(1, 300))])
def test_edges_must_increase(edges):
    with pytest.raises(ValueError, match="edges_um must be 1 to 253 increasing distances"):
        shells(edges, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("number", range(4))
def test_peak_memory_is_declared(number):
    size, edges = (1.0, 1.0, 1.0), [float(e) for e in range(1, 13)]
    kernel = (shells(edges, size), *shells_by_axis(edges, size))[number]
    mask = np.random.default_rng(1).random((80, 72, 76)) < 0.001
    values = {2: lambda: map_whole(shells_by_axis(edges, size)[0], mask)}.get(number, lambda: mask)()
    if number == 3:
        values = map_whole(shells_by_axis(edges, size)[1], map_whole(shells_by_axis(edges, size)[0], mask))
    elif number < 2:
        values = values.astype(np.int32)
    block = kernel.block(Grid(values.shape, values.shape), 0, values.shape)
    kernel.apply(values, block)
    with Traced() as traced:
        kernel.apply(values, block)
    peak = traced.peak_bytes + values.nbytes
    assert peak <= kernel.bytes_per_voxel * values.size
