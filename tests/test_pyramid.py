"""Pyramids: every level is made of the one before, listed when it is finished, valid, and read the same elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import yaozarrs
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models import v04, v05

from tests.blocks import map_whole
from tomoscale.audit import verify
from tomoscale.errors import InputError, IntegrityError, PlanError
from tomoscale.kernels.coarsen import mean_cells, mode_cells
from tomoscale.kernels.filters import cast
from tomoscale.ome_export import export_ome_zarr
from tomoscale.pyramid import halvings, pyramid
from tomoscale.resources import Resources
from tomoscale.volume import LabelClass, MemoryArray, Volume, create_volume, open_zarr
from tomoscale.work import Work

ALL = (slice(None),) * 3
SHAPE = (13, 70, 601)
SIZE_UM = (2.0, 1.0, 0.5)
STEPS = [(1, 1, 2), (1, 2, 2)]
"""Of voxels of that size; of cubes it is the other way round."""
CLASSES = (LabelClass(1, "metal", (74, 144, 217, 255)), LabelClass(3, "bone", (238, 238, 238, 255)))


def work(**how):
    return Work(progress=False, resources=Resources(1, 2, 1, 2**31, "cpu", 0), **how)


def written(path, values, **options):
    """A finished volume of `values`, in small chunks."""
    options = {"chunk_shape": (16, 16, 32), **options}
    volume = create_volume(path, shape=values.shape, dtype=values.dtype, durable=False, **options)
    volume.create()
    volume.write(ALL, values)
    volume.finish({})
    return open_zarr(path)


def grey(dtype="uint16"):
    return np.random.default_rng(1).integers(0, 60000, SHAPE).astype(dtype)


def labels(dtype="uint8"):
    """Layers of four classes, with specks."""
    random = np.random.default_rng(2)
    values = np.sort(random.integers(0, 4, SHAPE), axis=2)
    return np.where(random.random(SHAPE) < 0.1, 0, values).astype(dtype)


def scan(folder, name="scan.zarr", **options):
    """An image with one label image, neither with coarser levels."""
    image = written(folder / name, grey(), voxel_size_um=SIZE_UM, **options)
    options = {"voxel_size_um": image.voxel_size_um, "kind": "labels", "classes": CLASSES, **options}
    written(folder / name / "labels/classes", labels(), **options)
    return image


def expected(values, steps=STEPS):
    """Levels computed in memory, each as a whole."""
    levels = [values]
    for step in steps:
        kernel = mean_cells(step, values.dtype) if values.dtype == "uint16" else mode_cells(step, values.dtype)
        levels.append(map_whole(kernel, levels[-1]))
    return levels


def attributes(path):
    if (path / "zarr.json").exists():
        found = json.loads((path / "zarr.json").read_text())["attributes"]
        return {**found, **found.pop("ome", {})}
    return json.loads((path / ".zattrs").read_text())


def paths(path):
    return [d["path"] for d in attributes(path)["multiscales"][0]["datasets"]]


def edit(path, change):
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def shards(path):
    """Bytes of all files but the ledgers'."""
    files = (f for f in sorted(path.rglob("*")) if f.is_file() and ".tomoscale" not in f.parts)
    return {str(f.relative_to(path)): f.read_bytes() for f in files}


def test_steps_tend_to_cubes_and_end_at_256():
    assert halvings((256, 256, 256), None) == []
    assert halvings((257, 64, 65), None) == [(2, 1, 2)]
    assert halvings((1, 4096, 4096), (9.0, 1.0, 1.0)) == [(1, 2, 2)] * 4
    assert halvings((2000, 2000, 2000), (5.0, 1.0, 1.0)) == [(1, 2, 2)] * 2 + [(2, 2, 2)] * 3
    assert halvings((300, 300, 300), (1.0, 1.0, 1.999)) == [(2, 2, 2)]
    assert halvings((300, 300, 300), (1.0, 1.0, 2.0)) == [(2, 2, 1), (2, 2, 2)]
    assert halvings((2**40, 65, 64), None) == [(2, 2, 1)] + [(2, 1, 1)] * 31
    assert halvings(SHAPE, SIZE_UM) == STEPS


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.parametrize("kind", ["grey", "labels", "mask"])
def test_levels_equal_those_of_the_whole_in_memory(tmp_path, kind, version):
    values = {"grey": grey(), "labels": labels(), "mask": labels() > 1}[kind]
    volume = written(tmp_path / "v.zarr", values, kind=kind, voxel_size_um=SIZE_UM, ome_version=version)
    assert pyramid(tmp_path / "v.zarr", work=work()) == volume
    assert paths(tmp_path / "v.zarr") == ["0", "1", "2"]
    for number, level in enumerate(expected(values)):
        found = open_zarr(tmp_path / "v.zarr", array=str(number))
        np.testing.assert_array_equal(found.read(), level)
        assert (found.dtype, found.kind, found.finished) == (values.dtype, kind, True)
        assert found.voxel_size_um == [SIZE_UM, (2.0, 1.0, 1.0), (2.0, 2.0, 2.0)][number]


