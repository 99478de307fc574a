"""AIM and ISQ files written here byte by byte, read by region, and refused by name when they are something else."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds, small_shapes
from tomoscale.errors import InputError
from tomoscale.formats.scanco import is_scanco, open_scanco
from tomoscale.formats.scanco_voxels import from_vms

CHAR, SHORT, VMS, IEEE, BITS, TWO, PAIRS = 0x10001, 0x20002, 0x40004, 0x1A0004, 0x60001, 0x150001, 0x80002
SIZE_MM = (0.03, 0.02, 0.01)


def vms(values):
    """VAX F floats of normal numbers and zeros: by frexp, not by the reader's trick of bits."""
    mantissa, exponent = np.frexp(np.abs(values.astype(np.float64)))
    fraction = np.round((mantissa - 0.5) * 2**24).astype(np.uint32)
    word = (np.signbit(values).astype(np.uint32) << 31) | ((exponent + 128).astype(np.uint32) << 23) | fraction
    word[values == 0] = 0
    return ((word >> 16) | (word << 16)).astype("<u4")


def pairs(values):
    runs, previous, length = [], None, 0
    for value in values.ravel().tolist():
        if value == previous and length < 255:
            length += 1
        else:
            if previous is not None:
                runs += [previous & 255, length]
            previous, length = value, 1
    return bytes([*runs, previous & 255, length])


def turns(values, first, second):
    lengths, current, length = [], first, 0
    for value in values.ravel().tolist():
        if value == current:
            if length == 254:
                lengths.append(255)
                length = 0
            length += 1
        else:
            lengths.append(length)
            current, length = second if current == first else first, 1
    return struct.pack("<bb", first, second) + bytes([*lengths, length])


