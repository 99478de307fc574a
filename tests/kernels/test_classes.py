"""Thresholds and relabelling: blocks equal the whole, Otsu equals scikit-image and a search by hand."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, map_whole, seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.geometry import Grid
from tomoscale.kernels.classes import map_labels, threshold
from tomoscale.kernels.filters import gaussian

KERNELS = [
    (threshold(20, 200), np.float32),
    (threshold(low=20, dtype=np.uint8), np.float32),
    (threshold(high=20, dtype=np.uint8), np.float32),
    (map_labels(np.arange(256)[::-1].copy(), np.int32), np.uint8),
    (map_labels({i: i // 2 for i in range(256)}, np.uint64), np.uint64),
    (map_labels({i: i // 2 for i in range(1, 257)}, np.uint8), np.int32),
]


def grey(seed, shape, dtype=np.uint16):
    return np.random.default_rng(seed).integers(1, 256, shape).astype(dtype)


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_kernels_by_blocks_equal_whole_on_each_device(kernel, dtype, device):
    values = grey(3, (11, 9, 13), dtype)
    np.testing.assert_array_equal(map_by_blocks(kernel, values, (4, 5, 3), device), map_whole(kernel, values))


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_declared_memory_bounds_the_measured_peak(kernel, dtype):
    values = grey(0, (50, 50, 50), dtype)
    block = kernel.block(Grid(values.shape, values.shape), 0, values.shape)
    with Traced() as traced:
        kernel.apply(values, block)
    assert traced.peak_bytes <= kernel.bytes_per_voxel * values.size + 25_000  # what does not grow with the block


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_kernels_pickle_and_their_parameters_are_json(kernel, dtype):
    values = grey(0, (3, 4, 5), dtype)
    np.testing.assert_array_equal(map_whole(pickle.loads(pickle.dumps(kernel)), values), map_whole(kernel, values))
    assert json.loads(json.dumps(dict(kernel.parameters))) == dict(kernel.parameters)


@given(seed=seeds, shape=small_shapes, blocks=block_shapes, limits=st.tuples(st.integers(0, 99), st.integers(100, 255)))
def test_thresholds_that_meet_share_no_voxel_and_leave_none_out(seed, shape, blocks, limits):
    values = grey(seed, shape)
    low, high = limits
    kernels = threshold(high=low), threshold(low, high), threshold(low=high, dtype=np.uint8)
    dark, middle, bright = (map_by_blocks(kernel, values, blocks) for kernel in kernels)
    np.testing.assert_array_equal(dark.astype(int) + middle + bright, 1)
    np.testing.assert_array_equal(middle, (values > low) & (values <= high))


def test_threshold_refuses_what_selects_nothing_or_everything():
    with pytest.raises(ValueError, match="threshold needs low, high or both"):
        threshold()
    with pytest.raises(ValueError, match="low must be less than high, got 3 and 3: no voxel"):
        threshold(3, 3)
    with pytest.raises(ValueError, match="dtype of a mask must be bool or uint8, got int32"):
        threshold(3, dtype=np.int32)


@given(seed=seeds, shape=small_shapes, blocks=block_shapes)
def test_map_labels_by_blocks_equals_looking_each_voxel_up(seed, shape, blocks):
    rng = np.random.default_rng(seed)
    old = np.sort(rng.choice(500, 20, replace=False))
    mapping = dict(zip(old.tolist(), rng.integers(-5, 5, 20).tolist(), strict=True))
    labels = rng.choice(old, shape).astype(np.int32)
    expected = np.vectorize(mapping.__getitem__)(labels)
    np.testing.assert_array_equal(map_by_blocks(map_labels(mapping, np.int16), labels, blocks), expected)
    table = rng.integers(0, 99, 500)
    np.testing.assert_array_equal(map_by_blocks(map_labels(table, np.uint8), labels, blocks), table[labels])


@pytest.mark.parametrize(("label", "dtype"), [(3, np.uint8), (1, np.uint8), (-1, np.int32), (2**40, np.uint64)])
def test_map_labels_names_a_label_it_does_not_know(label, dtype):
    labels = np.zeros((4, 4, 4), dtype)
    labels[3, 0, 2] = label
    pattern = rf"label {label} at voxel \(z, y, x\) = \(3, 0, 2\) is not in the mapping, nor are 0 .* of block 5"
    with pytest.raises(InputError, match=pattern):
        map_by_blocks(map_labels({0: 1, 2: 1}, np.uint8), labels, (2, 2, 2))


def test_map_labels_refuses_what_is_no_mapping_of_labels():
    with pytest.raises(ValueError, match="dtype uint8 does not hold the new labels 1 to 300"):
        map_labels({0: 300, 1: 1}, np.uint8)
    with pytest.raises(ValueError, match="mapping is empty"):
        map_labels({}, np.uint8)
    with pytest.raises(ValueError, match="labels of mapping must lie in"):
        map_labels({-1: 0}, np.uint8)
    with pytest.raises(InputError, match="labels must be integers, but the source holds float32"):
        map_whole(map_labels({0: 1}, np.uint8), np.zeros((2, 2, 2), np.float32))


@given(seed=seeds, shape=small_shapes, blocks=block_shapes)
def test_a_chain_by_blocks_equals_whole(seed, shape, blocks):
    values = grey(seed, shape)
    chain = (
        gaussian(1.0, (1.0, 1.0, 1.0), 2.0).then(threshold(128, dtype=np.uint8)).then(map_labels({0: 7, 1: 3}, "u1"))
    )
    np.testing.assert_array_equal(map_by_blocks(chain, values, blocks), map_whole(chain, values))