def test_the_first_centres_of_all_levels_are_where_the_metadata_say(tmp_path):
    scan(tmp_path)
    pyramid(tmp_path / "scan.zarr", work=work())
    image = attributes(tmp_path / "scan.zarr")["multiscales"][0]
    transformations = [d["coordinateTransformations"] for d in image["datasets"]]
    assert transformations[1] == [
        {"type": "scale", "scale": [2.0, 1.0, 1.0]},
        {"type": "translation", "translation": [0.0, 0.0, 0.25]},
    ]
    # The mean of the first voxels' centres at level 0: y 0 and 1 µm, x 0, 0.5, 1 and 1.5 µm.
    assert transformations[2][1]["translation"] == [0.0, 0.5, 0.75]
    assert image["type"] == "mean"
    assert "rounded half to even" in image["metadata"]["description"]
    assert "0 loses" in attributes(tmp_path / "scan.zarr/labels/classes")["multiscales"][0]["metadata"]["description"]


def test_an_unknown_voxel_size_stays_unknown(tmp_path):
    written(tmp_path / "v.zarr", grey())
    pyramid(tmp_path / "v.zarr", work=work())
    assert open_zarr(tmp_path / "v.zarr", array="1").voxel_size_um is None
    assert attributes(tmp_path / "v.zarr")["multiscales"][0]["datasets"][1]["coordinateTransformations"][0] == {
        "type": "scale",
        "scale": [1.0, 2.0, 2.0],
    }


def test_a_small_volume_needs_no_levels(tmp_path):
    written(tmp_path / "v.zarr", grey()[:, :, :256])
    before = shards(tmp_path / "v.zarr")
    pyramid(tmp_path / "v.zarr", work=work())
    assert shards(tmp_path / "v.zarr") == before


def test_two_tilings_give_the_same_voxels(tmp_path):
    values = labels()
    for name, block in (("a.zarr", (13, 16, 32)), ("b.zarr", (5, 35, 301)), ("c.zarr", None)):
        written(tmp_path / name, values, kind="labels")
        pyramid(tmp_path / name, work=work(block_shape=block))
        for number, level in enumerate(expected(values, [(1, 2, 2), (1, 1, 2)])):
            np.testing.assert_array_equal(open_zarr(tmp_path / name, array=str(number)).read(), level)
    a, b = (open_zarr(tmp_path / name, array="1").storage.shard_shape for name in ("a.zarr", "b.zarr"))
    assert a != b


KILLED = """
import os, signal, sys
from tests.test_pyramid import pyramid, work
from tomoscale.zarr_array import ZarrArray
write, left = ZarrArray.write, [int(sys.argv[2])]
def dying(self, region, values):
    write(self, region, values)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
ZarrArray.write = dying
pyramid(sys.argv[1], work=work(block_shape=(13, 16, 64)))
"""


@pytest.mark.parametrize("writes", [3, 30])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, writes):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        scan(tmp_path / name)
    pyramid(tmp_path / "whole/scan.zarr", work=work(block_shape=(13, 16, 64)))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed/scan.zarr"), str(writes)],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    unfinished = "1" if writes == 3 else "2"
    assert unfinished not in paths(tmp_path / "killed/scan.zarr")
    with pytest.raises(InputError, match=rf"scan\.zarr/{unfinished} is not finished"):
        open_zarr(tmp_path / "killed/scan.zarr", array=unfinished)
    pyramid(tmp_path / "killed/scan.zarr", work=work(block_shape=(13, 16, 64)))
    assert shards(tmp_path / "killed/scan.zarr") == shards(tmp_path / "whole/scan.zarr")


