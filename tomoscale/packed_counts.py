"""Counts as the log of blocks holds them: names, types and shapes as JSON, then the numbers, all of it deflated."""

from __future__ import annotations

import json
import math
import operator
import struct
import zlib
from typing import Any

import numpy as np

from tomoscale.step import Counts

MAX_NAMES_BYTES = 2**20
MAX_COUNTS_BYTES = 2**30
"""Of one frame of the log."""


def pack_counts(counts: Counts) -> bytes:
    """Counts as bytes; none are no bytes."""
    if not counts:
        return b""
    arrays = {name: np.ascontiguousarray(values) for name, values in sorted(counts.items())}
    header = json.dumps([[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()]).encode()
    body = b"".join(a.tobytes() for a in arrays.values())
    # Most counts are zeros (histograms above all), so the lightest compression already saves nearly everything.
    return zlib.compress(struct.pack("<I", len(header)) + header + body, 1)


def unpack_counts(payload: memoryview) -> Counts:
    """Counts that `pack_counts` made.

    Raises
    ------
    ValueError, TypeError, OverflowError, RecursionError, struct.error, zlib.error
        If it did not: the bytes are damaged, or ask for more than `MAX_COUNTS_BYTES`.
    """
    if not payload:
        return {}
    decoder = zlib.decompressobj()
    (length,) = struct.unpack("<I", decoder.decompress(payload, 4))
    if length > MAX_NAMES_BYTES:
        raise ValueError(f"the names of counts take {length} bytes")
    # No more is unpacked than the names and shapes ask for.
    arrays = [
        (name, np.dtype(dtype), tuple(map(operator.index, shape)))
        for name, dtype, shape in json.loads(_next_bytes(decoder, length))
    ]
    total = sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in arrays)
    if total > MAX_COUNTS_BYTES or any(dtype.kind not in "biuf" for _, dtype, _ in arrays):
        raise ValueError(f"counts of {total} bytes, or of things that are no numbers")
    data, counts, position = _next_bytes(decoder, total), {}, 0
    for name, dtype, shape in arrays:
        counts[str(name)] = np.frombuffer(data, dtype, math.prod(shape), position).reshape(shape).copy()
        position += math.prod(shape) * dtype.itemsize
    return counts


def _next_bytes(decoder: Any, count: int) -> bytes:
    """So many further bytes of a stream; zlib takes 0 for no limit."""
    data: bytes = decoder.decompress(decoder.unconsumed_tail, count) if count else b""
    return data
