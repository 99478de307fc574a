"""Watersheds of whole volumes: by blocks as at once, stored, resumed, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import watershed as peer

from tests.blocks import seeds
from tests.objects.by_blocks import settle_by_blocks
from tests.world import volume_at
from tomoscale.driver import Driver
from tomoscale.errors import InputError, PlanError
from tomoscale.objects.rounds import Borders, spread_block
from tomoscale.objects.watershed import Flooding, watershed, watershed_figures
from tomoscale.volume import create_volume, open_zarr
from tomoscale.work import Work

SHAPE = (18, 20, 22)


def stored(path, values, kind="labels", voxel_um=5.0):
    return open_zarr(volume_at(path, values, voxel_um, kind))


def scene(shape=SHAPE, seed=0, n=8):
    """A smooth relief without ties and some markers."""
    random = np.random.default_rng(seed)
    relief = scipy.ndimage.gaussian_filter(random.random(shape), 2).astype(np.float32)
    markers = np.zeros(shape, np.uint16)
    markers.reshape(-1)[random.choice(markers.size, n, replace=False)] = np.arange(1, n + 1)
    return relief, markers


@pytest.fixture
def volumes(tmp_path):
    relief, markers = scene()
    return stored(tmp_path / "relief.zarr", relief, "grey"), stored(tmp_path / "markers.zarr", markers)


@given(
    seed=seeds,
    shape=st.tuples(*(st.integers(1, 11),) * 3),
    block_shape=st.tuples(*(st.integers(3, 9),) * 3),
    connectivity=st.sampled_from((6, 18, 26)),
    values=st.sampled_from((1, 3, 200)),
    descending=st.booleans(),
)
@settings(max_examples=20)
def test_blocks_that_agree_have_the_labels_of_the_whole(seed, shape, block_shape, connectivity, values, descending):
    random = np.random.default_rng(seed)
    relief = random.integers(-values // 2, values // 2 + 1, shape).astype(np.int16)
    markers = np.where(random.random(shape) < 0.03, random.integers(1, 9, shape), 0).astype(np.uint8)
    mask = random.integers(0, 4, shape).astype(np.uint8)
    rule = Flooding(connectivity, np.dtype(np.uint8), True, (1, 2, 3), descending)
    volumes = (relief, markers, mask)
    whole = settle_by_blocks(rule, volumes, shape)
    assert not whole[mask == 0].any()
    np.testing.assert_array_equal(settle_by_blocks(rule, volumes, block_shape), whole)


@pytest.mark.parametrize("block", [SHAPE, (7, 20, 9), (9, 7, 12)])
@pytest.mark.parametrize("connectivity", [6, 26])
def test_a_stored_volume_has_the_labels_of_scikit_image(tmp_path, volumes, block, connectivity):
    relief, markers = volumes
    work = Work(block_shape=block)
    found = watershed(relief, markers, tmp_path / "found.zarr", connectivity=connectivity, work=work)
    expected = peer(relief.read(), markers.read().astype(np.int32), connectivity={6: 1, 26: 3}[connectivity])
    np.testing.assert_array_equal(found.read(), expected)
    assert (found.dtype, found.kind, found.voxel_size_um) == (np.uint16, "labels", (5.0, 5.0, 5.0))
    assert not (tmp_path / "found.parts").exists()
    figures = watershed_figures(tmp_path / "found.zarr")
    assert figures == {"rounds": len(work.runs) - 1, "voxels": expected.size, "unreached_voxels": 0}
    assert (figures["rounds"] == 1) == (block == SHAPE)


def test_where_no_water_comes_there_is_no_label_and_that_is_said(tmp_path, volumes):
    relief = volumes[0]
    one, mask = np.zeros(SHAPE, np.int64), np.zeros(SHAPE, np.uint8)
    mask[:, :, :10], mask[:, :, 12:] = 2, 1
    one[3, 3, 3], one[0, 0, 10] = 2**40, 7
    seed = stored(tmp_path / "one.zarr", one)
    room = stored(tmp_path / "room.zarr", mask)
    found = watershed(relief, seed, tmp_path / "found.zarr", mask=room, work=Work(block_shape=(9, 9, 9)))
    np.testing.assert_array_equal(found.read(), np.where(mask == 2, 2**40, 0))
    assert watershed_figures(found.name)["unreached_voxels"] == np.count_nonzero(mask == 1)
    found = watershed(relief, seed, tmp_path / "part.zarr", mask=room, mask_classes=(2,))
    assert watershed_figures(found.name)["unreached_voxels"] == 0


def test_a_way_through_many_blocks_and_back_is_flooded_to_its_end(tmp_path):
    mask = np.zeros((1, 9, 24), bool)
    mask[0, ::2] = True
    mask[0, 1::4, -1] = mask[0, 3::4, 0] = True
    markers = np.zeros(mask.shape, np.uint8)
    markers[0, 0, 0] = 3
    relief = stored(tmp_path / "relief.zarr", np.zeros(mask.shape, np.uint8), "grey")
    work = Work(block_shape=(1, 9, 4))
    found = watershed(
        relief,
        stored(tmp_path / "markers.zarr", markers),
        tmp_path / "found.zarr",
        mask=stored(tmp_path / "mask.zarr", mask, "mask"),
        connectivity=6,
        work=work,
    )
    np.testing.assert_array_equal(found.read(), 3 * mask)
    assert watershed_figures(found.name)["rounds"] > 24


@pytest.mark.parametrize("after", [1, 9, 14, 30])
def test_a_stopped_run_goes_on_where_it_was(tmp_path, volumes, monkeypatch, after):
    whole = watershed(*volumes, tmp_path / "whole.zarr", work=Work(block_shape=SHAPE)).read()
    record, taken = Driver._record, []

    def stopping(self, outcome):
        record(self, outcome)
        taken.extend(outcome.records["number"])
        if len(taken) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "_record", stopping)
        with pytest.raises(Exception, match="interrupted"):
            watershed(*volumes, tmp_path / "found.zarr", work=Work(block_shape=(9, 10, 11)))
    n = len(taken)
    monkeypatch.setattr(Driver, "_record", lambda self, outcome: (taken.append(1), record(self, outcome)))
    work = Work()
    np.testing.assert_array_equal(watershed(*volumes, tmp_path / "found.zarr", work=work).read(), whole)
    rounds = watershed_figures(tmp_path / "found.zarr")["rounds"]
    assert len(taken) - n <= 8 * (rounds + 1) - after
    again = Work()
    watershed(*volumes, tmp_path / "found.zarr", work=again)
    assert again.runs == []


def test_processes_give_the_same_labels(tmp_path, volumes):
    from tomoscale.work import working

    one = watershed(*volumes, tmp_path / "one.zarr", work=Work(block_shape=SHAPE)).read()
    with working("processes", processes=2, block_shape=(9, 20, 22)) as work:
        np.testing.assert_array_equal(watershed(*volumes, tmp_path / "two.zarr", work=work).read(), one)


def test_a_block_with_the_same_surroundings_is_not_flooded_again(tmp_path, monkeypatch):
    from tomoscale.geometry import Grid, Halo
    from tomoscale.step import make_block

    relief, markers = scene((4, 4, 8))
    rule, grid = Flooding(6, np.dtype(np.uint16)), Grid((4, 4, 8), (4, 4, 4))
    rounds = [Borders(grid, str(tmp_path / str(n))) for n in range(8)]
    flooded = []
    spread = Flooding.spread
    monkeypatch.setattr(Flooding, "spread", lambda *args: (flooded.append(1), spread(*args))[1])
    for before, now in zip((None, *rounds), rounds, strict=False):
        for n in range(2):
            block = make_block(grid, n, grid.shape, Halo())
            spread_block(relief[block.read], markers[block.read], block=block, rule=rule, before=before, now=now)
    assert len(flooded) < 10


def test_another_input_is_not_taken_for_the_same(tmp_path, volumes):
    relief, markers = volumes
    watershed(relief, markers, tmp_path / "found.zarr")
    with pytest.raises(PlanError, match=r"was begun with another plan.*\n.*connectivity"):
        watershed(relief, markers, tmp_path / "found.zarr", connectivity=6)
    other = stored(tmp_path / "other.zarr", markers.read()[::-1].copy())
    with pytest.raises(PlanError, match=r"was begun with another plan.*\n.*markers"):
        watershed(relief, other, tmp_path / "found.zarr")
    found = watershed(relief, other, tmp_path / "found.zarr", work=Work(overwrite=True))
    assert watershed_figures(found.name)["rounds"] == 1
    with pytest.raises(PlanError, match="is or holds"):
        watershed(relief, markers, tmp_path / "markers.zarr")


def test_plans_are_shown_and_nothing_is_written(tmp_path, volumes, capsys):
    watershed(*volumes, tmp_path / "found.zarr", work=Work(plan_only=True))
    shown = capsys.readouterr().out
    assert "watershed, round 1" in shown
    assert shown.count("blocks") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["markers.zarr", "relief.zarr"]


def broken(values, place, value):
    result = values.copy()
    result[place] = value
    return result


RELIEF, MARKERS = scene()
WRONG = {
    "no marker": ({"markers": np.zeros_like(MARKERS)}, "no marker above 0, so nothing can be flooded"),
    "float markers": ({"markers": MARKERS.astype(np.float32)}, "hold float32, but labels are whole numbers"),
    "a mask as markers": ({"markers": MARKERS > 0}, "a mask has one label, so all would become one"),
    "a negative marker": (
        {"markers": broken(MARKERS.astype(np.int32), (9, 2, 3), -4)},
        r"marker at voxel \(9, 2, 3\) \(z, y, x\) is negative",
    ),
    "markers of another shape": ({"markers": MARKERS[:-1].copy()}, "must lie on one grid"),
    "an empty mask": ({"mask": np.zeros(SHAPE, bool)}, "the mask holds no voxel"),
    "a grey mask": ({"mask": np.zeros(SHAPE, np.float32)}, "an object is told by labels or a mask"),
    "no marker in the mask": ({"mask": broken(MARKERS == 0, 0, False)}, "no marker above 0 within the mask"),
    "NaN": ({"relief": broken(RELIEF, (10, 11, 12), np.nan)}, r"NaN at voxel \(10, 11, 12\) \(z, y, x\) of the relief"),
    "64 bits": ({"relief": RELIEF.astype(np.float64)}, "holds float64, but a relief is of uint8"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_what_cannot_be_flooded_is_refused(tmp_path, name):
    change, message = WRONG[name]
    given = {"relief": RELIEF, "markers": MARKERS, **change}
    kinds = {"relief": "grey", "markers": "labels", "mask": "labels"}
    made = {}
    for what, values in given.items():
        kind = "mask" if values.dtype == bool else "grey" if values.dtype.kind == "f" else kinds[what]
        made[what] = stored(tmp_path / f"{what}.zarr", values, kind)
    with pytest.raises(InputError, match=message):
        watershed(
            made["relief"],
            made["markers"],
            tmp_path / "found.zarr",
            mask=made.get("mask"),
            work=Work(block_shape=(9, 10, 11)),
        )
    assert not (tmp_path / "found.zarr").exists()


def test_nan_outside_the_mask_does_not_matter_and_classes_need_a_mask(tmp_path, volumes):
    relief = stored(tmp_path / "broken.zarr", broken(RELIEF, (0, 0, 0), np.nan), "grey")
    mask = stored(tmp_path / "mask.zarr", ~np.isnan(relief.read()), "mask")
    found = watershed(relief, volumes[1], tmp_path / "found.zarr", mask=mask)
    assert np.count_nonzero(found.read() == 0) == 1
    with pytest.raises(ValueError, match="are labels of a mask, but none is given"):
        watershed(*volumes, tmp_path / "other.zarr", mask_classes=(1,))
    with pytest.raises(InputError, match="was not made by a watershed"):
        watershed_figures(tmp_path / "mask.zarr")


def test_a_block_of_too_many_voxels_is_refused_before_anything_is_read(tmp_path):
    shape = (1300, 1300, 1300)
    relief = create_volume(tmp_path / "relief.zarr", shape=shape, dtype=np.uint8, voxel_size_um=1.0)
    markers = create_volume(tmp_path / "markers.zarr", shape=shape, dtype=np.uint8, voxel_size_um=1.0, kind="labels")
    with pytest.raises(PlanError, match=r"a block of 1300 x 1300 x 1300 voxels is too large.*smaller block_shape"):
        watershed(relief, markers, tmp_path / "found.zarr", work=Work(block_shape=shape, plan_only=True))
