"""Which blocks cost least: a model of voxels computed twice, chunks decoded in vain, and cores left idle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tomoscale.geometry import Shape, three
from tomoscale.step import Kernel
from tomoscale.volume import Volume, ZarrArray

if TYPE_CHECKING:
    from tomoscale.projection import Plan

CHUNK_VOXELS = 64
"""Edge of an inner chunk: a margin then costs 1.4-2x decoding, where chunks as large as shards would cost 27x."""
MAX_SHARD_BYTES = 512 * 2**20


def choose_block(draft: Callable[[Shape], Plan], shape: Shape, unit: Shape, chunk: Shape, source_chunk: Shape) -> Shape:
    """Block that costs least: voxels computed and decoded per voxel wanted, and cores left idle at the end."""
    axes = [_lengths(n, u, c, s) for n, u, c, s in zip(shape, unit, chunk, source_chunk, strict=True)]
    plans = [draft(three(block)) for block in itertools.product(*axes)]
    fitting = [p for p in plans if p.fits]
    if not fitting:
        return min(plans, key=lambda p: p.memory_bytes).grid.block_shape
    return min(fitting, key=lambda p: (cost(p), p.memory_bytes)).grid.block_shape


def cost(plan: Plan) -> float:
    """Relative time per voxel wanted; only its order among candidates matters."""
    decoded = plan.decoded_bytes / (math.prod(plan.source_shape) * plan.source_itemsize)
    # While the last block is computed all other cores may be idle, and while the first ones are read nothing computes.
    largest = plan.core_voxels / math.prod(plan.grid.shape)
    idle = 1 + (1.5 * plan.resources.parallel - 1) * largest
    # A block itself costs some 10 ms of opening, checksum and record, as much as a megabyte.
    overhead = 1 + 1e6 / (plan.core_voxels * plan.source_itemsize)
    # Chunks thinner than others compress worse and cost whoever reads the result.
    thinnest = min(b / min(n, CHUNK_VOXELS) for b, n in zip(plan.grid.block_shape, plan.grid.shape, strict=True))
    thin = 1 if plan.target is None else 1 - 0.05 * math.log2(min(thinnest, 1))
    return float((plan.redundancy + 0.3 * decoded) * idle * overhead * thin)


def _lengths(length: int, unit: int, chunk: int, source_chunk: int) -> list[int]:
    """Candidate block lengths along one axis: multiples of the writing unit and, where it can be, of both chunks."""
    base = math.lcm(unit, chunk) if unit > 1 else math.lcm(chunk, source_chunk if source_chunk <= 4 * chunk else 1)
    base = base if base < length else max(unit, min(base, length))
    multiples = sorted({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64})
    lengths = [base * m for m in multiples if base * m < length]
    # Whole slices of a wide scan only fit as slabs thinner than a chunk.
    parts = [base // m for m in (2, 4, 8) if unit == 1 and base % m == 0 and base // m >= 8]
    return [*parts, *lengths, -(-length // unit) * unit if unit > 1 else length]


def writing_unit(target: Volume | None) -> Shape:
    """Return what one block must own whole: the target's shard."""
    return target.storage.shard_shape if target is not None and isinstance(target.storage, ZarrArray) else (1, 1, 1)


def chunk_for(unit: Shape, kernel: Kernel) -> Shape:
    """Lengths that block edges should be multiples of: shards of a given target, else chunks and the kernel's stride and tile."""
    if unit != (1, 1, 1):
        return unit
    cells = (math.lcm(stride, tile) for stride, tile in zip(kernel.stride, kernel.tile, strict=True))
    z, y, x = (math.lcm(CHUNK_VOXELS, c) if c <= 1024 else c for c in cells)
    return z, y, x


def shard_of(block: Shape, shape: Shape, itemsize: int) -> tuple[Shape, Shape]:
    """Shard and chunk of a new target: the block is one shard, or a whole number of shards if it is too large."""
    z, y, x = (min(CHUNK_VOXELS, b) for b in block)
    chunk: Shape = (z, y, x)
    uneven = [a for a, (b, c, n) in enumerate(zip(block, chunk, shape, strict=True)) if b % c and b < n]
    if uneven:
        chunk = three(math.gcd(b, c) if b < n else c for b, c, n in zip(block, chunk, shape, strict=True))
    shard = list(three(-(-b // c) * c for b, c in zip(block, chunk, strict=True)))
    for axis in (0, 1, 2):
        while math.prod(shard) * itemsize > MAX_SHARD_BYTES and shard[axis] // chunk[axis] % 2 == 0:
            shard[axis] //= 2
    return three(iter(shard)), chunk
