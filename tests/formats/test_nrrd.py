"""NRRD as ITK writes it, and by hand in its many spellings; broken ones give one clear error."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from tests.formats.written import VALUES, by_hand, write_by_itk
from tomoscale.errors import InputError
from tomoscale.formats import open_volume

write_by_hand = by_hand("""NRRD0004
# made by hand
type: unsigned short
dimension: 3
sizes: 7 6 5
spacings: 0.00065 0.002 0.003
units: "mm" "mm" "mm"
endian: little
encoding: raw
who:=somebody: else

""")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_what_itk_writes_is_read(tmp_path, dtype, suffix, compressed):
    values = VALUES.astype(dtype)
    volume = open_volume(write_by_itk(tmp_path / f"v{suffix}", values, compressed=compressed))
    assert volume.dtype == values.dtype
    assert volume.voxel_size_um is None  # ITK writes lengths without their unit
    np.testing.assert_array_equal(volume.read(), values)
    np.testing.assert_array_equal(volume.read((slice(1, 4), slice(2, 5), slice(3, 6))), values[1:4, 2:5, 3:6])


BIG = VALUES.astype(">u2").tobytes()
VARIANTS = {
    "as it is": (None, ()),
    "big": (BIG, (("little", "big"),)),
    "gz": (gzip.compress(VALUES.tobytes()), (("raw", "gz"),)),
    "gzip big": (gzip.compress(BIG), (("raw", "gzip"), ("little", "big"))),
    "short type": (None, (("unsigned short", "ushort"),)),
    "long type": (None, (("unsigned short", "unsigned short int"),)),
    "exact type": (None, (("unsigned short", "uint16_t"),)),
    "capitals": (None, (("type:", "Type:"), ("raw", "RAW"), ("little", "Little"))),
    "windows": (None, (("\n", "\r\n"),)),
    "byte skip": (b"12345" + VALUES.tobytes(), (("endian", "byte skip: 5\nendian"),)),
    "byteskip to the end": (b"12345" + VALUES.tobytes(), (("endian", "byteskip: -1\nendian"),)),
    "a fourth axis of one": (
        None,
        (("dimension: 3", "dimension: 4"), ("7 6 5", "7 6 5 1"), ("0.003", "0.003 nan"), ('"mm"\n', '"mm" ""\n')),
    ),
    "newer": (None, (("NRRD0004", "NRRD0005"),)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_by_hand(tmp_path, name):
    data, replacements = VARIANTS[name]
    path = write_by_hand(tmp_path / "v.nrrd", data, *replacements)
    volume = open_volume(path)
    assert volume.voxel_size_um == pytest.approx((3, 2, 0.65))
    np.testing.assert_array_equal(volume.read(), VALUES)
    if name not in (
        "a fourth axis of one",
        "byte skip",
    ):  # the library ITK uses loses bytes to skip in attached headers
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VALUES)


@pytest.mark.parametrize("key", ["data file", "datafile"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_detached_file_of_voxels(tmp_path, key, compressed):
    (tmp_path / "data").mkdir()
    content = VALUES.tobytes()
    (tmp_path / "data" / "v.raw").write_bytes(gzip.compress(content) if compressed else content)
    encoding = "gzip" if compressed else "raw"
    path = write_by_hand(tmp_path / "v.nhdr", b"", ("encoding: raw", f"encoding: {encoding}\n{key}: data/v.raw"))
    np.testing.assert_array_equal(open_volume(path).read(), VALUES)


UNITS = {
    "spacings with units": ("", "", (3, 2, 0.65)),
    "one axis in another unit": ('"mm" "mm" "mm"', '"mm" "mm" "um"', (0.003, 2, 0.65)),
    "no units": ('units: "mm" "mm" "mm"\n', "", None),
    "unknown unit": ('"mm" "mm" "mm"', '"mm" "mm" "pixel"', None),
    "two units": ('"mm" "mm" "mm"', '"mm" "mm"', None),
    "no spacings": ("spacings: 0.00065 0.002 0.003\n", "", None),
    "vectors with units": (
        'spacings: 0.00065 0.002 0.003\nunits: "mm" "mm" "mm"\n',
        'space dimension: 3\nspace units: "um" "um" "um"\nspace directions: (0,0.65,0) (1.2,0,1.6) (0,0,3)\n',
        (3, 2, 0.65),
    ),
    "vectors with an unknown unit": (
        'spacings: 0.00065 0.002 0.003\nunits: "mm" "mm" "mm"\n',
        'space dimension: 3\nspace units: "um" "pixel" "um"\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n',
        None,
    ),
    "vectors without units": (
        'spacings: 0.00065 0.002 0.003\nunits: "mm" "mm" "mm"\n',
        "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n",
        None,
    ),
}


@pytest.mark.parametrize("name", UNITS)
def test_a_voxel_size_is_believed_with_its_unit_alone(tmp_path, name):
    old, new, expected = UNITS[name]
    path = write_by_hand(tmp_path / "v.nrrd", None, (old, new) if old else ("", ""))
    found = open_volume(path).voxel_size_um
    assert found is None if expected is None else found == pytest.approx(expected)
    if expected is None:
        assert open_volume(path, voxel_size_um=2).voxel_size_um == (2.0, 2.0, 2.0)


VECTORS = 'spacings: 0.00065 0.002 0.003\nunits: "mm" "mm" "mm"\n'
BROKEN = {
    "truncated": (VALUES.tobytes()[:-1], (), r"has \d+ bytes, but 5 x 6 x 7 .* the file is truncated"),
    "too long": (VALUES.tobytes() + b"\0", (), "shape, type or offset are wrong"),
    "no end of the header": (b"", (("\n\n", "\n"),), "its header does not end with an empty line"),
    "absurd": (None, (("7 6 5", f"{10**9} {10**9} {10**9}"),), "take 2000000000000000000000000"),
    "negative": (None, (("7 6 5", "7 -6 5"),), "sizes are 7 x -6 x 5 voxels"),
    "fractions": (None, (("7 6 5", "7 6 5.5"),), "sizes is '7 6 5.5', but must be whole numbers"),
    "flat": (None, (("dimension: 3", "dimension: 2"), ("7 6 5", "42 5")), "sizes are 42 x 5 voxels"),
    "vectors of three": (None, (("dimension: 3", "dimension: 4"), ("7 6 5", "3 7 2 5")), "3 x 7 x 2 x 5 .* three axes"),
    "two ranks": (None, (("dimension: 3", "dimension: 4"),), "dimension is 4 but there are 3 sizes"),
    "rank of words": (None, (("dimension: 3", "dimension: three"),), "dimension is 'three', but must be whole numbers"),
    "no type": (None, (("type: unsigned short\n", ""),), "its header has no type"),
    "no encoding": (None, (("encoding: raw\n", ""),), "its header has no encoding"),
    "block": (None, (("unsigned short", "block"),), "type 'block' is not read"),
    "no byte order": (
        None,
        (("endian: little\n", ""),),
        "endian is '', but must be little or big for voxels of uint16",
    ),
    "text": (None, (("encoding: raw", "encoding: ascii"),), "encoding 'ascii' is not read, only raw and gzip"),
    "bzip2": (None, (("encoding: raw", "encoding: bzip2"),), "encoding 'bzip2' is not read"),
    "line skip": (None, (("endian", "line skip: 2\nendian"),), "line skip 2 and byte skip 0 .* are not read"),
    "skip in gzip": (None, (("raw", "gzip\nbyte skip: 4"),), "byte skip 4 with encoding gzip are not read"),
    "skips": (None, (("endian", "byte skip: 1 2\nendian"),), "byte skip is '1 2', but must be one whole number"),
    "too few for the end": (b"", (("endian", "byte skip: -1\nendian"),), "is truncated, or its sizes 7 6 5 are wrong"),
    "list": (None, (("encoding: raw", "encoding: raw\ndata file: LIST"),), "keeps its voxels in several files"),
    "series": (None, (("encoding: raw", "encoding: raw\ndata file: v%03d.raw 1 5 1"),), "in several files"),
    "not gzip": (None, (("raw", "gzip"),), "is damaged: its compressed voxels cannot be decoded"),
    "cut gzip": (gzip.compress(VALUES.tobytes())[:-20], (("raw", "gzip"),), "is truncated: its compressed voxels end"),
    "bomb": (
        gzip.compress(bytes(10**6)),
        (("raw", "gzip"), ("7 6 5", "10000 10000 10000")),
        r"said to hold 2000000000000 bytes of voxels, but its \d+ compressed bytes can hold",
    ),
    "outside": (None, (("encoding: raw", "encoding: raw\ndata file: ../secret.raw"),), "outside its folder"),
    "absolute": (None, (("encoding: raw", "encoding: raw\ndata file: /etc/passwd"),), "outside its folder"),
    "symbolic link": (None, (("encoding: raw", "encoding: raw\ndata file: link.raw"),), "outside its folder"),
    "gone": (None, (("encoding: raw", "encoding: raw\ndata file: gone.raw"),), "'gone.raw', which is not there"),
    "spacing 0": (None, (("0.00065", "0"),), "must be three positive lengths"),
    "spacing words": (None, (("0.00065", "small"),), "spacings is 'small 0.002 0.003', but must be numbers"),
    "short vector": (
        None,
        ((VECTORS, 'space units: "mm" "mm" "mm"\nspace directions: (1,0,0) (0,1) (0,0,1)\n'),),
        r"a space direction \(0,1\) has 2 numbers, but 3 units",
    ),
    "vector of zeros": (
        None,
        ((VECTORS, 'space units: "mm" "mm" "mm"\nspace directions: (1,0,0) (0,0,0) (0,0,1)\n'),),
        "must be three positive lengths",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_one_clear_error(tmp_path, name):
    data, replacements, message = BROKEN[name]
    folder = tmp_path / "scan"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    path = write_by_hand(folder / "v.nrrd", data, *replacements)
    with pytest.raises(InputError, match=message) as error:
        open_volume(path).read()
    assert len(str(error.value).splitlines()) <= 8
    assert len(str(error.value)) < 900


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"NRR", b"nothing of the kind\n" * 100])
def test_rubbish_is_refused(tmp_path, content):
    (tmp_path / "v.nrrd").write_bytes(content)
    with pytest.raises(InputError, match="is not a NRRD: it begins with"):
        open_volume(tmp_path / "v.nrrd")


def test_a_real_file_equals_itk(real_data):
    path = real_data / "formats_ormir" / "test_nrrd.nrrd"
    np.testing.assert_array_equal(open_volume(path).read(), sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
