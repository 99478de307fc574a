"""Voxels without a header, plain or deflated, equal NumPy's slices; what does not fit is refused by name and number."""

from __future__ import annotations

import gzip
import os
import pickle
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.formats import inflate, rows
from tomoscale.formats.raw import compressed_storage, open_raw, raw_storage
from tomoscale.formats.raw_layout import RAW_DTYPES, RawLayout

SHAPE = (12, 9, 14)
VALUES = np.random.default_rng(0).integers(0, 60000, SHAPE).astype("u2")
WHOLE = tuple(slice(0, n) for n in SHAPE)
LAYOUT = RawLayout(SHAPE, "uint16")


def any_values(seed, shape, dtype):
    """Random bits as values, NaN and infinities among them."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(count), dtype).reshape(shape)


def stored(values, byte_order):
    return values.astype(values.dtype.newbyteorder("<" if byte_order == "little" else ">")).tobytes()


def packed(data, wrapper):
    if wrapper == "zlib":
        return zlib.compress(data)
    half = len(data) // 2  # programs that compress in parallel write several members
    return gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:])


def draw_region(data, shape):
    return tuple(
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in shape
    )


@pytest.fixture
def small_steps():
    """Limits so small that every way of reading is taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "MAX_GAP_BYTES", 12)
        patch.setattr(rows, "SCRATCH_BYTES", 40)
        patch.setattr(rows, "_MAX_READ_BYTES", 50)
        patch.setattr(inflate, "MIN_SPACING_BYTES", 64)
        patch.setattr(inflate, "_INPUT_BYTES", 30)
        patch.setattr(inflate, "_OUTPUT_BYTES", 25)
        yield


@given(
    seed=seeds,
    shape=small_shapes,
    dtype=st.sampled_from(RAW_DTYPES),
    byte_order=st.sampled_from(["little", "big"]),
    how=st.sampled_from(["plain", "gzip", "zlib"]),
    before=st.integers(0, 40),
    after=st.integers(0, 40),
    data=st.data(),
)
@pytest.mark.usefixtures("small_steps")
def test_any_regions_read_as_they_slice(tmp_path_factory, seed, shape, dtype, byte_order, how, before, after, data):
    values = any_values(seed, shape, dtype)
    content = bytes(before) + stored(values, byte_order) + b"\1" * after
    path = tmp_path_factory.mktemp("r") / "v.raw"
    layout = RawLayout(shape, dtype, byte_order, before)
    if how == "plain":
        path.write_bytes(content)
        storage = raw_storage(path, layout, longer=True)
    else:
        path.write_bytes(b"header" + packed(content, how))
        storage = compressed_storage(path, layout, wrapper=how, start_bytes=6)
    for _ in range(4):
        region = draw_region(data, shape)
        found = storage.read(region)
        assert found.dtype == np.dtype(dtype)
        assert found.dtype.isnative
        assert found.flags.c_contiguous
        assert found.flags.owndata
        assert found.tobytes() == values[region].tobytes()


@pytest.fixture
def plain(tmp_path):
    (tmp_path / "v.raw").write_bytes(VALUES.tobytes())
    return tmp_path / "v.raw"


@pytest.fixture
def zipped(tmp_path):
    (tmp_path / "v.gz").write_bytes(gzip.compress(VALUES.tobytes()))
    return compressed_storage(tmp_path / "v.gz", LAYOUT, wrapper="gzip")


def test_open_raw_keeps_the_voxel_size_that_was_given(plain):
    volume = open_raw(plain, LAYOUT, voxel_size_um=(3, 2, 1))
    assert volume.voxel_size_um == (3.0, 2.0, 1.0)
    assert open_raw(plain, LAYOUT, voxel_size_um=None).voxel_size_um is None
    assert volume.storage.chunk_shape == (1, 1, 1)
    np.testing.assert_array_equal(volume.read(), VALUES)


@pytest.mark.parametrize("how", ["plain", "gzip"])
def test_a_storage_pickles_as_its_address_and_works_anywhere(plain, zipped, how):
    storage = raw_storage(plain, LAYOUT) if how == "plain" else zipped
    storage.read(WHOLE)
    assert len(pickle.dumps(storage)) < 700
    planes = [(slice(z, z + 1), *WHOLE[1:]) for z in range(SHAPE[0])] * 8
    with ThreadPoolExecutor(8) as threads:
        for region, found in zip(planes, threads.map(storage.read, planes), strict=True):
            np.testing.assert_array_equal(found, VALUES[region])


def test_other_processes_read_the_same(plain, zipped):
    storages = [raw_storage(plain, LAYOUT), zipped]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        for found in processes.map(_read_whole, storages):
            np.testing.assert_array_equal(found, VALUES)


def _read_whole(storage):
    return storage.read(WHOLE)


