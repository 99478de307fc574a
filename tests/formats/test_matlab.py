"""MATLAB files: what SciPy reads of them whole, we read by region, without unpacking what is not asked for."""

from __future__ import annotations

import pickle
import struct
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.formats.matlab import is_matlab, open_matlab

VALUES = np.random.default_rng(0).integers(0, 60000, (4, 5, 6)).astype("u2")
CLASSES = {"f8": 6, "f4": 7, "i1": 8, "u1": 9, "i2": 10, "u2": 11, "i4": 12, "u4": 13, "i8": 14, "u8": 15}
TYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9, "i8": 12, "u8": 13}


def element(kind, content, end="<", small=False):
    if small:
        return struct.pack(end + "I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack(end + "2I", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(values, name="vol", end="<", stored=None, **wrong):
    """A variable, written as MATLAB does: the numbers may be of a smaller type than the class."""
    kind = wrong.get("kind", CLASSES[values.dtype.str[1:]])
    data = values.astype(stored or values.dtype)
    body = element(6, struct.pack(end + "2I", kind | wrong.get("flags", 0), 0), end)
    shape = wrong.get("shape", values.shape)
    body += element(5, struct.pack(f"{end}{len(shape)}i", *shape), end)
    body += element(1, name.encode(), end, small=len(name) <= 4)
    bytes_ = data.astype(data.dtype.newbyteorder(end)).tobytes(order="F")
    body += element(wrong.get("type", TYPES[data.dtype.str[1:]]), bytes_, end)
    return struct.pack(end + "2I", 14, len(body)) + body


def packed(variable, end="<"):
    stream = zlib.compress(variable)
    return struct.pack(end + "2I", 15, len(stream)) + stream


def mat(path, *variables, end="<", version=0x0100):
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(end + "H", version) + (b"IM" if end == "<" else b"MI")
    path.write_bytes(header + b"".join(variables))
    return path


@given(
    seed=seeds,
    shape=st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(2, 8)),
    dtype=st.sampled_from(sorted(CLASSES)),
    compressed=st.booleans(),
    data=st.data(),
)
def test_any_region_reads_as_scipy_reads_the_whole(tmp_path_factory, seed, shape, dtype, compressed, data):
    path = tmp_path_factory.mktemp("m") / "a.mat"
    values = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    scipy.io.savemat(path, {"note": "text", "vol": values, "flat": values[0]}, do_compression=compressed)
    whole = scipy.io.loadmat(path)["vol"].transpose(2, 1, 0)
    region = tuple(
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in whole.shape
    )
    volume = pickle.loads(pickle.dumps(open_matlab(path)))
    found = volume.read(region)
    assert found.dtype == whole.dtype
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, whole[region])


@pytest.mark.parametrize("end", ["<", ">"])
@pytest.mark.parametrize("stored", [None, "u1", "i2"])
@pytest.mark.parametrize("wrap", [packed, lambda variable, end: variable])
@pytest.mark.parametrize("name", ["v", "volume_of_bone"])
def test_both_byte_orders_and_numbers_of_a_smaller_type_than_their_class(tmp_path, end, stored, wrap, name):
    values = np.random.default_rng(1).integers(0, 100, (4, 5, 6)).astype("f8")
    path = mat(tmp_path / "a.mat", wrap(matrix(values, name, end, stored), end), end=end)
    assert is_matlab(path.read_bytes()[:16], path)
    volume = open_matlab(path, variable=name, voxel_size_um=(3, 2, 1))
    assert volume.shape == (6, 5, 4)
    assert volume.dtype == (stored or "f8")
    assert volume.voxel_size_um == (3, 2, 1)
    np.testing.assert_array_equal(volume.read(), values.transpose(2, 1, 0))
    np.testing.assert_array_equal(scipy.io.loadmat(path)[name], values)


