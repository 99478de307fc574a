from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks.windowed import starts_of
from tomoscale.geometry import Grid, region_shape
from tomoscale.networks.card import Windows
from tomoscale.networks.windows import WindowAxis, WindowGrid

lengths = st.integers(1, 40)
windows = st.integers(1, 12)
steps = st.sampled_from([0.25, 0.3, 0.5, 0.75, 1.0])


@given(length=lengths, window=windows, step=steps)
def test_windows_lie_as_in_nnunet_and_cover_the_volume(length, window, step):
    axis = WindowAxis(length, window, step, "uniform")
    if length >= window and window * step >= 1:
        assert axis.starts.tolist() == starts_of(length, window, step)
    assert axis.totals.min() > 0
    assert axis.starts[-1] + window >= length
    assert (np.diff(axis.starts) > 0).all()


@given(length=lengths, window=windows, step=steps, weights=st.sampled_from(["gaussian", "uniform"]))
def test_shares_of_every_voxel_add_to_one(length, window, step, weights):
    axis = WindowAxis(length, window, step, weights)
    total = np.zeros(length)
    for index, (low, high) in enumerate(zip(axis.origins, axis.ends, strict=True)):
        assert axis.shares(index).min() > 0
        total[low:high] += axis.shares(index)
    np.testing.assert_allclose(total, 1, rtol=1e-12)


def grids():
    shapes = st.tuples(*(st.integers(1, 14),) * 3)
    return st.builds(
        lambda shape, window, step: WindowGrid(shape, Windows(window, step)),
        shapes,
        st.one_of(st.tuples(*(st.integers(1, 8),) * 2), st.tuples(*(st.integers(1, 8),) * 3)),
        st.sampled_from([0.3, 0.5, 1.0]),
    )


@given(grid=grids(), block=st.tuples(*(st.integers(1, 9),) * 3))
@settings(max_examples=40)
def test_every_window_is_owned_once_and_its_voxels_are_handed_to_their_blocks(grid, block):
    blocks = Grid(grid.shape, block)
    owners = np.zeros([len(axis.starts) for axis in grid.axes], int)
    held, own_rims, crossing = np.zeros(grid.shape, int), 0, 0
    for number, write in enumerate(blocks):
        mine = grid.owned(write)
        owners[np.ix_(*mine)] += 1
        extent = grid.extent(mine)
        held[extent] += 1
        given = dict(grid.receivers(blocks, number))
        crossing += sum(np.prod(region_shape(part)) for part in given.values())
        own_rims += np.prod(region_shape(write)) - np.prod(
            [w.stop - w.start - r for w, r in zip(write, grid.rim(write), strict=True)]
        )
        for other, part in given.items():
            assert dict(grid.givers(blocks, other))[number] == part
    assert (owners == 1).all()
    assert owners.size == len(grid)
    assert grid.seam_voxels(blocks) == crossing + own_rims
    for write in blocks:
        inner = tuple(slice(w.start + r, w.stop) for w, r in zip(write, grid.rim(write), strict=True))
        assert (held[inner] == 1).all()


@pytest.mark.parametrize("length", [1, 5, 8])
def test_a_volume_shorter_than_a_window_lies_in_its_middle(length):
    axis = WindowAxis(length, 8, 0.5, "gaussian")
    assert axis.starts.tolist() == [-((8 - length) // 2)]
    assert axis.shares(0).tolist() == [1.0] * length
