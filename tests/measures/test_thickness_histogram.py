"""Histogram of thickness against numpy, by blocks and as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tomoscale.measures.thickness_histogram import BINS, filled, steps_of, thickness_histogram


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_by_blocks_every_thickness_is_in_its_bin(seed, shape, block_shape):
    random = np.random.default_rng(seed)
    values = (2 * 0.65 * np.sqrt(random.integers(0, 60, shape))).astype(np.float32)
    counts = measure_by_blocks(thickness_histogram(0.65), (values,), block_shape)
    found = filled(counts, 0.65)
    known = values[values > 0].astype(float)
    assert sum(found["counts"]) == known.size
    if known.size:
        # A multiple of half an edge is the first of its bin, however it is rounded in float32.
        expected, _ = np.histogram(known + 1e-5, found["edges"])
        assert found["counts"] == expected.tolist()


def test_multiples_of_an_edge_that_has_no_exact_binary_stay_multiples():
    for edge in (0.1, 0.65, 1.3, 19.5):
        values = (np.arange(1, 500) * edge).astype(np.float32)
        assert (steps_of(values, edge) == np.arange(1, 500) * 1024).all()
        counts = measure_by_blocks(thickness_histogram(edge), (values[None, None],), (1, 1, 499))["histogram"]
        assert np.flatnonzero(counts).tolist() == list(range(2, 1000, 2))


def test_the_last_bin_takes_what_is_thicker_than_all():
    values = np.array([[[1e6, 0.0, 5.0]]], np.float32)
    counts = measure_by_blocks(thickness_histogram(1.0), (values,), values.shape)["histogram"]
    assert counts[BINS - 1] == 1
    assert counts[10] == 1
    assert counts.sum() == 2


def test_a_volume_without_thickness_has_no_bins():
    counts = measure_by_blocks(thickness_histogram(1.0), (np.zeros((2, 2, 2), np.float32),), (2, 2, 2))
    assert filled(counts, 1.0) == {"edges": [0.0], "counts": []}


def test_an_edge_is_positive():
    with pytest.raises(ValueError, match="edge_um must be positive, got 0"):
        thickness_histogram(0.0)
