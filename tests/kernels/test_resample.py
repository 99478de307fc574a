"""Changing the voxel size: blocks equal the whole bit for bit, the whole equals SciPy's interpolation."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, map_whole, seeds
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.geometry import Grid
from tomoscale.kernels.filters import clip_and_scale, gaussian
from tomoscale.kernels.resample import bin_mean, resample, scale_factor
from tomoscale.kernels.sampling import sampling_table
from tomoscale.projection import DEVICE_FACTOR

FACTOR = (2.4, 0.8, 1.0)
KERNELS = [
    (bin_mean((2, 3, 1), np.float32), np.float32),
    (bin_mean((2, 2, 2), np.uint16), np.uint16),
    (bin_mean((1, 1, 2), np.uint8), np.uint8),
    *[(resample(FACTOR, order), np.float32) for order in (1, 2, 3)],
    (resample((0.6, 0.6, 0.6), 1, np.uint16), np.uint16),
    (resample(FACTOR, 0, np.uint64), np.uint64),
    (resample((5 / 2.4,) * 3, 1, antialias="area"), np.uint16),
]

shapes = st.tuples(st.integers(4, 13), st.integers(4, 14), st.integers(4, 15))
factors = st.one_of(st.sampled_from([1.0, 2.0, 3.0, 0.5, 5 / 2.4]), st.floats(0.4, 3.6))
three_factors = st.tuples(factors, factors, factors)
boxes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


def grey(seed, shape, dtype=np.uint16):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def interpolated(values, factor, order):
    """SciPy's values at the same positions; it sees the whole line, in float64."""
    axes = [(np.arange(round(n / f)) + 0.5) * f - 0.5 for n, f in zip(values.shape, factor, strict=True)]
    positions = np.meshgrid(*axes, indexing="ij")
    return scipy.ndimage.map_coordinates(values.astype(float), positions, order=order, mode="nearest")


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_kernels_by_blocks_equal_whole_on_each_device(kernel, dtype, device):
    values = grey(3, (21, 19, 23), dtype)
    result = map_by_blocks(kernel, values, (4, 5, 3), device)
    np.testing.assert_array_equal(result, map_whole(kernel, values, device))
    np.testing.assert_allclose(result, map_whole(kernel, values), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
@pytest.mark.parametrize("shape", [(48, 48, 48), (9, 10, 11)])
@pytest.mark.parametrize("host", [True, False])
def test_declared_memory_bounds_the_measured_peak(kernel, dtype, shape, host, monkeypatch):
    if not host:  # the formulation for GPUs, on NumPy arrays
        monkeypatch.setattr("tomoscale.kernels.resample.on_host", lambda array: False)
    values = grey(0, shape, dtype)
    target = kernel.shape_of_target(values.shape)
    block = kernel.block(Grid(target, target), 0, values.shape)
    kernel.apply(values, block)
    with Traced() as traced:
        kernel.apply(values, block)
    tables = 64 * 40 * sum(target)  # positions and weights of each axis do not grow with the volume
    assert traced.peak_bytes <= (1 if host else DEVICE_FACTOR) * kernel.bytes_per_voxel * values.size + tables


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_kernels_pickle_and_their_parameters_are_json(kernel, dtype):
    values = grey(0, (7, 8, 9), dtype)
    np.testing.assert_array_equal(map_whole(pickle.loads(pickle.dumps(kernel)), values), map_whole(kernel, values))
    assert json.loads(json.dumps(dict(kernel.parameters))) == dict(kernel.parameters)


@given(seed=seeds, shape=shapes, blocks=block_shapes, factor=boxes)
def test_bin_mean_of_integers_is_exact_and_rounds_half_to_even(seed, shape, blocks, factor):
    values = grey(seed, shape, np.int16) - 128
    cut = values[tuple(slice(n // f * f) for n, f in zip(shape, factor, strict=True))]
    counts = [n for size, f in zip(shape, factor, strict=True) for n in (size // f, f)]
    means = cut.reshape(counts).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(map_by_blocks(bin_mean(factor, np.int16), values, blocks), np.rint(means))
    np.testing.assert_allclose(map_by_blocks(bin_mean(factor, np.float32), values, blocks), means, rtol=1e-6, atol=1e-5)


@given(seed=seeds, shape=shapes, blocks=block_shapes, factor=boxes)
def test_bin_mean_of_floats_by_blocks_equals_whole(seed, shape, blocks, factor):
    values = np.random.default_rng(seed).normal(0, 1e3, shape).astype(np.float32)
    kernel = bin_mean(factor, np.float32)
    np.testing.assert_array_equal(map_by_blocks(kernel, values, blocks), map_whole(kernel, values))


def test_bin_mean_of_two_halves_rounds_to_the_even_neighbour():
    values = np.array([0, 1, 1, 2, 65535, 65534], np.uint16).reshape(1, 1, 6)
    assert map_whole(bin_mean((1, 1, 2), np.uint16), values).tolist() == [[[0, 2, 65534]]]


@given(seed=seeds, shape=shapes, blocks=block_shapes, factor=three_factors, order=st.sampled_from([0, 1, 2, 3]))
def test_resample_by_blocks_equals_whole_bit_for_bit(seed, shape, blocks, factor, order):
    values = np.random.default_rng(seed).normal(0, 1e3, shape).astype(np.float32)
    kernel = resample(factor, order)
    np.testing.assert_array_equal(map_by_blocks(kernel, values, blocks), map_whole(kernel, values))


@given(seed=seeds, shape=shapes, blocks=block_shapes, factor=three_factors)
def test_area_means_by_blocks_equal_whole_bit_for_bit(seed, shape, blocks, factor):
    values = np.random.default_rng(seed).normal(0, 1e3, shape).astype(np.float32)
    kernel = resample(factor, 1, antialias="area")
    np.testing.assert_array_equal(map_by_blocks(kernel, values, blocks), map_whole(kernel, values))


@given(seed=seeds, shape=shapes, factor=three_factors, order=st.sampled_from([1, 2, 3]))
def test_resample_equals_scipy_interpolation(seed, shape, factor, order):
    values = grey(seed, shape)
    np.testing.assert_allclose(
        map_whole(resample(factor, order), values), interpolated(values, factor, order), atol=2e-3
    )


@given(seed=seeds, shape=shapes, blocks=block_shapes, factor=three_factors)
def test_nearest_labels_equal_scipy_with_ties_to_the_higher_index(seed, shape, blocks, factor):
    labels = grey(seed, shape, np.uint32) * 10**7
    result = map_by_blocks(resample(factor, 0, np.uint32), labels, blocks)
    np.testing.assert_array_equal(result, interpolated(labels, factor, 0))


@given(seed=seeds, shape=shapes, blocks=block_shapes, factor=boxes)
def test_area_mean_at_whole_factors_is_the_bin_mean(seed, shape, blocks, factor):
    values = grey(seed, shape)
    area = map_by_blocks(resample(factor, 1, antialias="area"), values, blocks)
    bins = map_whole(bin_mean(factor, np.float32), values)
    np.testing.assert_allclose(area[tuple(slice(n) for n in bins.shape)], bins, rtol=1e-6)


def test_a_whole_volume_keeps_its_mean_under_area_means():
    values = grey(1, (25, 25, 25))  # 25 voxels at 12 / 5 are 10.4, rounded to 10: the first 24 voxels
    result = map_whole(resample((2.4, 2.4, 2.4), 1, antialias="area"), values)
    assert result.mean(dtype=float) == pytest.approx(values[:24, :24, :24].mean(), rel=1e-6)


@given(order=st.sampled_from([1, 2, 3]), factor=factors, value=st.floats(-1e4, 1e4, width=32))
def test_a_constant_stays_constant(order, factor, value):
    values = np.full((5, 6, 4), value, np.float32)
    np.testing.assert_allclose(map_whole(resample((factor,) * 3, order), values), value, rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_ramp_keeps_its_place_and_slope(order):
    values = np.arange(60, dtype=np.float32).reshape(1, 1, 60)
    result = map_whole(resample((1.0, 1.0, 1.5), order), values)[0, 0]
    expected = (np.arange(40) + 0.5) * 1.5 - 0.5
    np.testing.assert_allclose(result[12:-12], expected[12:-12], rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_formulation_for_gpus_gives_the_same_bits(order, monkeypatch):
    values = grey(4, (12, 9, 11), np.float32)
    expected = map_whole(resample(FACTOR, order), values)
    monkeypatch.setattr("tomoscale.kernels.resample.on_host", lambda array: False)
    np.testing.assert_array_equal(map_by_blocks(resample(FACTOR, order), values, (5, 4, 3)), expected)


def test_weights_left_out_of_splines_are_below_float32_resolution():
    """An impulse 10^6 high leaves less than 10^6 * 2^-24 beyond the reach of the filter."""
    values = np.zeros(101)
    values[50] = 1e6
    for order in (2, 3):
        positions = (np.arange(202) + 0.5) / 2 - 0.5
        exact = scipy.ndimage.map_coordinates(values, positions[None], order=order, mode="nearest")
        index, weights = sampling_table(np.arange(202), 0.5, order, "none")
        found = (values[np.clip(index, 0, 100)] * weights).sum(axis=1)
        assert np.abs(found - exact).max() < 0.1
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_published_voxel_sizes_give_the_published_shape():
    factor = scale_factor((2.4, 2.4, 2.4), (5.0, 5.0, 5.0))
    assert resample(factor, 1).shape_of_target((2510, 2510, 2160)) == (1205, 1205, 1037)


def test_means_of_16_bit_values_round_half_to_even_and_stay_in_range():
    values = np.array([1, 2, 2, 65535], np.uint16).reshape(1, 1, 4)
    assert map_whole(resample((1.0, 1.0, 2.0), 1, np.uint16), values).tolist() == [[[2, 32768]]]
    assert map_whole(resample((1.0, 1.0, 0.3), 1, np.uint16), values).max() == 65535


def test_a_chain_by_blocks_equals_whole():
    values = grey(7, (13, 17, 11))
    before = clip_and_scale(3, 99).then(gaussian(1.0, (1.0, 1.0, 1.0), 2.0))
    for second in (resample(FACTOR, 3), bin_mean((3, 2, 4), np.float32)):
        chain = before.then(second)
        np.testing.assert_array_equal(map_by_blocks(chain, values, (2, 3, 2)), map_whole(chain, values))


def test_bin_mean_refuses_other_types_and_factors():
    with pytest.raises(InputError, match="the source holds uint16 but the target was made for uint8"):
        map_whole(bin_mean((2, 2, 2), np.uint8), grey(0, (4, 4, 4)))
    with pytest.raises(ValueError, match="factor must be three whole numbers"):
        bin_mean((0, 2, 2), np.uint8)
    with pytest.raises(ValueError, match="dtype must be a floating or an integer type of at most 32 bits, got int64"):
        bin_mean((2, 2, 2), np.int64)
    with pytest.raises(ValueError, match=r"has no voxel left at factor \(2, 2, 2\)"):
        bin_mean((2, 2, 2), np.uint8).shape_of_target((1, 4, 4))


def test_resample_refuses_choices_that_exclude_each_other():
    with pytest.raises(ValueError, match="factor must be three positive numbers"):
        resample((1.0, -2.0, 1.0), 1)
    with pytest.raises(ValueError, match="order must be 0, 1, 2 or 3, got 4"):
        resample(FACTOR, 4)
    with pytest.raises(ValueError, match="dtype for order 3 must be float32, since splines overshoot, got uint16"):
        resample(FACTOR, 3, np.uint16)
    with pytest.raises(ValueError, match="dtype for order 1 must be float32 or an integer type of at most 16 bits"):
        resample(FACTOR, 1, np.int32)
    with pytest.raises(ValueError, match="antialias must be"):
        resample(FACTOR, 0, np.uint8, "area")
    with pytest.raises(InputError, match="the source holds int32 but the target was made for float32"):
        map_whole(resample(FACTOR, 0), grey(0, (4, 4, 4), np.int32))
    with pytest.raises(ValueError, match=r"volume of \(1, 4, 4\) voxels has no voxel left"):
        resample(FACTOR, 1).shape_of_target((1, 4, 4))
    with pytest.raises(ValueError, match="voxel sizes must be positive"):
        scale_factor((1.0, 1.0, 0.0), (2.0, 2.0, 2.0))
