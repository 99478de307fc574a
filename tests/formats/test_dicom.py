"""DICOM series written by pydicom and read by region in the order of their positions; what is no volume is named."""

from __future__ import annotations

import pickle
import shutil
import struct
import sys

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests.blocks import seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError, PlanError
from tomoscale.formats.dicom import is_dicom, open_dicom

VALUES = np.random.default_rng(0).integers(0, 4000, (6, 5, 7)).astype("u2")
STEP, PIXEL = 0.03, (0.02, 0.01)


def dataset(plane, syntax=ExplicitVRLittleEndian, **changes):
    """One slice, or a file of many frames, with the given elements changed, or left out where None."""
    plane = np.asarray(plane)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.SeriesInstanceUID = "1.2.3"
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = list(PIXEL)
    data.SliceThickness = 7
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = plane.shape[-2:]
    if plane.ndim == 3:
        data.NumberOfFrames = len(plane)
    bits = plane.dtype.itemsize * 8
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelRepresentation = int(plane.dtype.kind == "i")
    for name, value in changes.items():
        if value is None:
            data.pop(name, None)
        else:
            setattr(data, name, value)
    if plane.dtype.kind == "f":
        data.FloatPixelData = plane.astype("<f4").tobytes()
    else:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        content = plane.astype(plane.dtype.newbyteorder(order)).tobytes()
        data.PixelData = content + bytes(len(content) % 2)
        data["PixelData"].VR = "OW" if bits > 8 else "OB"
    return data


def save(path, data):
    syntax = data.file_meta.TransferSyntaxUID
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(path, data, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return path


def series(folder, values, positions=None, names="{:03d}.dcm", **changes):
    folder.mkdir(exist_ok=True)
    for number, plane in enumerate(values):
        z = STEP * number if positions is None else positions[number]
        position = changes.get("ImagePositionPatient", [1.0, 2.0, z])
        common = {"ImagePositionPatient": position, "InstanceNumber": number + 1}
        save(folder / names.format(number), dataset(plane, **{**common, **changes}))
    return folder


def change(name, **changes):
    """Replace elements of one slice of a series."""

    def apply(folder):
        data = pydicom.dcmread(folder / name)
        for key, value in changes.items():
            if value is None:
                del data[key]
            else:
                setattr(data, key, value)
        save(folder / name, data)

    return apply


@given(
    seed=seeds,
    shape=small_shapes,
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "f4"]),
    syntax=st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]),
    frames=st.booleans(),
    data=st.data(),
)
def test_any_region_reads_as_it_slices(tmp_path_factory, seed, shape, dtype, syntax, frames, data):
    if dtype == "f4" and syntax == ExplicitVRBigEndian:
        dtype = "u2"
    values = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    path = tmp_path_factory.mktemp("d") / "s"
    if frames:
        save(path, dataset(values, syntax, SpacingBetweenSlices=STEP))
    else:
        series(path, values, names="{}", syntax=syntax)
    region = tuple(
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in shape
    )
    assert is_dicom(b"", path)
    volume = pickle.loads(pickle.dumps(open_dicom(path)))
    found = volume.read(region)
    assert found.dtype == values.dtype
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, values[region])
    if frames or shape[0] > 1:
        assert volume.voxel_size_um == pytest.approx((30, 20, 10))
    else:
        assert volume.voxel_size_um is None


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]])
def test_slices_are_sorted_by_position_not_by_name_or_number(tmp_path, order):
    folder = series(tmp_path / "s", VALUES[order], positions=[-7 + STEP * n for n in order])
    (folder / "notes.txt").write_text("not a slice")
    (folder / "DICOMDIR").write_bytes(b"an index")
    volume = open_dicom(folder)
    np.testing.assert_array_equal(volume.read(), VALUES)
    assert volume.voxel_size_um == pytest.approx((30, 20, 10))
    assert len(pickle.dumps(volume)) < 1000


@pytest.mark.parametrize("angle", [0.3, 1.2])
def test_positions_count_along_the_normal_of_an_oblique_plane(tmp_path, angle):
    c, s = np.cos(angle), np.sin(angle)
    positions = [[10 - s * STEP * n, 3.0, 4 + c * STEP * n] for n in range(6)]
    folder = series(tmp_path / "s", VALUES[:0])
    for n, position in enumerate(positions):
        changes = {"ImagePositionPatient": [float(f"{p:.9g}") for p in position]}
        changes["ImageOrientationPatient"] = [float(f"{v:.9g}") for v in (c, 0, s, 0, 1, 0)]
        save(folder / f"{9 - n}.dcm", dataset(VALUES[n], **changes))
    volume = open_dicom(folder)
    np.testing.assert_array_equal(volume.read(), VALUES)
    assert volume.voxel_size_um == pytest.approx((30, 20, 10), rel=1e-5)


