"""Objects that touch and are split: maxima against scikit-image, balls against the plane between them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import local_maxima, reconstruction

from tests.blocks import seeds
from tests.objects.by_blocks import settle_by_blocks
from tests.world import volume_at
from tomoscale.errors import InputError, PlanError
from tomoscale.objects.distance import distance
from tomoscale.objects.splitting import Maxima, maxima, split_touching
from tomoscale.objects.watershed import watershed_figures
from tomoscale.volume import create_volume, open_zarr
from tomoscale.work import Work


def stored(path, values, voxel_um=(1.0, 1.0, 1.0)):
    kind = "mask" if values.dtype == bool else "labels" if values.dtype.kind in "iu" else "grey"
    volume = create_volume(path, shape=values.shape, dtype=values.dtype, voxel_size_um=voxel_um, kind=kind)
    volume.create()
    volume.write(tuple(slice(0, n) for n in values.shape), values)
    volume.finish({})
    return open_zarr(path)


def ball(shape, centre, radius, voxel_um=(1.0, 1.0, 1.0)):
    away = np.moveaxis(np.indices(shape), 0, -1) * np.array(voxel_um) - np.array(centre)
    return np.linalg.norm(away, axis=-1) <= radius


def by_scikit_image(distances, depth, connectivity):
    """Regional maxima of what is left when the distance, lowered by the depth, is dilated under itself."""
    footprint = scipy.ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    # Beyond the object nothing is as low, so that nothing there holds or gives.
    relief = np.where(distances > 0, distances, np.float32(-1e6))
    lowered = np.where(distances > 0, distances - np.float32(depth), np.float32(-1e6))
    left = reconstruction(lowered, relief, "dilation", footprint)
    return local_maxima(left, footprint=footprint) & (distances > 0)


@given(
    seed=seeds,
    shape=st.tuples(*(st.integers(2, 12),) * 3),
    block_shape=st.tuples(*(st.integers(3, 9),) * 3),
    connectivity=st.sampled_from((6, 18, 26)),
    depth=st.sampled_from((0.5, 1.0, 3.0)),
)
@settings(max_examples=20)
def test_maxima_by_blocks_are_those_of_scikit_image(seed, shape, block_shape, connectivity, depth):
    random = np.random.default_rng(seed)
    mask = scipy.ndimage.gaussian_filter(random.random(shape), 1) > 0.48
    distances = np.sqrt(random.integers(1, 40, shape) * mask).astype(np.float32)
    found = settle_by_blocks(Maxima(depth, connectivity), (distances,), block_shape)
    np.testing.assert_array_equal(found, by_scikit_image(distances, depth, connectivity))


@pytest.mark.parametrize("voxel_um", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_two_balls_are_parted_at_the_plane_between_them(tmp_path, voxel_um):
    shape = (int(32 / voxel_um[0]), 32, 54)
    mask = ball(shape, (16, 16, 17), 13, voxel_um) | ball(shape, (16, 16, 37), 13, voxel_um)
    source = stored(tmp_path / "balls.zarr", mask, voxel_um)
    results = []
    for block in (shape, (16, 16, 27)):
        parts = split_touching(source, tmp_path / f"{block[2]}.zarr", work=Work(block_shape=block))
        assert watershed_figures(parts.name)["objects"] == 2
        assert not (tmp_path / f"{block[2]}.parts").exists()
        results.append(parts.read())
    np.testing.assert_array_equal(*results)
    x = np.indices(shape)[2]
    np.testing.assert_array_equal(results[0][x != 27], np.where(mask, np.where(x < 27, 1, 2), 0)[x != 27])
    assert (parts.dtype, parts.kind, parts.voxel_size_um) == (np.uint32, "labels", voxel_um)
    assert parts.finished


def test_the_depth_says_what_is_a_neck(tmp_path):
    mask = ball((26, 26, 44), (13, 13, 13), 10) | ball((26, 26, 44), (13, 13, 29), 10)
    source = stored(tmp_path / "balls.zarr", np.where(mask, 3, 1).astype(np.uint8))
    # At the plane in the middle, 8 from both centres, the neck has a radius of 6.
    for depth, n in ((2.0, 2), (6.0, 1)):
        split_touching(source, tmp_path / f"{n}.zarr", classes=(3,), min_depth_um=depth)
        assert watershed_figures(tmp_path / f"{n}.zarr")["objects"] == n
    whole = open_zarr(tmp_path / "1.zarr").read()
    np.testing.assert_array_equal(whole, mask)
    again = Work()
    split_touching(source, tmp_path / "1.zarr", classes=(3,), min_depth_um=6.0, work=again)
    assert again.runs == []
    with pytest.raises(PlanError, match=r"was begun with another plan.*\n.*min_depth_um"):
        split_touching(source, tmp_path / "1.zarr", classes=(3,), min_depth_um=5.0)


def test_what_does_not_touch_is_numbered_as_it_is(tmp_path):
    mask = ball((12, 12, 30), (6, 6, 6), 4) | ball((12, 12, 30), (6, 6, 22), 4)
    parts = split_touching(stored(tmp_path / "balls.zarr", mask), tmp_path / "parts.zarr").read()
    np.testing.assert_array_equal(parts, scipy.ndimage.label(mask)[0])


def test_a_stopped_split_goes_on_where_it_was(tmp_path, monkeypatch):
    mask = ball((12, 12, 24), (6, 6, 7), 5) | ball((12, 12, 24), (6, 6, 15), 5)
    source = stored(tmp_path / "balls.zarr", mask)
    run, done = Work.run, []

    def stopping(self, plan):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(plan.name)
        return run(self, plan)

    with monkeypatch.context() as patch:
        patch.setattr(Work, "run", stopping)
        with pytest.raises(KeyboardInterrupt):
            split_touching(source, tmp_path / "parts.zarr", work=Work(block_shape=(12, 12, 12)))
    parts = split_touching(source, tmp_path / "parts.zarr", work=Work(block_shape=(12, 12, 12)))
    assert set(np.unique(parts.read())) == {0, 1, 2}


def test_what_cannot_be_split_is_refused(tmp_path):
    full = stored(tmp_path / "full.zarr", np.ones((6, 7, 8), np.uint8))
    with pytest.raises(InputError, match="the object fills the whole volume, so there is no distance to its outside"):
        split_touching(full, tmp_path / "a.zarr")
    with pytest.raises(InputError, match="there is no voxel of the object, so nothing can be split"):
        split_touching(full, tmp_path / "b.zarr", classes=(2,))
    assert not list(tmp_path.glob("[ab].zarr"))
    with pytest.raises(ValueError, match="min_depth_um must be positive, got 0"):
        split_touching(full, tmp_path / "c.zarr", min_depth_um=0.0)
    with pytest.raises(InputError, match="does not say how large a voxel is"):
        split_touching(stored(tmp_path / "sizeless.zarr", np.ones((3, 3, 3), bool), None), tmp_path / "d.zarr")
    grey = stored(tmp_path / "grey.zarr", np.ones((3, 3, 3), np.float32))
    with pytest.raises(InputError, match="an object is told by labels or a mask"):
        split_touching(grey, tmp_path / "e.zarr")
    with pytest.raises(InputError, match="holds uint8, but distances are float32"):
        maxima(full, tmp_path / "f.zarr", depth_um=1.0)
    with pytest.raises(ValueError, match="depth_um must be positive, got -1"):
        maxima(grey, tmp_path / "g.zarr", depth_um=-1.0)
    with pytest.raises(PlanError, match="is or holds"):
        split_touching(full, tmp_path / "full.zarr")


def test_maxima_are_a_mask_and_found_once(tmp_path):
    mask = ball((16, 16, 16), (8, 8, 8), 6)
    far = distance(stored(tmp_path / "ball.zarr", mask), tmp_path / "far.zarr", inside=True)
    tops = maxima(far, tmp_path / "tops.zarr", depth_um=1.0)
    assert (tops.kind, tops.dtype) == ("mask", np.bool_)
    np.testing.assert_array_equal(tops.read(), by_scikit_image(far.read(), 1.0, 26))
    again = Work()
    maxima(far, tmp_path / "tops.zarr", depth_um=1.0, work=again)
    assert again.runs == []


def test_plans_are_shown_and_nothing_is_written(tmp_path, capsys):
    source = volume_at(tmp_path / "mask.zarr", ball((12, 12, 12), (6, 6, 6), 4), kind="mask")
    split_touching(source, tmp_path / "parts.zarr", work=Work(plan_only=True))
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("distance along", "maxima, round 1", "components", "split, round 1"))
    assert [p.name for p in tmp_path.iterdir()] == ["mask.zarr"]
