"""Frames of a ledger's log: records of some finished blocks, the sum of their counts, a CRC.

.. code-block:: text

    TSL1 | number of records | bytes of counts | records | counts: header, arrays, compressed | CRC-32
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tomoscale.packed_counts import pack_counts
from tomoscale.step import Counts

RECORD = np.dtype([("number", "<u8"), ("checksum", "<u8"), ("attempts", "<u4"), ("seconds", "<f4", 3)])
"""One finished block; `seconds` are those of reading, computing and writing."""

BATCH_BYTES = 2**18
"""Records are taken in together, for speed, but never all at once."""

_FRAME = struct.Struct("<4sII")
_MAGIC = b"TSL1"


def pack_frame(records: np.ndarray, counts: Counts) -> bytes:
    """Frame of records, an (n,) array of `RECORD`, and counts."""
    payload = pack_counts(counts)
    body = _FRAME.pack(_MAGIC, len(records), len(payload)) + records.astype(RECORD).tobytes() + payload
    return body + struct.pack("<I", zlib.crc32(body))


def frames_of(folder: Path | None) -> Iterator[tuple[np.ndarray, memoryview, int]]:
    """Records and packed counts of every whole frame of the log, and where it ends."""
    path = None if folder is None else folder / "blocks.log"
    if path is None or not path.exists() or path.stat().st_size == 0:
        return
    # Mapped, not read: a log of histograms may be larger than memory.
    view, position = memoryview(np.memmap(path, np.uint8, "r")), 0  # type: ignore[arg-type]
    while (end := _frame_end(view, position)) is not None:
        _, n_records, payload = _FRAME.unpack_from(view, position)
        first = position + _FRAME.size
        last = first + n_records * RECORD.itemsize
        yield np.frombuffer(view[first:last], RECORD), view[last : last + payload], end
        position = end


def new_records(folder: Path, start: int) -> tuple[np.ndarray, int]:
    """Records that the log of blocks holds from byte `start` on, and where its last whole frame ends.

    For those who follow a run: counts are not unpacked, and what was read before is not read again.
    """
    found, position = [np.zeros(0, RECORD)], start
    with (folder / "blocks.log").open("rb") as file:
        if file.seek(0, os.SEEK_END) <= start:
            return found[0], start
        view = memoryview(np.memmap(file, np.uint8, "r"))  # type: ignore[arg-type]
        while (end := _frame_end(view, position)) is not None:
            _, n_records, _ = _FRAME.unpack_from(view, position)
            first = position + _FRAME.size
            found.append(np.frombuffer(view[first : first + n_records * RECORD.itemsize], RECORD).copy())
            position = end
    return np.concatenate(found), position


def _frame_end(view: memoryview, position: int) -> int | None:
    """Where the frame at `position` ends, or None if it is not whole."""
    if position + _FRAME.size > len(view):
        return None
    magic, n_records, payload = _FRAME.unpack_from(view, position)
    end = position + _FRAME.size + n_records * RECORD.itemsize + payload
    if magic != _MAGIC or end + 4 > len(view):
        return None
    (expected,) = struct.unpack_from("<I", view, end)
    return end + 4 if zlib.crc32(view[position:end]) == expected else None
