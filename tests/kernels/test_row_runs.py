"""Runs, and the pieces they make, are those of the voxels; what they take in memory is what the passes declare."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds, small_shapes
from tests.objects.by_blocks import ranked
from tests.traced import Traced
from tomoscale.geometry import Grid
from tomoscale.kernels.row_runs import find_runs, join_runs, paint_pieces, piece_extents
from tomoscale.kernels.side_runs import SIDES, side_rows, side_runs
from tomoscale.objects.pieces import Selection, pieces


@given(
    seed=seeds,
    shape=small_shapes,
    connectivity=st.sampled_from([6, 18, 26]),
    valued=st.booleans(),
    dtype=st.sampled_from([np.uint8, np.uint32]),
)
def test_pieces_are_the_components_of_the_block_in_the_order_of_their_first_voxels(
    seed, shape, connectivity, valued, dtype
):
    random = np.random.default_rng(seed)
    values = random.integers(0, random.integers(2, 6), shape).astype(dtype)
    mask = values > 0
    of = values if valued else None
    runs = find_runs(mask, of)
    numbers, n = join_runs(runs, connectivity, of)
    painted = np.zeros(shape, np.uint32)
    paint_pieces(painted, runs, numbers, np.arange(1, n + 1, dtype=np.uint32), np.zeros(0, bool))
    expected = ranked(cc3d.connected_components(values if valued else mask, connectivity=connectivity))
    np.testing.assert_array_equal(painted, expected)
    first, voxels = piece_extents(runs, numbers, n)
    np.testing.assert_array_equal(voxels, np.bincount(expected.ravel(), minlength=n + 1)[1:])
    np.testing.assert_array_equal(expected.ravel()[first], np.arange(1, n + 1))
    assert not np.isin(expected.ravel()[: first[-1]], n).any() if n else first.size == 0
    for (axis, last), n_rows in zip(SIDES, side_rows(shape), strict=True):
        counts, found = side_runs(runs, numbers, axis, last)
        side = np.take(expected, -int(last), axis=axis)
        assert counts.shape == (n_rows,) == side.shape[:1]
        drawn = np.zeros_like(side)
        for row, (start, stop, piece) in zip(np.repeat(np.arange(n_rows), counts), found, strict=True):
            drawn[row, start:stop] = piece + 1
        np.testing.assert_array_equal(drawn, side)


def test_pieces_that_are_kept_are_not_painted():
    mask = np.array([[[1, 0, 1, 1, 0, 1]]], bool)
    runs = find_runs(mask)
    numbers, _ = join_runs(runs, 26)
    target = np.full(mask.shape, 9, np.int16)
    paint_pieces(target, runs, numbers, np.array([1, 2, 3], np.int16), np.array([False, True, False]))
    np.testing.assert_array_equal(target[0, 0], [1, 9, 9, 9, 9, 3])


def test_rows_longer_than_16_bits():
    mask = np.zeros((1, 2, 70_000), bool)
    mask[0, 0, 65_000:69_000] = mask[0, 1, 69_000:] = True
    runs = find_runs(mask)
    assert runs.starts.tolist() == [65_000, 69_000]
    assert runs.stops.tolist() == [69_000, 70_000]
    assert join_runs(runs, 26)[1] == 1
    assert join_runs(runs, 6)[1] == 2


def test_a_row_of_65535_voxels_does_not_overflow():
    runs = find_runs(np.ones((1, 2, 65_535), bool))
    assert join_runs(runs, 26)[1] == 1
    assert piece_extents(runs, *join_runs(runs, 26))[1].tolist() == [131_070]


@pytest.mark.parametrize(
    ("selection", "voting"),
    [
        (Selection(26), None),
        (Selection(6), None),
        (Selection(18), None),
        (Selection(26, multilabel=True), None),
        (Selection(6, classes=(1, 2)), 10),
        (Selection(6, multilabel=True), 10),
        (Selection(6, inverted=True), 0),
    ],
)
@pytest.mark.parametrize("worst", [True, False])
def test_pieces_take_no_more_memory_than_declared(tmp_path, selection, voting, worst):
    shape = (32, 64, 64)
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, shape).astype(np.uint8)
    if worst:  # voxels that do not touch
        z, y, x = np.indices(shape)
        apart = (z + y + x) % 2 == 0 if selection.connectivity == 6 else (z % 2 + y % 2 + x % 2) == 0
        labels = labels if selection.multilabel else apart.astype(np.uint8)
        labels = 1 - labels if selection.inverted else labels
    measure = pieces(selection, tmp_path, voting=voting)
    block = measure.block(Grid(shape, (64, 64, 64)), 0)
    measure.function(labels, block=block)
    with Traced() as traced:
        measure.function(labels, block=block)
    assert traced.peak_bytes <= measure.bytes_per_voxel * labels.size + 200_000, traced.peak_bytes / labels.size
