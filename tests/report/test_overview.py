"""A small copy of labels: the votes of brute force, from a coarser level where there is one, in bounded memory."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tomoscale.errors import InputError
from tomoscale.report import overview as module
from tomoscale.report.overview import overview
from tomoscale.report.planes import Palette
from tomoscale.volume import MemoryArray, Volume, open_zarr

CLASSES = [{"id": 0}, {"id": 1}, {"id": 5}]
PALETTE = Palette.of(CLASSES)


class Recorder:
    """Stand-in for a volume that is too large to exist: ones."""

    voxel_size_um = (2.0, 2.0, 2.0)
    storage = None
    name = "large"

    def __init__(self, shape: tuple[int, int, int], dtype: str = "u1") -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.sizes: list[int] = []

    def read(self, region: tuple[slice, slice, slice]) -> np.ndarray:
        self.sizes.append(math.prod(r.stop - r.start for r in region) * self.dtype.itemsize)
        return np.ones([r.stop - r.start for r in region], self.dtype)


def volume(values: np.ndarray, size: tuple[float, float, float] | None = (5.0, 5.0, 5.0)) -> Volume:
    return Volume(MemoryArray(values), size)


def votes(values: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Most frequent rank of the voxels at a quarter and three quarters of each cell, cell by cell."""
    ranks = {0: 0, 1: 1, 5: 2}
    out = np.zeros([-(-n // f) for n, f in zip(values.shape, factors, strict=True)], np.uint8)
    for cell in np.ndindex(out.shape):
        places = [
            [min(c * f + o, n - 1) for o in {f // 4, f // 2 + f // 4}]
            for c, f, n in zip(cell, factors, values.shape, strict=True)
        ]
        found = [ranks.get(int(values[place]), 3) for place in itertools.product(*places)]
        out[cell] = max(found, key=lambda r: (found.count(r), r))
    return out


@given(seed=seeds, shape=st.tuples(*[st.integers(1, 23)] * 3), side=st.integers(1, 12), chunk=st.integers(30, 64))
def test_cells_have_the_class_of_most_votes(seed, shape, side, chunk):
    values = np.random.default_rng(seed).choice(np.array([0, 1, 5, 9], np.uint16), shape)
    factors = tuple(min(max(1, math.ceil(max(shape) / side)), n) for n in shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_VOXELS", chunk)  # regions of one or a few cells
        patch.setattr(module, "_REGION_BYTES", 1)
        found = overview(volume(values), PALETTE, side)
    np.testing.assert_array_equal(found.ranks, votes(values, factors))
    assert found.cell == tuple(5.0 * f for f in factors)
    assert found.known


@given(seed=seeds, shape=st.tuples(*[st.integers(1, 6)] * 3), factor=st.integers(1, 90))
def test_cells_of_one_class_keep_it(seed, shape, factor):
    cells = np.random.default_rng(seed).choice(np.array([0, 1, 5], np.uint8), shape)
    values = cells
    for axis in range(3):
        values = values.repeat(min(factor, 20), axis)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_VOXELS", 8)  # of cells larger than this, one voxel is read
        found = overview(volume(values), PALETTE, max(shape))
    np.testing.assert_array_equal(found.ranks, PALETTE.ranks(cells))


def test_cells_are_about_as_long_along_every_axis():
    found = overview(volume(np.zeros((20, 80, 100), np.uint8), (10.0, 2.0, 1.0)), PALETTE, 20)
    assert found.ranks.shape == (20, 16, 10)
    assert found.cell == (10.0, 10.0, 10.0)
    assert found.source == "A cell of the picture stands for 1 × 5 × 10 voxels (z × y × x)."
    small = overview(volume(np.zeros((3, 4, 5), np.uint8), None), PALETTE)
    assert (small.source, small.known, small.cell) == ("Every voxel is drawn.", False, (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((700, 900, 1000), "u1"), ((700, 900, 1000), "i8"), ((3, 2, 10**6), "u1"), ((9, 9, 20000), "i8")],
)
def test_regions_are_bounded_whatever_the_volume(shape, dtype):
    large = Recorder(shape, dtype)
    found = overview(large, PALETTE)
    assert max(found.ranks.shape) <= module.SIDE
    assert (found.ranks == 1).all()
    assert max(large.sizes) <= 1.3 * module._REGION_BYTES


def test_a_volume_too_large_to_read_is_not_read():
    large = Recorder((3000, 4000, 5000))
    assert overview(large, PALETTE) is None
    assert large.sizes == []


def with_levels(path, levels: list[np.ndarray], names: list[str]) -> Volume:
    """Image of several levels, as other programs write it."""
    group = zarr.create_group(path, zarr_format=3)
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    datasets = []
    for name, values in zip(names, levels, strict=True):
        group.create_array(name, data=values, chunks=(8, 8, 8))
        scale = [2.0 * a / b for a, b in zip(levels[0].shape, values.shape, strict=True)]
        datasets.append({"path": name, "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": [{"version": "0.5", "axes": axes, "datasets": datasets}]}}
    )
    return open_zarr(path)


def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path):
    full, half, quarter = (np.full((n, n, n), v, np.uint8) for n, v in ((32, 1), (16, 5), (8, 0)))
    image = with_levels(tmp_path / "v.zarr", [full, half, quarter], ["0", "1", "2"])
    for side, rank, cell in ((32, 1, 2.0), (17, 1, 4.0), (16, 2, 4.0), (9, 2, 8.0), (8, 0, 8.0), (4, 0, 16.0)):
        found = overview(image, PALETTE, side)
        assert (found.ranks == rank).all()
        assert found.cell == (cell, cell, cell), "the extent stays that of the full volume"
    assert "of the coarser level of 16 × 16 × 16 voxels" in overview(image, PALETTE, 16).source


def test_a_level_that_cannot_be_read_is_passed_over(tmp_path):
    full, half = (np.full((n, n, n), v, np.uint8) for n, v in ((16, 1), (8, 5)))
    image = with_levels(tmp_path / "v.zarr", [full, half], ["0", "1"])
    (tmp_path / "v.zarr" / "1" / "zarr.json").write_text("{}")
    with pytest.raises(InputError, match="1"):
        open_zarr(tmp_path / "v.zarr", array="1")
    assert (overview(image, PALETTE, 8).ranks == 1).all()
