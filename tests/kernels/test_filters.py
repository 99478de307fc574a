"""Grey value filters: blocks equal the whole, the whole equals SciPy, and bad data is named."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, map_whole, seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.geometry import Grid, Halo
from tomoscale.kernels.filters import cast, clip_and_scale, filter_median, gaussian, median

KERNELS = [
    cast(np.float32),
    cast(np.float32, "zero"),
    clip_and_scale(20, 200),
    clip_and_scale(20, 200, np.float16),
    clip_and_scale(20, 200, np.float64),
    gaussian(2.0, (1.5, 1.0, 2.0), truncate=2.0),
    median(1, np.float32),
    median(1, np.float32, "ball"),
]


def grey(seed, shape, dtype=np.uint16):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_kernels_by_blocks_equal_whole_on_each_device(kernel, device):
    values = grey(3, (11, 9, 13), np.float32)
    result = map_by_blocks(kernel, values, (4, 5, 3), device)
    np.testing.assert_array_equal(result, map_whole(kernel, values, device))
    np.testing.assert_allclose(result, map_whole(kernel, values), rtol=1e-3 if kernel.dtype == np.float16 else 1e-5)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize("holes", [False, True])
def test_declared_memory_bounds_the_measured_peak(kernel, holes):
    # A cast to the type that the source has takes next to nothing: only a wider one shows what is declared.
    refusing = kernel.parameters.get("nan_policy") == "refuse"
    values = grey(0, (50, 50, 50), np.uint16 if refusing or (kernel.name == "cast" and not holes) else np.float32)
    if holes and kernel.parameters.get("nan_policy") == "zero":
        values[0, 0, 0] = np.nan
    block = kernel.block(Grid(values.shape, values.shape), 0, values.shape)
    kernel.apply(values, block)
    with Traced() as traced:
        kernel.apply(values, block)
    assert traced.peak_bytes <= kernel.bytes_per_voxel * values.size + 25_000  # what does not grow with the block
    assert traced.peak_bytes > 0.3 * kernel.bytes_per_voxel * values.size


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_kernels_pickle_and_their_parameters_are_json(kernel):
    values = grey(0, (3, 4, 5), np.float32)
    np.testing.assert_array_equal(map_whole(pickle.loads(pickle.dumps(kernel)), values), map_whole(kernel, values))
    assert json.loads(json.dumps(dict(kernel.parameters))) == dict(kernel.parameters)


@given(seed=seeds, shape=small_shapes, blocks=block_shapes, low=st.integers(0, 99), width=st.integers(1, 200))
def test_clip_and_scale_by_blocks_equals_whole_and_the_formula(seed, shape, blocks, low, width):
    values = grey(seed, shape)
    result = map_by_blocks(clip_and_scale(low, low + width), values, blocks)
    expected = (np.clip(values.astype(float), low, low + width) - low) / width
    np.testing.assert_allclose(result, expected, atol=1e-7)
    assert (result[values >= low + width] == 1).all()
    assert (result[values <= low] == 0).all()


@pytest.mark.parametrize("limits", [(5.0, 5.0), (6.0, 5.0), (0.0, np.inf), (np.nan, 1.0), (1e8, 1e8 + 1)])
def test_clip_and_scale_refuses_limits_without_contrast(limits):
    with pytest.raises(ValueError, match="low must be less than high, got low"):
        clip_and_scale(*limits)


def test_clip_and_scale_refuses_integers():
    with pytest.raises(ValueError, match=r"dtype must be a floating type because results lie .* got uint8"):
        clip_and_scale(0, 1, np.uint8)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float32), (-np.inf, np.float32), (1e300, np.float64)])
def test_clip_and_scale_names_the_first_value_that_is_not_finite(value, dtype):
    values = np.zeros((3, 4, 5), dtype)
    values[1, 2, 3] = values[2, 3, 4] = value
    with pytest.raises(
        InputError, match=r"at voxel \(z, y, x\) = \(1, 2, 3\), counted from .* block read; 2 of its 60"
    ):
        map_whole(clip_and_scale(0, 1), values)


@given(seed=seeds, shape=small_shapes, blocks=block_shapes, dtype=st.sampled_from([np.uint8, np.int16, np.float32]))
def test_cast_by_blocks_keeps_every_value(seed, shape, blocks, dtype):
    values = grey(seed, shape, dtype)
    np.testing.assert_array_equal(map_by_blocks(cast(dtype), values, blocks), values)
    np.testing.assert_array_equal(map_by_blocks(cast(np.float64), values, blocks), values)


def test_cast_refuses_or_zeroes_what_is_not_finite():
    values = np.ones((6, 6, 6), np.float32)
    values[4, 1, 5], values[5, 1, 5] = np.nan, np.inf
    with pytest.raises(InputError, match=r"nan at voxel \(z, y, x\) = \(4, 1, 5\), in block 5; 2 of its 27 voxels"):
        map_by_blocks(cast(np.float32), values, (3, 3, 3))
    zeroed = map_by_blocks(cast(np.float32, "zero"), values, (3, 3, 3))
    assert zeroed[4, 1, 5] == zeroed[5, 1, 5] == 0
    assert zeroed.sum() == values.size - 2


def test_cast_refuses_to_lose_values_and_unknown_policies():
    with pytest.raises(InputError, match="uint16 values do not fit into uint8 without loss"):
        map_whole(cast(np.uint8), grey(0, (2, 2, 2)))
    with pytest.raises(ValueError, match="nan_policy must be"):
        cast(np.float32, "ignore")


@given(seed=seeds, shape=small_shapes, blocks=block_shapes, sigma=st.floats(0.2, 4), truncate=st.floats(0.5, 4))
def test_gaussian_by_blocks_equals_whole_bit_for_bit(seed, shape, blocks, sigma, truncate):
    values = np.random.default_rng(seed).normal(0, 1e3, shape).astype(np.float32)
    kernel = gaussian(sigma, (1.0, 0.7, 2.0), truncate)
    np.testing.assert_array_equal(map_by_blocks(kernel, values, blocks), map_whole(kernel, values))


def test_gaussian_by_blocks_equals_whole_on_long_lines():
    """SciPy works on lines in buffers of 256 kB; a line longer than any vector width must sum in the same order."""
    values = np.random.default_rng(5).normal(0, 1e3, (3, 70, 301)).astype(np.float32)
    kernel = gaussian(1.7, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(map_by_blocks(kernel, values, (2, 33, 37)), map_whole(kernel, values))


@given(seed=seeds, shape=small_shapes, sigma=st.floats(0.3, 3))
def test_gaussian_equals_weights_written_out(seed, shape, sigma):
    values = grey(seed, shape)
    expected = values.astype(float)
    for axis, h in enumerate((1.0, 0.5, 2.0)):
        radius = int(3 * sigma / h + 0.5)
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) * h / sigma) ** 2)
        padded = np.pad(expected, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis)
        expected = windows @ (taps / taps.sum())
    np.testing.assert_allclose(map_whole(gaussian(sigma, (1.0, 0.5, 2.0), 3.0), values), expected, rtol=1e-5, atol=1e-3)


def test_gaussian_halo_follows_voxel_size():
    assert gaussian(2.0, (4.0, 2.0, 1.0)).halo == Halo.symmetric((2, 4, 8))
    with pytest.raises(ValueError, match="sigma_um, voxel_size_um and truncate must be positive, got 0"):
        gaussian(0.0, (1.0, 1.0, 1.0))


@given(
    seed=seeds,
    shape=small_shapes,
    blocks=block_shapes,
    radius=st.integers(1, 2),
    footprint=st.sampled_from(["cube", "ball"]),
    dtype=st.sampled_from([np.uint8, np.float32, np.bool_]),
)
def test_median_by_blocks_equals_whole_and_scipy(seed, shape, blocks, radius, footprint, dtype):
    values = grey(seed, shape) % 200
    values = (values > 100) if dtype is np.bool_ else values.astype(dtype)
    result = map_by_blocks(median(radius, dtype, footprint), values, blocks)
    z, y, x = np.indices((2 * radius + 1,) * 3) - radius
    mask = np.ones(z.shape, bool) if footprint == "cube" else z**2 + y**2 + x**2 <= radius**2
    expected = scipy.ndimage.median_filter(values.astype(np.float32), footprint=mask, mode="nearest")
    np.testing.assert_array_equal(result, expected.astype(dtype))


@settings(max_examples=10)
@given(seed=seeds, width=st.integers(100, 300))
def test_median_of_lines_longer_than_a_strip_equals_scipy(seed, width):
    values = grey(seed, (2, 3, width), np.float32)
    expected = scipy.ndimage.median_filter(values, size=3, mode="nearest")
    np.testing.assert_array_equal(filter_median(values, 1), expected)


@pytest.mark.parametrize("footprint", ["cube", "ball"])
def test_median_formulation_for_gpus_gives_the_same_bits(footprint, monkeypatch):
    values = grey(4, (6, 7, 9))
    expected = filter_median(values, 2, footprint)
    monkeypatch.setattr("tomoscale.kernels.filters.on_host", lambda array: False)
    np.testing.assert_array_equal(filter_median(values, 2, footprint), expected)


def test_median_removes_a_single_bright_voxel():
    values = np.zeros((5, 5, 5), np.uint16)
    values[2, 2, 2] = 9
    assert map_whole(median(1, np.uint16, "ball"), values).max() == 0


def test_median_refuses_what_it_cannot_rank():
    values = np.zeros((3, 3, 3), np.float32)
    values[0, 1, 2] = np.nan
    with pytest.raises(InputError, match=r"nan at voxel \(z, y, x\) = \(0, 1, 2\)"):
        map_whole(median(1, np.float32), values)
    with pytest.raises(InputError, match="the source holds float32 but the kernel was made for uint8"):
        map_whole(median(1, np.uint8), values)
    with pytest.raises(ValueError, match="radius must be at least 1 voxel, got 0"):
        median(0, np.uint8)
    with pytest.raises(ValueError, match="footprint must be"):
        median(1, np.uint8, "cross")


@given(seed=seeds, shape=small_shapes, blocks=block_shapes)
def test_a_chain_by_blocks_equals_whole(seed, shape, blocks):
    values = grey(seed, shape)
    chain = median(1, np.uint16).then(clip_and_scale(10, 99)).then(gaussian(1.0, (1.0, 2.0, 1.0), 2.0)).then(cast("f8"))
    np.testing.assert_array_equal(map_by_blocks(chain, values, blocks), map_whole(chain, values))