def test_what_is_there_is_not_made_again_also_of_a_renamed_volume(tmp_path):
    scan(tmp_path)
    first, again = work(), work()
    pyramid(tmp_path / "scan.zarr", work=first)
    (tmp_path / "scan.zarr").rename(tmp_path / "other.zarr")
    pyramid(tmp_path / "other.zarr", work=again)
    assert (len(first.runs), len(again.runs)) == (4, 0)
    (tmp_path / "other.zarr").rename(tmp_path / "scan.zarr")
    shutil.rmtree(tmp_path / "scan.zarr/1")
    pyramid(tmp_path / "scan.zarr", work=again)
    assert len(again.runs) == 1
    np.testing.assert_array_equal(open_zarr(tmp_path / "scan.zarr", array="1").read(), expected(grey())[1])


def test_overwrite_makes_all_levels_anew(tmp_path):
    scan(tmp_path)
    pyramid(tmp_path / "scan.zarr", work=work())
    with pytest.raises(InputError, match="is not the full resolution"):
        pyramid(open_zarr(tmp_path / "scan.zarr", array="1"), work=work())
    again = work(overwrite=True, block_shape=(13, 16, 64))
    pyramid(tmp_path / "scan.zarr", work=again)
    assert len(again.runs) == 4
    assert open_zarr(tmp_path / "scan.zarr", array="1").storage.shard_shape == (13, 16, 64)


def test_levels_that_are_being_made_anew_are_not_listed(tmp_path, monkeypatch):
    scan(tmp_path)
    pyramid(tmp_path / "scan.zarr", work=work())

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Work, "run", fail)
    with pytest.raises(KeyboardInterrupt):
        pyramid(tmp_path / "scan.zarr", work=work(overwrite=True))
    assert paths(tmp_path / "scan.zarr") == ["0"]
    assert "type" not in attributes(tmp_path / "scan.zarr")["multiscales"][0]
    assert not (tmp_path / "scan.zarr/2").exists()


def test_a_level_of_another_source_is_refused(tmp_path):
    scan(tmp_path)
    pyramid(tmp_path / "scan.zarr", work=work())
    edit(tmp_path / "scan.zarr/1/zarr.json", lambda m: m["attributes"]["tomoscale"]["record"].update(content="other"))
    with pytest.raises(PlanError, match=r"begun with another plan, .*\n  sources\.source\.sha256"):
        pyramid(tmp_path / "scan.zarr", work=work())
    pyramid(tmp_path / "scan.zarr", work=work(overwrite=True))
    np.testing.assert_array_equal(open_zarr(tmp_path / "scan.zarr", array="2").read(), expected(grey())[2])


def test_a_pyramid_changes_neither_the_identity_nor_the_runs_that_read_the_volume(tmp_path):
    volume = scan(tmp_path)
    before = volume.identity()
    target = work().map(cast("float32"), volume, tmp_path / "copy.zarr")
    pyramid(tmp_path / "scan.zarr", work=work())
    assert open_zarr(tmp_path / "scan.zarr").identity() == before
    assert work().map(cast("float32"), open_zarr(tmp_path / "scan.zarr"), tmp_path / "copy.zarr") == target
    levels = [open_zarr(tmp_path / "scan.zarr", array=str(k)).identity()["sha256"] for k in range(3)]
    assert len(set(levels)) == 3


def test_a_lost_shard_of_a_level_is_an_error_and_never_zeros(tmp_path):
    scan(tmp_path)
    pyramid(tmp_path / "scan.zarr", work=work(block_shape=(13, 16, 64)))
    (tmp_path / "scan.zarr/1/c/0/1/2").unlink()
    (tmp_path / "scan.zarr/labels/classes/2/c/0/0/0").unlink()
    with pytest.raises(IntegrityError, match="1/c/0/1/2 or a chunk in it is missing"):
        open_zarr(tmp_path / "scan.zarr", array="1").read()
    for path, array in (("scan.zarr", "labels/classes/2"), ("scan.zarr/labels/classes/2", None)):
        with pytest.raises(IntegrityError, match="2/c/0/0/0 or a chunk in it is missing"):
            open_zarr(tmp_path / path, array=array).read()


