"""Kernels that add up plane after plane what a network says of every voxel.

The tally of a volume (`tomoscale.kernels.voting`) is stored with the numbers of a slice after each other along z: plane
``z * numbers + i`` holds number i of slice z. It is read as (z, numbers, y, x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block, Halo, Region, Shape, region_shape, shift, three
from tomoscale.kernels.planes import PlaneNetwork
from tomoscale.kernels.rotation import Rotation
from tomoscale.kernels.scaling import Scaling, scale_region
from tomoscale.kernels.voting import Ballot, add_plane, restored, stored
from tomoscale.step import Kernel


def add_predicted(network: PlaneNetwork, ballot: Ballot, *, first: bool, scaling: Scaling | None = None) -> Kernel:
    """Kernel that adds what a plane without rotation says to a tally: inputs "grey" and, unless `first`, "tally".

    Tallies are read as (z, numbers, y, x) and written with the numbers after each other along z. Grey values are scaled
    first, unless `scaling` is None.
    """
    k = ballot.numbers
    return Kernel(
        f"add plane {network.plane.name}",
        _AddPredicted(network, ballot, scaling),
        network.halo,
        np.dtype(np.float32),
        # The tally and the shares of a plane; scaled values with a mask of those that are finite.
        bytes_per_voxel=4 * (2 * k + ballot.n_classes) + (0 if scaling is None else 4 + 1),
        parameters={**network.parameters, "numbers": k},
        stride=network.along_axes(network.tiles.stride),
        tile=network.along_axes(network.tiles.tile),
        factor=(1 / k, 1.0, 1.0),
        target_shape=partial(interleaved, shape=network.shape, numbers=k),
        located=True,
        fixed_bytes=network.fixed_bytes,
        own_threads=True,
        inputs=("grey",) if first else ("grey", "tally"),
    )


def predict_turned(network: PlaneNetwork, dtype: np.dtype) -> Kernel:
    """Kernel from a turned volume to what a plane says of it, still turned: the classes after each other along z."""
    n = len(network.bundle.classes)
    return Kernel(
        f"predict plane {network.plane.name}",
        _Predict(network, dtype),
        network.halo,
        dtype,
        bytes_per_voxel=n * (4 + dtype.itemsize) + 8,
        parameters={**network.parameters, "dtype": dtype.name},
        stride=network.along_axes(network.tiles.stride),
        tile=network.along_axes(network.tiles.tile),
        factor=(1 / n, 1.0, 1.0),
        target_shape=partial(interleaved, shape=network.shape, numbers=n),
        located=True,
        fixed_bytes=network.fixed_bytes,
        own_threads=True,
    )


def frame_of(rotation: Rotation) -> Shape:
    """Shape that holds a volume and its canvas: what `add_turned` reads both in."""
    return three(max(n, m) for n, m in zip(rotation.shape, rotation.canvas, strict=True))


def add_turned(rotation: Rotation, name: str, ballot: Ballot) -> Kernel:
    """Kernel that turns back what `predict_turned` wrote and adds it to a tally: inputs "shares" and "tally".

    Both are read in the frame of `frame_of`, whole slices across the axis of rotation, as (z, numbers, y, x).
    """
    k, frame = ballot.numbers, frame_of(rotation)
    return Kernel(
        f"add plane {name}",
        partial(_add_turned, rotation=rotation, ballot=ballot),
        Halo(),
        np.dtype(np.float32),
        bytes_per_voxel=4 * (2 * k + ballot.n_classes) + 4,
        parameters={"plane": name, "voting": ballot.voting},
        tile=three(1 if a == rotation.axis else n for a, n in enumerate(frame)),
        factor=(1 / k, 1.0, 1.0),
        target_shape=partial(interleaved, shape=frame, numbers=k, to=rotation.shape),
        located=True,
        inputs=("shares", "tally"),
    )


@dataclass(frozen=True)
class _AddPredicted:
    network: PlaneNetwork
    ballot: Ballot
    scaling: Scaling | None

    def __call__(self, grey: Array, *rest: Array | Block) -> Array:
        block = rest[-1]
        assert isinstance(block, Block)
        region = voxels_of(block, self.ballot.numbers)
        inside = shift(region, tuple(-r.start for r in block.read))
        xp = namespace_for(grey)
        if len(rest) == 2:
            z, y, x = inside
            tally = rest[0][z, :, y, x].copy()  # type: ignore[index]
        else:
            tally = xp.zeros(tally_shape(region, self.ballot.numbers), np.float32)
        if self.scaling is not None:
            grey = scale_region(grey, block.read, self.scaling)
        add_plane(tally, self.network.shares(region, partial(part_of, grey, block), grey), self.ballot)
        return written(tally, region, block)


@dataclass(frozen=True)
class _Predict:
    network: PlaneNetwork
    dtype: np.dtype

    def __call__(self, grey: Array, block: Block) -> Array:
        region = voxels_of(block, len(self.network.bundle.classes))
        shares = self.network.shares(region, partial(part_of, grey, block), grey)
        result = namespace_for(grey).empty(tally_shape(region, len(shares)), self.dtype)
        for label, share in enumerate(shares):
            result[:, label] = stored(share, self.dtype)
        return written(result, region, block)


def _add_turned(shares: Array, tally: Array, block: Block, rotation: Rotation, ballot: Ballot) -> Array:
    region = voxels_of(block, ballot.numbers)
    start = tuple(r.start for r in block.read)
    z, y, x = shift(region, tuple(-s for s in start))
    total = tally[z, :, y, x].copy()
    turned = namespace_for(shares).empty((ballot.n_classes, *region_shape(region)), np.float32)
    for label in range(ballot.n_classes):
        turned[label] = rotation.turn_back(restored(shares[:, label]), start, region)
    add_plane(total, turned, ballot)
    return written(total, region, block)


def part_of(values: Array, block: Block, region: Region) -> Array:
    """Values of a region of the source."""
    inside = shift(region, tuple(-r.start for r in block.read))
    held = all(i.start >= 0 and i.stop <= n for i, n in zip(inside, values.shape, strict=True))
    assert held or not math.prod(region_shape(region)), "a block must read what its windows need"
    return values[inside] if held else values[:0, :0, :0]


def voxels_of(block: Block, numbers: int) -> Region:
    """Voxels of the volume that a block of interleaved numbers writes some number of."""
    z, y, x = block.write
    return slice(z.start // numbers, -(-z.stop // numbers)), y, x


def tally_shape(region: Region, numbers: int) -> tuple[int, int, int, int]:
    """Shape of the tally of a region."""
    z, y, x = region_shape(region)
    return z, numbers, y, x


def written(tally: Array, region: Region, block: Block) -> Array:
    """Part of (z, numbers, y, x) that a block writes, the numbers after each other along z."""
    numbers = tally.shape[1]
    first = block.write[0].start - region[0].start * numbers
    return tally.reshape(-1, *tally.shape[2:])[first : first + block.write_shape[0]]


def interleaved(source_shape: Shape, shape: Shape, numbers: int, to: Shape | None = None) -> Shape:
    """Shape of the stored numbers of a volume, which is `to` where the source is read in another frame."""
    if source_shape != shape:
        raise ValueError(f"the kernel is for a volume of shape {shape}, got {source_shape}")
    z, y, x = to or shape
    return z * numbers, y, x