def test_a_small_region_of_a_terabyte_touches_its_own_rows_alone(tmp_path, monkeypatch):
    shape = (1000, 10000, 50000)
    with (tmp_path / "huge.raw").open("wb") as file:
        file.truncate(2 * 1000 * 10000 * 50000)
        file.seek(2 * ((700 * 10000 + 5000) * 50000 + 40000))
        file.write(np.arange(1, 301, dtype="u2").tobytes())
    touched, preadv = [], os.preadv

    def counted(file, buffers, offset):
        touched.append(sum(len(b) for b in buffers))
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    storage = raw_storage(tmp_path / "huge.raw", RawLayout(shape, "uint16"))
    found = storage.read((slice(700, 702), slice(4999, 5003), slice(40000, 40300)))
    np.testing.assert_array_equal(found[0, 1], np.arange(1, 301))
    assert found.sum() == 300 * 301 // 2
    assert sum(touched) == found.nbytes


def test_near_rows_are_read_together(plain, monkeypatch):
    calls, preadv = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: calls.append(a[2]) or preadv(*a))
    storage = raw_storage(plain, LAYOUT)
    storage.read((slice(2, 5), slice(0, 9), slice(3, 9)))
    assert len(calls) == 3
    calls.clear()
    storage.read((slice(2, 5), *WHOLE[1:]))
    assert len(calls) == 1
    last = (slice(11, 12), slice(6, 9), slice(5, 14))  # the file ends where these rows end
    np.testing.assert_array_equal(storage.read(last), VALUES[last])


def counting(monkeypatch):
    """List of how many compressed bytes the decoder was given at a time."""
    taken, decode = [], inflate.Cursor._decode

    def counted(self, data, most):
        before = len(data)
        part = decode(self, data, most)
        taken.append(before - len(self._input))
        return part

    monkeypatch.setattr(inflate.Cursor, "_decode", counted)
    return taken


@pytest.fixture
def long_stream(tmp_path, monkeypatch):
    """64 planes of 32 KiB that hardly compress."""
    monkeypatch.setattr(inflate, "MIN_SPACING_BYTES", 2**17)
    values = np.random.default_rng(1).integers(0, 65535, (64, 128, 128)).astype("u2")
    (tmp_path / "long.gz").write_bytes(gzip.compress(values.tobytes(), 1))
    return values, compressed_storage(tmp_path / "long.gz", RawLayout(values.shape, "uint16"), wrapper="gzip")


def test_planes_in_order_cost_one_pass(long_stream, monkeypatch):
    values, storage = long_stream
    taken = counting(monkeypatch)
    for z in range(64):
        np.testing.assert_array_equal(storage.read((slice(z, z + 1), slice(0, 128), slice(0, 128))), values[z : z + 1])
    assert sum(taken) == os.path.getsize(storage.path)


def test_blocks_with_margins_cost_little_more_than_one_pass(long_stream, monkeypatch):
    values, storage = long_stream
    taken = counting(monkeypatch)
    for z in range(0, 64, 8):
        region = (slice(max(z - 2, 0), min(z + 10, 64)), slice(0, 128), slice(0, 64))
        np.testing.assert_array_equal(storage.read(region), values[region])
    assert sum(taken) < 1.9 * os.path.getsize(storage.path)


def test_a_step_back_starts_at_the_nearest_state(long_stream, monkeypatch):
    values, storage = long_stream
    storage.read(tuple(slice(0, n) for n in values.shape))
    taken = counting(monkeypatch)
    np.testing.assert_array_equal(storage.read((slice(50, 51), slice(0, 128), slice(0, 128))), values[50:51])
    assert sum(taken) < os.path.getsize(storage.path) / 8


def test_states_are_bounded_however_long_the_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(inflate, "MIN_SPACING_BYTES", 1)
    monkeypatch.setattr(inflate, "MAX_STATES", 16)
    path = tmp_path / "z.gz"
    path.write_bytes(gzip.compress(VALUES.tobytes()))
    stream = inflate.Stream(str(path), 0, "gzip", VALUES.nbytes)
    for _ in range(2):
        with stream.cursor(0) as cursor:
            for start in range(0, VALUES.nbytes, 7):
                cursor.read_into(start, memoryview(bytearray(min(7, VALUES.nbytes - start))))
    assert 8 <= len(stream._states) <= 17
    for start in range(0, VALUES.nbytes, 50):
        with stream.cursor(start) as cursor:
            cursor.read_into(start, memoryview(bytearray(2)))
    assert len(stream._recent) == inflate.RECENT_STATES


def test_decoding_is_never_whole_in_memory(tmp_path):
    shape = (64, 1024, 1024)
    (tmp_path / "zeros.gz").write_bytes(gzip.compress(bytes(64 * 2**20), 1))
    storage = compressed_storage(tmp_path / "zeros.gz", RawLayout(shape, "uint8"), wrapper="gzip")
    with Traced() as traced:
        assert not storage.read((slice(63, 64), slice(0, 1024), slice(0, 1024))).any()
    assert traced.peak_bytes < 8 * 2**20


