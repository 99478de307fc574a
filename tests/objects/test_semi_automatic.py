"""Semi-automatic labels of a scan whose truth is known, by ranges and by painted markers."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.filters import threshold_multiotsu

from tests.world import volume_at
from tomoscale.errors import InputError, PlanError
from tomoscale.objects.semi_automatic import Seeds, gradient, grey_thresholds, semi_automatic, threshold_used
from tomoscale.volume import open_zarr
from tomoscale.work import Work

SHAPE = (16, 30, 34)
SEEDS = Seeds(metal=[(85, 115)], layer=[(145, 175)], rest=[(None, 60), (200, None)], min_voxels=20)


def sample():
    """A screw of metal (100) in its layer (160), bone (220) some way off, background (40), and noise."""
    z, y, x = np.indices(SHAPE)
    r = np.hypot(y - 15, x - 17)
    truth = np.digitize(r, [6, 9, 11]).astype(np.uint8)
    truth = np.array([1, 2, 0, 3], np.uint8)[truth]
    truth[(z < 3) & (truth == 3)] = 0
    noise = np.random.default_rng(0).normal(0, 4, SHAPE)
    return truth, np.array([40, 100, 160, 220])[truth] + noise


@pytest.fixture
def truth():
    return sample()[0]


@pytest.fixture(params=[np.uint8, np.float32])
def scan(request, tmp_path):
    return open_zarr(volume_at(tmp_path / "scan.zarr", sample()[1].clip(0, 255).astype(request.param), kind="grey"))


def test_the_truth_is_found_for_every_block_and_once(tmp_path, scan, truth):
    for name, block in (("one", SHAPE), ("two", (9, 16, 17))):
        found = semi_automatic(scan, tmp_path / f"{name}.zarr", markers=SEEDS, work=Work(block_shape=block))
        np.testing.assert_array_equal(found.read(), truth)
        assert not (tmp_path / f"{name}.parts").exists()
    assert [c.name for c in found.classes] == ["background", "residual metal", "degradation layer", "bone"]
    rest = scan.read()[(truth == 0) | (truth == 3)]
    limit = threshold_used(tmp_path / "two.zarr")
    assert rest[rest < 130].max() * 0.99 <= limit < rest[rest > 130].min()
    again = Work()
    semi_automatic(scan, tmp_path / "two.zarr", markers=SEEDS, work=again)
    assert again.runs == []
    with pytest.raises(PlanError, match=r"was begun with another plan.*\n.*min_voxels"):
        semi_automatic(scan, tmp_path / "two.zarr", markers=Seeds(SEEDS.metal, SEEDS.layer, SEEDS.rest))


def test_markers_may_be_painted_and_the_threshold_given(tmp_path, scan, truth):
    painted = np.zeros(SHAPE, np.uint8)
    painted[:, 15, 17], painted[:, 15, 24], painted[:, 15, 27:], painted[:, 0] = 1, 2, 3, 3
    markers = volume_at(tmp_path / "painted.zarr", painted)
    found = semi_automatic(scan, tmp_path / "found.zarr", markers=markers, sigma_um=5.0, bone_above=130.0)
    assert (found.read() == truth).mean() > 0.97
    assert threshold_used(tmp_path / "found.zarr") == 130.0
    wrong = volume_at(tmp_path / "wrong.zarr", np.where(painted == 3, 4, painted).astype(np.uint8))
    with pytest.raises(InputError, match="holds the label 4, but markers are 1 metal, 2 layer and 3"):
        semi_automatic(scan, tmp_path / "a.zarr", markers=wrong, bone_above=130.0)
    other = volume_at(tmp_path / "other.zarr", painted[1:].copy())
    with pytest.raises(InputError, match="must lie on one grid"):
        semi_automatic(scan, tmp_path / "b.zarr", markers=other)
    alone = volume_at(tmp_path / "alone.zarr", np.where(painted == 3, 0, painted).astype(np.uint8))
    with pytest.raises(InputError, match="have no two grey values, so no threshold separates bone"):
        semi_automatic(scan, tmp_path / "c.zarr", markers=alone)
    with pytest.raises(InputError, match="was not made by the semi-automatic workflow"):
        threshold_used(markers)


def test_ranges_and_lengths_that_make_no_sense_are_refused(tmp_path, scan):
    with pytest.raises(ValueError, match="overlap: one voxel cannot mark two classes"):
        semi_automatic(scan, tmp_path / "a.zarr", markers=Seeds([(1, 9)], [(5, 20)], [(30, 40)]))
    with pytest.raises(ValueError, match="must be positive"):
        semi_automatic(scan, tmp_path / "a.zarr", markers=SEEDS, sigma_um=-1.0)
    sizeless = volume_at(tmp_path / "sizeless.zarr", scan.read(), None, "grey")
    with pytest.raises(InputError, match="does not say how large a voxel is"):
        semi_automatic(sizeless, tmp_path / "a.zarr", markers=SEEDS)
    with pytest.raises(InputError, match="no marker above 0, so nothing can be flooded"):
        semi_automatic(scan, tmp_path / "b.zarr", markers=Seeds([(900, 901)], [(902, 903)], [(904, 905)]))


def test_thresholds_of_a_volume_are_those_of_its_histogram(tmp_path):
    values = sample()[1].clip(0, 255).astype(np.uint8)
    scan = volume_at(tmp_path / "scan.zarr", values, kind="grey")
    found = grey_thresholds(scan, tmp_path / "record", n_classes=4, work=Work(block_shape=(9, 16, 17)))
    counts = np.bincount(values.ravel())
    np.testing.assert_array_equal(found, threshold_multiotsu(hist=(counts, np.arange(counts.size)), classes=4))
    with pytest.raises(ValueError, match="n_classes must be at least 2, got 1"):
        grey_thresholds(scan, tmp_path / "other", n_classes=1)


def test_thresholds_of_32_bits_part_what_their_upper_halves_part(tmp_path):
    values = np.repeat(np.array([-2.0, 1.0, 1.001, 7.0], np.float32), (9, 5, 5, 9)).reshape(1, 4, 7)
    scan = volume_at(tmp_path / "scan.zarr", values, kind="grey")
    low, high = grey_thresholds(scan, tmp_path / "record", n_classes=3)
    assert -2.0 <= low < -1.98
    assert 1.001 <= high < 1.008


def test_plans_are_shown_and_nothing_is_written(tmp_path, scan, capsys):
    semi_automatic(scan, tmp_path / "found.zarr", markers=SEEDS, work=Work(plan_only=True))
    gradient(scan, tmp_path / "steep.zarr", work=Work(plan_only=True))
    assert grey_thresholds(scan, tmp_path / "record", work=Work(plan_only=True)) == ()
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("gradient", "classes of ranges", "watershed, round 1", "semi-automatic"))
    assert [p.name for p in tmp_path.iterdir()] == ["scan.zarr"]
