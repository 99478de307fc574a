"""What is understood of a file is said without reading it whole, and a voxel size that is missing is no error."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tomoscale.engine import run
from tomoscale.errors import InputError, IntegrityError
from tomoscale.formats import open_volume
from tomoscale.formats.raw_layout import RawLayout
from tomoscale.geometry import Region, Shape
from tomoscale.info import in_words, info
from tomoscale.kernels.filters import cast
from tomoscale.notebook import probe
from tomoscale.notebook.probe import Probe, read_probe
from tomoscale.plan import plan_map
from tomoscale.volume import LabelClass, MemoryArray, Volume, create_volume

SHAPE = (20, 24, 28)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(3).integers(100, 60000, SHAPE).astype(np.uint16)


@pytest.fixture
def slices(tmp_path, values):
    folder = tmp_path / "slices"
    folder.mkdir()
    for z, plane in enumerate(values):
        tifffile.imwrite(folder / f"recon_{z:05d}.tif", plane)
    return folder


def words(found: dict[str, Any]) -> str:
    json.dumps(found, allow_nan=False)
    return "\n".join(f"{name}: {text}" for name, text in in_words(found).items())


def test_slices_without_a_voxel_size_are_described_and_the_size_is_asked_for(slices, values):
    found = info(slices)
    assert found["format"] == "TIFF, a folder of slices"
    assert (found["shape"], found["dtype"], found["bytes"]) == (list(SHAPE), "uint16", values.nbytes)
    assert (found["voxel_size_um"], found["extent_um"]) == (None, None)
    assert "give --voxel-size" in found["voxel_size_from"]
    assert found["chunk_shape"] == [1, 24, 28]
    text = words(found)
    assert "shape: 20 x 24 x 28 voxels (z, y, x), uint16" in text
    assert "extent" not in text


def test_a_voxel_size_that_is_given_gives_the_extent(slices):
    found = info(slices, voxel_size_um=(5.0, 2.5, 2.5))
    assert found["voxel_size_um"] == [5.0, 2.5, 2.5]
    assert found["extent_um"] == [100.0, 60.0, 70.0]
    assert found["voxel_size_from"] == "as given; the file states none"
    assert "5 x 2.5 x 2.5 µm" in words(found)


def test_a_voxel_size_of_the_file_is_named_as_such_and_must_agree(tmp_path, values):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        data = file.create_dataset("entry/data", data=values, chunks=(10, 12, 14))
        data.attrs["element_size_um"] = [3.0, 3.0, 3.0]
        file["other"] = values
    with pytest.raises(InputError, match="several volumes"):
        info(tmp_path / "scan.h5")
    found = info(tmp_path / "scan.h5", dataset="entry/data")
    assert (found["format"], found["voxel_size_from"]) == ("HDF5", "stated by the file")
    assert found["chunk_shape"] == [10, 12, 14]
    assert info(tmp_path / "scan.h5", dataset="/entry/data", voxel_size_um=3.0)["voxel_size_from"].endswith("and given")
    with pytest.raises(InputError, match="one of them is wrong"):
        info(tmp_path / "scan.h5", dataset="entry/data", voxel_size_um=4.0)


def test_raw_voxels_are_described_by_their_layout(tmp_path, values):
    (tmp_path / "scan.raw").write_bytes(values.astype(">u2").tobytes())
    found = info(tmp_path / "scan.raw", raw=RawLayout(SHAPE, "uint16", "big"))
    assert found["format"] == "voxels without a header"
    assert (found["sample"]["minimum"], found["sample"]["maximum"]) == (int(values.min()), int(values.max()))


def test_labels_name_their_classes_and_values(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:] = 3
    classes = (LabelClass(0, "background"), LabelClass(3, "bone", (1, 2, 3, 255)))
    volume = create_volume(tmp_path / "l.zarr", shape=SHAPE, dtype=np.uint8, kind="labels", classes=classes)
    volume.create()
    volume.write(tuple(slice(0, n) for n in SHAPE), labels)
    volume.finish({})
    found = info(tmp_path / "l.zarr")
    assert (found["kind"], found["finished"], found["state"]) == ("labels", True, "finished")
    assert found["classes"][1] == {"value": 3, "name": "bone", "rgba": [1, 2, 3, 255]}
    assert found["sample"]["values"] == [0, 3]
    assert found["warnings"] == []
    assert "classes: 0 background, 3 bone" in words(found)
    assert "values 0, 3" in words(found)


def test_a_mask_lists_its_values():
    mask = np.zeros((9, 9, 9), bool)
    mask[:4] = True
    found = info(Volume(MemoryArray(mask, "mask"), 1.0))
    assert found["sample"]["values"] == [0, 1]
    words(found)


def test_a_run_that_was_stopped_says_how_far_it_is(tmp_path, values):
    source = Volume(MemoryArray(values), 1.0)
    plan = plan_map(cast(source.dtype, "refuse"), source, tmp_path / "c.zarr", block_shape=(10, 24, 28))
    run(plan, progress=False)
    assert info(tmp_path / "c.zarr")["state"] == "finished"
    path = tmp_path / "c.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"finished": true', '"finished": false'))
    found = info(tmp_path / "c.zarr")
    assert not found["finished"]
    assert "2/2 blocks" in found["state"]


def test_what_cannot_be_opened_is_an_error_and_what_cannot_be_read_a_warning(tmp_path, slices):
    with pytest.raises(InputError, match="does not exist"):
        info(tmp_path / "nothing")
    for path in slices.glob("*.tif"):
        data = bytearray(path.read_bytes())
        path.write_bytes(data)
    volume = halves(tmp_path / "v.zarr", finished=True)
    shutil.rmtree(tmp_path / "v.zarr" / "0" / "c")
    found = info(volume)
    assert found["sample"] is None
    assert found["warnings"][0].startswith("no value could be read")
    words(found)


def test_what_a_stopped_run_has_not_computed_is_no_fault(tmp_path):
    volume = create_volume(tmp_path / "begun.zarr", shape=(8, 8, 8), dtype=np.uint8)
    volume.create()
    found = info(tmp_path / "begun.zarr")
    assert (found["sample"], found["warnings"], found["state"]) == (None, [], "not finished")
    halves(tmp_path / "half.zarr", finished=False)
    found = info(tmp_path / "half.zarr")
    assert (found["sample"]["voxels"], found["warnings"]) == (32 * 64 * 64, [])
    assert "in a sample of 50.0 % of the voxels, of those computed" in words(found)
    begun = open_volume(tmp_path / "half.zarr", unfinished=True)
    with pytest.raises(IntegrityError, match="it is not computed yet, or was lost; `tomoscale status` says how far"):
        begun.read()


def halves(path: Path, *, finished: bool) -> Path:
    """A volume of two shards; of one that is not finished only the first is there."""
    volume = create_volume(path, shape=(64, 64, 64), dtype=np.uint8, shard_shape=(32, 64, 64), chunk_shape=(32, 32, 32))
    volume.create()
    for z in (0, 32) if finished else (0,):
        values = np.arange(32 * 64 * 64, dtype=np.uint8).reshape(32, 64, 64)
        volume.write((slice(z, z + 32), slice(0, 64), slice(0, 64)), values)
    if finished:
        volume.finish({})
    return path


# --- The sample ---


@dataclass(frozen=True)
class Counting:
    """A storage of any size that counts the bytes it would decode."""

    shape: Shape
    chunk_shape: Shape
    name: str = "counting"
    decoded: list[int] = field(default_factory=list)
    dtype = np.dtype(np.uint16)

    def read(self, region: Region) -> np.ndarray:
        chunks = [-(-r.stop // c) - r.start // c for r, c in zip(region, self.chunk_shape, strict=True)]
        self.decoded.append(int(np.prod(chunks)) * int(np.prod(self.chunk_shape)) * self.dtype.itemsize)
        return np.ones([r.stop - r.start for r in region], self.dtype)

    def identity(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("chunk", [(64, 64, 64), (1, 1, 1), (256, 256, 256), (1, 5000, 5000), (512, 512, 512)])
def test_of_a_trillion_voxels_a_bounded_sample_is_read(chunk):
    storage = Counting((10_000, 10_000, 10_000), chunk)
    found = info(Volume(storage, 1.0))
    assert sum(storage.decoded) <= max(probe.BUDGET_BYTES, int(np.prod(chunk)) * 2)
    assert 1 <= found["sample"]["blocks"] <= 27
    assert "a sample of" in words(found)
    assert "0.01 % of the voxels" in words(found)


def test_a_chunk_that_is_too_large_is_not_decoded():
    storage = Counting((20_000, 30_000, 30_000), (1, 30_000, 30_000))
    found = info(Volume(storage, 1.0))
    assert storage.decoded == []
    assert "one chunk takes 1.7 GiB" in found["warnings"][0]


@given(shape=st.tuples(*[st.integers(1, 40)] * 3), chunk=st.tuples(*[st.integers(1, 20)] * 3), seed=seeds)
def test_blocks_of_the_sample_are_apart_and_hold_the_middle_and_the_corners(shape, chunk, seed):
    seen = np.zeros(shape, np.uint8)

    class Marking(MemoryArray):
        def read(self, region):
            seen[region] += 1
            return super().read(region)

    values = np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "LEAST_EDGE", 2)
        found = read_probe(Volume(Marking(values, "grey", "marking", chunk)))
    assert seen.max() == 1
    corners = seen[np.ix_(*([0, n - 1] for n in shape))]
    assert corners.all()
    read = values[seen == 1]
    assert found.voxels == read.size
    summary = found.summary()
    assert (summary["minimum"], summary["maximum"]) == (read.min(), read.max())
    assert summary["percentiles"] == pytest.approx(np.percentile(read, (1, 99)), abs=40)


def test_nan_in_the_sample_is_counted_and_warned_of():
    values = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    values[0, 0, :4] = np.nan
    values[1, 1, 0] = np.inf
    found = info(Volume(MemoryArray(values), 1.0))
    assert "0.977 % of the sample is NaN or infinite" in found["warnings"][0]
    assert found["sample"]["maximum"] < 1.0
    nothing = info(Volume(MemoryArray(np.full((3, 3, 3), np.nan)), 1.0))
    assert "no finite value" in words(nothing)


def test_a_zero_rim_outside_the_disc_is_warned_of():
    values = np.random.default_rng(0).integers(1, 100, (20, 64, 64)).astype(np.uint8)
    y, x = np.ogrid[-31.5:32, -31.5:32]
    values[:, y**2 + x**2 > 32**2] = 0
    assert any("outside the disc" in text for text in info(Volume(MemoryArray(values)))["warnings"])
    values[:, 0, 0:8] = 1
    values[:, -1, 0:8] = 1
    values[:, 0:3, -3:] = 1
    assert info(Volume(MemoryArray(values)))["warnings"] == []
    # A volume of zeros has no rim; it is constant.
    zeros = info(Volume(MemoryArray(np.zeros((4, 9, 9), np.uint8))))["warnings"]
    assert len(zeros) == 1
    assert "z = 0-3 (4 of the 4 looked at)" in zeros[0]


def test_constant_slices_are_named():
    values = np.random.default_rng(0).integers(0, 99, (16, 16, 16)).astype(np.uint8)
    values[:3] = 7
    values[9] = 0
    (text,) = info(Volume(MemoryArray(values)))["warnings"]
    assert "z = 0-2, 9 (4 of the 16 looked at)" in text


def test_some_blocks_that_cannot_be_read_are_a_warning(tmp_path):
    found = halves(tmp_path / "v.zarr", finished=True)
    shutil.rmtree(found / "0" / "c" / "1")
    found = info(found)
    assert found["sample"]["voxels"] == 32 * 64 * 64
    assert found["warnings"][0].startswith("some blocks could not be read")


def test_a_probe_of_one_voxel():
    found = Probe((1, 1, 1), "grey")
    found.add((slice(0, 1), slice(0, 1), slice(0, 1)), np.array([[[5]]], np.uint8))
    assert found.summary()["percentiles"] == [5.0, 5.0]


def test_real_scans_are_understood(real_data):
    tooth = info(real_data / "beamline_aps_tooth" / "tooth.h5", dataset="/exchange/data")
    assert (tooth["format"], tooth["shape"], tooth["dtype"]) == ("HDF5", [181, 2, 640], "float32")
    bone = info(real_data / "lhdl_trabecular_bone", voxel_size_um=19.5)
    assert bone["shape"] == [200, 200, 200]
    assert "3.9 mm x 3.9 mm x 3.9 mm" in words(bone)
    cotton = info(real_data / "cotton_fibres" / "cotton_test_volume.tif")
    assert any("slices that hold one value only" in text for text in cotton["warnings"])


def test_all_that_is_infinite_is_a_hundred_percent():
    probe_of = Probe((2, 2, 2), "grey", blocks=1, voxels=8, not_finite=8)
    assert probe_of.warnings()[0].startswith("100 % of the sample")
