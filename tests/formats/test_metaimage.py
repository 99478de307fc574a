"""MetaImage as ITK writes it, and by hand where ITK cannot; broken ones give one clear error."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from tests.formats.written import VALUES, by_hand, write_by_itk
from tomoscale.errors import InputError
from tomoscale.formats import open_volume
from tomoscale.formats.metaimage import DTYPES, open_metaimage

write_by_hand = by_hand("""ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
ElementSpacing = 0.00065 0.002 0.003
DimSize = 7 6 5
ElementType = MET_USHORT
ElementDataFile = LOCAL
""")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_what_itk_writes_is_read(tmp_path, dtype, suffix, compressed):
    values = VALUES.astype(dtype)
    volume = open_volume(write_by_itk(tmp_path / f"v{suffix}", values, compressed=compressed))
    assert volume.dtype == values.dtype
    assert volume.voxel_size_um == pytest.approx((3, 2, 0.65), rel=1e-12)
    np.testing.assert_array_equal(volume.read(), values)
    np.testing.assert_array_equal(volume.read((slice(1, 4), slice(2, 5), slice(3, 6))), values[1:4, 2:5, 3:6])


PACKED = zlib.compress(VALUES.astype(">u2").tobytes())
VARIANTS = {
    "big": (
        VALUES.astype(">u2").tobytes(),
        ("BinaryDataByteOrderMSB = False", "BinaryDataByteOrderMSB = True"),
    ),
    "big, other key": (
        VALUES.astype(">u2").tobytes(),
        ("BinaryDataByteOrderMSB = False", "ElementByteOrderMSB = True"),
    ),
    "compressed big": (
        PACKED,
        ("BinaryDataByteOrderMSB = False", "BinaryDataByteOrderMSB = True"),
        ("CompressedData = False", f"CompressedData = True\nCompressedDataSize = {len(PACKED)}"),
    ),
    "long": (VALUES.astype("u4").tobytes(), ("MET_USHORT", "MET_ULONG")),
    "windows": (None, ("\n", "\r\n")),
    "comment first": (None, ("ObjectType = Image\n", "Comment = of a screw\n")),
    "no spaces": (None, (" = ", "=")),
    "element size": (None, ("ElementSpacing", "ElementSize")),
    "voxels at the end": (b"rubbish" + VALUES.tobytes(), ("ElementType", "HeaderSize = -1\nElementType")),
    "one channel": (None, ("ElementType", "ElementNumberOfChannels = 1\nElementType")),
    "a fourth axis of one": (None, ("NDims = 3", "NDims = 4"), ("DimSize = 7 6 5", "DimSize = 7 6 5 1")),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_by_hand(tmp_path, name):
    data, *replacements = VARIANTS[name]
    path = write_by_hand(tmp_path / "v.mha", data, *replacements)
    volume = open_volume(path)
    assert volume.voxel_size_um == pytest.approx((3, 2, 0.65))
    np.testing.assert_array_equal(volume.read(), VALUES)
    if name not in ("a fourth axis of one", "comment first"):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VALUES)


def test_a_header_of_the_raw_file_is_skipped(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "v.raw").write_bytes(b"h" * 100 + VALUES.tobytes())
    path = write_by_hand(
        tmp_path / "v.mhd", b"", ("LOCAL", "data/v.raw"), ("ElementType", "HeaderSize = 100\nElementType")
    )
    np.testing.assert_array_equal(open_volume(path).read(), VALUES)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VALUES)


def test_a_voxel_size_that_is_not_stated_must_be_given(tmp_path):
    path = write_by_hand(tmp_path / "v.mha", None, ("ElementSpacing = 0.00065 0.002 0.003\n", ""))
    assert open_volume(path).voxel_size_um is None
    assert open_volume(path, voxel_size_um=2).voxel_size_um == (2.0, 2.0, 2.0)
    with pytest.raises(InputError, match=r"2 x 2 x 2 µm was given but the file states"):
        open_volume(write_by_hand(tmp_path / "w.mha"), voxel_size_um=2)


BROKEN = {
    "truncated": (VALUES.tobytes()[:-1], (), r"has \d+ bytes, but 5 x 6 x 7 .* the file is truncated"),
    "too long": (VALUES.tobytes() + b"\0", (), "shape, type or offset are wrong"),
    "cut in the header": (b"", (("ElementDataFile = LOCAL\n", ""),), "no line 'ElementDataFile = ...'"),
    "absurd": (None, (("7 6 5", f"{10**9} {10**9} {10**9}"),), "take 2000000000000000000000000"),
    "thousands of digits": (None, (("7 6 5", "7 6 " + "9" * 5000),), "DimSize is '7 6 9+', but must be whole numbers"),
    "negative": (None, (("7 6 5", "7 -6 5"),), "DimSize are 7 x -6 x 5 voxels"),
    "zero": (None, (("7 6 5", "7 0 5"),), "DimSize are 7 x 0 x 5 voxels"),
    "words": (None, (("7 6 5", "seven six five"),), "DimSize is 'seven six five', but must be whole numbers"),
    "flat": (None, (("NDims = 3", "NDims = 2"), ("7 6 5", "42 5")), "DimSize are 42 x 5 voxels"),
    "in time": (None, (("NDims = 3", "NDims = 4"), ("7 6 5", "7 3 5 2")), "7 x 3 x 5 x 2 .* one volume of three axes"),
    "two ranks": (None, (("NDims = 3", "NDims = 2"),), "NDims is 2 but DimSize has 3 numbers"),
    "colours": (None, (("ElementType", "ElementNumberOfChannels = 3\nElementType"),), "export one time step, channel"),
    "no type": (None, (("ElementType = MET_USHORT\n", ""),), "its header has no ElementType"),
    "no sizes": (None, (("DimSize = 7 6 5\n", ""),), "its header has no DimSize"),
    "strange type": (
        None,
        (("MET_USHORT", "MET_USHORT_ARRAY"),),
        "ElementType 'MET_USHORT_ARRAY' is not read, only MET_",
    ),
    "text": (None, (("BinaryData = True", "BinaryData = False"),), "holds its voxels as text"),
    "list": (None, (("LOCAL", "LIST"),), "keeps every slice in a file of its own"),
    "series": (None, (("LOCAL", "v%03d.raw 1 5 1"),), "keeps every slice in a file of its own"),
    "not compressed": (
        None,
        (("CompressedData = False", "CompressedData = True"),),
        "is damaged: its compressed voxels cannot be decoded",
    ),
    "bomb": (
        zlib.compress(bytes(10**6)),
        (("CompressedData = False", "CompressedData = True"), ("7 6 5", "10000 10000 10000")),
        r"said to hold 2000000000000 bytes of voxels, but its \d+ compressed bytes can hold",
    ),
    "outside": (None, (("LOCAL", "../secret.raw"),), r"'../secret.raw', outside its folder"),
    "absolute": (None, (("LOCAL", "/etc/passwd"),), "'/etc/passwd', outside its folder"),
    "symbolic link": (None, (("LOCAL", "link.raw"),), r"'link.raw', outside its folder"),
    "zero in the name": (None, (("LOCAL", "a\0b"),), "which is no file name|is not there"),
    "gone": (None, (("LOCAL", "gone.raw"),), "'gone.raw', which is not there"),
    "no name": (None, (("LOCAL", ""),), "the data file '', which is not there"),
    "header size": (
        None,
        (("ElementType", "HeaderSize = -1\nElementType"), ("7 6 5", "7 6 500")),
        "or the file is truncated",
    ),
    "header size in the header": (
        None,
        (("ElementType", "HeaderSize = 9\nElementType"),),
        "begin at byte 9 of v.mha, before",
    ),
    "header sizes": (
        None,
        (("ElementType", "HeaderSize = 9 9\nElementType"),),
        "HeaderSize is '9 9', but must be one whole",
    ),
    "compressed with a header": (
        None,
        (("CompressedData = False", "CompressedData = True\nHeaderSize = 5"),),
        "HeaderSize 5 with compressed voxels is not read",
    ),
    "spacing 0": (None, (("0.00065 0.002 0.003", "0 1 1"),), "must be three positive lengths"),
    "spacing NaN": (None, (("0.00065 0.002 0.003", "nan 1 1"),), "must be three positive lengths"),
    "two spacings": (None, (("0.00065 0.002 0.003", "1 1"),), "must be three positive lengths"),
    "spacing words": (None, (("0.00065 0.002 0.003", "a b c"),), "ElementSpacing is 'a b c', but must be numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_one_clear_error(tmp_path, name):
    data, replacements, message = BROKEN[name]
    folder = tmp_path / "scan"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    path = write_by_hand(folder / "v.mha", data, *replacements)
    with pytest.raises(InputError, match=message) as error:
        open_volume(path).read()
    assert len(str(error.value).splitlines()) <= 8
    assert len(str(error.value)) < 900


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"nothing of the kind\n" * 100, b"ElementDataFile = LOCAL"])
def test_rubbish_is_refused(tmp_path, content):
    (tmp_path / "v.mha").write_bytes(content)
    with pytest.raises(InputError, match="is not a MetaImage that can be read"):
        open_volume(tmp_path / "v.mha")


def test_a_real_file_equals_itk_and_its_other_formats(real_data):
    folder = real_data / "formats_ormir"
    values = open_metaimage(folder / "test_mha.mha").read()
    np.testing.assert_array_equal(values, sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "test_mha.mha"))))
    assert values.sum() == 81
    for other in ("test_nrrd.nrrd", "test_nii.nii"):
        np.testing.assert_array_equal(open_volume(folder / other).read(), values)


def test_the_types_have_the_sizes_itk_knows(tmp_path):
    for name, dtype in DTYPES.items():
        data = VALUES.astype(dtype).tobytes()
        path = write_by_hand(tmp_path / "v.mha", data, ("MET_USHORT", name))
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        np.testing.assert_array_equal(found, open_volume(path).read(), err_msg=name)
