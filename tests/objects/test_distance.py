"""Distances and thicknesses of whole volumes, stored, resumed and compared with those of arrays in memory."""

from __future__ import annotations

import edt
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import measure_by_blocks
from tests.world import volume_at
from tomoscale.errors import InputError, PlanError
from tomoscale.measures.largest import sizes_of_integers, upper_bound
from tomoscale.memory_array import MemoryArray
from tomoscale.objects.components import components
from tomoscale.objects.distance import distance, object_voxels
from tomoscale.objects.filters import keep_largest
from tomoscale.objects.thickness import thickness
from tomoscale.volume import Volume, create_volume, open_zarr
from tomoscale.work import Work

VOXEL_UM = (2.0, 1.0, 1.0)


def stored(path, values, voxel_size_um=VOXEL_UM):
    kind = "mask" if values.dtype == bool else "labels"
    volume = create_volume(path, shape=values.shape, dtype=values.dtype, voxel_size_um=voxel_size_um, kind=kind)
    volume.create()
    volume.write(tuple(slice(0, n) for n in values.shape), values)
    volume.finish({})
    return open_zarr(path)


@pytest.fixture
def labels(tmp_path):
    smooth = scipy.ndimage.gaussian_filter(np.random.default_rng(2).random((30, 26, 28)), 2)
    return stored(tmp_path / "labels.zarr", np.digitize(smooth, np.quantile(smooth, [0.4, 0.7])).astype(np.uint8))


def test_distances_are_those_of_scipy_and_edt_in_micrometres(tmp_path, labels):
    values = labels.read()
    anisotropic = edt.edt((values == 1).astype(np.uint8), anisotropy=VOXEL_UM, black_border=False)
    ones = distance(labels, tmp_path / "ones.zarr", classes=(1,), inside=True, work=Work(block_shape=(16, 16, 16)))
    np.testing.assert_allclose(ones.read(), anisotropic, rtol=1e-6)
    outside = distance(labels, tmp_path / "outside.zarr", classes=(1,))
    np.testing.assert_allclose(outside.read(), scipy.ndimage.distance_transform_edt(values != 1, VOXEL_UM), rtol=1e-6)
    inside = distance(labels, tmp_path / "inside.zarr", classes=(1, 2), inside=True)
    np.testing.assert_allclose(inside.read(), scipy.ndimage.distance_transform_edt(values != 0, VOXEL_UM), rtol=1e-6)
    assert inside.voxel_size_um == VOXEL_UM
    assert not (tmp_path / "inside.parts").exists()


def test_blocks_do_not_matter_and_a_finished_result_is_not_made_again(tmp_path, labels):
    one = distance(labels, tmp_path / "one.zarr", work=Work(block_shape=(30, 26, 28)))
    two = distance(labels, tmp_path / "two.zarr", work=Work(block_shape=(8, 7, 9)))
    np.testing.assert_array_equal(one.read(), two.read())
    again = Work()
    distance(labels, tmp_path / "two.zarr", work=again)
    assert again.runs == []
    with pytest.raises(PlanError, match=r"was begun with another plan.*\n.*classes"):
        distance(labels, tmp_path / "two.zarr", classes=(2,))