def test_without_positions_instance_numbers_give_the_order(tmp_path):
    folder = series(tmp_path / "s", VALUES[::-1], ImagePositionPatient=None, names="{}.dcm")
    for n in range(6):
        change(f"{n}.dcm", InstanceNumber=9 - n, SpacingBetweenSlices=-STEP)(folder)
    np.testing.assert_array_equal(open_dicom(folder).read(), VALUES)
    assert open_dicom(folder).voxel_size_um == pytest.approx((30, 20, 10))
    shutil.copy(folder / "2.dcm", folder / "again.dcm")
    with pytest.raises(InputError, match=r"2\.dcm \(instance 7\) and again\.dcm \(instance 7\) have the same number"):
        open_dicom(folder)
    (folder / "again.dcm").unlink()
    (folder / "2.dcm").unlink()
    with pytest.raises(InputError, match=r"3\.dcm \(instance 6\) and 1\.dcm \(instance 8\) are not neighbours"):
        open_dicom(folder)


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "result"),
    [
        ("u2", 1, 0, "u2"),
        ("u2", 1, -1024, "i4"),
        ("i2", 2, -1024, "i4"),
        ("u1", 3, -7, "i2"),
        ("u2", 0.5, 0, "f4"),
        ("i2", 0.1, -1.5, "f4"),
        ("u4", 0.5, 0, "f8"),
        ("u4", 1, -5, "i8"),
    ],
)
def test_slope_and_intercept(tmp_path, dtype, slope, intercept, result):
    values = (VALUES % 250).astype(dtype)
    folder = series(tmp_path / "s", values, RescaleSlope=slope, RescaleIntercept=intercept)
    volume = open_dicom(folder)
    assert volume.dtype == result
    expected = (values.astype("f8") * slope + intercept).astype(result)
    np.testing.assert_array_equal(volume.read(), expected)
    np.testing.assert_array_equal(volume.read((slice(2, 3), slice(1, 4), slice(2, 3))), expected[2:3, 1:4, 2:3])


def test_each_slice_has_its_own_slope(tmp_path):
    folder = series(tmp_path / "s", VALUES)
    for n in range(6):
        change(f"{n:03d}.dcm", RescaleSlope=n + 1, RescaleIntercept=-n)(folder)
    factors = np.arange(1, 7)[:, None, None]
    np.testing.assert_array_equal(open_dicom(folder).read(), VALUES.astype("i8") * factors - factors + 1)


@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_bits_above_the_value_are_left_out(tmp_path, dtype):
    values = (VALUES.astype("i4") % 4096 - (2048 if dtype == "i2" else 0)).astype(dtype)
    dirty = (values.view("u2") & 0x0FFF | 0xA000).view(dtype)
    folder = series(tmp_path / "s", dirty, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(open_dicom(folder).read(), values)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_run_lengths_are_unpacked_by_pydicom(tmp_path, dtype):
    values = (VALUES // 512).astype(dtype)
    folder = series(tmp_path / "s", values)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path)
    np.testing.assert_array_equal(open_dicom(folder).read(), values)
    np.testing.assert_array_equal(open_dicom(folder).read((slice(2, 4), slice(0, 5), slice(3, 7))), values[2:4, :, 3:7])
    (folder / "003.dcm").write_bytes((folder / "003.dcm").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"frame 1 of .*003\.dcm cannot be unpacked"):
        open_dicom(folder).read()


def enhanced(positions):
    shared, frames = Dataset(), []
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing = list(PIXEL)
    plane.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    for z in positions:
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [z, 0, 0]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    return {
        "PixelSpacing": None,
        "ImageOrientationPatient": None,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": frames,
    }


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]])
def test_frames_of_one_file_are_sorted_too(tmp_path, order):
    path = save(tmp_path / "many.dcm", dataset(VALUES[order], **enhanced([STEP * n for n in order])))
    volume = open_dicom(path)
    np.testing.assert_array_equal(volume.read(), VALUES)
    np.testing.assert_array_equal(pixel_array(path), VALUES[order])
    assert volume.voxel_size_um == pytest.approx((30, 20, 10))


def test_a_file_of_many_frames_is_not_read_whole(tmp_path):
    values = np.zeros((64, 256, 256), "u2")
    values[33] = 7
    path = save(tmp_path / "many.dcm", dataset(values))
    open_dicom(path)
    with Traced() as traced:
        assert open_dicom(path).read((slice(33, 34), slice(3, 90), slice(2, 7))).min() == 7
    assert traced.peak_bytes < 2 * 2**20


