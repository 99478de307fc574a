"""Read parts of volumes through a bounded memory of decoded chunks: neighbouring patches share most of theirs."""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict

import numpy as np

from tomoscale.geometry import Region, Shape, region_shape, three
from tomoscale.volume import Volume

BRICK_VOXELS = 64**3
"""Small chunks are read together up to this many voxels."""


class ChunkCache:
    """The chunks of some volumes that were read last, up to a number of bytes; shared by threads.

    Parameters
    ----------
    limit_bytes : int
        One chunk is kept even if it is larger.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.bricks: OrderedDict[tuple[int, int, int, int], np.ndarray] = OrderedDict()
        self.lock = threading.Lock()
        self.volumes: list[Volume] = []

    def add(self, volume: Volume) -> int:
        """Take in a volume; return its number."""
        self.volumes.append(volume)
        return len(self.volumes) - 1

    def read(self, number: int, region: Region) -> np.ndarray:
        """Values of a region of a volume; the caller owns them."""
        volume = self.volumes[number]
        edges = brick_shape(volume)
        result = np.empty(region_shape(region), volume.dtype)
        spans = (range(r.start // e, -(-r.stop // e)) for r, e in zip(region, edges, strict=True))
        for place in itertools.product(*spans):
            start = tuple(p * e for p, e in zip(place, edges, strict=True))
            brick = self._brick(number, (place[0], place[1], place[2]), edges)
            parts = [(max(r.start, s), min(r.stop, s + n)) for r, s, n in zip(region, start, brick.shape, strict=True)]
            into = tuple(slice(a - r.start, b - r.start) for (a, b), r in zip(parts, region, strict=True))
            result[into] = brick[tuple(slice(a - s, b - s) for (a, b), s in zip(parts, start, strict=True))]
        return result

    def _brick(self, number: int, place: Shape, edges: Shape) -> np.ndarray:
        key = (number, *place)
        with self.lock:
            if key in self.bricks:
                self.bricks.move_to_end(key)
                return self.bricks[key]
        shape = self.volumes[number].shape
        z, y, x = (slice(p * e, min((p + 1) * e, n)) for p, e, n in zip(place, edges, shape, strict=True))
        values = self.volumes[number].read((z, y, x))
        with self.lock:
            if key not in self.bricks:
                self.bricks[key] = values
                self.held_bytes += values.nbytes
            while self.held_bytes > self.limit_bytes and len(self.bricks) > 1:
                self.held_bytes -= self.bricks.popitem(last=False)[1].nbytes
        return values


def brick_shape(volume: Volume) -> Shape:
    """Voxels that are read at once: a chunk, or several small ones, longest along x."""
    edges = [min(c, n) for c, n in zip(volume.storage.chunk_shape, volume.shape, strict=True)]
    for axis in (2, 1, 0):
        while edges[axis] < volume.shape[axis] and 2 * math.prod(edges) <= BRICK_VOXELS:
            edges[axis] *= 2
    return three(min(e, n) for e, n in zip(edges, volume.shape, strict=True))
