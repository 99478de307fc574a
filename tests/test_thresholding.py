"""A mask is what lies between two grey values, or above the one that separates the histogram best."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from tests.world import volume_at
from tomoscale.cli import main
from tomoscale.errors import InputError
from tomoscale.memory_array import MemoryArray
from tomoscale.thresholding import threshold
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work


@pytest.fixture
def grey():
    rng = np.random.default_rng(5)
    bright = rng.random((12, 14, 16)) < 0.3
    return np.where(bright, rng.integers(120, 200, bright.shape), rng.integers(20, 90, bright.shape)).astype(np.uint16)


def quiet(**how) -> Work:
    return Work(progress=False, **how)


def memory(values) -> Volume:
    return Volume(MemoryArray(values), (5.0, 5.0, 5.0))


def test_limits_are_open_below_and_closed_above(tmp_path, grey):
    found = threshold(memory(grey), tmp_path / "a.zarr", low=63, high=150, work=quiet(block_shape=(5, 6, 7)))
    np.testing.assert_array_equal(found.mask.read(), (grey > 63) & (grey <= 150))
    assert (found.mask.kind, found.low, found.high) == ("mask", 63, 150)
    assert found.voxels == found.mask.read().sum()
    dark = threshold(memory(grey), tmp_path / "b.zarr", high=63, work=quiet())
    np.testing.assert_array_equal(dark.mask.read(), grey <= 63)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint8])
def test_otsu_is_that_of_the_whole_histogram(tmp_path, grey, dtype):
    values = (grey.astype(int) - (100 if dtype == np.int16 else 0)).astype(dtype)
    found = threshold(memory(values), tmp_path / "a.zarr", otsu=True, work=quiet(block_shape=(5, 6, 7)))
    assert found.low == threshold_otsu(values)
    np.testing.assert_array_equal(found.mask.read(), values > found.low)


def test_the_command_says_which_value_it_took_and_shows_its_plans(tmp_path, grey, capsys):
    scan = str(volume_at(tmp_path / "scan.zarr", grey, kind="grey"))
    assert main(["threshold", scan, str(tmp_path / "a.zarr"), "--otsu", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "histogram" in shown
    assert "threshold" in shown
    assert not (tmp_path / "a.zarr").exists()
    assert main(["threshold", scan, str(tmp_path / "a.zarr"), "--otsu", "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["above"], told["up_to"], told["kind"]) == (threshold_otsu(grey), None, "mask")
    np.testing.assert_array_equal(open_zarr(tmp_path / "a.zarr").read(), grey > told["above"])
    for n, line in enumerate((["--above", "63"], ["--range", "63", "150"])):
        assert main(["threshold", scan, str(tmp_path / f"{n}.zarr"), *line, "--quiet"]) == 0
    np.testing.assert_array_equal(open_zarr(tmp_path / "1.zarr").read(), (grey > 63) & (grey <= 150))


def test_what_has_no_threshold_is_refused(tmp_path, grey):
    target = tmp_path / "a.zarr"
    with pytest.raises(ValueError, match="needs low, high or both"):
        threshold(memory(grey), target, work=quiet())
    with pytest.raises(ValueError, match="not both"):
        threshold(memory(grey), target, low=3, otsu=True, work=quiet())
    with pytest.raises(InputError, match="is a mask already"):
        threshold(memory(grey > 9), target, low=0, work=quiet())
    with pytest.raises(InputError, match="every grey value of 8 or 16 bits"):
        threshold(memory(grey.astype(np.float32)), target, otsu=True, work=quiet())
    with pytest.raises(InputError, match="fewer than 2 different grey values"):
        threshold(memory(np.full((3, 4, 5), 7, np.uint8)), target, otsu=True, work=quiet())


def test_values_that_are_no_numbers_are_not_taken_for_dark(tmp_path, grey):
    values = grey.astype(np.float32)
    found = threshold(memory(values), tmp_path / "a.zarr", low=63.5, work=quiet())
    np.testing.assert_array_equal(found.mask.read(), grey > 63)
    values[3, 4, 5] = np.nan
    with pytest.raises(InputError, match=r"\(3, 4, 5\)"):
        threshold(memory(values), tmp_path / "b.zarr", low=63.5, work=quiet())