def group_2(value, element=0x10, vr=b"UI", length=None):
    length = len(value) if length is None else length
    return struct.pack("<2H2sH", 2, element, vr, length) + value


def raw(*elements, syntax="1.2.840.10008.1.2.1"):
    return (
        bytes(128) + b"DICM" + group_2(syntax.encode().ljust(len(syntax) + len(syntax) % 2, b"\0")) + b"".join(elements)
    )


HUGE = struct.pack("<2H2sHI", 0x7FE0, 0x10, b"OW", 0, 2**32 - 2)
SERIES_PROBLEMS = [
    (change("002.dcm", ImagePositionPatient=[1, 2, STEP]), r"001\.dcm and 002\.dcm are both at 0\.03 mm"),
    (lambda f: (f / "003.dcm").unlink(), r"slices are missing between 002\.dcm at 0\.06 mm and 004\.dcm at 0\.12 mm"),
    (
        change("003.dcm", ImagePositionPatient=[1, 2, 3.4 * STEP]),
        r"003\.dcm is at 0\.102 mm, .* would have it at 0\.09 mm",
    ),
    (change("003.dcm", ImagePositionPatient=None), r"003\.dcm has no position, unlike the first slice"),
    (
        change("005.dcm", PixelSpacing=[0.02, 0.0101]),
        r"005\.dcm has pixel spacing \(0\.02, 0\.0101\), but the first slice",
    ),
    (change("005.dcm", PixelSpacing=None), r"005\.dcm has pixel spacing None"),
    (change("001.dcm", ImageOrientationPatient=[1, 0, 0, 0, 0, 1]), r"001\.dcm has orientation"),
    (
        change("001.dcm", SeriesInstanceUID="1.2.9", SeriesDescription="a <b>"),
        r"2 series: 1\.2\.3: 5 files; 1\.2\.9 \(a <b>\): 1",
    ),
    (change("004.dcm", Rows=7, Columns=5), r"004\.dcm has slices of \(7, 5\), but 000\.dcm has \(5, 7\)"),
    (change("004.dcm", PixelRepresentation=1), r"004\.dcm has voxels of type \('int16', 0\), but 000\.dcm"),
    (change("004.dcm", BitsStored=12, HighBit=11), r"004\.dcm has voxels of type \('uint16', 4\)"),
    (change("004.dcm", HighBit=14), r"16 bits \(the highest is 14\) in 16"),
    (change("004.dcm", BitsAllocated=1), r"16 bits .* in 1, but only 8, 16 or 32"),
    (change("004.dcm", SamplesPerPixel=3), r"004\.dcm holds colours \(3 samples"),
    (change("004.dcm", PhotometricInterpretation="PALETTE COLOR"), r"holds colours \(1 samples, PALETTE COLOR\)"),
    (change("004.dcm", RescaleSlope=0), r"004\.dcm has a slope of 0\.0"),
    (change("004.dcm", Rows=0), "must have at least one voxel"),
    (
        change("004.dcm", Rows=500),
        r"004\.dcm is truncated: 1 frames of \(500, 7\) uint16 take 7000 bytes, but it has 70",
    ),
    (
        change("004.dcm", PixelData=bytes(40), DataSetTrailingPadding=bytes(400)),
        r"004\.dcm is truncated: 1 frames of \(5, 7\) uint16 take 70 bytes, but it has 40",
    ),
    (change("004.dcm", NumberOfFrames=2**31 - 1), "must have at least one voxel"),
    (change("004.dcm", NumberOfFrames=-3), "must have at least one voxel"),
    (change("004.dcm", Rows=None), r"004\.dcm is not a DICOM file that can be read"),
    (change("004.dcm", PixelData=None), r"004\.dcm has no voxels \(it is a report"),
    (
        lambda f: save(f / "004.dcm", dataset(VALUES, SpacingBetweenSlices=1)),
        r"004\.dcm holds 6 frames, but in a folder",
    ),
    (lambda f: (f / "004.dcm").write_bytes((f / "004.dcm").read_bytes()[:-20]), r"004\.dcm is truncated"),
    (
        lambda f: (f / "004.dcm").write_bytes((f / "004.dcm").read_bytes()[:300]),
        r"004\.dcm (has no voxels|is not a DICOM)",
    ),
    (lambda f: (f / "004.dcm").write_bytes(b""), r"004\.dcm has no mark of DICOM"),
    (lambda f: (f / "004.dcm").write_bytes(bytes(128) + b"DICM"), "does not say how it is encoded"),
    (
        lambda f: (f / "004.dcm").write_bytes(raw(syntax="1.2.840.10008.1.2.1.99")),
        "encoded as deflated, which is not read",
    ),
    (
        lambda f: (f / "004.dcm").write_bytes(raw(syntax="1.2.840.10008.1.2.4.90")),
        "JPEG 2000 lossless, which is not read",
    ),
    (lambda f: (f / "004.dcm").write_bytes(raw(syntax="9.9")), r"encoded as 9\.9, which is not read"),
    (
        lambda f: (f / "004.dcm").write_bytes(raw(struct.pack("<2H2sHI", 0x28, 0x30, b"UN", 0, 2**31))),
        "of 2147483648 bytes is announced",
    ),
    (
        lambda f: (f / "004.dcm").write_bytes(bytes(128) + b"DICM" + group_2(b"", vr=b"UI", length=60000)),
        "of 60000 bytes is announced",
    ),
    (lambda f: (f / "004.dcm").write_bytes(raw(HUGE)), r"004\.dcm is not a DICOM file that can be read"),
    (
        lambda f: (f / "004.dcm").write_bytes(
            raw(
                struct.pack("<2H2sHI", 0x5200, 0x9229, b"SQ", 0, 2**32 - 1)
                + struct.pack("<2HI", 0xFFFE, 0xE000, 2**32 - 1) * 1
            )
        ),
        r"004\.dcm is not a DICOM file that can be read: No tag",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), SERIES_PROBLEMS)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_series_with_something_wrong_is_refused_by_name(tmp_path, spoil, message):
    folder = series(tmp_path / "s", VALUES)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        open_dicom(folder)


