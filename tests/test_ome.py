"""Images with label images: what is listed, when, and what does not belong together."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from tomoscale.errors import InputError
from tomoscale.ome import LabelClass, group_attributes, label_names, level_factors, multiscales, with_levels
from tomoscale.plan import plan_map
from tomoscale.pyramid import pyramid
from tomoscale.resources import Resources
from tomoscale.volume import create_volume, open_zarr
from tomoscale.work import Work
from tomoscale.zarr_group import labels_of, list_labels

SHAPE = (6, 7, 8)
ALL = (slice(None),) * 3
CLASSES = (LabelClass(1, "bone", (1, 2, 3, 255)),)


def described(path, **options):
    return create_volume(path, **{"shape": SHAPE, "dtype": "u1", "voxel_size_um": (3.0, 2.0, 1.0), **options})


def written(path, **options):
    volume = described(path, **options)
    volume.create()
    volume.write(ALL, np.ones(SHAPE, volume.dtype))
    volume.finish({})
    return open_zarr(path)


def listed(folder):
    path = folder / "labels/zarr.json"
    return json.loads(path.read_text())["attributes"]["ome"]["labels"] if path.exists() else None


def test_a_label_is_listed_when_it_is_finished_and_says_whose_it_is(tmp_path):
    written(tmp_path / "i.zarr", dtype="u2")
    label = described(tmp_path / "i.zarr/labels/bone", kind="labels", classes=CLASSES)
    assert not (tmp_path / "i.zarr/labels").exists()
    label.create()
    assert listed(tmp_path / "i.zarr") is None
    label.write(ALL, np.ones(SHAPE, "u1"))
    label.finish({})
    assert listed(tmp_path / "i.zarr") == ["bone"]
    ome = json.loads((tmp_path / "i.zarr/labels/bone/zarr.json").read_text())["attributes"]["ome"]
    assert ome["image-label"] == {
        "version": "0.5",
        "colors": [{"label-value": 1, "rgba": [1, 2, 3, 255]}],
        "properties": [{"label-value": 1, "name": "bone"}],
        "source": {"image": "../../"},
    }
    assert open_zarr(tmp_path / "i.zarr", array="labels/bone") == open_zarr(tmp_path / "i.zarr/labels/bone")
    assert labels_of(tmp_path / "i.zarr") == [tmp_path / "i.zarr/labels/bone"]


def test_a_label_that_is_made_again_is_not_listed_until_it_is_finished(tmp_path):
    written(tmp_path / "i.zarr")
    for name in ("a", "b"):
        written(tmp_path / "i.zarr/labels" / name, kind="labels")
    assert listed(tmp_path / "i.zarr") == ["a", "b"]
    shutil.rmtree(tmp_path / "i.zarr/labels/a")
    again = described(tmp_path / "i.zarr/labels/a", kind="labels")
    again.create()
    assert listed(tmp_path / "i.zarr") == ["b"]
    with pytest.raises(InputError, match="labels/a is not finished"):
        open_zarr(tmp_path / "i.zarr", array="labels/a")
    shutil.rmtree(tmp_path / "i.zarr/labels/b")
    shutil.rmtree(tmp_path / "i.zarr/labels/a")
    again.create()
    assert listed(tmp_path / "i.zarr") is None
    again.write(ALL, np.ones(SHAPE, "u1"))
    again.finish({})
    assert listed(tmp_path / "i.zarr") == ["a"]


def test_labels_that_are_finished_at_once_are_all_listed(tmp_path):
    written(tmp_path / "i.zarr")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda k: written(tmp_path / f"i.zarr/labels/{k}", kind="labels"), range(16)))
    assert len(made) == 16
    assert sorted(listed(tmp_path / "i.zarr"), key=int) == [str(k) for k in range(16)]


def test_a_list_written_over_by_another_run_is_mended_by_that_run(tmp_path, monkeypatch):
    from tomoscale import zarr_group

    written(tmp_path / "i.zarr")
    write, calls = zarr_group.write_node, []

    def slow(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            written(tmp_path / "i.zarr/labels/meanwhile", kind="labels")
            assert listed(tmp_path / "i.zarr") == ["a", "meanwhile"]
        write(*arguments)

    monkeypatch.setattr(zarr_group, "write_node", slow)
    written(tmp_path / "i.zarr/labels/a", kind="labels")
    assert listed(tmp_path / "i.zarr") == ["a", "meanwhile"]


def test_what_others_list_stays_and_what_is_broken_harms_nobody(tmp_path):
    written(tmp_path / "i.zarr")
    group = zarr.open_group(tmp_path / "i.zarr/labels", mode="w", zarr_format=3)
    group.attrs["ome"] = {"version": "0.5", "labels": ["theirs", "gone", "deep/inside", "broken"], "note": "kept"}
    group.create_group("theirs")
    group.create_group("unlisted")
    (tmp_path / "i.zarr/labels/broken").mkdir()
    (tmp_path / "i.zarr/labels/broken/zarr.json").write_text("{")
    written(tmp_path / "i.zarr/labels/ours", kind="labels")
    assert listed(tmp_path / "i.zarr") == ["theirs", "deep/inside", "broken", "ours"]
    assert json.loads((tmp_path / "i.zarr/labels/zarr.json").read_text())["attributes"]["ome"]["note"] == "kept"
    before = (tmp_path / "i.zarr/labels/zarr.json").stat().st_mtime_ns
    list_labels(tmp_path / "i.zarr/labels", "0.5")
    assert (tmp_path / "i.zarr/labels/zarr.json").stat().st_mtime_ns == before


def test_a_label_changes_neither_the_identity_of_its_image_nor_the_other_way_round(tmp_path):
    image = written(tmp_path / "i.zarr")
    before = image.identity()
    label = written(tmp_path / "i.zarr/labels/bone", kind="labels")
    assert open_zarr(tmp_path / "i.zarr").identity() == before
    before = label.identity()
    written(tmp_path / "i.zarr/labels/another", kind="labels")
    assert open_zarr(tmp_path / "i.zarr", array="labels/bone").identity() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "bool"}, ValueError, "is to be a label image of .*, but holds mask of bool"),
        ({"dtype": "f4"}, ValueError, "but holds grey of float32"),
        ({"dtype": "u1"}, ValueError, "but holds grey of uint8"),
        (
            {"kind": "labels", "shape": (6, 7, 9)},
            InputError,
            r"has \(6, 7, 9\) voxels .* the image it is in has \(6, 7, 8\)",
        ),
        ({"kind": "labels", "ome_version": "0.4"}, InputError, "in Zarr 2, but the image it is in has .* in Zarr 3"),
        ({"kind": "labels", "voxel_size_um": 9.0}, InputError, r"9 x 9 x 9 µm was given but the file states"),
    ],
)
def test_a_label_that_does_not_fit_its_image_is_refused(tmp_path, options, error, message):
    written(tmp_path / "i.zarr")
    with pytest.raises(error, match=message):
        described(tmp_path / "i.zarr/labels/x", **options)
    # The image may come after the description.
    late = described(tmp_path / "late.zarr/labels/x", **options)
    written(tmp_path / "late.zarr")
    with pytest.raises(error, match=message):
        late.create()
    assert not (tmp_path / "late.zarr/labels").exists()


def test_a_folder_called_labels_is_only_one_inside_an_image(tmp_path):
    written(tmp_path / "labels/grey.zarr")
    zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=3)
    written(tmp_path / "g.zarr/labels/grey")
    assert not (tmp_path / "g.zarr/labels/zarr.json").exists()
    assert not (tmp_path / "labels/zarr.json").exists()


def test_a_label_is_of_the_version_of_its_image(tmp_path):
    written(tmp_path / "old.zarr", ome_version="0.4")
    label = written(tmp_path / "old.zarr/labels/bone", kind="labels")
    assert label.storage.version == 2
    assert json.loads((tmp_path / "old.zarr/labels/.zattrs").read_text()) == {"labels": ["bone"]}
    assert json.loads((tmp_path / "old.zarr/labels/bone/.zattrs").read_text())["image-label"]["version"] == "0.4"
    shutil.rmtree(tmp_path / "old.zarr/labels/bone")
    described(tmp_path / "old.zarr/labels/bone", kind="labels").create()
    assert not (tmp_path / "old.zarr/labels/.zattrs").exists()
    with pytest.raises(ValueError, match=r'ome_version must be "0\.5" or "0\.4", got \'0\.3\''):
        described(tmp_path / "x.zarr", ome_version="0.3")
    with pytest.raises(
        ValueError, match=r"OME-Zarr 0\.4 has no shards, so shard_shape \(6, 8, 8\) must be chunk_shape"
    ):
        described(tmp_path / "x.zarr", ome_version="0.4", chunk_shape=(3, 4, 4), shard_shape=(6, 8, 8))


def test_every_type_survives_version_0_4(tmp_path):
    for dtype in ("bool", "i1", "u2", "i4", "u8", "f2", "f4", "f8"):
        values = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, SHAPE).astype(dtype)
        path = tmp_path / f"{dtype}.zarr"
        volume = create_volume(path, shape=SHAPE, dtype=dtype, chunk_shape=(4, 4, 4), ome_version="0.4")
        volume.create()
        volume.write(ALL, values)
        volume.finish({})
        np.testing.assert_array_equal(open_zarr(path).read(), values)
        np.testing.assert_array_equal(zarr.open_group(path, mode="r")["0"][...], values)
        assert open_zarr(path).voxel_size_um is None
        assert sum(f.is_file() for f in (path / "0").rglob("[0-9]*")) == 8


def test_version_0_4_is_not_opened_before_it_is_finished_and_a_lost_chunk_is_an_error(tmp_path):
    volume = described(tmp_path / "v.zarr", ome_version="0.4", chunk_shape=(4, 4, 4))
    volume.create()
    with pytest.raises(InputError, match=r"v\.zarr is not finished"):
        open_zarr(tmp_path / "v.zarr")
    volume.write(ALL, np.zeros(SHAPE, "u1"))
    volume.finish({"made by": "test"})
    assert volume.storage.state()["record"] == {"made by": "test"}
    with pytest.raises(ValueError, match=r"not made of whole shards \(4, 4, 4\)"):
        volume.write((slice(0, 2), slice(0, 4), slice(0, 4)), np.zeros((2, 4, 4), "u1"))


def test_levels_are_said_with_their_lengths_and_places():
    before = group_attributes("v", "grey", (4.0, 2.0, 1.0), (), "0.5", in_image=False)
    after = with_levels(before, [(1, 2, 2), (1, 2, 4)], {"type": "mean", "metadata": {}})
    datasets = multiscales(after)["datasets"]
    assert datasets[0] == multiscales(before)["datasets"][0]
    assert [d["coordinateTransformations"][0]["scale"] for d in datasets[1:]] == [[4.0, 4.0, 2.0], [4.0, 4.0, 4.0]]
    assert [d["coordinateTransformations"][1]["translation"] for d in datasets[1:]] == [
        [0.0, 1.0, 0.5],
        [0.0, 1.0, 1.5],
    ]
    assert level_factors(multiscales(after)) == [(1.0, 2.0, 2.0), (1.0, 2.0, 4.0)]
    assert with_levels(after, [], {}) == before


@pytest.mark.parametrize("scale", [None, [1, 2], [1, "a", 1], [0, 0, 0], "abc", [1, 1, 10**400]])
def test_scales_that_make_no_sense_give_no_factors(scale):
    datasets = [{"coordinateTransformations": [{"type": "scale", "scale": s}]} for s in (scale, [2, 2, 2])]
    with pytest.raises(InputError, match="which says nothing of factors"):
        level_factors({"datasets": datasets})


def test_names_that_are_none_are_left_out():
    for attributes in (None, [], {}, {"ome": 3}, {"ome": {"labels": "bone"}}, {"labels": {"a": 1}}):
        assert label_names(attributes) == []
    assert label_names({"ome": {"labels": ["a", 3, None, "b"]}}) == ["a", "b"]


def test_a_run_writes_a_label_into_its_image(tmp_path):
    from tomoscale.kernels.majority import majority

    image = written(tmp_path / "i.zarr")
    resources = Resources(1, 1, 1, 2**31, "cpu", 0)
    plan = plan_map(majority(1, 3), image, tmp_path / "i.zarr/labels/clean", kind="labels", resources=resources)
    assert not (tmp_path / "i.zarr/labels").exists()
    work = Work(progress=False, resources=resources)
    target = work.map(majority(1, 3), image, tmp_path / "i.zarr/labels/clean", kind="labels", classes=CLASSES)
    assert plan.target is not None
    assert target.name == plan.target.name
    assert listed(tmp_path / "i.zarr") == ["clean"]
    assert open_zarr(tmp_path / "i.zarr/labels/clean").classes == CLASSES
    pyramid(target, work=work)
    assert [p.name for p in sorted((tmp_path / "i.zarr").iterdir())] == ["0", "labels", "zarr.json"]
