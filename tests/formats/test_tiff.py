"""TIFF stacks read as they are, and a stack with a hole or a stranger in it is refused by name."""

from __future__ import annotations

import hashlib
import os
import pickle
import time

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
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


@pytest.mark.parametrize("options", [{"imagej": True}, {"bigtiff": True}, {"tile": (16, 16), "compression": "zlib"}])
def test_kinds_of_multi_page_files(tmp_path, options):
    tifffile.imwrite(tmp_path / "s.tif", VALUES, **options)
    np.testing.assert_array_equal(open_volume(tmp_path / "s.tif").read(), VALUES)
    np.testing.assert_array_equal(open_volume(tmp_path).read(), VALUES)


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
    (tmp_path / "a.raw").write_bytes(b"abc")
    with pytest.raises(InputError, match=r"a file that begins with b'abc', which is not a format we read"):
        open_volume(tmp_path / "a.raw")


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
