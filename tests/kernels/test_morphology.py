"""Operations on masks and labels by blocks equal the whole, and both equal structuring elements written out."""

from __future__ import annotations

import itertools
import pickle
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, map_whole, seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.geometry import Grid, Halo
from tomoscale.kernels.majority import majority
from tomoscale.kernels.morphology import close_label, closing, dilation, erosion, open_label, opening

VOXEL = (1.0, 1.0, 1.0)
spacings = st.sampled_from([VOXEL, (2.76, 2.76, 2.76), (2.0, 1.0, 1.0), (0.92, 0.3, 1.5)])
reaches = st.sampled_from(["1", "1.5", "2.3", "4"])
borders = st.sampled_from(["outside_is_ignored", "outside_is_background"])


def ball_element(radius_um, voxel_size_um):
    """The ball as an array, from the decimals as written."""
    radius, edges = Fraction(f"{radius_um:.9f}"), [Fraction(str(h)) for h in voxel_size_um]
    reach = [int(radius / h) for h in edges]
    element = np.zeros([2 * r + 1 for r in reach], bool)
    for at in np.ndindex(element.shape):
        offset = [h * (a - r) for h, a, r in zip(edges, at, reach, strict=True)]
        element[at] = sum(o * o for o in offset) <= radius**2
    return element


def blobs(seed, shape, n_classes):
    """Labels with parts that survive an opening and parts that do not."""
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.uniform_filter(rng.random(shape), size=int(rng.integers(1, 4)))
    edges = np.quantile(smooth, np.linspace(0, 1, n_classes + 1)[1:-1])
    return rng.permutation(n_classes).astype(np.uint8)[np.digitize(smooth, edges)]


@given(seeds, small_shapes, block_shapes, spacings, reaches, borders)
def test_mask_operations_by_blocks_equal_scipy(seed, shape, blocks, voxel_size, reach, border):
    mask = blobs(seed, shape, 2) > 0
    radius = float(Fraction(reach) * Fraction(str(min(voxel_size))))
    element = ball_element(radius, voxel_size)
    outside = border == "outside_is_ignored"
    dilate = partial(scipy.ndimage.binary_dilation, structure=element)
    erode = partial(scipy.ndimage.binary_erosion, structure=element, border_value=outside)
    for kernel, expected in (
        (dilation(radius, voxel_size), dilate(mask)),
        (erosion(radius, voxel_size, border), erode(mask)),
        (opening(radius, voxel_size, border), dilate(erode(mask))),
        (closing(radius, voxel_size, border), erode(dilate(mask))),
    ):
        np.testing.assert_array_equal(map_by_blocks(kernel, mask, blocks), expected, err_msg=kernel.name)


@given(seeds, small_shapes, block_shapes, reaches)
def test_opening_takes_and_closing_adds(seed, shape, blocks, reach):
    mask = blobs(seed, shape, 2)
    opened = map_by_blocks(opening(float(reach), VOXEL), mask, blocks)
    closed = map_by_blocks(closing(float(reach), VOXEL), mask, blocks)
    assert not (opened & (mask == 0)).any()
    assert closed[mask != 0].all()
    np.testing.assert_array_equal(map_by_blocks(opening(float(reach), VOXEL), opened, blocks), opened)
    np.testing.assert_array_equal(map_by_blocks(closing(float(reach), VOXEL), closed, blocks), closed)


def test_border_rules_on_a_full_volume():
    full = np.ones((5, 5, 5), np.uint8)
    for kernel in (erosion, opening, closing):
        assert map_by_blocks(kernel(2.0, VOXEL), full, (2, 2, 2)).all()
    eroded = map_by_blocks(erosion(2.0, VOXEL, "outside_is_background"), full, (2, 2, 2))
    assert np.argwhere(eroded).tolist() == [[2, 2, 2]]


