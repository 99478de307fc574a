"""TIFF stacks read as they are, and a stack with a hole or a stranger in it is refused by name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import struct
import time
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.formats import open_volume

VALUES = np.random.default_rng(0).integers(0, 60000, (12, 9, 14)).astype("u2")


def write_slices(folder, values, pattern="slice_{:03d}.tif", first=0, **options):
    folder.mkdir(exist_ok=True)
    for z, plane in enumerate(values):
        tifffile.imwrite(folder / pattern.format(z + first), plane, **options)
    return folder


@given(
    seed=seeds,
    dtype=st.sampled_from(["u1", "i1", ">u2", "<i2", ">i4", "f2", ">f4", "f8"]),
    compression=st.sampled_from([None, "zlib", "lzw", "zstd", "packbits"]),
    pages=st.booleans(),
    data=st.data(),
)
def test_any_region_reads_as_it_slices(tmp_path_factory, seed, dtype, compression, pages, data):
    values = np.random.default_rng(seed).integers(0, 100, (5, 7, 6)).astype(dtype)
    path = tmp_path_factory.mktemp("t")
    order = ">" if dtype.startswith(">") else "<"
    if pages:
        path = path / "stack.tif"
        tifffile.imwrite(path, values, compression=compression, byteorder=order)
    else:
        write_slices(path, values, compression=compression, byteorder=order)
    region = tuple(
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))))
        for n in values.shape
    )
    volume = open_volume(path, voxel_size_um=2)
    assert volume.storage.chunk_shape == (1, 7, 6)
    found = volume.read(region)
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, values[region])


FLOATS = VALUES.astype("f4")


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (VALUES, {"imagej": True}),
        (VALUES, {"imagej": True, "metadata": {"axes": "ZYX"}}),
        (VALUES, {"imagej": True, "compression": "zlib"}),
        (VALUES, {"ome": True, "metadata": {"axes": "ZYX"}}),
        (VALUES[None, :, None], {"ome": True, "metadata": {"axes": "TZCYX"}}),
        (VALUES, {"bigtiff": True, "byteorder": ">"}),
        (VALUES, {"tile": (16, 16)}),
        (VALUES, {"tile": (16, 16), "compression": "zlib"}),
        (VALUES, {"tile": (16, 16), "compression": "lzw", "predictor": 2, "byteorder": ">"}),
        (VALUES, {"rowsperstrip": 2}),
        (VALUES, {"rowsperstrip": 2, "compression": "packbits"}),
        (VALUES, {"compression": "lzma"}),
        (VALUES, {"compression": "zstd", "predictor": True}),
        (VALUES.astype("i4") - 30000, {"compression": "zlib", "predictor": True}),
        (FLOATS, {"compression": "zlib", "predictor": 3}),
        (FLOATS, {"byteorder": ">", "compression": "lzw", "predictor": 3, "tile": (16, 16)}),
        (VALUES > 30000, {"photometric": "minisblack"}),
        (VALUES, {"metadata": {"axes": "QYX"}}),
        (VALUES[:1], {}),
        (VALUES[:, :1], {"metadata": {"axes": "ZYX"}}),
    ],
)
def test_kinds_of_multi_page_files(tmp_path, values, options):
    tifffile.imwrite(tmp_path / "s.tif", values, **options)
    expected = values.reshape(-1, *values.shape[-2:])
    np.testing.assert_array_equal(open_volume(tmp_path / "s.tif").read(), expected)
    np.testing.assert_array_equal(open_volume(tmp_path).read(), expected)
    part = open_volume(tmp_path / "s.tif").read((slice(0, 1), slice(0, 1), slice(3, 9)))
    np.testing.assert_array_equal(part, expected[:1, :1, 3:9])


def test_a_pyramid_is_read_at_its_full_resolution(tmp_path):
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        writer.write(VALUES, subifds=1, tile=(16, 16))
        writer.write(VALUES[:, ::2, ::2], subfiletype=1, tile=(16, 16))
    np.testing.assert_array_equal(open_volume(tmp_path / "s.tif").read(), VALUES)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((12, 9, 14), {"ome": True, "metadata": {"axes": "CYX"}}, "12 channels, not slices"),
        ((12, 9, 14), {"ome": True, "metadata": {"axes": "TYX"}}, "12 times, not slices"),
        ((12, 9, 14), {"imagej": True, "metadata": {"axes": "TYX"}}, "12 times, not slices"),
        ((3, 9, 14), {"imagej": True, "metadata": {"axes": "CYX"}}, "3 channels, not slices"),
        ((3, 4, 9, 14), {"imagej": True, "metadata": {"axes": "TZYX"}}, r"axes TZYX of \(3, 4, 9, 14\)"),
        ((3, 4, 9, 14), {"imagej": True, "metadata": {"axes": "ZCYX"}}, r"axes ZCYX of \(3, 4, 9, 14\)"),
        ((3, 4, 9, 14), {"ome": True, "metadata": {"axes": "CZYX"}}, "axes CZYX of"),
        ((9, 14, 3), {"photometric": "rgb"}, r"slices of shape \(9, 14, 3\), but they must be grey"),
        ((12, 9, 14, 3), {"photometric": "rgb"}, r"slices of shape \(9, 14, 3\), but they must be grey"),
        ((3, 9, 14), {"photometric": "rgb", "planarconfig": "separate"}, "but they must be grey"),
        ((16, 16, 16), {"volumetric": True, "tile": (16, 16, 16)}, "16 slices in a page"),
    ],
)
def test_what_the_file_calls_something_else_than_slices_is_refused(tmp_path, shape, options, message):
    tifffile.imwrite(tmp_path / "s.tif", np.zeros(shape, "u1"), **options)
    with pytest.raises(InputError, match=message):
        open_volume(tmp_path / "s.tif")


@pytest.mark.parametrize("cut", [0, 5_000_000])
def test_an_old_stack_of_imagej_above_four_gigabytes_has_one_page(tmp_path, cut):
    slices, side = 1100, 2000
    text = f"ImageJ=1.53t\nimages={slices}\nslices={slices}\nunit=um\nspacing=3.0\n".encode()
    head = tiff_page(side, side, b"", text=text, count=slices * side**2 % 2**32)
    with (tmp_path / "s.tif").open("wb") as file:
        file.write(head)
        for z in (0, 1099):
            file.seek(len(head) + z * side**2 + 5 * side + 7)
            file.write(bytes([z % 251 + 1]))
        # A hole: these gigabytes take no place.
        file.truncate(len(head) + slices * side**2 - cut)
    if cut:
        with pytest.raises(InputError, match=r"is truncated: it has \d+ bytes, too few for 1100 slices"):
            open_volume(tmp_path / "s.tif")
        return
    volume = open_volume(tmp_path / "s.tif")
    assert volume.shape == (slices, side, side)
    for z in (0, 1099):
        found = volume.read((slice(z, z + 1), slice(5, 7), slice(6, 9)))
        np.testing.assert_array_equal(found, [[[0, z % 251 + 1, 0], [0, 0, 0]]])
    assert volume.read((slice(600, 601), slice(0, side), slice(0, side))).max() == 0


def write_numbered(folder, numbers):
    folder.mkdir()
    for number, plane in zip(numbers, VALUES, strict=False):
        tifffile.imwrite(folder / f"s_{number:04d}.tif", plane)
    return folder


@pytest.mark.parametrize("step", [2, 5, 10])
def test_slices_numbered_in_steps_need_a_voxel_size_that_tells_z(tmp_path, step):
    folder = write_numbered(tmp_path / "s", range(0, 12 * step, step))
    for size in (None, 5.0, (5.0, 5.0, 5.0)):
        with pytest.raises(
            InputError, match=rf"in steps of {step} \(s_0000\.tif, s_00{step:02d}\.tif, \.\.\.\): every {step}th"
        ):
            open_volume(folder, voxel_size_um=size)
    volume = open_volume(folder, voxel_size_um=(5.0 * step, 5.0, 5.0))
    np.testing.assert_array_equal(volume.read(), VALUES)
    assert volume.storage.identity()["slices"] == 12


@pytest.mark.parametrize(
    ("numbers", "missing"), [([0, 2], 1), ([0, 2, 4, 7], 1), ([0, 1, 3], 2), ([5, 10, 20], 6), ([1, 2, 3, 5, 7], 4)]
)
def test_uneven_numbers_are_gaps_whatever_the_voxel_size(tmp_path, numbers, missing):
    folder = write_numbered(tmp_path / "s", numbers)
    with pytest.raises(InputError, match=rf"slice {missing} is missing between"):
        open_volume(folder, voxel_size_um=(10.0, 5.0, 5.0))


def test_numbers_are_ordered_as_numbers_and_told_apart_as_numbers(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    for number, plane in enumerate(VALUES, 5):
        tifffile.imwrite(folder / f"{number}.tif", plane)
    np.testing.assert_array_equal(open_volume(folder).read(), VALUES)
    tifffile.imwrite(folder / "07.tif", VALUES[0])
    with pytest.raises(InputError, match=r"7\.tif has the same slice number 7 as 07\.tif"):
        open_volume(folder)


def tiff_page(width, height, data, *, bits=8, method=1, samples=1, text=b"", count=None, rows=None, first=8):
    """A TIFF of one page, byte by byte, so that it can say what no writer would."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, method), (262, 3, 1), (277, 3, samples)]
    tags += [(278, 4, rows or height), (339, 3, 1), (279, 4, len(data) if count is None else count)]
    end = 8 + 2 + 12 * (len(tags) + 1 + bool(text)) + 4
    tags += [(273, 4, end + len(text))]
    entries = [struct.pack("<2H2I", tag, kind, 1, value) for tag, kind, value in tags]
    if text:
        entries.append(struct.pack("<2H2I", 270, 2, len(text), end))
    entries.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    body = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, first) + body + text + data