def bits(values):
    z, y, x = values.shape
    packed = np.zeros(((z + 1) // 2, (y + 1) // 2, (x + 1) // 2), np.uint8)
    for k, j, i in zip(*np.nonzero(values), strict=True):
        packed[k // 2, j // 2, i // 2] |= 1 << (k % 2 * 4 + j % 2 * 2 + i % 2)
    return packed.tobytes() + struct.pack("<b", int(values.max()))


def coded(values, kind, version):
    """The block of the voxels."""
    if kind in (CHAR, SHORT, IEEE):
        return values.astype({CHAR: "i1", SHORT: "<i2", IEEE: "<f4"}[kind]).tobytes()
    if kind == VMS:
        return vms(values).tobytes()
    if kind == BITS:
        return bits(values)
    runs = pairs(values) if kind == PAIRS else turns(values, 0, 127)
    word = 4 if version == 2 else 8
    return (word + len(runs)).to_bytes(word, "little") + runs


def aim(path, data, shape, kind, version=2, offset=(0, 0, 0), size_mm=SIZE_MM, log=b"! a log\n\0"):
    dim, off = shape[::-1], offset[::-1]
    if version == 2:
        head = struct.pack("<6i", 16, 0, 0, 0, 0, kind) + struct.pack("<21i", 5, 5, 5, *dim, *off, *[0] * 12)
        head += vms(np.array(size_mm[::-1], np.float32)).tobytes() + bytes(20)
        start = struct.pack("<5i", 20, 140, len(log), len(data), 0)
        # The first integer of the header is the version; the type is the sixth.
        assert len(head) == 140
    else:
        head = struct.pack("<4i", 24, 0, 0, kind) + struct.pack("<21q", 5, 5, 5, *dim, *off, *[0] * 12)
        head += struct.pack("<3q", *(round(mm * 1e6) for mm in size_mm[::-1])) + bytes(16)
        start = b"AIMDATA_V030   \0" + struct.pack("<5q", 40, 224, len(log), len(data), 0)
        assert len(head) == 224
    content = start + head + log + data
    path.write_bytes(content + bytes(-len(content) % 512))
    return path


def isq(path, values, *, kind=3, blocks=0, dim=None, um=None, step=0):
    z, y, x = values.shape
    dim, um = dim or (x, y, z), um or (10 * x, 20 * y, 30 * z)
    header = (
        b"CTDATA-HEADER_V1" + struct.pack("<7i", kind, 0, 0, 1, 2, 0, 0) + struct.pack("<9i", *dim, *um, 30, step, 0)
    )
    header = header.ljust(508, b"\0") + struct.pack("<i", blocks)
    path.write_bytes(header + bytes(512 * max(blocks, 0)) + values.astype("<i2").tobytes())
    return path


def example(kind, shape, seed):
    draw = np.random.default_rng(seed)
    if kind in (BITS, TWO):
        return np.where(draw.random(shape) < 0.1, 127, 0).astype("i1")
    if kind in (CHAR, PAIRS):
        return np.repeat(draw.integers(-128, 127, shape[:2]), shape[2]).reshape(shape).astype("i1")
    if kind == SHORT:
        return draw.integers(-30000, 30000, shape).astype("i2")
    return (draw.standard_normal(shape) * 10.0 ** draw.integers(-5, 5, shape)).astype("f4")


@given(
    seed=seeds,
    shape=small_shapes,
    kind=st.sampled_from([CHAR, SHORT, VMS, IEEE, BITS, TWO, PAIRS]),
    version=st.sampled_from([2, 3]),
    data=st.data(),
)
def test_any_region_of_an_aim_reads_as_it_slices(tmp_path_factory, seed, shape, kind, version, data):
    values = example(kind, shape, seed)
    path = aim(tmp_path_factory.mktemp("a") / "a.AIM", coded(values, kind, version), shape, kind, version)
    region = tuple(
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in shape
    )
    volume = pickle.loads(pickle.dumps(open_scanco(path)))
    assert is_scanco(path.read_bytes()[:16], path)
    assert volume.voxel_size_um == pytest.approx((30, 20, 10), rel=1e-6)
    found = volume.read(region)
    assert found.dtype == values.dtype
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, values[region])


@pytest.mark.parametrize("kind", [TWO, PAIRS])
def test_run_lengths_of_many_pieces(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("tomoscale.formats.scanco_runs.PIECE_BYTES", 64)
    values = example(TWO, (40, 50, 20), 3)
    values[7:9] = 0  # runs longer than one byte can say
    volume = open_scanco(aim(tmp_path / "a.aim", coded(values, kind, 2), values.shape, kind))
    np.testing.assert_array_equal(volume.read(), values)
    for z in (39, 0, 8, 21):
        region = (slice(z, z + 1), slice(9, 41), slice(3, 17))
        np.testing.assert_array_equal(volume.read(region), values[region])


@pytest.mark.parametrize("version", [2, 3])
def test_a_margin_that_is_not_stored_is_zero(tmp_path, version):
    inner = example(PAIRS, (4, 5, 6), 0)
    path = aim(tmp_path / "a.aim", coded(inner, PAIRS, version), (8, 7, 6), PAIRS, version, offset=(2, 1, 0))
    np.testing.assert_array_equal(open_scanco(path).read(), np.pad(inner, ((2, 2), (1, 1), (0, 0))))
    np.testing.assert_array_equal(open_scanco(path).read((slice(0, 2), slice(0, 7), slice(0, 6))), 0)
    np.testing.assert_array_equal(
        open_scanco(path).read((slice(1, 4), slice(3, 7), slice(2, 3)))[1:, :3], inner[:2, 2:5, 2:3]
    )


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (0x00004080, 1.0),
        (0x0000C080, -1.0),
        (0x0FD04149, 3.14159),  # Digital's manual: pi is 40490FD0 with its halves swapped, biased by 2
        (0x00000000, 0.0),
        (0x12340000, 0.0),  # an exponent of zero is zero, whatever follows
        (0xFFFF7FFF, 1.7014117e38),  # the largest, which would be no number in IEEE
        (0x00000080, 2.938736e-39),  # the smallest, subnormal in IEEE
    ],
)
def test_floats_of_a_vax(words, value):
    assert from_vms(np.array([words], np.uint32))[0] == pytest.approx(value, rel=1e-6, abs=0)


def test_a_float_of_a_vax_that_is_none():
    assert np.isnan(from_vms(np.array([0x00008000], np.uint32)))[0]


@pytest.mark.parametrize("blocks", [0, 3])
def test_an_isq_keeps_its_grey_values(tmp_path, blocks):
    values = example(SHORT, (5, 6, 7), 1)
    volume = open_scanco(isq(tmp_path / "a.ISQ", values, blocks=blocks, step=30))
    assert volume.voxel_size_um == (30, 20, 10)
    assert volume.dtype == np.int16
    np.testing.assert_array_equal(volume.read(), values)


def test_the_voxel_size_of_an_isq_that_contradicts_itself_must_be_given(tmp_path):
    path = isq(tmp_path / "a.isq", example(SHORT, (5, 6, 7), 1), step=82)
    with pytest.raises(InputError, match=r"slices 82 µm apart, but 150 µm over 5 slices, 30 µm each: give the"):
        open_scanco(path)
    assert open_scanco(path, voxel_size_um=(82, 20, 10)).voxel_size_um == (82, 20, 10)


def test_a_voxel_size_of_nothing_is_not_known(tmp_path):
    path = aim(tmp_path / "a.aim", bytes(8), (2, 2, 2), CHAR, 3, size_mm=(0, 0, 0))
    assert open_scanco(path).voxel_size_um is None
    assert open_scanco(path, voxel_size_um=5).voxel_size_um == (5, 5, 5)
    aim(path, bytes(8), (2, 2, 2), CHAR)
    with pytest.raises(InputError, match="was given but the file states"):
        open_scanco(path, voxel_size_um=5)


@pytest.mark.parametrize(
    ("kind", "name"), [(0x80003, "charCmp2"), (0x120003, "rgb"), (0x140008, "double"), (0x30004, "int"), (0, "unknown")]
)
def test_other_types_are_refused_by_name(tmp_path, kind, name):
    with pytest.raises(InputError, match=rf"voxels of type {name}.* which is not read"):
        open_scanco(aim(tmp_path / "a.aim", bytes(80), (2, 2, 2), kind))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: aim(p, bytes(80), (0, 2, 2), CHAR), "at least one voxel"),
        (lambda p: aim(p, bytes(80), (-1, 2, 2), CHAR, 3), "at least one voxel"),
        (lambda p: aim(p, bytes(80), (2**62, 2, 2), CHAR, 3), "at least one voxel"),
        (lambda p: aim(p, bytes(80), (2**30, 2**30, 2**30), SHORT, 3), r"80 bytes of voxels, but .* take \d+"),
        (lambda p: aim(p, bytes(9), (3, 3, 3), CHAR), "9 bytes of voxels"),
        (lambda p: p.write_bytes(aim(p, bytes(2000), (10, 10, 20), CHAR).read_bytes()[:900]), "truncated or damaged"),
        (lambda p: p.write_bytes(aim(p, bytes(27), (3, 3, 3), CHAR).read_bytes()[:100]), "ends within its header"),
        (lambda p: p.write_bytes(aim(p, bytes(27), (3, 3, 3), CHAR).read_bytes()[:130]), "ends within its header"),
        (lambda p: p.write_bytes(aim(p, bytes(27), (3, 3, 3), CHAR, 3).read_bytes()[:30]), "ends within its header"),
        (
            lambda p: p.write_bytes(b"AIMDATA_V030   \0" + struct.pack("<5q", 2**60, 224, 1, 1, 0) + bytes(999)),
            "header",
        ),
        (lambda p: aim(p, bytes(27), (3, 3, 3), CHAR, size_mm=(-1.0, 1, 1)), "must be three positive lengths"),
        (lambda p: aim(p, bytes(3), (3, 3, 3), BITS), "3 bytes of packed bits"),
        (lambda p: aim(p, bytes(8), (3, 3, 3), PAIRS), "run lengths take 0 bytes of a block of 8"),
        (lambda p: aim(p, struct.pack("<ibBb", 7, 1, 2, 3), (3, 3, 3), PAIRS), "run lengths take 7 bytes"),
        (lambda p: aim(p, struct.pack("<ibB", 6, 1, 26), (3, 3, 3), PAIRS), "run lengths are 26 voxels"),
        (lambda p: aim(p, struct.pack("<ibB", 6, 1, 28), (3, 3, 3), PAIRS), "run lengths are 28 voxels"),
        (lambda p: aim(p, struct.pack("<qbbB", 11, 0, 1, 255), (3, 3, 3), TWO, 3), "run lengths are 254 voxels"),
        (lambda p: aim(p, bytes(80), (3, 3, 3), PAIRS, offset=(2, 0, 0)), r"margin is \(2, 0, 0\)"),
        (lambda p: aim(p, bytes(80), (3, 3, 3), PAIRS, offset=(0, 0, -1)), r"margin is \(0, 0, -1\)"),
        (lambda p: p.write_bytes(struct.pack("<5i", 20, 96, 1, 27, 0) + bytes(400)), "AIM of version 1"),
        (lambda p: p.write_bytes(struct.pack("<5i", 20, 140, -99, 27, 0) + bytes(400)), "log has -99 bytes"),
        (lambda p: isq(p, np.zeros((3, 3, 3)), kind=9), r"kind 9, but only .* scout views \(RAD\)"),
        (lambda p: isq(p, np.zeros((3, 3, 3)), dim=(3, 3, 4)), "has 566 bytes, but 4 x 3 x 3 voxels"),
        (lambda p: isq(p, np.zeros((3, 3, 3)), dim=(3, -3, 3)), "at least one voxel"),
        (lambda p: isq(p, np.zeros((3, 3, 3)), blocks=-7), "after -7 blocks"),
        (lambda p: isq(p, np.zeros((3, 3, 3)), um=(-5, 5, 5)), "must be three positive lengths"),
        (lambda p: p.write_bytes(b"CTDATA-HEADER_V1" + bytes(80)), "ends within its header, after 96 bytes"),
    ],
)
def test_what_is_damaged_or_hostile_is_refused(tmp_path, write, message):
    write(tmp_path / "a.aim")
    with pytest.raises(InputError, match=message):
        open_scanco(tmp_path / "a.aim")


def test_a_file_that_shrank_after_opening_is_refused(tmp_path):
    values = example(PAIRS, (3, 4, 5), 0)
    path = aim(tmp_path / "a.aim", coded(values, PAIRS, 2), values.shape, PAIRS)
    volume = open_scanco(path)
    before = volume.storage.identity()
    path.write_bytes(path.read_bytes()[:180])
    with pytest.raises(InputError, match="shorter than when it was opened"):
        volume.read()
    assert volume.storage.identity() != before
    path.unlink()
    with pytest.raises(InputError, match="cannot be read any more"):
        volume.read()


def test_other_files_are_not_scanco(tmp_path):
    assert not is_scanco(b"II*\0", tmp_path / "a.tif")
    assert not is_scanco(b"", tmp_path)
    assert not is_scanco(struct.pack("<2i", 16, 92), tmp_path / "a.raw")
