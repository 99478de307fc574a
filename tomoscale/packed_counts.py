"""Counts as the log of blocks holds them: names, types and shapes as JSON, then the numbers, all of it deflated."""

from __future__ import annotations

import json
import math
import operator
import struct
import zlib
from functools import lru_cache
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
    arrays, total = _arrays(_next_bytes(decoder, length))
    data, counts, position = _next_bytes(decoder, total), {}, 0
    for name, dtype, shape, size in arrays:
        counts[name] = np.frombuffer(data, dtype, size, position).reshape(shape).copy()
        position += size * dtype.itemsize
    return counts


@lru_cache(maxsize=16)
def _arrays(header: bytes) -> tuple[tuple[tuple[str, np.dtype[Any], tuple[int, ...], int], ...], int]:
    """Name, type, shape and size of each array, and bytes of all; they are the same in every frame of a run."""
    described = [
        (str(name), np.dtype(dtype), tuple(map(operator.index, shape))) for name, dtype, shape in json.loads(header)
    ]
    arrays = tuple((name, dtype, shape, math.prod(shape)) for name, dtype, shape in described)
    total = sum(dtype.itemsize * size for _, dtype, _, size in arrays)
    if total > MAX_COUNTS_BYTES or any(dtype.kind not in "biuf" for _, dtype, _, _ in arrays):
        raise ValueError(f"counts of {total} bytes, or of things that are no numbers")
    return arrays, total


def _next_bytes(decoder: Any, count: int) -> bytes:
    """So many further bytes of a stream; zlib takes 0 for no limit."""
    data: bytes = decoder.decompress(decoder.unconsumed_tail, count) if count else b""
    return data