OME = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="P"
 DimensionOrder="XYZCT" Type="uint8" SizeX="10" SizeY="10" SizeZ="{}" SizeC="1" SizeT="1">{}</Pixels></Image></OME>\0"""
BILLION = """<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "aaaaaaaaaa">{}]><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Image ID="Image:0" Name="&a9;"><Pixels ID="P" DimensionOrder="XYZCT" Type="uint8" SizeX="10" SizeY="10" SizeZ="1" SizeC="1" SizeT="1">
<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>\0""".format(
    "".join(f'<!ENTITY a{n} "{f"&a{n - 1 if n > 1 else str()};" * 10}">' for n in range(1, 10))
)
HUNDRED = bytes(100)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff_page(40_000, 40_000, HUNDRED), "truncated: it has 234 bytes, too few for 1 slices"),
        (tiff_page(30_000, 30_000, zlib.compress(bytes(1000)), method=8), "cannot be in the 17 bytes"),
        (tiff_page(30_000, 30_000, zlib.compress(bytes(2**20)), method=8), r"cannot be in the 1\d\d\d bytes"),
        (tiff_page(2**31, 2**31, HUNDRED), r"slices of shape|too few for"),
        (tiff_page(10, 2**31, HUNDRED, rows=1), "too few for 1 slices"),
        (tiff_page(60_000, 60_000, bytes(2**17), method=8), "more than 2 GiB each"),
        (tiff_page(10, 0, HUNDRED), "slices of shape|not a TIFF"),
        (tiff_page(10, 10, HUNDRED, samples=65535), r"slices of shape \(10, 10, 65535\), but they must be grey"),
        (tiff_page(10, 10, HUNDRED, method=9999), "compressed by method 9999, which is not known"),
        (tiff_page(10, 10, HUNDRED, bits=17), "not a TIFF that can be read|voxels of type|truncated"),
        (tiff_page(10, 10, HUNDRED, count=2**32 - 1, method=5), "truncated: it has 234 bytes, but its voxels are said"),
        (tiff_page(10, 10, HUNDRED, count=0, method=5), "truncated: it has 234 bytes, but its voxels are said"),
        (tiff_page(10, 10, HUNDRED, first=2**31), "leads to byte 2147483648|not a TIFF"),
        (
            tiff_page(10, 10, HUNDRED, text=b"ImageJ=1.53\nimages=100000000\nslices=100000000\n\0"),
            "too few for 100000000",
        ),
        (tiff_page(10, 10, HUNDRED, text=b'{"shape": [1000000000, 10, 10]}\0'), "too few for 1000000000 slices"),
        (
            tiff_page(10, 10, HUNDRED, text=OME.format(2 * 10**9, "").encode()),
            "tells of 2000000000 planes, but holds 1 ",
        ),
        (tiff_page(10, 10, HUNDRED, text=OME.format(10**15, "").encode()), "tells of 1000000000000000 planes"),
        (
            tiff_page(10, 10, HUNDRED, text=OME.format(10**9, "").replace('"', "'").encode()),
            "tells of 1000000000 planes",
        ),
        (tiff_page(10, 10, HUNDRED, text=OME.format("&#50;000000000", "").encode()), "not a TIFF that can be read"),
        (tiff_page(10, 10, HUNDRED, text=BILLION.encode()), "definitions of its own"),
        (
            tiff_page(10, 10, HUNDRED, text=OME.format(1, '<TiffData PlaneCount="900000000"/>').encode()),
            "900000000 planes",
        ),
        (tiff_page(10, 10, HUNDRED, text=OME.format(1, '<TiffData IFD="900000000"/>').encode()), "tells of 900000000"),
    ],
)
def test_small_files_that_claim_much_are_refused_before_memory_is_taken(tmp_path, content, message):
    (tmp_path / "s.tif").write_bytes(content)
    with Traced() as traced, pytest.raises(InputError, match=message):
        open_volume(tmp_path / "s.tif")
    assert traced.peak_bytes < 8 * 2**20


def test_tiles_much_larger_than_the_page_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", VALUES[:1], tile=(16, 16), compression="lzw")
    content = (tmp_path / "s.tif").read_bytes()
    for tag in (322, 323):  # width and length of a tile
        place = content.index(struct.pack("<H", tag), 8)
        content = content[:place] + struct.pack("<2H2I", tag, 4, 1, 60_000) + content[place + 12 :]
    (tmp_path / "s.tif").write_bytes(content)
    with pytest.raises(InputError, match="tiles of 7200000000 bytes for pages of 252: it is damaged"):
        open_volume(tmp_path / "s.tif")


@pytest.mark.parametrize("method", [8, 34925, 50000])
def test_a_page_that_unpacks_to_more_than_its_pixels_takes_no_more_memory(tmp_path, method):
    pack = {8: zlib.compress, 34925: imagecodecs.lzma_encode, 50000: imagecodecs.zstd_encode}[method]
    (tmp_path / "s.tif").write_bytes(tiff_page(10, 10, pack(bytes(64 * 2**20)), method=method))
    with Traced() as traced, contextlib.suppress(InputError):
        assert open_volume(tmp_path / "s.tif").read().max() == 0
    assert traced.peak_bytes < 8 * 2**20


@pytest.mark.parametrize("planes", [[(0, "s.ome.tif"), (1, "../secret.ome.tif")], [(0, "../secret.ome.tif")]])
def test_other_files_named_in_the_metadata_are_not_opened(tmp_path, planes):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.ome.tif").write_bytes(tiff_page(10, 10, b"9" * 100, text=OME.format(1, "").encode()))
    uuids = {name: f"urn:uuid:{name.count('.')}" for _, name in planes}
    data = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">{uuids[name]}</UUID></TiffData>'
        for z, name in planes
    )
    text = OME.format(len(planes), data).replace("<OME ", '<OME UUID="urn:uuid:2" ')
    (tmp_path / "in" / "s.ome.tif").write_bytes(tiff_page(10, 10, HUNDRED, text=text.encode()))
    if len(planes) == 1:
        # What is in the file itself, is read.
        assert open_volume(tmp_path / "in" / "s.ome.tif").read().max() == 0
        return
    with pytest.raises(InputError, match=r"tells of 2 planes, but holds 1 pages: .* one of several files"):
        open_volume(tmp_path / "in" / "s.ome.tif")


def test_slices_are_in_the_order_of_the_last_number(tmp_path):
    folder = write_slices(tmp_path / "s", VALUES, "scan2_0.65um_{}.tif", first=3)
    (folder / "readme.txt").write_text("not a slice")
    (folder / "._scan2_0.65um_3.tif").write_bytes(b"what macOS leaves")
    np.testing.assert_array_equal(open_volume(folder).read(), VALUES)


def test_a_stack_pickles_as_its_address(tmp_path):
    volume = open_volume(write_slices(tmp_path / "s", VALUES))
    assert len(pickle.dumps(volume)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume)).read(), VALUES)


def test_only_the_slices_asked_for_are_decoded(tmp_path):
    folder = write_slices(tmp_path / "s", VALUES, compression="zlib")
    volume = open_volume(folder)
    spoil(folder / "slice_007.tif", [-60, -40])
    np.testing.assert_array_equal(volume.read((slice(0, 7), slice(2, 5), slice(0, 14))), VALUES[0:7, 2:5])
    with pytest.raises(InputError, match=r"slice_007\.tif is not a TIFF that can be read"):
        volume.read()


def spoil(path, positions):
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        start, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    for position in positions:
        content[start + position % count] ^= 0xFF
    path.write_bytes(content)


def test_a_change_changes_the_identity(tmp_path):
    folder = write_slices(tmp_path / "s", VALUES)
    volume = open_volume(folder)
    before = volume.identity()
    assert before == open_volume(folder).identity()
    os.utime(folder / "slice_004.tif", (1, 1))
    assert volume.identity() != before


def test_a_stack_that_shrank_after_opening_is_refused(tmp_path):
    folder = write_slices(tmp_path / "s", VALUES)
    volume = open_volume(folder)
    (folder / "slice_011.tif").unlink()
    with pytest.raises(InputError, match="had 12 slices when it was opened and now has 11"):
        volume.read()
    write_slices(folder, VALUES[:, :5])
    with pytest.raises(InputError, match=r"slice_000\.tif is \(5, 14\) uint16, but was \(9, 14\)"):
        volume.read()


def _other_shape(folder):
    tifffile.imwrite(folder / "slice_005.tif", VALUES[5, :5])


def _other_dtype(folder):
    tifffile.imwrite(folder / "slice_005.tif", VALUES[5].astype("f4"))


def _truncated(folder):
    content = (folder / "slice_005.tif").read_bytes()
    (folder / "slice_005.tif").write_bytes(content[: len(content) // 2])


def _truncated_pixels(folder):
    tifffile.imwrite(folder / "slice_005.tif", VALUES[5], metadata=None)
    with tifffile.TiffFile(folder / "slice_005.tif") as tif:
        end = tif.pages[0].dataoffsets[0] + 20
    content = (folder / "slice_005.tif").read_bytes()
    (folder / "slice_005.tif").write_bytes(content[:end])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "slice_005.tif").unlink(), r"slice 5 is missing between slice_004\.tif and slice_006\.tif"),
        (
            lambda f: (f / "extra_5.tiff").write_bytes((f / "slice_005.tif").read_bytes()),
            r"same slice number 5 as extra_5\.tiff",
        ),
        (
            lambda f: (f / "mean.tif").write_bytes((f / "slice_005.tif").read_bytes()),
            r"mean\.tif has no number in its name",
        ),
        (_other_shape, r"slice_005\.tif is \(5, 14\) uint16, but the first slice slice_000\.tif is \(9, 14\) uint16"),
        (_other_dtype, r"slice_005\.tif is \(9, 14\) float32, but the first slice"),
        (_truncated, r"slice_005\.tif is (truncated|not a TIFF that can be read)"),
        (_truncated_pixels, r"slice_005\.tif is truncated: it has \d+ bytes"),
        (lambda f: (f / "slice_005.tif").write_bytes(b""), r"slice_005\.tif is not a TIFF that can be read"),
        (lambda f: (f / "slice_005.tif").write_bytes(b"II*\0" + b"\xff" * 50), r"slice_005\.tif is not a TIFF"),
        (lambda f: tifffile.imwrite(f / "slice_005.tif", VALUES), r"slice_005\.tif holds 12 pages"),
        (lambda f: tifffile.imwrite(f / "slice_005.tif", VALUES, imagej=True), r"slice_005\.tif holds 12 pages"),
        (
            lambda f: tifffile.imwrite(f / "slice_005.tif", np.zeros((9, 14, 3), "u1"), photometric="rgb"),
            r"slice_005\.tif has slices of shape \(9, 14, 3\), but they must be grey",
        ),
        (lambda f: tifffile.imwrite(f / "slice_005.tif", VALUES[5].astype("c8")), "voxels of type complex64"),
    ],
)
def test_a_stack_with_something_wrong_is_refused_by_name(tmp_path, change, message):
    folder = write_slices(tmp_path / "s", VALUES)
    change(folder)
    with pytest.raises(InputError, match=message):
        open_volume(folder)


def test_multi_page_files_with_something_wrong_are_refused(tmp_path):
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(VALUES[0])
        writer.write(VALUES[0, :5])
    with pytest.raises(InputError, match="2 different shapes or types"):
        open_volume(path)
    tifffile.imwrite(path, VALUES)
    content = path.read_bytes()
    for end in (0, 6, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match=r"s\.tif is (truncated|not a TIFF that can be read)"):
            open_volume(path)
    with tifffile.TiffFile(path) as tif:
        first, tags = tif.pages.first.offset, len(tif.pages.first.tags)
    place = first + 2 + 12 * tags
    path.write_bytes(content[:place] + first.to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(InputError, match="leads in a circle"):
        open_volume(path)
    tifffile.imwrite(path, np.zeros((2, 6, 4, 7), "u1"), metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match=r"has slices of shape|must be a stack of grey slices"):
        open_volume(path)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"imagej": True, "resolution": (0.5, 0.25), "metadata": {"unit": "um", "spacing": 3.0}}, (3.0, 4.0, 2.0)),
        ({"imagej": True, "resolution": (500, 500), "metadata": {"unit": "mm", "spacing": 0.002}}, (2.0, 2.0, 2.0)),
        ({"imagej": True, "resolution": (0.5, 0.25), "metadata": {"unit": "um"}}, None),
        ({"imagej": True, "resolution": (0.5, 0.25), "metadata": {"spacing": 3.0}}, None),
        ({"imagej": True, "resolution": (0.5, 0.25), "metadata": {"unit": "pixel", "spacing": 3.0}}, None),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        (
            {
                "ome": True,
                "metadata": {
                    "axes": "ZYX",
                    **{f"PhysicalSize{a}": v for a, v in zip("ZYX", (3.0, 2.0, 1.0), strict=True)},
                    **{f"PhysicalSize{a}Unit": "nm" for a in "ZYX"},
                },
            },
            (0.003, 0.002, 0.001),
        ),
        ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeXUnit": "µm"}}, None),
    ],
)
def test_the_voxel_size_is_believed_only_with_a_unit_on_all_axes(tmp_path, options, size):
    tifffile.imwrite(tmp_path / "s.tif", VALUES, **options)
    found = open_volume(tmp_path / "s.tif").voxel_size_um
    assert found == (None if size is None else pytest.approx(size, rel=1e-5))
    if size:
        with pytest.raises(InputError, match="was given but the file states"):
            open_volume(tmp_path / "s.tif", voxel_size_um=7)


def test_a_thousand_headers_take_a_second(tmp_path):
    folder = write_slices(tmp_path / "s", np.zeros((1000, 4, 4), "u1"))
    start = time.perf_counter()
    assert open_volume(folder).shape == (1000, 4, 4)
    assert time.perf_counter() - start < 10  # 0.3 s on a quiet machine


def test_a_folder_of_anything_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="a folder without TIFF slices or Zarr metadata"):
        open_volume(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_volume(tmp_path / "nothing.tif")
    (tmp_path / "a.xyz").write_bytes(b"abc")
    with pytest.raises(InputError, match=r"a file that begins with b'abc', which is not a format we read"):
        open_volume(tmp_path / "a.xyz")


def test_a_real_stack_of_slices(real_data):
    volume = open_volume(real_data / "lhdl_trabecular_bone", voxel_size_um=19.5)
    assert volume.shape == (200, 200, 200)
    assert volume.voxel_size_um == (19.5, 19.5, 19.5)
    assert hashlib.sha256(volume.read().tobytes()).hexdigest().startswith("d65d7edcfd91881d")
    assert open_volume(real_data / "lhdl_trabecular_bone").voxel_size_um is None


def test_a_real_file_whose_last_strip_is_too_long(real_data):
    volume = open_volume(real_data / "femur_lacunae" / "bone_7H3A_B1.tif")
    assert volume.shape == (600, 250, 350)
    part = volume.read((slice(300, 310), slice(0, 250), slice(0, 350)))
    assert set(np.unique(part)) == {0, 127}
    from PIL import Image

    with Image.open(real_data / "femur_lacunae" / "bone_7H3A_B1.tif") as image:
        image.seek(305)
        np.testing.assert_array_equal(part[5], np.asarray(image))