def test_the_variable_is_chosen_by_name_where_there_are_several(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": VALUES, "b": VALUES + 1, "s": {"x": VALUES}, "z": VALUES * 1j, "c": np.array([1, 2])})
    np.testing.assert_array_equal(open_matlab(path, variable="b").read(), (VALUES + 1).transpose(2, 1, 0))
    with pytest.raises(InputError, match=r"several volumes; give variable= one of: a 4x5x6 uint16; b 4x5x6 uint16"):
        open_matlab(path)
    with pytest.raises(InputError, match=r"no variable 'd'; it holds: a 4x5x6 uint16, .*s 1x1 struct, z 4x5x6 complex"):
        open_matlab(path, variable="d")
    for name in "scz":
        with pytest.raises(
            InputError, match=rf"{name} .* is not a real, numeric array with three axes; give variable="
        ):
            open_matlab(path, variable=name)


def test_version_7_3_is_read_as_hdf5(tmp_path):
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["vol"] = VALUES
    header = b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x0200) + b"IM"
    path.write_bytes(header + path.read_bytes()[128:])
    assert is_matlab(path.read_bytes()[:16], path)
    for variable in (None, "vol"):
        np.testing.assert_array_equal(open_matlab(path, variable=variable).read(), VALUES)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ([], "no three-dimensional numeric array, but nothing"),
        (
            [packed(matrix(VALUES[0]))],
            r"no three-dimensional numeric array, but vol 5x6 uint16; arrays inside a struct",
        ),
        ([matrix(VALUES)[:100]], "is truncated: a variable at byte 128"),
        ([b"\x0e\0\0"], "is truncated: 3 bytes are left"),
        ([element(9, bytes(8))], "byte 128 holds an element of type 9"),
        ([struct.pack("<2I", 14, 2**31) + bytes(64)], "is truncated: a variable at byte 128 has 2147483648 bytes"),
        ([struct.pack("<2I", 15, 64) + bytes(64)], "cannot be unpacked"),
        ([packed(element(2, bytes(64)))], "does not hold a variable"),
        ([packed(bytes(4))], "does not hold a variable"),
        ([element(14, bytes(8))], "has no description"),
        ([element(14, struct.pack("<2I", 6, 2**31) + bytes(400))], "has no description"),
        ([element(14, element(6, struct.pack("<2I", 9, 0)) + struct.pack("<2I", 5, 2**20))], "has no description"),
        ([matrix(VALUES, shape=(4, 5, -6))], r"variable 'vol' has \(4, 5, -6\) voxels"),
        ([matrix(VALUES, shape=(4, 5, 7))], "240 bytes of data: the file is damaged"),
        ([matrix(VALUES, shape=(2**30, 2**30, 2**30))], "240 bytes of data: the file is damaged"),
        ([matrix(VALUES, type=3, shape=(4, 5, 3))], "240 bytes of data: the file is damaged"),
        ([matrix(VALUES, type=77)], "no three-dimensional numeric array, but vol 4x5x6 unknown"),
        ([matrix(VALUES, kind=5)], "no three-dimensional numeric array, but vol 4x5x6 sparse"),
        ([matrix(VALUES, flags=0x800)], "no three-dimensional numeric array, but vol 4x5x6 complex"),
        ([matrix(VALUES, shape=(4, 5, 2, 3))], "no three-dimensional numeric array, but vol 4x5x2x3 uint16"),
    ],
)
def test_what_is_damaged_or_no_volume_is_refused(tmp_path, variables, message):
    with pytest.raises(InputError, match=message):
        open_matlab(mat(tmp_path / "a.mat", *variables))


def test_a_small_stream_that_claims_a_huge_array_is_refused_before_it_is_unpacked(tmp_path):
    body = matrix(VALUES)
    claim = body.replace(struct.pack("<3i", 4, 5, 6), struct.pack("<3i", 2000, 1000, 1000))
    claim = claim.replace(struct.pack("<2I", 4, 240), struct.pack("<2I", 4, 4_000_000_000))
    path = mat(tmp_path / "a.mat", packed(claim))
    with Traced() as traced, pytest.raises(InputError, match="said to hold 4000000064 bytes of voxels"):
        open_matlab(path)
    assert traced.peak_bytes < 2**20


def test_a_stream_that_unpacks_to_much_more_than_the_array_is_not_unpacked(tmp_path):
    bomb = zlib.compress(matrix(VALUES) + bytes(200 * 2**20))
    path = mat(tmp_path / "a.mat", struct.pack("<2I", 15, len(bomb)) + bomb)
    with Traced() as traced:
        np.testing.assert_array_equal(open_matlab(path).read(), VALUES.transpose(2, 1, 0))
    assert traced.peak_bytes < 8 * 2**20


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "not a MATLAB file of version 5 or later"),
        (struct.pack("<5i", 0, 4, 5, 0, 4) + b"vol\0" + bytes(200), r"version 4 file has no mark .*'-v7'"),
        (b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\x03IM", "MATLAB format 0x0300, which is not known"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\x02IM" + bytes(900), "not an HDF5 file that can be read"),
    ],
)
def test_other_versions_are_refused(tmp_path, header, message):
    path = tmp_path / "a.mat"
    path.write_bytes(header)
    with pytest.raises(InputError, match=message):
        open_matlab(path)


def test_other_files_are_not_matlab(tmp_path):
    assert not is_matlab(b"II*\0", tmp_path / "a.tif")
    assert not is_matlab(b"", tmp_path)
    assert is_matlab(bytes(16), tmp_path / "old.MAT")
