"""Where classes are: counted by blocks as by the whole, drawn where they are, and labels that are no class refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tomoscale.errors import InputError
from tomoscale.training import class_index
from tomoscale.training.class_index import Cells, cells_of, class_cells, index_of

cell_shapes = st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 8))


def random_labels(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 1, 2, 255], shape, p=[0.6, 0.3, 0.05, 0.05]).astype(np.uint8)


def clipped(cell: tuple[int, int, int], shape: tuple[int, int, int]) -> tuple[int, int, int]:
    z, y, x = (min(c, n) for c, n in zip(cell, shape, strict=True))
    return z, y, x


@given(seed=seeds, shape=small_shapes, cell=cell_shapes, block=block_shapes)
def test_counts_by_blocks_are_those_of_every_cell(seed, shape, cell, block):
    labels = random_labels(seed, shape)
    cells = Cells(shape, clipped(cell, shape))
    counts = measure_by_blocks(class_cells(cells, 3), (labels,), block)["cells"]
    assert len(counts) == np.prod(cells.counts)
    for number, row in enumerate(counts):
        part = labels[cells.region(number)]
        assert row.tolist() == [int((part == k).sum()) for k in range(3)] + [0]


@given(seed=seeds, shape=small_shapes, cell=cell_shapes)
def test_a_voxel_that_is_drawn_is_of_its_class(seed, shape, cell):
    labels = random_labels(seed, shape)
    cells = Cells(shape, clipped(cell, shape))
    index = index_of(cells, measure_by_blocks(class_cells(cells, 3), (labels,), shape)["cells"], "labels")
    random = np.random.default_rng(seed)
    for wanted in np.flatnonzero(index.totals):
        for _ in range(4):
            assert labels[index.draw(int(wanted), random, lambda region: labels[region])] == wanted


def test_every_voxel_of_a_class_is_drawn_equally_often(monkeypatch):
    monkeypatch.setattr(class_index, "PART_VOXELS", 64)
    labels = np.zeros((4, 9, 10), np.uint8)
    places = [(0, 0, 0), (1, 8, 9), (3, 4, 4), (3, 4, 5)]
    for place in places:
        labels[place] = 1
    cells = Cells(labels.shape, (2, 5, 5))
    index = index_of(cells, measure_by_blocks(class_cells(cells, 2), (labels,), labels.shape)["cells"], "labels")
    random = np.random.default_rng(0)
    drawn = [index.draw(1, random, lambda region: labels[region]) for _ in range(800)]
    times = [drawn.count(place) for place in places]
    assert sum(times) == 800
    assert max(abs(n - 200) for n in times) < 60


def test_a_large_cell_is_read_in_parts(monkeypatch):
    monkeypatch.setattr(class_index, "PART_VOXELS", 3)
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[6, 0, 3] = 1
    cells = Cells(labels.shape, labels.shape)
    index = index_of(cells, measure_by_blocks(class_cells(cells, 2), (labels,), labels.shape)["cells"], "labels")
    read = []

    def part(region):
        read.append(labels[region].size)
        return labels[region]

    assert index.draw(1, np.random.default_rng(0), part) == (6, 0, 3)
    assert max(read) <= 27


def test_the_table_stays_small_for_any_volume():
    for shape in ((1, 1024, 996), (1200, 1200, 1200), (8192, 8192, 8192)):
        cells = cells_of(shape, 4)
        assert class_cells(cells, 4).counts_bytes <= class_index.MAX_TABLE_BYTES
        assert all(c <= n for c, n in zip(cells.cell, shape, strict=True))


def test_labels_that_are_no_class_are_refused_with_their_place():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[5, 2, 7] = 9
    cells = Cells(labels.shape, (4, 4, 4))
    counts = measure_by_blocks(class_cells(cells, 3), (labels,), (3, 8, 5))["cells"]
    with pytest.raises(InputError, match=r"truth\.zarr holds 1 voxels .* \(0 to 2, .*z 4:8, y 0:4, x 4:8"):
        index_of(cells, counts, "truth.zarr")
