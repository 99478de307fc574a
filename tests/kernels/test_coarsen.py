"""Cells of a pyramid: means equal exact fractions, modes equal counting by hand, blocks equal the whole."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, map_whole, seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.geometry import Grid
from tomoscale.kernels.coarsen import coarsened_shape, mean_cells, mode_cells

factors = st.tuples(*[st.sampled_from([1, 2])] * 3)
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
KERNELS = [
    *[mean_cells((2, 2, 2), dtype) for dtype in ("uint8", "int16", "int64", "float16", "float32", "float64")],
    mean_cells((1, 1, 2), "uint64"),
    mean_cells((1, 2, 1), "float16"),
    *[mode_cells((2, 2, 2), dtype) for dtype in ("bool", "uint8", "int32", "uint64")],
    mode_cells((2, 1, 1), "uint16"),
]


def cells(values, factor):
    """Voxels of every cell, those that are there, as Python numbers."""
    shape = tuple(-(-n // f) for n, f in zip(values.shape, factor, strict=True))
    for position in product(*(range(n) for n in shape)):
        region = tuple(slice(p * f, p * f + f) for p, f in zip(position, factor, strict=True))
        yield position, values[region].ravel().tolist()


def exact_means(values, factor):
    """Means as fractions, rounded half to even as Python rounds."""
    means = np.zeros([-(-n // f) for n, f in zip(values.shape, factor, strict=True)], values.dtype)
    for position, cell in cells(values, factor):
        means[position] = round(Fraction(sum(cell), len(cell)))
    return means


def counted_modes(labels, factor):
    """Modes by counting: most votes, then any label before 0, then the smallest."""
    modes = np.zeros([-(-n // f) for n, f in zip(labels.shape, factor, strict=True)], labels.dtype)
    for position, cell in cells(labels, factor):
        modes[position] = min(Counter(cell).items(), key=lambda item: (-item[1], item[0] == 0, item[0]))[0]
    return modes


def drawn(seed, shape, dtype, few=False):
    """Values all over the range of a type, or only a few of them."""
    random, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind == "f":
        return random.normal(0, 100, shape).astype(dtype)
    if dtype.kind == "b":
        return random.random(shape) < 0.5
    limits = np.iinfo(dtype)
    values = random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    chosen = np.array([0, 1, 7, limits.max, limits.max - 1, max(limits.min, -3)], dtype)
    return random.choice(chosen, shape) if few else values


def test_a_thousand_pyramids_of_labels_equal_counting_by_hand():
    random = np.random.default_rng(5)
    for number in range(1000):
        shape, factor = tuple(random.integers(1, 6, 3)), tuple(random.integers(1, 3, 3).tolist())
        dtype = ("uint8", "int16", "uint32", "int64", "bool")[number % 5]
        labels = random.integers(0, 4 if number % 3 else 2, shape).astype(dtype)
        np.testing.assert_array_equal(map_whole(mode_cells(factor, dtype), labels), counted_modes(labels, factor))


@given(seed=seeds, shape=small_shapes, blocks=block_shapes, factor=factors, dtype=st.sampled_from([*INTEGERS, "bool"]))
def test_modes_by_blocks_equal_counting_and_invent_no_label(seed, shape, blocks, factor, dtype):
    labels = drawn(seed, shape, dtype, few=True)
    modes = map_by_blocks(mode_cells(factor, dtype), labels, blocks)
    np.testing.assert_array_equal(modes, counted_modes(labels, factor))
    assert set(modes.ravel().tolist()) <= set(labels.ravel().tolist())


@given(
    seed=seeds,
    shape=small_shapes,
    blocks=block_shapes,
    factor=factors,
    dtype=st.sampled_from(INTEGERS),
    few=st.booleans(),
)
def test_means_of_integers_by_blocks_are_exact(seed, shape, blocks, factor, dtype, few):
    values = drawn(seed, shape, dtype, few)
    np.testing.assert_array_equal(map_by_blocks(mean_cells(factor, dtype), values, blocks), exact_means(values, factor))


@given(seed=seeds, shape=small_shapes, blocks=block_shapes, factor=factors, dtype=st.sampled_from(["f2", "f4", "f8"]))
def test_means_of_floats_by_blocks_equal_the_whole_and_the_fraction(seed, shape, blocks, factor, dtype):
    values = drawn(seed, shape, dtype)
    kernel = mean_cells(factor, dtype)
    means = map_by_blocks(kernel, values, blocks)
    np.testing.assert_array_equal(means, map_whole(kernel, values))
    for position, cell in cells(values, factor):
        exact = sum(map(Fraction, cell)) / len(cell)
        assert abs(Fraction(float(means[position])) - exact) <= Fraction(float(np.finfo(dtype).eps)) * max(
            map(abs, cell)
        )


def test_ties_go_to_labels_and_then_to_the_smallest():
    cell = np.array([0, 0, 0, 0, 9, 9, 9, 9], np.uint8).reshape(2, 2, 2)
    assert map_whole(mode_cells((2, 2, 2), "uint8"), cell).item() == 9
    cell = np.array([9, 5, 9, 5, 5, 9, 0, 0], np.uint8).reshape(2, 2, 2)
    assert map_whole(mode_cells((2, 2, 2), "uint8"), cell).item() == 5
    cell = np.array([4, 0, 0, 3, 2, 5, 6, 7], np.uint8).reshape(2, 2, 2)
    assert map_whole(mode_cells((2, 2, 2), "uint8"), cell).item() == 0
    assert map_whole(mode_cells((1, 1, 2), "bool"), np.array([[[False, True]]])).item() is True


def test_two_halves_round_to_the_even_neighbour_and_the_last_voxel_stays():
    values = np.array([0, 1, 1, 2, 65535, 65534, 7], np.uint16).reshape(1, 1, 7)
    assert map_whole(mean_cells((2, 2, 2), "uint16"), values).tolist() == [[[0, 2, 65534, 7]]]
    assert map_whole(mean_cells((1, 1, 2), "int8"), np.array([[[-1, -2]]], np.int8)).tolist() == [[[-2]]]


def test_sums_of_the_largest_integers_do_not_overflow():
    for dtype in INTEGERS:
        for value in (np.iinfo(dtype).max, np.iinfo(dtype).min):
            values = np.full((2, 2, 2), value, dtype)
            assert map_whole(mean_cells((2, 2, 2), dtype), values).item() == value


def test_nan_and_infinity_stay_in_their_cells():
    values = np.array([1, 2, np.nan, 4, np.inf, 6], np.float32).reshape(1, 1, 6)
    np.testing.assert_array_equal(map_whole(mean_cells((1, 1, 2), "float32"), values), [[[1.5, np.nan, np.inf]]])


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.name}-{k.dtype}-{k.factor}")
def test_kernels_by_blocks_equal_whole_on_each_device(kernel, device):
    values = drawn(3, (21, 19, 23), kernel.dtype, few=True)
    result = map_by_blocks(kernel, values, (4, 5, 3), device)
    np.testing.assert_array_equal(result, map_whole(kernel, values))


@given(seed=seeds, shape=small_shapes, factor=factors, dtype=st.sampled_from([*INTEGERS, "bool", "f4", "f8"]))
def test_formulation_for_gpus_gives_the_same_bits(seed, shape, factor, dtype):
    values = drawn(seed, shape, dtype, few=True)
    kernels = [mode_cells(factor, dtype)] if np.dtype(dtype).kind != "f" else []
    kernels += [mean_cells(factor, dtype)] if np.dtype(dtype).kind != "b" else []
    for kernel in kernels:
        expected = map_whole(kernel, values)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tomoscale.kernels.coarsen.on_host", lambda array: False)
            np.testing.assert_array_equal(map_whole(kernel, values), expected)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.name}-{k.dtype}-{k.factor}")
@pytest.mark.parametrize("shape", [(48, 48, 48), (47, 47, 47), (9, 10, 11)])
def test_declared_memory_bounds_the_measured_peak(kernel, shape):
    values = drawn(0, shape, kernel.dtype)
    target = kernel.shape_of_target(shape)
    block = kernel.block(Grid(target, target), 0, shape)
    kernel.apply(values, block)
    peaks = []
    for _ in range(3):  # threads that an earlier test has left may take some memory meanwhile
        with Traced() as traced:
            kernel.apply(values, block)
        peaks.append(traced.peak_bytes)
    constant = 8192  # views, indices and rows of cells do not grow with the volume
    assert min(peaks) <= kernel.bytes_per_voxel * values.size + constant


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.name}-{k.dtype}-{k.factor}")
def test_kernels_pickle_and_their_parameters_are_json(kernel):
    values = drawn(0, (7, 8, 9), kernel.dtype)
    np.testing.assert_array_equal(map_whole(pickle.loads(pickle.dumps(kernel)), values), map_whole(kernel, values))
    assert json.loads(json.dumps(dict(kernel.parameters))) == dict(kernel.parameters)


def test_every_voxel_is_read_once():
    kernel, shape = mode_cells((2, 1, 2), "uint8"), (7, 5, 9)
    seen = np.zeros(shape, int)
    grid = Grid(coarsened_shape(shape, (2, 1, 2)), (2, 2, 2))
    for number in range(len(grid)):
        seen[kernel.block(grid, number, shape).read] += 1
    assert (seen == 1).all()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"factor must be 1 or 2 voxels along \(z, y, x\), got \(2, 3, 1\)"):
        mean_cells((2, 3, 1), "uint8")
    with pytest.raises(ValueError, match="got bool: a mask or labels have a mode"):
        mean_cells((2, 2, 2), bool)
    with pytest.raises(ValueError, match="got float32: floats have a mean"):
        mode_cells((2, 2, 2), "float32")
    for kernel in (mean_cells((2, 2, 2), "uint8"), mode_cells((2, 2, 2), "uint8")):
        with pytest.raises(InputError, match="the source holds uint16 but the kernel was made for uint8"):
            map_whole(kernel, np.zeros((4, 4, 4), np.uint16))
