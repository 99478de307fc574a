"""Blocks partition a volume, and read what they need and nothing outside it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, small_shapes
from tomoscale.geometry import Grid, Halo, read_span, region_shape
from tomoscale.step import make_block

halos = st.builds(Halo, st.tuples(*[st.integers(0, 20)] * 3), st.tuples(*[st.integers(0, 20)] * 3))


@given(shape=small_shapes, block_shape=block_shapes)
def test_every_voxel_belongs_to_one_block(shape, block_shape):
    owners = np.zeros(shape, int)
    for region in Grid(shape, block_shape):
        owners[region] += 1
    assert (owners == 1).all()


@given(shape=small_shapes, block_shape=block_shapes, halo=halos)
def test_a_block_reads_its_halo_clipped_at_the_edge_and_finds_its_core(shape, block_shape, halo):
    index = np.arange(np.prod(shape)).reshape(shape)
    grid = Grid(shape, block_shape)
    for number in range(len(grid)):
        block = make_block(grid, number, shape, halo)
        np.testing.assert_array_equal(index[block.read][block.core], index[block.write])
        for axis in range(3):
            assert block.read[axis].start == max(0, block.write[axis].start - halo.before[axis])
            assert block.read[axis].stop == min(shape[axis], block.write[axis].stop + halo.after[axis])


@given(start=st.integers(0, 200), length=st.integers(1, 50), before=st.integers(0, 40), stride=st.integers(1, 32))
def test_reads_start_and_end_at_multiples_of_the_stride_counted_from_the_origin(start, length, before, stride):
    span = read_span(start, start + length, 10_000, before, before, stride, 1.0)
    assert span.start % stride == 0
    assert span.stop % stride == 0
    assert span.start <= max(0, start - before) < span.start + stride
    assert span.stop - stride < start + length + before <= span.stop


@given(start=st.integers(0, 200), length=st.integers(1, 90), cells=st.integers(1, 9), margin=st.integers(0, 40))
def test_reads_hold_the_margins_of_every_tile_they_touch_and_no_more(start, length, cells, margin):
    stride, stop = 4, start + length
    tile = cells * stride
    span = read_span(start, stop, 10_000, margin, margin, stride, 1.0, tile)
    touched = range(start // tile, -(-stop // tile))
    windows = [read_span(t * tile, (t + 1) * tile, 10_000, margin, margin, stride, 1.0) for t in touched]
    assert (span.start, span.stop) == (windows[0].start, windows[-1].stop)


@given(target_start=st.integers(0, 60), length=st.integers(1, 20), factor=st.floats(0.2, 5))
def test_a_resampled_block_reads_the_voxels_around_its_samples(target_start, length, factor):
    span = read_span(target_start, target_start + length, 10_000, 0, 1, 1, factor)
    centres = (np.arange(target_start, target_start + length) + 0.5) * factor - 0.5
    assert span.start <= max(0, np.floor(centres[0]))
    assert span.stop >= np.floor(centres[-1]) + 1


def test_halos_of_steps_in_a_row_add_and_side_by_side_take_the_larger():
    a, b = Halo((1, 2, 3), (0, 0, 1)), Halo((2, 2, 2), (1, 1, 1))
    assert a + b == Halo((3, 4, 5), (1, 1, 2))
    assert a | b == Halo((2, 2, 3), (1, 1, 1))


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 3), (3, -1, 3)])
def test_an_empty_or_flat_shape_is_refused(shape):
    with pytest.raises(ValueError, match="three positive numbers"):
        Grid(shape, (1, 1, 1))


def test_a_block_number_outside_the_grid_is_refused():
    with pytest.raises(IndexError, match="block 8 does not exist: the grid has 8 blocks"):
        Grid((4, 4, 4), (2, 2, 2)).region(8)


def test_a_million_blocks_need_no_list():
    grid = Grid((6400, 6400, 6400), (64, 64, 64))
    assert len(grid) == 10**6
    assert region_shape(grid.region(999_999)) == (64, 64, 64)
