"""Grey values by class in 256 bins, by blocks, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tomoscale.measures.class_histogram import INTEGERS, centres, class_histogram, zeros


@given(seeds, small_shapes, block_shapes, st.sampled_from(INTEGERS))
def test_the_histogram_by_blocks_equals_numpy(seed, shape, blocks, dtype):
    random = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    grey = random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    labels = random.integers(0, 3, shape).astype(np.uint8)
    found = measure_by_blocks(class_histogram(dtype, 3), (grey, labels), blocks)["histogram"]
    middle = centres(dtype)
    width = 2**limits.bits / 256
    edges = np.append(middle - (width - 1) / 2 - 0.5, middle[-1] + (width - 1) / 2 + 0.5)
    for k in range(3):
        np.testing.assert_array_equal(found[k], np.histogram(grey[labels == k].astype(np.float64), edges)[0])


def test_centres_of_8_bits_are_the_values_and_of_16_the_middles():
    assert centres("uint8").tolist() == list(range(256))
    assert centres("int8").tolist() == list(range(-128, 128))
    assert centres("uint16")[:2].tolist() == [127.5, 383.5]
    assert centres("int16")[0] == -32768 + 127.5


def test_floats_are_refused():
    with pytest.raises(ValueError, match="dtype must be one of"):
        class_histogram("float32", 4)


@given(seeds, small_shapes, block_shapes, st.sampled_from(["uint16", "float32"]))
def test_zeros_by_blocks_equal_the_whole(seed, shape, blocks, dtype):
    grey = np.random.default_rng(seed).integers(0, 3, shape).astype(dtype)
    found = measure_by_blocks(zeros(), (grey,), blocks)["zeros"]
    assert found.tolist() == [np.count_nonzero(grey == 0), grey.size]