def test_verify_looks_at_levels_with_their_volume_and_alone(tmp_path):
    values = np.random.default_rng(0).integers(0, 250, (16, 64, 600)).astype(np.uint8)
    source = Volume(MemoryArray(values), SIZE_UM)
    base = work().map(cast(np.uint8), source, tmp_path / "v.zarr")
    pyramid(base, work=work())
    assert verify(tmp_path / "v.zarr")["levels_compared"] == 2
    assert verify(tmp_path / "v.zarr" / "1")["finished"]
    shard = next(f for f in (tmp_path / "v.zarr" / "1" / "c").rglob("*") if f.is_file())
    changed = bytearray(shard.read_bytes())
    changed[len(changed) // 3] ^= 16
    shard.write_bytes(changed)
    with pytest.raises(IntegrityError, match=r"1 of . blocks of .*v\.zarr/1 are not what was written"):
        verify(tmp_path / "v.zarr")


def test_labels_get_as_many_levels_as_their_image_whichever_is_given(tmp_path):
    for name, given in (("a", "scan.zarr"), ("b", "scan.zarr/labels/classes")):
        (tmp_path / name).mkdir()
        scan(tmp_path / name)
        pyramid(tmp_path / name / given, work=work())
        for path in ("scan.zarr", "scan.zarr/labels/classes"):
            assert paths(tmp_path / name / path) == ["0", "1", "2"]
    late = written(tmp_path / "a/scan.zarr/labels/late", labels("uint32"), kind="labels", voxel_size_um=SIZE_UM)
    assert attributes(tmp_path / "a/scan.zarr/labels")["labels"] == ["classes", "late"]
    again = work()
    pyramid(late, work=again)
    assert len(again.runs) == 2
    np.testing.assert_array_equal(
        open_zarr(tmp_path / "a/scan.zarr", array="labels/late/2").read(), expected(labels("uint32"))[2]
    )


def foreign(path, factors, levels=3):
    """An image of another program, whose levels are cut off instead of rounded up."""
    group, values = zarr.open_group(path, mode="w", zarr_format=3), grey()
    datasets, shape, scale = [], SHAPE, [2.0, 1.0, 0.5]
    for level in range(levels):
        data = values[tuple(slice(n) for n in shape)]
        group.create_array(f"s{level}", data=data, chunks=(13, 32, 64), dimension_names="zyx")
        datasets.append({"path": f"s{level}", "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        shape = tuple(n // f for n, f in zip(shape, factors, strict=True))
        scale = [s * f for s, f in zip(scale, factors, strict=True)]
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"name": "f", "axes": axes, "datasets": datasets}]}


def test_labels_in_an_image_of_another_program_follow_its_levels(tmp_path):
    foreign(tmp_path / "f.zarr", (1, 2, 2))
    label = written(tmp_path / "f.zarr/labels/classes", labels(), kind="labels", voxel_size_um=SIZE_UM)
    pyramid(label, work=work())
    assert paths(tmp_path / "f.zarr") == ["s0", "s1", "s2"]
    assert paths(tmp_path / "f.zarr/labels/classes") == ["0", "1", "2"]
    for level, values in enumerate(expected(labels(), [(1, 2, 2)] * 2)):
        np.testing.assert_array_equal(open_zarr(label.name, array=str(level)).read(), values)
    yaozarrs.validate_zarr_store(tmp_path / "f.zarr")
    with pytest.raises(InputError, match="not the full resolution of a volume that tomoscale wrote"):
        pyramid(tmp_path / "f.zarr", work=work())
    foreign(tmp_path / "g.zarr", (1, 3, 3))
    label = written(tmp_path / "g.zarr/labels/classes", labels(), kind="labels", voxel_size_um=SIZE_UM)
    with pytest.raises(InputError, match=r"voxels become \(1.0, 3.0, 3.0\) times as long, but labels are only made"):
        pyramid(label, work=work())


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_validators_of_others_accept_everything(tmp_path, version):
    source = scan(tmp_path)
    target = tmp_path / "out.zarr"
    export_ome_zarr(source, target, version=version, work=work())
    group = zarr.open_group(target, mode="r")
    models, of = (v05, lambda a: a.ome) if version == "0.5" else (v04, lambda a: a)
    image = of(models.Image.from_zarr(group).attributes)
    assert [d.path for d in image.multiscales[0].datasets] == ["0", "1", "2"]
    label = of(models.ImageLabel.from_zarr(group["labels/classes"]).attributes)
    assert [c.label_value for c in label.image_label.colors] == [1, 3]
    assert label.image_label.source.image == "../../"
    assert len(label.multiscales[0].datasets) == 3
    assert of(models.Labels.from_zarr(group["labels"]).attributes).labels == ["classes"]
    yaozarrs.validate_zarr_store(target)
    yaozarrs.validate_zarr_store(target / "labels/classes")
    if version == "0.5":
        yaozarrs.validate_zarr_store(target / "labels")


