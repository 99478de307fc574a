"""What is made of a whole volume is the same to the byte for every tiling, and however often a run was stopped."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import cc3d
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import seeds
from tests.objects.by_blocks import ranked
from tests.objects.test_components import connectivities, number_by_blocks
from tests.objects.test_distance import stored
from tests.stopping import stopped_again_and_again
from tomoscale.objects.components import components
from tomoscale.objects.distance import distance
from tomoscale.objects.filters import fill_holes, keep_largest, remove_small, replace_islands
from tomoscale.objects.thickness import mid_axes, thickness
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work

SHAPE = (66, 130, 40)
TILINGS = ((64, 64, 40), (128, 192, 40))
MADE = {
    "components": lambda source, target, work: components(source, target, multilabel=True, work=work),
    "remove small": lambda source, target, work: remove_small(source, target, min_voxels=40, work=work),
    "keep largest": lambda source, target, work: keep_largest(source, target, work=work),
    "replace islands": lambda source, target, work: replace_islands(source, target, work=work),
    "fill holes": lambda source, target, work: fill_holes(source, target, classes=(1,), work=work),
    "distance": lambda source, target, work: distance(source, target, classes=(1,), work=work),
    "thickness": lambda source, target, work: thickness(source, target, classes=(1,), work=work),
    "cleaned": lambda source, target, work: thickness(source, target, classes=(1,), cleanup="fiji", work=work),
    "mid-axes": lambda source, target, work: mid_axes(source, target, classes=(1,), work=work),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Volume:
    smooth = scipy.ndimage.gaussian_filter(np.random.default_rng(2).standard_normal(SHAPE), 1.5)
    labels = np.digitize(smooth, np.quantile(smooth, [0.6, 0.85])).astype(np.uint8)
    return stored(tmp_path_factory.mktemp("source") / "labels.zarr", labels, (2.0, 2.0, 2.0))


def inner_chunks(path: Path) -> dict[tuple[int, ...], bytes]:
    """Bytes of every inner chunk as encoded, by its place in the whole array, whatever shards they lie in."""
    array = open_zarr(path).storage
    per_shard = [s // c for s, c in zip(array.shard_shape, array.chunk_shape, strict=True)]
    found = {}
    for file in (p for p in (path / "0" / "c").rglob("*") if p.is_file()):
        content, shard = file.read_bytes(), [int(n) for n in file.relative_to(path / "0" / "c").parts]
        n = int(np.prod(per_shard))
        index = np.frombuffer(content[-16 * n - 4 : -4], "<u8").reshape(*per_shard, 2)
        for inner in np.ndindex(*per_shard):
            start, size = map(int, index[inner])
            if start != 2**64 - 1:
                place = tuple(s * p + i for s, p, i in zip(shard, per_shard, inner, strict=True))
                found[place] = content[start : start + size]
    return found


@pytest.mark.parametrize("name", MADE)
def test_two_tilings_write_the_same_chunks_and_so_does_a_run_that_is_stopped_again_and_again(tmp_path, source, name):
    whole = MADE[name](source, tmp_path / "whole.zarr", Work(block_shape=TILINGS[1], progress=False))
    work = Work(block_shape=TILINGS[0], progress=False)
    _, done = stopped_again_and_again(lambda: MADE[name](source, tmp_path / "stopped.zarr", work), 3, 60)
    assert open_zarr(tmp_path / "stopped.zarr").storage.shard_shape != whole.storage.shard_shape
    assert done >= 12
    chunks = inner_chunks(tmp_path / "whole.zarr")
    assert len(chunks) == 6
    assert inner_chunks(tmp_path / "stopped.zarr") == chunks


def boxes_and_lines(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Labels of boxes over each other, and lines of single voxels from end to end through every block."""
    random, labels = np.random.default_rng(seed), np.zeros(shape, np.uint8)
    for _ in range(6):
        ends = [np.sort(random.integers(0, n + 1, 2)) for n in shape]
        labels[tuple(slice(a, b) for a, b in ends)] = random.integers(0, 4)
    for axis in range(3):
        line = [random.integers(n) for n in shape]
        labels[tuple(slice(None) if a == axis else at for a, at in enumerate(line))] = random.integers(1, 4)
    return labels


@settings(max_examples=8)
@given(
    seed=seeds,
    block_shape=st.sampled_from([(4, 5, 6), (11, 3, 13), (6, 12, 4)]),
    connectivity=connectivities,
    multilabel=st.booleans(),
)
def test_boxes_and_lines_through_all_blocks_against_two_other_programs(seed, block_shape, connectivity, multilabel):
    labels = boxes_and_lines(seed, (11, 12, 13))
    found = number_by_blocks(labels, block_shape, connectivity=connectivity, multilabel=multilabel)
    whole = labels if multilabel else (labels > 0).astype(np.uint8)
    np.testing.assert_array_equal(found, ranked(cc3d.connected_components(whole, connectivity=connectivity)))
    structure = scipy.ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    pieces, n = np.zeros(labels.shape, np.int64), 0
    for label in np.unique(whole[whole > 0]):
        part, more = scipy.ndimage.label(whole == label, structure)
        pieces[part > 0] = part[part > 0] + n
        n += more
    np.testing.assert_array_equal(found, ranked(pieces))


@pytest.mark.parametrize("block_shape", [(2, 3, 4), (5, 5, 5)])
def test_a_checkerboard_is_all_single_voxels_or_one_object(block_shape):
    board = (np.indices((7, 8, 9)).sum(axis=0) % 2).astype(np.uint8)
    alone = number_by_blocks(board, block_shape, connectivity=6)
    np.testing.assert_array_equal(alone[board > 0], np.arange(1, board.sum() + 1))
    for connectivity in (18, 26):
        np.testing.assert_array_equal(number_by_blocks(board, block_shape, connectivity=connectivity), board)


@pytest.mark.parametrize("gap", [3, 4])
def test_one_voxel_joins_two_halves_at_every_corner_and_edge_of_blocks(gap):
    """Halves above and below an empty plane, and one voxel in it: beside, on and across the sides of blocks of 4."""
    halves = np.ones((8, 8, 8), np.uint8)
    halves[gap] = 0
    assert number_by_blocks(halves, (4, 4, 4)).max() == 2
    for y, x in product((0, 3, 4, 7), repeat=2):
        halves[gap] = 0
        halves[gap, y, x] = 1
        np.testing.assert_array_equal(number_by_blocks(halves, (4, 4, 4), connectivity=6), halves)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_staircase_through_the_corners_of_blocks_hangs_together_by_corners_alone(sign):
    stairs = np.zeros((12, 12, 12), np.uint8)
    steps = np.arange(12)
    stairs[steps, steps, steps[::sign]] = 1
    for connectivity, n in ((6, 12), (18, 12), (26, 1)):
        assert number_by_blocks(stairs, (4, 4, 4), connectivity=connectivity).max() == n
