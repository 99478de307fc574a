"""What is exported is read back to the bit, by other programs' libraries and by our own readers."""

from __future__ import annotations

import gzip
import os
import re
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError, PlanError
from tomoscale.formats import export, open_volume
from tomoscale.formats.export import FORMATS, export_volume
from tomoscale.volume import MemoryArray, Volume, create_volume, open_zarr
from tomoscale.zarr_metadata import DTYPES

TARGETS = ("slices", "v.tif", "v.tiff", "v.nii", "v.nii.gz", "v.mha", "v.mhd")
SIZE = (3.25, 2.0, 0.65)
VALUES = np.random.default_rng(0).integers(0, 60000, (9, 10, 11)).astype("u2")


def volume_of(values, size=SIZE, chunk=(4, 3, 5)):
    return Volume(MemoryArray(values, chunk_shape=chunk), size)


def any_values(seed, shape, dtype):
    generator = np.random.default_rng(seed)
    if dtype == "bool":
        return generator.random(shape) < 0.5
    return np.frombuffer(generator.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)


def can_hold(target, dtype):
    (chosen,) = (f for f in FORMATS.values() if "".join(Path(target).suffixes) in f.suffixes)
    return dtype in chosen.dtypes or dtype == "bool"


def read_by_others(path):
    """Voxels (z, y, x) by tifffile, nibabel or ITK."""
    if path.is_dir():
        return np.stack([tifffile.imread(path / name) for name in sorted(os.listdir(path))])
    if path.suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as tif:
            return np.stack([page.asarray() for page in tif.pages])
    if path.name.endswith((".nii", ".nii.gz")):
        return np.asarray(nib.load(path).dataobj).T
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize(("target", "dtype"), [(t, d) for t in TARGETS for d in DTYPES if can_hold(t, d)])
def test_every_dtype_comes_back_to_the_bit(tmp_path, target, dtype):
    values = any_values(1, (5, 6, 7), dtype)
    path = export_volume(volume_of(values), tmp_path / target)
    assert path == tmp_path / target
    wanted = values.astype("u1") if dtype == "bool" else values
    volume = open_volume(path)
    for found in (volume.read(), read_by_others(path)):
        assert found.dtype.newbyteorder("=") == wanted.dtype
        assert found.tobytes() == wanted.tobytes()
    assert volume.voxel_size_um == pytest.approx(SIZE, rel=1e-6)


@given(
    seed=seeds,
    shape=small_shapes,
    chunk=block_shapes,
    piece_bytes=st.integers(1, 2000),
    target=st.sampled_from(TARGETS),
    data=st.data(),
)
def test_any_region_by_any_pieces_is_the_same(tmp_path_factory, seed, shape, chunk, piece_bytes, target, data):
    values = any_values(seed, shape, "int16")
    region = tuple(
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in shape
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "PIECE_BYTES", piece_bytes)
        path = export_volume(volume_of(values, chunk=chunk), tmp_path_factory.mktemp("e") / target, region=region)
    np.testing.assert_array_equal(open_volume(path).read(), values[region])


