"""NIfTI as nibabel writes it equals its arrays; broken ones give one clear error."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from tomoscale.errors import InputError
from tomoscale.formats import open_volume

VALUES = np.random.default_rng(0).integers(0, 120, (5, 6, 7)).astype("u2")
IMAGES = {1: nib.Nifti1Image, 2: nib.Nifti2Image}


def write(path, values, *, version=1, byte_order="<", unit="mm", spacing=(0.00065, 0.002, 0.003), pair=False):
    """Write with nibabel, whose axes are (x, y, z, ...)."""
    kind = {(1, True): nib.Nifti1Pair, (2, True): nib.Nifti2Pair}.get((version, pair), IMAGES[version])
    header = kind.header_class(endianness=byte_order)
    header.set_data_dtype(values.dtype.newbyteorder(byte_order))
    image = kind(values.T, np.diag([*spacing, 1.0]), header=header)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_what_nibabel_writes_is_read(tmp_path, dtype, suffix, byte_order, version):
    values = VALUES.astype(dtype)
    path = write(tmp_path / f"v{suffix}", values, version=version, byte_order=byte_order)
    volume = open_volume(path)
    assert volume.dtype == values.dtype
    assert volume.voxel_size_um == pytest.approx((3, 2, 0.65), rel=1e-12)
    np.testing.assert_array_equal(volume.read(), values)
    np.testing.assert_array_equal(volume.read((slice(1, 4), slice(2, 5), slice(3, 6))), values[1:4, 2:5, 3:6])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("compressed", [False, True])
def test_pairs_open_by_either_file(tmp_path, version, compressed):
    write(tmp_path / "v.img", VALUES, version=version, pair=True)
    if compressed:
        (tmp_path / "v.img.gz").write_bytes(gzip.compress((tmp_path / "v.img").read_bytes()))
        (tmp_path / "v.img").unlink()
    for name in ("v.hdr", "v.img.gz" if compressed else "v.img"):
        volume = open_volume(tmp_path / name)
        assert volume.voxel_size_um == pytest.approx((3, 2, 0.65))
        np.testing.assert_array_equal(volume.read(), VALUES)


def test_a_pair_without_its_voxels_is_refused(tmp_path):
    write(tmp_path / "v.img", VALUES, pair=True)
    (tmp_path / "v.img").unlink()
    with pytest.raises(InputError, match=r"v\.hdr keeps its voxels in v\.img, which is not there"):
        open_volume(tmp_path / "v.hdr")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("mm", (3e3, 2e3, 1e3)), ("micron", (3, 2, 1)), ("meter", (3e6, 2e6, 1e6)), ("unknown", None)],
)
def test_the_unit_counts(tmp_path, unit, expected):
    path = write(tmp_path / "v.nii", VALUES, unit=unit, spacing=(1, 2, 3))
    assert open_volume(path).voxel_size_um == expected
    if expected is None:
        assert open_volume(path, voxel_size_um=2).voxel_size_um == (2.0, 2.0, 2.0)


def test_what_itk_writes_is_read(tmp_path):
    image = sitk.GetImageFromArray(VALUES)
    image.SetSpacing((0.1, 0.2, 0.3))
    for name in ("v.nii", "v.nii.gz", "v.hdr"):
        sitk.WriteImage(image, str(tmp_path / name))
        volume = open_volume(tmp_path / name)
        assert volume.voxel_size_um == (300.0, 200.0, 100.0)
        np.testing.assert_array_equal(volume.read(), VALUES)


def test_axes_of_one_may_follow(tmp_path):
    path = write(tmp_path / "v.nii", VALUES[None, None])
    np.testing.assert_array_equal(open_volume(path).read(), VALUES)


def test_extensions_are_skipped(tmp_path):
    image = nib.Nifti1Image(VALUES.T, np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"of a screw" * 20))
    nib.save(image, tmp_path / "v.nii")
    volume = open_volume(tmp_path / "v.nii")
    assert volume.storage.offset_bytes > 500
    np.testing.assert_array_equal(volume.read(), VALUES)


def test_an_offset_of_zero_is_the_end_of_the_header(tmp_path):
    content = bytearray(write(tmp_path / "v.nii", VALUES).read_bytes())
    struct.pack_into("<f", content, 108, 0.0)
    (tmp_path / "v.nii").write_bytes(content)
    np.testing.assert_array_equal(open_volume(tmp_path / "v.nii").read(), VALUES)


def test_scaled_values_are_refused_and_scaling_by_one_is_none(tmp_path):
    scaled = nib.Nifti1Image(np.linspace(0, 1, 210).reshape(7, 6, 5), np.eye(4))
    scaled.set_data_dtype("i2")
    nib.save(scaled, tmp_path / "scaled.nii")
    with pytest.raises(InputError, match=r"stores scaled values \(scl_slope .*: save it as float32 without scaling"):
        open_volume(tmp_path / "scaled.nii")
    content = bytearray(write(tmp_path / "v.nii", VALUES).read_bytes())
    for slope, intercept, accepted in (
        (1, 0, True),
        (0, 5, True),
        (np.nan, np.nan, True),
        (1, np.nan, True),
        (1, -1, False),
    ):
        struct.pack_into("<2f", content, 112, slope, intercept)
        (tmp_path / "s.nii").write_bytes(content)
        if accepted:
            np.testing.assert_array_equal(open_volume(tmp_path / "s.nii").read(), VALUES)
        else:
            with pytest.raises(InputError, match=r"scl_slope 1, scl_inter -1"):
                open_volume(tmp_path / "s.nii")


def test_a_terabyte_header_costs_nothing(tmp_path):
    with write(tmp_path / "v.nii", VALUES).open("r+b") as file:
        file.seek(42)
        file.write(struct.pack("<3h", 30000, 20000, 10000))
        file.truncate(352 + 2 * 30000 * 20000 * 10000)
    volume = open_volume(tmp_path / "v.nii")
    assert volume.shape == (10000, 20000, 30000)
    assert not volume.read((slice(9999, 10000), slice(5, 9), slice(0, 30000))).any()


def field(code, offset, *values):
    def change(content):
        struct.pack_into(f"<{code}", content, offset, *values)

    return change


def keep(count):
    def change(content):
        del content[count:]

    return change


BROKEN = {
    "truncated": (
        keep(-1),
        r"has 771 bytes, but 5 x 6 x 7 .* after 352 bytes of header take 772: the file is truncated",
    ),
    "too long": (lambda c: c.extend(b"\0"), "has 773 bytes, .* take 772: shape, type or offset are wrong"),
    "cut in the header": (keep(347), "it has no signature n.1, ni1, n.2 or ni2, or ends within its header"),
    "empty": (keep(0), "or ends within its header"),
    "absurd": (field("3h", 42, 32767, 32767, 32767), r"take 70362301923678"),
    "negative": (field("3h", 42, 7, -6, 5), "dim are 7 x -6 x 5 voxels"),
    "zero": (field("3h", 42, 7, 0, 5), "dim are 7 x 0 x 5 voxels"),
    "flat": (field("h", 40, 2), "dim are 7 x 6 voxels"),
    "in time": (field("5h", 40, 4, 7, 6, 1, 5), r"dim are 7 x 6 x 1 x 5 voxels .* export one time step"),
    "many axes": (field("h", 40, 99), "its header is damaged: it tells of 99 axes"),
    "no axes": (field("h", 40, 0), "its header is damaged: it tells of 0 axes"),
    "size of the header": (field("i", 0, 1234), "its header does not begin with its size, 348"),
    "signature": (field("4s", 344, b"nope"), "it has no signature"),
    "complex": (field("2h", 70, 32, 64), "NIfTI data type 32 is not read, only uint8"),
    "colours": (field("2h", 70, 128, 24), "NIfTI data type 128 is not read"),
    "bits": (field("2h", 70, 512, 8), "datatype 512 with 8 bits a voxel"),
    "offset in the header": (field("f", 108, 100.0), "begin at byte 100, within the header of 352"),
    "offset NaN": (field("f", 108, float("nan")), "voxels from byte nan on"),
    "offset infinite": (field("f", 108, float("inf")), "voxels from byte inf on"),
    "offset negative": (field("f", 108, -352.0), "voxels from byte -352.0 on"),
    "offset behind the end": (field("f", 108, 1e9), r"after 1000000000 bytes of header"),
    "spacing 0": (field("3f", 80, 1, 0, 1), "must be three positive lengths"),
    "spacing NaN": (field("3f", 80, float("nan"), 1, 1), "must be three positive lengths"),
    "spacing negative": (field("3f", 80, 1, -1, 1), "must be three positive lengths"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_one_clear_error(tmp_path, name):
    change, message = BROKEN[name]
    content = bytearray(write(tmp_path / "v.nii", VALUES).read_bytes())
    change(content)
    (tmp_path / "v.nii").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        open_volume(tmp_path / "v.nii").read()
    assert len(str(error.value).splitlines()) <= 8


def _bomb(content):
    struct.pack_into("<3h", content, 42, 30000, 30000, 30000)
    return gzip.compress(content + bytes(10**6))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: gzip.compress(c)[:-30], r"is truncated: its compressed voxels end after \d+ of 772 bytes"),
        (lambda c: gzip.compress(c[:-2]), "holds 770 decompressed bytes where its header asks for 772"),
        (lambda c: gzip.compress(c[:100]), "or ends within its header"),
        (lambda c: b"\x1f\x8b" + b"\xff" * 500, "or ends within its header"),
        (_bomb, r"said to hold 54000000000352 bytes of voxels, but its \d+ compressed bytes can hold"),
    ],
)
def test_a_broken_compressed_file_gives_one_clear_error(tmp_path, spoil, message):
    content = bytearray(write(tmp_path / "v.nii", VALUES).read_bytes())
    (tmp_path / "v.nii.gz").write_bytes(spoil(content))
    with pytest.raises(InputError, match=message):
        open_volume(tmp_path / "v.nii.gz").read()


def test_a_real_file_equals_nibabel(real_data):
    path = real_data / "formats_ormir" / "test_nii.nii"
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(), np.asarray(nib.load(path).dataobj).T)
    assert volume.voxel_size_um == pytest.approx((60.7, 60.7, 60.7), rel=1e-12)