def test_a_change_changes_the_identity(plain, zipped):
    for storage, path in ((raw_storage(plain, LAYOUT), plain), (zipped, zipped.path)):
        before = storage.identity()
        assert before == storage.identity()
        os.utime(path, (1, 1))
        assert storage.identity() != before
    assert raw_storage(plain, LAYOUT).identity() != raw_storage(plain, RawLayout(SHAPE, "int16", "big")).identity()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            RawLayout((12, 9, 15), "uint16"),
            r"has 3024 bytes, but 12 x 9 x 15 .* uint16 take 3240: the file is truncated",
        ),
        (RawLayout((12, 9, 13), "uint16"), r"has 3024 bytes, but 12 x 9 x 13 .* take 2808: shape, type or offset"),
        (RawLayout(SHAPE, "float64"), r"has 3024 bytes, but 12 x 9 x 14 .* float64 take 12096"),
        (RawLayout(SHAPE, "uint16", "little", 8), r"after 8 bytes of header take 3032"),
        (RawLayout((10**9, 10**9, 10**9), "uint64"), r"take 8000000000000000000000000000"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(plain, layout, message):
    with pytest.raises(InputError, match=message):
        open_raw(plain, layout, voxel_size_um=1)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        raw_storage(tmp_path / "no.raw", LAYOUT)
    with pytest.raises(InputError, match="is not a file"):
        raw_storage(tmp_path, LAYOUT)
    with pytest.raises(InputError, match="does not exist"):
        compressed_storage(tmp_path / "no.gz", LAYOUT, wrapper="gzip")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 2), "uint8"), "shape must be three positive"),
        (((1, 2, 0), "uint8"), "shape must be three positive"),
        (((1, 2, 3), "bool"), "dtype must be one of int8.*got 'bool'"),
        (((1, 2, 3), "complex64"), "dtype must be one of"),
        (((1, 2, 3), "uint8", "middle"), "byte_order must be little or big, got 'middle'"),
        (((1, 2, 3), "uint8", "big", -1), "offset_bytes must not be negative, got -1"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RawLayout(*arguments)


def test_a_file_that_shrank_or_went_is_refused(plain, zipped):
    storage = raw_storage(plain, LAYOUT)
    plain.write_bytes(VALUES.tobytes()[:1000])
    assert (storage.read((slice(0, 1), *WHOLE[1:])) == VALUES[:1]).all()
    with pytest.raises(InputError, match=r"v\.raw ends at byte 1000: it is shorter than when it was opened"):
        storage.read(WHOLE)
    plain.unlink()
    os.unlink(zipped.path)
    for gone in (storage, zipped):
        with pytest.raises(InputError, match="cannot be read any more: No such file"):
            gone.read(WHOLE)


def _damaged(content):
    # The first two bits of a block of their own kind (11) are no kind at all.
    return content[:10] + b"\xff" * 20 + content[30:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c[: len(c) // 2], r"is truncated: its compressed voxels end after \d+ of 3024 bytes"),
        (lambda c: c[:-3], "is truncated: its checksum is missing"),
        (lambda c: c[:-8] + b"\0\0\0\0" + c[-4:], "is damaged: .*incorrect data check"),
        (_damaged, "is damaged: its compressed voxels cannot be decoded after 0 of 3024 bytes"),
        (lambda c: b"no gzip at all" + c, "is damaged: .* incorrect header check"),
        (
            lambda c: gzip.compress(VALUES.tobytes()[:-2]),
            "holds 3022 decompressed bytes where its header asks for 3024",
        ),
        (lambda c: gzip.compress(VALUES.tobytes()[:-2]) + b"rest", "holds 3022 decompressed bytes"),
    ],
)
def test_a_stream_that_is_not_whole_is_refused(tmp_path, zipped, spoil, message):
    path = tmp_path / "spoilt.gz"
    with open(zipped.path, "rb") as file:
        path.write_bytes(spoil(file.read()))
    with pytest.raises(InputError, match=message):
        compressed_storage(path, LAYOUT, wrapper="gzip").read(WHOLE)


def test_more_than_deflate_can_hold_is_refused_before_anything_is_decoded(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(2**20)))
    with pytest.raises(InputError, match=r"said to hold 1000000000000 bytes of voxels, but its \d+ compressed bytes"):
        compressed_storage(tmp_path / "bomb.gz", RawLayout((10**4, 10**4, 10**4), "uint8"), wrapper="gzip")


def test_no_more_than_the_voxels_is_decoded_of_a_bomb(tmp_path, monkeypatch):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(VALUES.tobytes() + bytes(64 * 2**20)))
    storage = compressed_storage(tmp_path / "bomb.gz", LAYOUT, wrapper="gzip")
    taken = counting(monkeypatch)
    np.testing.assert_array_equal(storage.read(WHOLE), VALUES)
    assert sum(taken) < 2 * VALUES.nbytes