def test_the_validator_refuses_a_listed_level_that_is_not_there(tmp_path):
    scan(tmp_path)
    pyramid(tmp_path / "scan.zarr", work=work())
    shutil.rmtree(tmp_path / "scan.zarr/2")
    with pytest.raises(yaozarrs._storage.StorageValidationError, match="2"):
        yaozarrs.validate_zarr_store(tmp_path / "scan.zarr")


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_other_programs_read_the_same_voxels(tmp_path, version):
    export_ome_zarr(scan(tmp_path), tmp_path / "out.zarr", version=version, work=work())
    for folder, values in (("out.zarr", grey()), ("out.zarr/labels/classes", labels())):
        nodes = list(Reader(parse_url(tmp_path / folder, mode="r"))())
        node = next(n for n in nodes if n.zarr.basename() == Path(folder).name)
        assert len(node.data) == 3
        for number, level in enumerate(expected(values)):
            path = tmp_path / folder / str(number)
            np.testing.assert_array_equal(zarr.open_array(path, mode="r")[...], level)
            spec = {"driver": "auto", "kvstore": {"driver": "file", "path": f"{path}/"}}
            np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), level)
            np.testing.assert_array_equal(node.data[number].compute(), level)
    image = list(Reader(parse_url(tmp_path / "out.zarr", mode="r"))())
    label = next(n for n in image if n.metadata.get("color"))
    assert label.metadata["color"][1] == [74 / 255, 144 / 255, 217 / 255, 1.0]
    assert label.metadata["properties"][3] == {"name": "bone"}


