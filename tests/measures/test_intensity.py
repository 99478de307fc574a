from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.blocks import measure_by_blocks, seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.geometry import Grid
from tomoscale.measures import fixed_point as fixed
from tomoscale.measures import greys
from tomoscale.measures.choice import Voxels, interior_of, nothing_met, spans_of
from tomoscale.measures.fixed_point import FixedPoint, sums_of
from tomoscale.measures.grey_figures import Moments, cnr, moments, moments_from_histogram, percentiles, snr
from tomoscale.measures.intensity import histogram, label_moments, refinement
from tomoscale.measures.population import Population

DTYPES = list(greys.COUNTED_TYPES)
PERCENTS = (0.0, 0.5, 25.0, 50.0, 63.21, 99.5, 100.0)
FEW_PERCENTS = (0.5, 63.21)
# Histograms have 65 536 bins a block, so thousands of blocks of one voxel are for the tests that name them.
block_shapes = st.tuples(*[st.integers(3, 9)] * 3)


def random_grey(seed, shape, dtype):
    """Values all over the range of the type, with many equal ones and zeros."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        values = (rng.standard_normal(shape) * 10.0 ** rng.integers(-30, 30, shape)).astype(np.float32)
        values[rng.random(shape) < 0.1] = -0.0
    else:
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    values[rng.random(shape) < 0.2] = 0
    values[rng.random(shape) < 0.2] = 7
    return values


def random_labels(seed, shape, n_classes=3):
    """Labels in patches, so that some voxels are inside."""
    rng = np.random.default_rng(seed + 1)
    coarse = rng.integers(0, n_classes, tuple(-(-n // 4) for n in shape)).astype(np.uint8)
    return np.kron(coarse, np.ones((4, 4, 4), np.uint8))[tuple(slice(n) for n in shape)]


def in_disc(shape):
    _, height, width = shape
    y, x = np.ogrid[:height, :width]
    inside = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2 <= (min(height, width) / 2) ** 2
    return np.broadcast_to(inside, shape)


def brute_interior(labels, radius):
    """Distance to the nearest voxel of another label is more than the radius."""
    inside = np.zeros(labels.shape, bool)
    for label in np.unique(labels):
        own = labels == label
        far = ndimage.distance_transform_edt(own) > radius if not own.all() else np.ones(labels.shape, bool)
        inside |= own & far
    return inside


def exact_percentiles(population, volumes, percents, block_shape=None, device="cpu"):
    shape = block_shape or volumes[0].shape
    first = measure_by_blocks(histogram(population), volumes, shape, device)
    measure = refinement(population, first, percents)
    second = None if measure is None else measure_by_blocks(measure, volumes, shape, device)
    return percentiles(population, percents, first, second)


def numpy_percentiles(values, percents):
    return np.percentile(values, np.asarray(percents, np.float64))


def as_int64(values):
    """A copy that numpy can subtract without overflow; exact for all types counted but float32."""
    return values if values.dtype.kind == "f" else values.astype(np.int64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_sort_as_values_do_and_come_back(dtype):
    values = np.unique(random_grey(2, (2000,), dtype))
    keys = greys.keys_of(values)
    assert keys.dtype == np.dtype(f"u{values.itemsize}")
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(greys.values_of(keys.astype(np.int64), dtype), values)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8)
@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_percentiles_by_blocks_have_the_bits_of_numpy(dtype, seed, shape, block_shape):
    values = random_grey(seed, shape, dtype)
    result = exact_percentiles(Population(dtype), (values,), PERCENTS, block_shape)
    expected = numpy_percentiles(as_int64(values), PERCENTS)
    np.testing.assert_array_equal(result, [expected])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_percentiles_equal_numpy_in_the_type_of_the_volume(dtype, device):
    values = np.random.default_rng(1).normal(100, 20, (17, 30, 41)).astype(dtype)
    result = exact_percentiles(Population(dtype), (values,), PERCENTS, (9, 16, 16), device)
    np.testing.assert_array_equal(result, [numpy_percentiles(values, PERCENTS)])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@settings(max_examples=15)
@given(
    seed=seeds,
    shape=small_shapes,
    block_shape=block_shapes,
    choice=st.tuples(st.integers(0, 3), st.booleans(), st.booleans()),
)
def test_populations_by_class_equal_a_choice_of_voxels(dtype, seed, shape, block_shape, choice):
    grey, labels = random_grey(seed, shape, dtype), random_labels(seed, shape)
    interior, exclude_zeros, disc = choice
    population = Population(dtype, 3, interior, exclude_zeros, disc)
    keep = in_disc(shape) if disc else np.ones(shape, bool)
    keep = keep & (grey != 0) if exclude_zeros else keep
    keep = keep & brute_interior(labels, interior) if interior else keep
    result = exact_percentiles(population, (grey, labels), FEW_PERCENTS, block_shape)
    for k in range(3):
        chosen = as_int64(grey[keep & (labels == k)])
        expected = numpy_percentiles(chosen, FEW_PERCENTS) if chosen.size else np.full(2, np.nan)
        np.testing.assert_array_equal(result[k], expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32"])
@pytest.mark.parametrize("classes", [False, True])
def test_array_functions_count_and_sum_what_the_compiled_loops_do(dtype, classes):
    shape = (19, 11, 13)
    grey, labels = random_grey(3, shape, dtype), random_labels(3, shape)
    if dtype == "float32":
        grey[3, 4, 5], grey[7, 5, 6] = np.nan, -np.inf
    population = Population(dtype, disc=True)
    block = histogram(population).block(Grid(shape, shape), 0)
    labels[11, 5, 6] = 9
    inside = np.random.default_rng(4).random(shape) < 0.8
    inside[11, 5, 6] = inside[3, 4, 5] = inside[7, 5, 6] = True
    voxels = Voxels(
        grey, spans_of(block, True), labels if classes else None, inside, 3 if classes else 1, skip_zeros=True
    )
    ranks = np.full(1 << greys.HALF, -1)
    ranks[[0, 7, 0x8000, 0xC000]] = np.arange(4)
    for slots in (None,) if np.dtype(dtype).itemsize < 4 else (None, ranks):
        table, found = greys.count_keys(voxels, slots)
        met = nothing_met()
        same = greys._count_by_slabs(voxels, slots, table.shape, met)
        np.testing.assert_array_equal(same, table)
        if slots is None:
            assert type(found).of(met, shape) == found
            assert found.foreign == ((11, 5, 6) if classes else None)
            assert found.non_finite == ((3, 4, 5) if dtype == "float32" else None)
            assert (found.n_nan, found.n_inf) == ((1, 1) if dtype == "float32" else (0, 0))
    point = FixedPoint(-3.0, 8.0) if dtype == "float32" else FixedPoint.of_integers(dtype)
    sums, found = fixed.sum_steps(voxels, point)
    table, met = np.zeros((voxels.n_classes, 4), np.uint64), nothing_met()
    fixed._sum_by_slabs(voxels, point, table, met)
    assert type(found).of(met, shape) == found
    if dtype != "float32":  # with values out of range sums are not defined
        assert [int(row[1]) for row in table] == [total for _, total, _ in sums_of(sums)]
        assert [(int(row[2]) << 32) + int(row[3]) for row in table] == [squares for *_, squares in sums_of(sums)]
    else:
        assert found.outside is not None


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_blocks_of_one_voxel_are_smaller_than_their_margin_and_count_the_same(dtype):
    shape = (3, 4, 5)
    volumes = (random_grey(5, shape, dtype), random_labels(5, shape))
    population = Population(dtype, n_classes=3, interior_voxels=2, disc=True)
    measures = [histogram(population)]
    if dtype == "float32":
        first = measure_by_blocks(measures[0], volumes, shape)
        measures.append(refinement(population, first, (50.0,)))
        measures.append(label_moments(population, FixedPoint(-(2.0**120), 2.0**120)))
    for measure in measures:
        whole, parts = (measure_by_blocks(measure, volumes, size) for size in (shape, (1, 1, 1)))
        for name in whole.keys() - {"moments"}:
            np.testing.assert_array_equal(parts[name], whole[name])
        if "moments" in whole:
            assert sums_of(parts["moments"]) == sums_of(whole["moments"])


@given(seed=seeds, shape=small_shapes, radius=st.integers(1, 3))
def test_interior_is_farther_than_the_radius_from_any_other_label(seed, shape, radius):
    labels = random_labels(seed, shape)
    core = tuple(slice(0, n) for n in shape)
    np.testing.assert_array_equal(interior_of(labels, core, radius), brute_interior(labels, radius))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32"])
@settings(max_examples=8)
@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_moments_by_blocks_equal_the_whole_bit_for_bit(dtype, seed, shape, block_shape):
    grey, labels = random_grey(seed, shape, dtype), random_labels(seed, shape)
    point = None
    if dtype == "float32":
        grey = np.clip(grey, -2, 9)
        point = FixedPoint(-2.0, 9.0, bits=31)
    population = Population(dtype, n_classes=3, interior_voxels=1)
    measure = label_moments(population, point)
    counts = measure_by_blocks(measure, (grey, labels), block_shape)
    whole = measure_by_blocks(measure, (grey, labels), shape)
    result, same = moments(population, counts, point), moments(population, whole, point)
    for name in ("n", "mean", "sigma"):
        np.testing.assert_array_equal(getattr(result, name), getattr(same, name))
    inside = brute_interior(labels, 1)
    scale = 11.0 if point else float(np.iinfo(dtype).max)
    for k in range(3):
        chosen = grey[inside & (labels == k)].astype(np.float64)
        assert result.n[k] == chosen.size
        if chosen.size:
            assert result.mean[k] == pytest.approx(chosen.mean(), abs=scale * 1e-9)
            assert result.sigma[k] == pytest.approx(chosen.std(), abs=scale * 1e-7)
        else:
            assert math.isnan(result.mean[k])


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_moments_from_the_histogram_have_the_same_bits(dtype):
    shape = (9, 10, 11)
    volumes = (random_grey(8, shape, dtype), random_labels(8, shape))
    population = Population(dtype, n_classes=3)
    direct = moments(population, measure_by_blocks(label_moments(population), volumes, (4, 5, 6)))
    via = moments_from_histogram(population, measure_by_blocks(histogram(population), volumes, shape))
    for name in ("n", "mean", "sigma"):
        np.testing.assert_array_equal(getattr(direct, name), getattr(via, name))


def test_a_million_million_voxels_do_not_overflow():
    for dtype in ("uint16", "uint32"):
        population, largest = Population(dtype), np.iinfo(dtype).max
        grey = np.full((100, 100, 100), largest, dtype)
        grey[::2] = largest - 2
        counts = measure_by_blocks(label_moments(population), (grey,), grey.shape)
        result = moments(population, {name: values * 10**6 for name, values in counts.items()})
        assert (result.n[0], result.mean[0], result.sigma[0]) == (10**12, largest - 1.0, 1.0)


def test_signal_and_contrast_to_noise():
    of = Moments(np.array([9, 9, 0]), np.array([10.0, 50.0, np.nan]), np.array([3.0, 4.0, np.nan]))
    assert snr(of, 1) == 12.5
    assert cnr(of, 0, 1) == 8.0
    assert cnr(of, 1, 0, "pooled") == pytest.approx(8.0 * math.sqrt(2))
    assert cnr(of, 1, 0, "background") == pytest.approx(40 / 3)
    assert math.isnan(snr(of, 2))
    silent = Moments(np.array([9, 9]), np.array([0.0, 5.0]), np.zeros(2))
    assert snr(silent, 1) == math.inf
    assert math.isnan(snr(silent, 0))
    with pytest.raises(ValueError, match="denominator must be one of root_sum_square, pooled, background"):
        cnr(of, 0, 1, "sum")


def test_nan_is_refused_with_its_place_or_left_out_and_counted(device):
    grey = np.random.default_rng(6).random((6, 7, 8)).astype(np.float32)
    grey[4, 5, 6], grey[5, 6, 7] = np.nan, np.inf
    with pytest.raises(InputError, match=r"the first at voxel \(4, 5, 6\)"):
        measure_by_blocks(histogram(Population("float32")), (grey,), (3, 4, 5), device)
    with pytest.raises(InputError, match=r"1 NaN and 1 infinite .* \(4, 5, 6\)"):
        measure_by_blocks(label_moments(Population("float32"), FixedPoint(0.0, 1.0)), (grey,), grey.shape, device)
    tolerant = Population("float32", non_finite="exclude")
    counts = measure_by_blocks(histogram(tolerant), (grey,), (3, 4, 5), device)
    assert counts["non_finite"].tolist() == [1, 1]
    assert counts["histogram"].sum() == grey.size - 2
    result = exact_percentiles(tolerant, (grey,), PERCENTS, (3, 4, 5), device)
    np.testing.assert_array_equal(result, [numpy_percentiles(grey[np.isfinite(grey)], PERCENTS)])


def test_nan_outside_the_disc_does_not_matter():
    grey = np.ones((2, 9, 9), np.float32)
    grey[~in_disc(grey.shape)] = np.nan
    counts = measure_by_blocks(histogram(Population("float32", disc=True)), (grey,), (1, 4, 4))
    assert counts["non_finite"].tolist() == [0, 0]
    assert counts["histogram"].sum() == np.isfinite(grey).sum() == in_disc(grey.shape).sum()


def test_data_that_do_not_fit_are_refused(device):
    grey, labels = np.ones((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.uint8)
    labels[2, 1, 3] = 5
    both = Population("float32", n_classes=2)
    with pytest.raises(InputError, match=r"the label at voxel \(2, 1, 3\) .* is not one of the 2 classes"):
        measure_by_blocks(histogram(both), (grey, labels), (2, 2, 2), device)
    with pytest.raises(InputError, match=r"voxel \(0, 0, 0\) .* is outside the range 2.0 to 3.0"):
        measure_by_blocks(label_moments(Population("float32"), FixedPoint(2.0, 3.0)), (grey,), (2, 2, 2), device)
    with pytest.raises(InputError, match=r"grey values are float32 but the population is uint16"):
        measure_by_blocks(histogram(Population("uint16")), (grey,), (4, 4, 4), device)
    with pytest.raises(InputError, match="labels are float32, but a class is a whole number"):
        measure_by_blocks(histogram(both), (grey, grey), (4, 4, 4), device)
    with pytest.raises(InputError, match=r"labels have shape \(4, 4, 3\)"):
        measure_by_blocks(histogram(both), (grey, labels[:, :, :3]), (4, 4, 4), device)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"got 'float64': .* store the volume as float32 first"):
        Population("float64")
    with pytest.raises(ValueError, match="n_classes must be at least 1"):
        Population("uint8", n_classes=0)
    with pytest.raises(ValueError, match="only a label has an interior"):
        Population("uint8", interior_voxels=2)
    with pytest.raises(ValueError, match="non_finite must be 'refuse' or 'exclude'"):
        Population("float32", non_finite="ignore")
    with pytest.raises(ValueError, match="float32 needs a fixed_point"):
        label_moments(Population("float32"))
    with pytest.raises(ValueError, match="uint8 is summed as it is"):
        label_moments(Population("uint8"), FixedPoint(0, 1))
    with pytest.raises(ValueError, match="at most 31 bits for floats"):
        label_moments(Population("float32"), FixedPoint(0, 1, 32))
    with pytest.raises(ValueError, match="low below high"):
        FixedPoint(1.0, 1.0)
    with pytest.raises(ValueError, match="bits must be 1 to 32"):
        FixedPoint(0.0, 1.0, 33)
    wide = Population("int32")
    first = measure_by_blocks(histogram(wide), (np.arange(27, dtype=np.int32).reshape(3, 3, 3),), (3, 3, 3))
    with pytest.raises(ValueError, match="percentiles of int32 need the counts of refinement"):
        percentiles(wide, (50.0,), first)
    with pytest.raises(ValueError, match="numbers from 0 to 100"):
        percentiles(wide, (101.0,), first)
    with pytest.raises(ValueError, match="use label_moments"):
        moments_from_histogram(wide, first)


def test_measures_pickle_and_say_in_json_what_they_count():
    population = Population("float32", n_classes=2, interior_voxels=2, disc=True)
    grey, labels = np.ones((3, 3, 3), np.float32), np.ones((3, 3, 3), np.uint8)
    first = measure_by_blocks(histogram(population), (grey, labels), (3, 3, 3))
    for measure in (
        histogram(population),
        refinement(population, first, (50.0,)),
        label_moments(population, FixedPoint(0, 2)),
    ):
        assert measure.inputs == ("grey", "labels")
        assert json.loads(json.dumps(measure.parameters))["disc"] is True
        again = pickle.loads(pickle.dumps(measure))
        assert measure_by_blocks(again, (grey, labels), (2, 2, 2)).keys() == (
            measure_by_blocks(measure, (grey, labels), (2, 2, 2)).keys()
        )
        counts = measure_by_blocks(measure, (grey, labels), (3, 3, 3))
        assert sum(values.nbytes for values in counts.values()) <= measure.counts_bytes


def test_a_volume_without_a_voxel_that_counts_has_no_percentile():
    population = Population("float32", exclude_zeros=True)
    assert np.isnan(exact_percentiles(population, (np.zeros((2, 3, 4), np.float32),), (0.5, 99.5))).all()


def test_the_declared_memory_holds():
    population = Population("uint16", n_classes=3, interior_voxels=2)
    shape = (48, 64, 65)
    grey, labels = random_grey(9, shape, "uint16"), random_labels(9, shape)
    for measure in (histogram(population), label_moments(population)):
        block = measure.block(Grid(shape, (40, 60, 60)), 0)  # with a margin, so that the core is copied
        padded = (np.ascontiguousarray(grey[block.read]), np.ascontiguousarray(labels[block.read]))
        measure.function(*padded, block=block)
        with Traced() as traced:
            measure.function(*padded, block=block)
        # Two lanes beside the counts: small beside a block of a real volume.
        assert traced.peak_bytes <= measure.bytes_per_voxel * grey.size + 3 * measure.counts_bytes
