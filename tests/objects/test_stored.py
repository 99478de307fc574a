"""A file of arrays is whole or not there, and one that was changed is not believed."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from tomoscale.errors import IntegrityError
from tomoscale.objects.stored import StoredArrays, save_arrays

ARRAYS = {"numbers": np.arange(7, dtype=np.uint32), "sides": np.ones((3, 2), bool), "none": np.zeros((0, 4), np.int64)}


def test_arrays_come_back(tmp_path):
    path = tmp_path / "deeper" / "a.arrays"
    save_arrays(path, ARRAYS)
    stored = StoredArrays.open(path)
    assert "numbers" in stored
    assert "others" not in stored
    for name, array in ARRAYS.items():
        assert stored.shape(name) == array.shape
        for found in (stored.read(name), stored.view(name)):
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
    assert [p.name for p in path.parent.iterdir()] == ["a.arrays"]


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "a.arrays"
    save_arrays(path, ARRAYS)
    data = bytearray(path.read_bytes())
    place = data.index(ARRAYS["numbers"].tobytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"is damaged \(numbers\)"):
        StoredArrays.open(path).read("numbers")


@pytest.mark.parametrize(
    "header",
    [
        {"a": ["<u4", [10**15], 0, "0"]},
        {"a": ["<u4", [-1], 0, "0"]},
        {"a": ["<u4", [1], -100, "0"]},
        {"a": ["|O", [1], 0, "0"]},
        {"a": ["<u4", [1]]},
        {"b": ["<u4", [1], 0, "0"]},
        ["a"],
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header):
    text = json.dumps(header).encode()
    path = tmp_path / "a.arrays"
    path.write_bytes(b"TSARRAY1" + struct.pack("<Q", len(text)) + text + bytes(64))
    with pytest.raises(IntegrityError, match="cannot be read"):
        StoredArrays.open(path).read("a")


def test_what_is_no_such_file_is_refused(tmp_path):
    (tmp_path / "short").write_bytes(b"TS")
    (tmp_path / "long").write_bytes(b"TSARRAY1" + struct.pack("<Q", 2**60) + bytes(64))
    for name in ("short", "long", "missing"):
        with pytest.raises(IntegrityError, match="cannot be read"):
            StoredArrays.open(tmp_path / name)
