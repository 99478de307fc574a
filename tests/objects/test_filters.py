"""Filters on components act on whole components and give the same for every cut into blocks."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import seeds
from tests.objects.by_blocks import run_by_blocks
from tests.objects.test_components import memory_volume, noise, tiny_blocks, tiny_shapes
from tomoscale.errors import InputError
from tomoscale.objects import filters
from tomoscale.objects.components import components
from tomoscale.objects.filters import (
    erase_border_objects,
    fill_holes,
    keep_largest,
    outer_background,
    remove_small,
    replace_islands,
)
from tomoscale.resources import Resources
from tomoscale.work import Work

SMALL = Resources(slots=2, io_slots=1)


def by_blocks(function, values, block_shape, **options):
    """Run a filter on an array: its own operation and files, without ledger and Zarr."""

    def run(operation, volume, output, work):
        assert output.dtype == (bool if function is outer_background else volume.dtype)
        return run_by_blocks(operation, volume.read(), block_shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "run_passes", run)
        return function(memory_volume(values), "unused.zarr", **options)


def sizes_and_border(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels, and whether it touches the border, of every component of a whole array."""
    sizes = np.bincount(ids.ravel())
    inner = np.zeros(ids.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    outer = np.zeros(sizes.size, bool)
    outer[np.unique(ids[~inner])] = True
    return sizes, outer


def islands_replaced(labels: np.ndarray, min_voxels: int, connectivity: int) -> np.ndarray:
    """Voxel by voxel, as `replace_islands` says."""
    ids = cc3d.connected_components(labels, connectivity=connectivity)
    result = labels.copy()
    for island in np.flatnonzero(np.bincount(ids.ravel()) < min_voxels):
        own, votes = np.argwhere(ids == island), {}
        if island == 0:
            continue
        for place in own:
            for axis in range(3):
                for step in (-1, 1):
                    q = place.copy()
                    q[axis] += step
                    if 0 <= q[axis] < labels.shape[axis] and ids[tuple(q)] != island:
                        label = int(labels[tuple(q)])
                        votes[label] = votes.get(label, 0) + 1
        if votes:
            result[ids == island] = min(votes, key=lambda label: (-votes[label], label))
    return result


filter_examples = settings(max_examples=12)


@filter_examples
@given(seed=seeds, shape=tiny_shapes, block_shape=tiny_blocks, least=st.integers(1, 12), multilabel=st.booleans())
def test_small_components_are_removed_after_they_are_joined(seed, shape, block_shape, least, multilabel):
    labels = noise(seed, shape, 2, 0.25)
    ids = cc3d.connected_components(labels if multilabel else (labels > 0).astype(np.uint8), connectivity=26)
    sizes, _ = sizes_and_border(ids)
    found = by_blocks(remove_small, labels, block_shape, min_voxels=least, multilabel=multilabel)
    np.testing.assert_array_equal(found, np.where(sizes[ids] >= least, labels, 0))


def test_one_of_just_the_size_stays_and_other_labels_are_left():
    labels = np.array([[[1, 1, 1, 0, 1, 1, 0, 2, 0, 1]]], np.uint8)
    found = by_blocks(remove_small, labels, (1, 1, 2), min_voxels=3, classes=(1,))
    np.testing.assert_array_equal(found[0, 0], [1, 1, 1, 0, 0, 0, 0, 2, 0, 0])


@filter_examples
@given(seed=seeds, shape=tiny_shapes, block_shape=tiny_blocks, n=st.integers(1, 4))
def test_the_largest_components_stay(seed, shape, block_shape, n):
    mask = noise(seed, shape, 1, 0.2).astype(bool)
    ids, sizes = cc3d.connected_components(mask, connectivity=6), None
    sizes, _ = sizes_and_border(ids)
    first = [np.flatnonzero(ids.ravel() == i)[0] if (ids == i).any() else 0 for i in range(sizes.size)]
    order = sorted(range(1, sizes.size), key=lambda i: (-sizes[i], first[i]))
    found = by_blocks(keep_largest, mask, block_shape, n=n, connectivity=6)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, np.isin(ids, order[:n]))


@filter_examples
@given(seed=seeds, shape=tiny_shapes, block_shape=tiny_blocks)
def test_objects_at_the_border_are_erased(seed, shape, block_shape):
    labels = noise(seed, shape, 3, 0.15)
    ids = cc3d.connected_components(labels > 0, connectivity=26)
    _, outer = sizes_and_border(ids)
    outer[0] = False
    found = by_blocks(erase_border_objects, labels, block_shape)
    np.testing.assert_array_equal(found, np.where(outer[ids], 0, labels))


