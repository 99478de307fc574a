"""Which reader opens a file is told by what it holds, then by its name; the rest is refused with what to give."""

from __future__ import annotations

import gzip
import os
import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from tomoscale.errors import InputError
from tomoscale.formats import RawLayout, open_volume
from tomoscale.volume import create_volume

VALUES = np.random.default_rng(0).integers(0, 120, (5, 6, 7)).astype("u2")


def _zarr(path):
    volume = create_volume(path, shape=VALUES.shape, dtype="u2")
    volume.create()
    volume.write((slice(0, 5), slice(0, 6), slice(0, 7)), VALUES)
    volume.finish({})


def _hdf5(path):
    with h5py.File(path, "w") as file:
        file["scan"] = VALUES


def _slices(path):
    path.mkdir()
    for z, plane in enumerate(VALUES):
        tifffile.imwrite(path / f"{z}.tif", plane)


def _itk(path):
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(path))


WRITERS = {
    "v.zarr": _zarr,
    "v.h5": _hdf5,
    "v.tif": lambda p: tifffile.imwrite(p, VALUES),
    "slices": _slices,
    "v.mha": _itk,
    "v.nrrd": _itk,
    "v.nii": lambda p: nib.save(nib.Nifti1Image(VALUES.T, np.eye(4)), p),
    "v.nii.gz": lambda p: nib.save(nib.Nifti1Image(VALUES.T, np.eye(4)), p),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "renamed", ["same", "nothing", "v.data", "v.raw", "v.nii", "v.mha", "v.nrrd", "v.tif", "v.dat"]
)
def test_content_is_believed_before_the_name(tmp_path, name, renamed):
    WRITERS[name](tmp_path / name)
    path = tmp_path / (name if renamed == "same" else f"other_{renamed}")
    shutil.move(tmp_path / name, path)
    np.testing.assert_array_equal(open_volume(path, voxel_size_um=1000).read(), VALUES)


def test_a_layout_makes_any_file_raw(tmp_path):
    (tmp_path / "v.raw").write_bytes(b"head" + VALUES.astype(">u2").tobytes())
    volume = open_volume(tmp_path / "v.raw", voxel_size_um=3, raw=RawLayout(VALUES.shape, "uint16", "big", 4))
    np.testing.assert_array_equal(volume.read(), VALUES)
    assert volume.voxel_size_um == (3.0, 3.0, 3.0)
    _itk(tmp_path / "v.mha")
    size = (tmp_path / "v.mha").stat().st_size
    whole = open_volume(tmp_path / "v.mha", raw=RawLayout((1, 1, size), "uint8"))
    assert whole.read().tobytes().startswith(b"ObjectType = Image")


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("v.raw", 8 * 27, r"has 216 bytes and no header.* Its size would suit, for example, 6 x 6 x 6 of 8 bits\.\n"),
        ("s_5x6x7_16bit.vol", 420, r"for example, 5 x 6 x 7 of 16 bits; 7 x 6 x 5 of 16 bits\.\n"),
        ("s.dat", 421, r"has 421 bytes and no header, so nothing says how its voxels lie\.\n"),
        ("s.bin", 0, "has 0 bytes and no header"),
        ("0x0x0.raw", 0, r"has 0 bytes and no header, so nothing says how its voxels lie\.\n"),
    ],
)
def test_a_file_without_header_says_what_to_give(tmp_path, name, size, message):
    (tmp_path / name).write_bytes(bytes(size))
    with pytest.raises(InputError, match=message) as error:
        open_volume(tmp_path / name)
    assert "raw=RawLayout((1000, 800, 800), 'uint16') and voxel_size_um=5.0" in str(error.value)


@pytest.mark.parametrize("name", ["v.mha", "v.nrrd", "v.nii", "v.tif", "slices"])
def test_a_dataset_of_what_has_none_is_refused(tmp_path, name):
    WRITERS[name](tmp_path / name)
    with pytest.raises(ValueError, match=r"dataset 'scan' was given, but .* has none; leave it out"):
        open_volume(tmp_path / name, dataset="scan")


def test_a_dataset_of_raw_voxels_is_refused(tmp_path):
    (tmp_path / "v.raw").write_bytes(VALUES.tobytes())
    with pytest.raises(ValueError, match="dataset 'scan' was given, but a file of raw voxels has none"):
        open_volume(tmp_path / "v.raw", dataset="scan", raw=RawLayout(VALUES.shape, "uint16"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a file that begins with b'', which is not a format we read"),
        (b"some text", "a file that begins with b'some tex', which is not a format we read: Zarr, .* raw voxels with"),
        (gzip.compress(b"some text", mtime=0), r"a file that begins with b'\\x1f\\x8b"),
    ],
    ids=["empty", "text", "gzip"],
)
def test_anything_else_is_refused(tmp_path, content, message):
    (tmp_path / "thing.xyz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_volume(tmp_path / "thing.xyz")


def test_a_path_that_is_not_there_is_refused(tmp_path):
    for raw in (None, RawLayout((1, 1, 1), "uint8")):
        with pytest.raises(InputError, match="does not exist; check the path"):
            open_volume(tmp_path / "nothing.raw", raw=raw)


def test_one_object_in_every_format_is_the_same(real_data):
    folder = real_data / "formats_ormir"
    wanted = open_volume(folder / "test_mha.mha").read()
    for name in ("test_nrrd.nrrd", "test_nii.nii", "test_isq.ISQ", "test_aim.AIM", "test_dicom"):
        volume = open_volume(folder / name)
        found = volume.read()
        np.testing.assert_array_equal(found > found.min(), wanted > 0, err_msg=name)
        assert volume.voxel_size_um is None or volume.voxel_size_um == pytest.approx((60.7,) * 3, rel=1e-3)


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        open_volume(tmp_path / "pipe.tif")