def test_halo_is_the_reach_of_the_ball_once_or_twice():
    size = (3.0, 1.5, 1.0)
    assert dilation(6.2, size).halo == erosion(6.2, size).halo == Halo.symmetric((2, 4, 6))
    for kernel in (opening(6.2, size), closing(6.2, size), close_label(1, 6.2, size), open_label(1, 6.2, size, 2)):
        assert kernel.halo == Halo.symmetric((4, 8, 12))


def vote_by_hand(labels, element, at, excluded=None):
    """Labels around a voxel with the most votes, in ascending order."""
    centre = np.array(element.shape) // 2
    places = np.argwhere(element) - centre + at
    places = places[((places >= 0) & (places < labels.shape)).all(axis=1)]
    votes = np.bincount([v for v in labels[tuple(places.T)] if v != excluded])
    return np.flatnonzero(votes == votes.max())


@pytest.mark.parametrize("footprint", ["cube", "ball"])
@settings(max_examples=15)
@given(seed=seeds, shape=small_shapes, blocks=block_shapes, radius=st.integers(1, 3))
def test_majority_by_blocks_equals_votes_by_hand(footprint, seed, shape, blocks, radius):
    labels = np.random.default_rng(seed).integers(0, 5, shape, dtype=np.uint8)
    kernel = majority(radius, 5, footprint=footprint)
    found = map_by_blocks(kernel, labels, blocks)
    np.testing.assert_array_equal(found, map_whole(kernel, labels))
    element = np.ones((2 * radius + 1,) * 3, bool) if footprint == "cube" else ball_element(float(radius), VOXEL)
    for at in itertools.islice(np.ndindex(shape), 0, None, 1 + labels.size // 150):
        winners = vote_by_hand(labels, element, at)
        assert found[at] == (labels[at] if labels[at] in winners else winners[0])


@pytest.mark.parametrize(("line", "expected"), [([1, 2, 3], [1, 2, 3]), ([0, 3, 1, 3, 0], [0, 3, 3, 3, 0])])
def test_majority_of_a_line_keeps_the_own_label_in_ties(line, expected):
    found = map_whole(majority(1, 4), np.array(line, np.uint8).reshape(1, 1, -1))
    assert found.ravel().tolist() == expected


def test_majority_tie_without_the_own_label_goes_to_the_smallest():
    labels = np.array([3, 2, 0, 3, 2], np.uint16).reshape(1, 1, 5)
    assert map_whole(majority(2, 4, np.uint16), labels).ravel().tolist()[2] == 2


@settings(max_examples=20)
@given(seeds, small_shapes, block_shapes, spacings, reaches)
def test_open_label_by_blocks_equals_votes_by_hand(seed, shape, blocks, voxel_size, reach):
    labels = blobs(seed, shape, 4)
    radius = float(Fraction(reach) * Fraction(str(min(voxel_size))))
    element = ball_element(radius, voxel_size)
    erode = scipy.ndimage.binary_erosion(labels == 2, element, border_value=1)
    removed = (labels == 2) & ~scipy.ndimage.binary_dilation(erode, element)
    found = map_by_blocks(open_label(2, radius, voxel_size, 4), labels, blocks)
    expected = labels.copy()
    for at in map(tuple, np.argwhere(removed)):
        expected[at] = vote_by_hand(labels, element, at, excluded=2)[0]
    np.testing.assert_array_equal(found, expected)
    filled = map_by_blocks(open_label(2, radius, voxel_size, 4, fill=3), labels, blocks)
    np.testing.assert_array_equal(filled, np.where(removed, 3, labels))


@settings(max_examples=20)
@given(seeds, small_shapes, block_shapes, reaches)
def test_close_label_overwrites_only_what_it_may(seed, shape, blocks, reach):
    labels = blobs(seed, shape, 4)
    element = ball_element(float(reach), VOXEL)
    dilated = scipy.ndimage.binary_dilation(labels == 1, element)
    closed = scipy.ndimage.binary_erosion(dilated, element, border_value=1)
    found = map_by_blocks(close_label(1, float(reach), VOXEL, overwrites=(0, 3)), labels, blocks)
    np.testing.assert_array_equal(found, np.where(closed & np.isin(labels, (0, 3)), 1, labels))


@settings(max_examples=10)
@given(seeds, small_shapes, block_shapes)
def test_closing_two_classes_in_one_pass_equals_two_passes(seed, shape, blocks):
    labels = blobs(seed, shape, 4)
    first, second = close_label(1, 1.0, VOXEL), close_label(2, 1.0, VOXEL, overwrites=(0, 1))
    expected = map_whole(second, map_whole(first, labels))
    np.testing.assert_array_equal(map_by_blocks(first.then(second), labels, blocks), expected)


def kernels():
    """One of each, small enough for the volumes of these tests."""
    return [
        dilation(3.0, VOXEL),
        erosion(3.0, VOXEL, "outside_is_background"),
        opening(3.0, VOXEL),
        closing(3.0, VOXEL),
        close_label(1, 3.0, VOXEL, overwrites=(0, 2)),
        open_label(1, 3.0, VOXEL, 4),
        open_label(1, 3.0, VOXEL, 4, dtype=np.uint32),
        majority(1, 4),
        majority(3, 4, np.uint16),
        majority(2, 4, np.int64, "ball"),
    ]


def source_for(kernel, shape):
    dtype = kernel.dtype if "dtype" in kernel.parameters else np.uint32
    return blobs(1, shape, 4).astype(dtype)


@pytest.mark.parametrize("kernel", kernels(), ids=lambda k: f"{k.name}-{k.dtype}")
def test_device_equals_host(kernel, device):
    values = source_for(kernel, (17, 18, 19))
    np.testing.assert_array_equal(map_by_blocks(kernel, values, (9, 8, 7), device), map_whole(kernel, values))


@pytest.mark.parametrize("kernel", kernels(), ids=lambda k: f"{k.name}-{k.dtype}")
def test_memory_stays_below_what_is_declared(kernel):
    shape = (40, 64, 56)
    values = source_for(kernel, shape)
    block = kernel.block(Grid(shape, shape), 0, shape)
    kernel.apply(values, block)  # compile
    with Traced() as traced:
        kernel.apply(values, block)
    assert traced.peak_bytes <= kernel.bytes_per_voxel * values.size


@pytest.mark.parametrize("kernel", kernels(), ids=lambda k: f"{k.name}-{k.dtype}")
def test_kernels_pickle(kernel):
    assert pickle.loads(pickle.dumps(kernel)).parameters == kernel.parameters


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(erosion, 1.0, VOXEL, "nearest"), 'border must be "outside_is_ignored"'),
        (partial(opening, 0.2, VOXEL), "at least one and less than"),
        (partial(close_label, 1, 1.0, VOXEL, overwrites=(0, 1)), "other than label 1"),
        (partial(close_label, 1, 1.0, VOXEL, overwrites=()), "nothing would change"),
        (partial(open_label, 4, 1.0, VOXEL, 4), "two different classes of 0 .. 3"),
        (partial(open_label, 1, 1.0, VOXEL, 4, fill=1), "two different classes of 0 .. 3"),
        (partial(majority, 0, 4), "radius must be at least 1 voxel"),
        (partial(majority, 1, 1), "n_classes at least 2"),
        (partial(majority, 1, 4, footprint="disc"), 'footprint must be "cube" or "ball"'),
    ],
)
def test_refusals_name_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((2, 2, 2), 4, np.uint8), r"labels must lie in 0 \.\. 3 but one is 4"),
        (np.zeros((2, 2, 2), np.int32), "the source holds int32 but the kernel was made for uint8"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    for kernel in (majority(1, 4), open_label(1, 1.0, VOXEL, 4)):
        with pytest.raises(InputError, match=message):
            map_whole(kernel, labels)