@given(shape=small_shapes, chunk=block_shapes, piece_bytes=st.integers(1, 4000), data=st.data())
def test_pieces_tile_the_region_and_decode_each_chunk_once(shape, chunk, piece_bytes, data):
    region = tuple(
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in shape
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "PIECE_BYTES", piece_bytes)
        pieces = list(export._pieces(region, chunk, 2))
    covered, chunks = np.zeros(shape, int), []
    for piece in pieces:
        covered[piece] += 1
        lengths = [p.stop - p.start for p in piece]
        inside = all(n <= c for n, c in zip(lengths, chunk, strict=True))
        assert inside or np.prod(lengths) * 2 <= piece_bytes
        spans = [range(p.start // c, -(-p.stop // c)) for p, c in zip(piece, chunk, strict=True)]
        chunks += [(z, y, x) for z in spans[0] for y in spans[1] for x in spans[2]]
    assert (covered[region] == 1).all()
    assert covered.sum() == covered[region].size
    assert len(chunks) == len(set(chunks))


def test_other_programs_find_the_voxel_size(tmp_path):
    volume = volume_of(VALUES)
    image = nib.load(export_volume(volume, tmp_path / "v.nii"))
    assert image.header.get_xyzt_units() == ("mm", "unknown")
    assert image.header.get_zooms() == pytest.approx((0.00065, 0.002, 0.00325))
    assert np.diag(image.affine) == pytest.approx((0.00065, 0.002, 0.00325, 1))
    for name in ("v.nii", "v.nii.gz", "v.mha", "v.mhd"):
        found = sitk.ReadImage(str(export_volume(volume, tmp_path / name, overwrite=True)))
        assert found.GetSpacing() == pytest.approx((0.00065, 0.002, 0.00325), rel=1e-6)
    with tifffile.TiffFile(export_volume(volume, tmp_path / "v.tif")) as tif:
        assert tif.is_bigtiff
        assert tif.imagej_metadata["unit"] == "um"
        assert tif.imagej_metadata["spacing"] == 3.25
        assert tif.imagej_metadata["slices"] == len(tif.pages) == 9
        pixels, units = tif.pages[0].tags["XResolution"].value
        assert units / pixels == pytest.approx(0.65, rel=1e-6)


def test_a_packed_file_is_the_plain_one_and_the_same_every_time(tmp_path, monkeypatch):
    volume = volume_of(VALUES)
    plain = export_volume(volume, tmp_path / "v.nii").read_bytes()
    packed = export_volume(volume, tmp_path / "V.NII.GZ").read_bytes()
    assert gzip.decompress(packed) == plain
    assert packed[3:8] == bytes(5)  # no name, no time
    monkeypatch.setattr(export, "PIECE_BYTES", 100)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert export_volume(volume, tmp_path / "other.nii.gz").read_bytes() == packed
    assert sorted(os.listdir(tmp_path)) == ["V.NII.GZ", "other.nii.gz", "v.nii"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_unknown_voxel_size_stays_unknown(tmp_path, target):
    assert open_volume(export_volume(volume_of(VALUES, None), tmp_path / target)).voxel_size_um is None


def test_slices_keep_their_number_with_zeros_before_it(tmp_path):
    path = export_volume(volume_of(VALUES), tmp_path / "part", region=(slice(3, 6), slice(None), slice(2, None)))
    assert sorted(os.listdir(path)) == ["slice_0003.tif", "slice_0004.tif", "slice_0005.tif"]
    np.testing.assert_array_equal(open_volume(path).read(), VALUES[3:6, :, 2:])
    long = volume_of(np.arange(10002, dtype="u4").reshape(-1, 1, 1))
    many = export_volume(long, tmp_path / "many", region=(slice(9998, None), slice(None), slice(None)))
    assert sorted(os.listdir(many)) == [f"slice_{z:05d}.tif" for z in range(9998, 10002)]
    np.testing.assert_array_equal(open_volume(many).read(), long.read()[9998:])


def test_a_long_axis_makes_a_nifti_2(tmp_path):
    values = np.arange(32768, dtype="u2").reshape(1, 1, -1)
    path = export_volume(volume_of(values), tmp_path / "v.nii")
    assert isinstance(nib.load(path), nib.Nifti2Image)
    assert isinstance(nib.load(export_volume(volume_of(values[..., :-1]), tmp_path / "w.nii")), nib.Nifti1Image)
    np.testing.assert_array_equal(read_by_others(path), values)
    assert open_volume(path).voxel_size_um == SIZE


def test_a_path_and_a_level_of_it_are_exported(tmp_path):
    volume = create_volume(tmp_path / "v.zarr", shape=VALUES.shape, dtype="u2", voxel_size_um=SIZE)
    volume.create()
    volume.write(tuple(slice(0, n) for n in VALUES.shape), VALUES)
    volume.finish({})
    np.testing.assert_array_equal(open_volume(export_volume(tmp_path / "v.zarr", tmp_path / "a.nii")).read(), VALUES)
    level = open_zarr(tmp_path / "v.zarr", array="0")
    np.testing.assert_array_equal(open_volume(export_volume(level, tmp_path / "b.mha")).read(), VALUES)


def test_memory_depends_on_the_piece_and_not_on_the_volume(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "PIECE_BYTES", 2**20)
    values = np.zeros((64, 512, 512), "u1")
    for target in ("v.mha", "slices", "v.tif", "v.nii.gz"):
        with Traced() as traced:
            export_volume(volume_of(values, chunk=(16, 64, 64)), tmp_path / target)
        assert traced.peak_bytes < 4 * 2**20


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_there_is_replaced_on_request_alone(tmp_path, target):
    export_volume(volume_of(VALUES), tmp_path / target)
    with pytest.raises(PlanError, match=f"{re.escape(target)} exists: give another name, or overwrite=True"):
        export_volume(volume_of(VALUES), tmp_path / target)
    export_volume(volume_of(VALUES[:4] + 1), tmp_path / target, overwrite=True)
    np.testing.assert_array_equal(open_volume(tmp_path / target).read(), VALUES[:4] + 1)
    expected = {"v.mhd", "v.raw"} if target == "v.mhd" else {target}
    assert set(os.listdir(tmp_path)) == expected


def test_nothing_but_a_result_of_that_kind_is_replaced(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "important.txt").write_text("keep")
    for target in ("notes", "v.nii"):
        (tmp_path / "v.nii").mkdir(exist_ok=True)
        with pytest.raises(PlanError, match="so overwrite=True does not remove it"):
            export_volume(volume_of(VALUES), tmp_path / target, overwrite=True)
    (tmp_path / "v.raw").write_bytes(b"of another scan")
    with pytest.raises(PlanError, match=r"v\.raw exists"):
        export_volume(volume_of(VALUES), tmp_path / "v.mhd")
    assert (tmp_path / "notes" / "important.txt").read_text() == "keep"


@pytest.mark.parametrize("target", ["v.mhd", "slices", "slices/v.nii"])
def test_the_source_is_never_its_own_target(tmp_path, target):
    source = open_volume(export_volume(volume_of(VALUES), tmp_path / target.split("/")[0]))
    with pytest.raises(PlanError, match=r"is, holds or lies in .*, which it is to be made of"):
        export_volume(source, tmp_path / target, overwrite=True)
    np.testing.assert_array_equal(source.read(), VALUES)


class _Failing(MemoryArray):
    def read(self, region):
        if region[0].start > 4:
            raise InputError("slice 5 is damaged")
        return super().read(region)


@pytest.mark.parametrize("target", TARGETS)
def test_a_failure_leaves_nothing_and_what_was_there(tmp_path, monkeypatch, target):
    monkeypatch.setattr(export, "PIECE_BYTES", 1)
    failing = Volume(_Failing(VALUES), SIZE)
    with pytest.raises(InputError, match="slice 5 is damaged"):
        export_volume(failing, tmp_path / target)
    assert os.listdir(tmp_path) == []
    export_volume(volume_of(VALUES), tmp_path / target)
    with pytest.raises(InputError, match="slice 5 is damaged"):
        export_volume(failing, tmp_path / target, overwrite=True)
    np.testing.assert_array_equal(open_volume(tmp_path / target).read(), VALUES)


def test_what_stands_under_the_name_is_whole_at_every_moment(tmp_path, monkeypatch):
    """Stopped before each renaming, there is the old result, none, or the new one, but never a mixture."""
    rename = os.replace
    for stop_at in range(3):
        path = export_volume(volume_of(VALUES), tmp_path / f"{stop_at}.mhd")
        calls = []

        def stopping(*a, calls=calls, stop_at=stop_at):
            calls.append(a)
            if len(calls) > stop_at:
                raise KeyboardInterrupt
            rename(*a)

        monkeypatch.setattr(os, "replace", stopping)
        if stop_at < 2:
            with pytest.raises(KeyboardInterrupt):
                export_volume(volume_of(VALUES + 1), path, overwrite=True)
            assert not path.exists()
        else:
            export_volume(volume_of(VALUES + 1), path, overwrite=True)
            np.testing.assert_array_equal(open_volume(path).read(), VALUES + 1)
        monkeypatch.setattr(os, "replace", rename)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        (
            "v.png",
            {},
            r"'\.png' tells no format we write; end the name in one of \.tif, \.tiff, \.nii, \.nii\.gz, \.mha, \.mhd",
        ),
        ("v.tif.gz", {}, r"'\.gz' tells no format we write"),
        ("scan_0.65um", {}, "or give format='tiff' for a folder of slices"),
        ("v.tif", {"format": "png"}, "format must be one of tiff, bigtiff, nifti, metaimage, got 'png'"),
        ("v", {"format": "nifti"}, r"the name of NIfTI must end in \.nii or \.nii\.gz"),
        ("v.mha", {"format": "nifti"}, r"the name of NIfTI must end in \.nii"),
        (
            "v.tif",
            {"format": "tiff"},
            "the name of a folder of TIFF slices must end in nothing that tells another format",
        ),
        (
            "v.tif",
            {"region": (slice(0, 9), slice(0, 11), slice(0, 11))},
            "y 0:11 is not inside the volume, whose y is 0:10",
        ),
        ("v.tif", {"region": (slice(3, 3), slice(0, 9), slice(0, 9))}, "z 3:3 is not inside the volume"),
        ("v.tif", {"region": (slice(-3, None), slice(0, 9), slice(0, 9))}, "z -3:9 is not inside the volume"),
        ("v.tif", {"region": (slice(0, 9, 2), slice(0, 9), slice(0, 9))}, "three slices .* without steps"),
        ("v.tif", {"region": (slice(0, 9), slice(0, 9))}, "three slices"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, target, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_volume(volume_of(VALUES), tmp_path / target, **arguments)
    assert os.listdir(tmp_path) == []


def test_a_folder_with_a_dot_in_its_name(tmp_path):
    path = export_volume(volume_of(VALUES), tmp_path / "scan_0.65um", format="tiff")
    np.testing.assert_array_equal(open_volume(path).read(), VALUES)


@pytest.mark.parametrize("target", ["v.nii", "v.nii.gz", "v.mha"])
def test_a_dtype_the_format_lacks_is_refused(tmp_path, target):
    with pytest.raises(ValueError, match=r"holds float16, which .* cannot: export TIFF .*, or convert it to float32"):
        export_volume(volume_of(VALUES.astype("f2")), tmp_path / target)


def huge(shape):
    """A volume of one voxel said to be many."""
    return volume_of(np.broadcast_to(np.zeros((1, 1, 1), "u2"), shape))


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(PlanError, match=r"needs 2273.7 TiB but .* GiB free: make room, or export a region"):
        export_volume(huge((50000, 50000, 500000)), tmp_path / "v.mha")
    # The plain file lies beside the packed one while that is made.
    with pytest.raises(PlanError, match=r"v\.nii\.gz needs 4547.5 TiB but"):
        export_volume(huge((50000, 50000, 500000)), tmp_path / "v.nii.gz")
    with pytest.raises(ValueError, match=r"a slice takes 2.3 GiB, but 2 GiB is the most .* export \.nii or \.mha"):
        export_volume(huge((1, 35000, 35000)), tmp_path / "v.tif")
    with pytest.raises(PlanError, match="is not a folder that exists: make it"):
        export_volume(volume_of(VALUES), tmp_path / "no" / "v.mha")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fails_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PlanError, match=r"v\.mha cannot be written: .*No space left on device; nothing of it is left"):
        export_volume(volume_of(VALUES), tmp_path / "v.mha")
    assert os.listdir(tmp_path) == []


def test_a_percent_sign_in_the_name_is_no_series(tmp_path):
    path = export_volume(volume_of(VALUES), tmp_path / "50%d porous.mhd")
    np.testing.assert_array_equal(open_volume(path).read(), VALUES)
    np.testing.assert_array_equal(read_by_others(path), VALUES)