def test_a_stopped_run_goes_on_where_it_was(tmp_path, labels, monkeypatch):
    from tomoscale.objects import distance as module

    calls = []
    run_map = Work.map

    def stopping(self, kernel, source, target, **what):
        calls.append(kernel.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_map(self, kernel, source, target, **what)

    monkeypatch.setattr(module.Work, "map", stopping)
    with pytest.raises(KeyboardInterrupt):
        distance(labels, tmp_path / "far.zarr")
    assert (tmp_path / "far.parts" / "2.zarr").exists()
    far = distance(labels, tmp_path / "far.zarr")
    np.testing.assert_allclose(
        far.read(), scipy.ndimage.distance_transform_edt(labels.read() == 0, VOXEL_UM), rtol=1e-6
    )


def largest_balls(mask, voxel_size):
    """Diameter of the largest ball over each voxel, looking at every centre."""
    radius = scipy.ndimage.distance_transform_edt(mask, voxel_size)
    best = np.zeros(mask.shape)
    index = np.moveaxis(np.indices(mask.shape), 0, -1) * np.array(voxel_size)
    for centre in np.argwhere(mask):
        reached = np.linalg.norm(index - centre * np.array(voxel_size), axis=-1) <= radius[tuple(centre)] + 1e-9
        best = np.maximum(best, np.where(reached, 2 * radius[tuple(centre)], 0))
    return np.where(mask, best, 0)


@pytest.mark.parametrize("block", [None, (9, 10, 11)])
def test_thickness_is_that_of_the_largest_balls(tmp_path, labels, block):
    mask = labels.read() == 2
    found = thickness(labels, tmp_path / "thickness.zarr", classes=(2,), work=Work(block_shape=block))
    np.testing.assert_allclose(found.read(), largest_balls(mask, VOXEL_UM), rtol=1e-6)
    assert not (tmp_path / "thickness.parts").exists()
    again = Work()
    thickness(labels, tmp_path / "thickness.zarr", classes=(2,), work=again)
    assert again.runs == []


def test_separation_is_the_thickness_of_the_rest_and_can_be_cut(tmp_path):
    slab = np.zeros((6, 20, 20), np.uint8)
    slab[:, :, 9:11] = 1
    volume = stored(tmp_path / "slab.zarr", slab, (5.0, 5.0, 5.0))
    bone = thickness(volume, tmp_path / "bone.zarr").read()
    assert set(np.unique(bone)) == {0, 10}
    corrected = thickness(volume, tmp_path / "corrected.zarr", correction="half_voxel").read()
    assert set(np.unique(corrected)) == {0, 5}
    rest = thickness(volume, tmp_path / "rest.zarr", outside=True).read()
    assert rest[0, 0, 0] == 2 * 9 * 5
    cut = thickness(volume, tmp_path / "cut.zarr", outside=True, max_radius_um=20.0).read()
    assert cut.max() == 40


def test_plans_are_shown_and_nothing_is_written(tmp_path, labels, capsys):
    thickness(labels, tmp_path / "thickness.zarr", classes=(2,), work=Work(plan_only=True))
    shown = capsys.readouterr().out
    assert [name in shown for name in ("distance along z", "distance along y", "sizes", "local thickness")] == [
        True
    ] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.zarr"]


def test_a_chain_of_steps_can_be_planned_before_any_of_it_is_there(tmp_path, labels, capsys):
    work = Work(plan_only=True)
    largest = keep_largest(labels, tmp_path / "largest.zarr", work=work)
    thickness(largest, tmp_path / "thickness.zarr", work=work)
    distance(largest, tmp_path / "far.zarr", work=work)
    components(largest, tmp_path / "numbers.zarr", work=work)
    assert capsys.readouterr().out.count("blocks") >= 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.zarr"]


def test_what_has_no_answer_is_refused(tmp_path, labels):
    full = stored(tmp_path / "full.zarr", np.ones((4, 5, 6), bool))
    with pytest.raises(InputError, match="fills the whole volume, so no ball in it has an end"):
        thickness(full, tmp_path / "t.zarr")
    assert not (tmp_path / "t.parts").exists(), "the next try may be of other labels"
    with pytest.raises(ValueError, match="half a voxel is not one length"):
        thickness(labels, tmp_path / "t.zarr", correction="half_voxel")
    unknown = Volume(MemoryArray(np.zeros((3, 3, 3), np.uint8), kind="labels"), None)
    with pytest.raises(InputError, match="does not say how large a voxel is"):
        distance(unknown, tmp_path / "d.zarr")


@given(st.lists(st.integers(0, 2**53), min_size=1, max_size=40))
def test_the_bound_is_at_least_the_largest_and_at_most_a_sixteenth_more(values):
    array = np.array(values, np.int64).reshape(1, 1, -1)
    counts = measure_by_blocks(sizes_of_integers(2**62 + 1), (array,), (1, 1, 7))
    largest = max(values)
    assert largest <= upper_bound(counts) <= largest * (1 + 1 / 16) + 1
    assert counts["unmeasured"][0] == 0
    beyond = measure_by_blocks(sizes_of_integers(2**62 + 1), (array << 8,), (1, 1, 7))
    assert upper_bound(beyond) >= largest << 8
    assert measure_by_blocks(sizes_of_integers(1), (array,), (1, 1, 7))["unmeasured"][0] == np.count_nonzero(array)


@pytest.mark.parametrize("command", [distance, thickness, components, keep_largest])
def test_whole_numbers_that_may_be_grey_values_are_no_object(tmp_path, command):
    values = np.zeros((6, 6, 6), np.uint8)
    values[2:4, 2:4, 2:4] = 200
    scan = Volume(MemoryArray(values), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match=r"is not known to hold labels or a mask.*classes=\(1, 2\)"):
        command(scan, tmp_path / "all.zarr", work=Work(progress=False))
    assert command(scan, tmp_path / "named.zarr", classes=(200,), work=Work(progress=False)).finished


@pytest.mark.parametrize("cleanup", ["none", "fiji"])
def test_voxels_of_the_object_are_counted_once_whatever_the_margins(tmp_path, cleanup):
    values = (np.random.default_rng(2).random((9, 10, 11)) < 0.5).astype(np.uint8)
    volume = volume_at(tmp_path / "half.zarr", values)
    work = Work(block_shape=(4, 5, 6), progress=False)
    thick = thickness(volume, tmp_path / "t.zarr", cleanup=cleanup, work=work)
    far = distance(volume, tmp_path / "d.zarr", work=work)
    assert object_voxels(thick, inside=True) == object_voxels(far, inside=False) == np.count_nonzero(values)