@filter_examples
@given(seed=seeds, shape=tiny_shapes, block_shape=tiny_blocks, connectivity=st.sampled_from([6, 18, 26]))
def test_holes_of_a_mask_are_filled(seed, shape, block_shape, connectivity):
    mask = noise(seed, shape, 1, 0.75).astype(bool)
    structure = scipy.ndimage.generate_binary_structure(3, 3 if connectivity == 6 else 1)
    expected = scipy.ndimage.binary_fill_holes(mask, structure)
    np.testing.assert_array_equal(by_blocks(fill_holes, mask, block_shape, connectivity=connectivity), expected)


def test_holes_take_a_given_label_or_that_of_the_object_around():
    labels = np.ones((5, 5, 5), np.uint8)
    labels[:, :, 3:] = 2
    labels[2, 2, 2] = 0
    labels[2, 2, 3] = 7  # of another class, and in the same hole
    for options, value in (({}, 1), ({"value": 9}, 9)):
        found = by_blocks(fill_holes, labels, (2, 3, 3), classes=(1, 2), **options)
        expected = labels.copy()
        # Each voxel of the hole has five faces to one of the labels: a tie, which the smaller wins.
        expected[2, 2, 2:4] = value
        np.testing.assert_array_equal(found, expected)


@filter_examples
@given(
    seed=seeds,
    shape=tiny_shapes,
    block_shape=tiny_blocks,
    least=st.integers(2, 10),
    connectivity=st.sampled_from([6, 18, 26]),
)
def test_islands_take_the_label_around_them(seed, shape, block_shape, least, connectivity):
    labels = noise(seed, shape, 3, 0.6)
    found = by_blocks(replace_islands, labels, block_shape, min_voxels=least, connectivity=connectivity)
    np.testing.assert_array_equal(found, islands_replaced(labels, least, connectivity))


def test_islands_of_background_are_replaced_where_named_and_what_nothing_surrounds_stays():
    labels = np.full((4, 4, 4), 3, np.int16)
    labels[1, 1, 1:3] = 0
    found = by_blocks(replace_islands, labels, (2, 2, 2), min_voxels=100, classes=(0,))
    assert (found == 3).all()
    assert (by_blocks(replace_islands, np.full((3, 3, 3), 5, np.uint8), (2, 2, 2), min_voxels=100) == 5).all()


@filter_examples
@given(seed=seeds, shape=tiny_shapes, block_shape=tiny_blocks)
def test_outer_background_is_what_reaches_the_border(seed, shape, block_shape):
    labels = noise(seed, shape, 2, 0.85)
    ids = cc3d.connected_components(labels == 0, connectivity=26)
    _, outer = sizes_and_border(ids)
    outer[0] = False
    found = by_blocks(outer_background, labels, block_shape)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, outer[ids])


def test_a_closed_crack_is_interior_and_an_open_one_is_not():
    labels = np.zeros((9, 9, 20), np.uint8)
    labels[2:7, 2:7, 2:18] = 1
    labels[4, 4, 4:9] = 0
    labels[4, 4, 12:19] = 0
    outer = by_blocks(outer_background, labels, (4, 5, 6))
    assert not outer[4, 4, 4:9].any()
    assert outer[4, 4, 12:19].all()


def test_components_can_be_filtered_by_their_numbers(tmp_path):
    mask = np.zeros((1, 1, 9), bool)
    mask[0, 0, [0, 2, 3, 6, 7, 8]] = True
    work = Work(None, SMALL, (1, 1, 4), progress=False)
    numbered = components(memory_volume(mask), tmp_path / "numbered.zarr", work=work)
    found = remove_small(numbered, tmp_path / "large.zarr", min_voxels=2, multilabel=True, work=work)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found.read()[0, 0], [0, 0, 2, 2, 0, 0, 3, 3, 3])


def test_wrong_arguments_are_refused(tmp_path):
    volume = memory_volume(np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="min_voxels must be at least 1"):
        remove_small(volume, tmp_path / "a.zarr", min_voxels=0)
    with pytest.raises(ValueError, match="min_voxels must be at least 1"):
        replace_islands(volume, tmp_path / "a.zarr", min_voxels=0)
    with pytest.raises(ValueError, match="n must be at least 1"):
        keep_largest(volume, tmp_path / "a.zarr", n=0)
    with pytest.raises(ValueError, match="value 300 cannot fill a volume of uint8"):
        fill_holes(volume, tmp_path / "a.zarr", value=300)
    with pytest.raises(InputError, match="holds float64"):
        fill_holes(memory_volume(np.zeros((2, 2, 2))), tmp_path / "a.zarr")
