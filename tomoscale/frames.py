"""Frames of a ledger's log: records of some finished blocks, the sum of their counts, a CRC.

.. code-block:: text

    TSL2 | run | number of records | bytes of counts | records | counts: header, arrays, compressed | CRC-32
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tomoscale.packed_counts import pack_counts
from tomoscale.step import Counts

RECORD = np.dtype([("number", "<u8"), ("checksum", "<u8"), ("attempts", "<u4"), ("seconds", "<f4", 3)])
"""One finished block; `seconds` are those of reading, computing and writing."""

BATCH_BYTES = 2**18
"""Records are taken in together, for speed, but never all at once."""

FRAME = struct.Struct("<4sQII")
"""Head of a frame."""
_MAGIC = b"TSL2"


class Frame(NamedTuple):
    """A frame as it is stored.

    Attributes
    ----------
    run : int
        Drawn by the run that wrote it. A run opens its part of the log with a frame without records.
    records : (n,) array of `RECORD`
    counts : memoryview
        Packed.
    end : int
        Where the next frame is looked for.
    """

    run: int
    records: np.ndarray
    counts: memoryview
    end: int


def pack_frame(records: np.ndarray, counts: Counts, run: int) -> bytes:
    """Frame of records, an (n,) array of `RECORD`, and counts."""
    payload = pack_counts(counts)
    body = FRAME.pack(_MAGIC, run, len(records), len(payload)) + records.astype(RECORD).tobytes() + payload
    return body + struct.pack("<I", zlib.crc32(body))


def frames_in(view: memoryview, position: int) -> Iterator[Frame]:
    """Every whole frame from a position on, up to the first that is not."""
    while (end := _frame_end(view, position)) is not None:
        _, run, n_records, payload = FRAME.unpack_from(view, position)
        first = position + FRAME.size
        last = first + n_records * RECORD.itemsize
        yield Frame(run, np.frombuffer(view[first:last], RECORD), view[last : last + payload], end)
        position = end


def _frame_end(view: memoryview, position: int) -> int | None:
    """Where the frame at `position` ends, or None if it is not whole."""
    if position + FRAME.size > len(view):
        return None
    magic, _, n_records, payload = FRAME.unpack_from(view, position)
    end = position + FRAME.size + n_records * RECORD.itemsize + payload
    if magic != _MAGIC or end + 4 > len(view):
        return None
    (expected,) = struct.unpack_from("<I", view, end)
    return end + 4 if zlib.crc32(view[position:end]) == expected else None