def test_version_0_4_is_plain_checked_and_finished_like_any_volume(tmp_path):
    values = labels()
    volume = export_ome_zarr(written(tmp_path / "v.zarr", values, kind="labels"), tmp_path / "old.zarr", work=work())
    assert json.loads((tmp_path / "old.zarr/0/.zarray").read_text()) == {
        "zarr_format": 2,
        "shape": list(SHAPE),
        "chunks": [13, 70, 128],
        "dtype": "|u1",
        "compressor": {"id": "zlib", "level": 1},
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }
    assert not list((tmp_path / "old.zarr").rglob("zarr.json"))
    assert attributes(tmp_path / "old.zarr")["multiscales"][0]["version"] == "0.4"
    chunk = tmp_path / "old.zarr/1/0/0/1"
    good = chunk.read_bytes()
    random = np.random.default_rng(0)
    level = open_zarr(tmp_path / "old.zarr", array="1")
    found = 0
    for position in random.integers(0, len(good) * 8, 50):
        bad = bytearray(good)
        bad[position // 8] ^= 1 << position % 8
        chunk.write_bytes(bad)
        try:
            # A few bits fill the last byte up and mean nothing.
            np.testing.assert_array_equal(level.read(), expected(values, [(1, 2, 2)])[1])
        except IntegrityError as error:
            found += "is damaged" in str(error)
    assert found >= 45
    chunk.unlink()
    with pytest.raises(IntegrityError, match="1/0/0/1 or a chunk in it is missing"):
        level.read()
    again = work()
    assert export_ome_zarr(tmp_path / "v.zarr", tmp_path / "old.zarr", work=again).name == volume.name
    with pytest.raises(ValueError, match=r'version must be "0\.4" or "0\.5", got 4'):
        export_ome_zarr(tmp_path / "v.zarr", tmp_path / "x.zarr", version=4)


def test_export_refuses_its_own_source_also_with_overwrite(tmp_path):
    scan(tmp_path)
    for target in (tmp_path / "scan.zarr", tmp_path):
        with pytest.raises(PlanError, match=r"is or holds .*scan\.zarr, which it is to be made of"):
            export_ome_zarr(tmp_path / "scan.zarr", target, work=work(overwrite=True))
    assert open_zarr(tmp_path / "scan.zarr").read().shape == SHAPE
    export_ome_zarr(tmp_path / "scan.zarr", tmp_path / "o.zarr", work=work())
    export_ome_zarr(tmp_path / "scan.zarr", tmp_path / "o.zarr", work=work(overwrite=True))
    assert open_zarr(tmp_path / "o.zarr/labels/classes", array="2").shape == (13, 35, 151)


def test_plan_only_writes_nothing(tmp_path, capsys):
    scan(tmp_path)
    before = shards(tmp_path)
    pyramid(tmp_path / "scan.zarr", work=work(plan_only=True))
    export_ome_zarr(tmp_path / "scan.zarr", tmp_path / "out.zarr", work=work(plan_only=True))
    assert shards(tmp_path) == before
    printed = capsys.readouterr().out
    assert printed.count("mean_cells") == printed.count("mode_cells") == 2
    assert "scan.zarr/2" in printed


def test_what_is_not_ours_or_not_finished_is_refused(tmp_path):
    for volume in (Volume(MemoryArray(grey())), create_volume(tmp_path / "v.zarr", shape=SHAPE, dtype="u2")):
        with pytest.raises(InputError, match="is not the full resolution of a volume that tomoscale wrote"):
            pyramid(volume, work=work())
    create_volume(tmp_path / "v.zarr", shape=SHAPE, dtype="u2").create()
    with pytest.raises(InputError, match=r"v\.zarr is not finished"):
        pyramid(tmp_path / "v.zarr", work=work())


def test_hostile_levels_lead_nowhere(tmp_path):
    scan(tmp_path)
    elsewhere = written(tmp_path / "elsewhere.zarr", grey())
    before = shards(tmp_path / "elsewhere.zarr")
    (tmp_path / "scan.zarr/1").symlink_to(tmp_path / "elsewhere.zarr")
    for how in (work(), work(overwrite=True)):
        with pytest.raises(InputError, match="the path '1' leads out of the volume"):
            pyramid(tmp_path / "scan.zarr", work=how)
    assert shards(Path(elsewhere.name)) == before
    (tmp_path / "scan.zarr/1").unlink()

    def listed(path):
        return lambda m: m["attributes"]["ome"]["multiscales"][0]["datasets"].insert(0, {"path": path})

    for path in ("../elsewhere.zarr/0", "/etc"):
        edit(tmp_path / "scan.zarr/zarr.json", listed(path))
        with pytest.raises(InputError, match="leads out of the volume"):
            pyramid(tmp_path / "scan.zarr", work=work())


@pytest.mark.parametrize(
    "names", [["../../elsewhere.zarr"], ["/etc"], ["..", "", "a\\b"], "classes", [3], ["x" * 5000, "a\0"]]
)
def test_hostile_names_of_labels_are_not_followed(tmp_path, names):
    scan(tmp_path)
    written(tmp_path / "elsewhere.zarr", labels(), kind="labels")
    before = shards(tmp_path / "elsewhere.zarr")
    edit(tmp_path / "scan.zarr/labels/zarr.json", lambda m: m["attributes"]["ome"].update(labels=names))
    pyramid(tmp_path / "scan.zarr", work=work())
    assert shards(tmp_path / "elsewhere.zarr") == before
    assert paths(tmp_path / "scan.zarr") == ["0", "1", "2"]


def test_a_shape_that_no_disk_holds_is_refused_before_anything_is_written(tmp_path):
    written(tmp_path / "v.zarr", grey())
    edit(tmp_path / "v.zarr/0/zarr.json", lambda m: m.update(shape=[2**40, 2**40, 2**40]))
    with pytest.raises(InputError, match="more voxels than any disk holds"):
        pyramid(tmp_path / "v.zarr", work=work())
    edit(tmp_path / "v.zarr/0/zarr.json", lambda m: m.update(shape=[2**16, 2**16, 2**16]))
    with pytest.raises(PlanError, match=r"may take .* but .* has"):
        pyramid(tmp_path / "v.zarr", work=work())
    assert sorted(p.name for p in (tmp_path / "v.zarr").iterdir()) == ["0", "zarr.json"]


def test_a_level_whose_shape_was_changed_is_refused(tmp_path):
    scan(tmp_path)
    pyramid(tmp_path / "scan.zarr", work=work())
    edit(tmp_path / "scan.zarr/2/zarr.json", lambda m: m.update(shape=[13, 35, 400]))
    edit(tmp_path / "scan.zarr/2/zarr.json", lambda m: m["attributes"]["tomoscale"].update(finished=False))
    shutil.rmtree(tmp_path / "scan.zarr/2/.tomoscale")
    with pytest.raises(PlanError, match=r"described with shape.* was made by another command"):
        pyramid(tmp_path / "scan.zarr", work=work())
