"""Checksums of blocks, as ledgers record them."""

from __future__ import annotations

import numpy as np
import xxhash

from tomoscale.geometry import Region


def checksum(values: np.ndarray) -> int:
    """64-bit checksum of a block's values."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(values).data)


def placed_checksum(values: np.ndarray, region: Region) -> int:
    """64-bit checksum of values and where they belong: the sum over all blocks, modulo 2**64, is one of the whole volume."""
    place = repr(([(r.start, r.stop) for r in region], checksum(values)))
    return xxhash.xxh3_64_intdigest(place.encode())