def test_sequences_nested_without_end_are_refused(tmp_path):
    item = struct.pack("<2H2sHI", 0x5200, 0x9229, b"SQ", 0, 2**32 - 1) + struct.pack("<2HI", 0xFFFE, 0xE000, 2**32 - 1)
    (tmp_path / "deep.dcm").write_bytes(raw(item * 20_000))
    with pytest.raises(InputError, match=r"deep\.dcm is not a DICOM file that can be read: maximum recursion"):
        open_dicom(tmp_path / "deep.dcm")


def test_slices_shifted_sideways_are_refused(tmp_path):
    folder = series(tmp_path / "s", VALUES[:0])
    for n in range(6):
        save(folder / f"{n}.dcm", dataset(VALUES[n], ImagePositionPatient=[0, 0.011 * n, STEP * n]))
    with pytest.raises(InputError, match=r"shifted sideways by up to 0\.055 mm"):
        open_dicom(folder)


def test_positions_rounded_by_the_exporter_are_accepted(tmp_path):
    positions = [round(0.0078 * n, 3) for n in range(6)]
    volume = open_dicom(series(tmp_path / "s", VALUES, positions), voxel_size_um=(7.8, 20, 10))
    assert volume.voxel_size_um == (7.8, 20, 10)


@pytest.mark.parametrize("count", [5, 7])
def test_a_file_that_describes_other_frames_than_it_has_is_refused(tmp_path, count):
    path = save(tmp_path / "many.dcm", dataset(VALUES, **enhanced([STEP * n for n in range(count)])))
    with pytest.raises(InputError, match=f"describes {count} frames, but says it has 6"):
        open_dicom(path)


def test_a_file_overwritten_after_opening_is_refused(tmp_path):
    folder = series(tmp_path / "s", VALUES)
    volume = open_dicom(folder)
    before = volume.storage.identity()
    change("003.dcm", PatientName="another")(folder)
    with pytest.raises(InputError, match=r"003\.dcm was overwritten since it was opened"):
        volume.read()
    volume.read((slice(0, 3), slice(0, 5), slice(0, 7)))
    assert open_dicom(folder).storage.identity() != before
    np.testing.assert_array_equal(open_dicom(folder).read(), VALUES)
    (folder / "005.dcm").unlink()
    with pytest.raises(InputError, match="does not hold the slices it held"):
        volume.read()


def test_without_pydicom_the_message_says_what_to_install(tmp_path, monkeypatch):
    folder = series(tmp_path / "s", VALUES)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(PlanError, match=r"pip install 'tomoscale\[formats\]'"):
        open_dicom(folder)


def test_what_is_not_dicom(tmp_path):
    assert not is_dicom(b"II*\0", tmp_path / "a.tif")
    assert not is_dicom(b"", tmp_path)
    (tmp_path / "a.txt").write_text("x" * 200)
    assert not is_dicom(b"", tmp_path)
    with pytest.raises(InputError, match="holds no DICOM files"):
        open_dicom(tmp_path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        open_dicom(tmp_path / "nothing")
    assert is_dicom(bytes(128) + b"DICM", tmp_path / "b")
