"""All planes of a block at once, from grey values to labels, without anything stored in between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block, Halo, Region, Shape, region_shape, three
from tomoscale.kernels.plane_sums import interleaved, part_of, tally_shape, voxels_of, written
from tomoscale.kernels.planes import PlaneNetwork
from tomoscale.kernels.rotation import Rotation
from tomoscale.kernels.scaling import Scaling, scale_region
from tomoscale.kernels.voting import Ballot, add_plane, elected, restored, stored
from tomoscale.step import Kernel


def fuse_blocks(
    networks: tuple[PlaneNetwork, ...],
    ballot: Ballot,
    block_shape: Shape,
    *,
    labels: bool,
    dtype: np.dtype,
    scaling: Scaling | None = None,
) -> Kernel:
    """Kernel that computes all planes for a block at once, from grey values to labels, or to the tally.

    Parameters
    ----------
    networks : tuple of PlaneNetwork
        In the order they are added.
    ballot : Ballot
    block_shape : (z, y, x)
        Largest block it is run with: how far it reads depends on that, its result does not.
    labels : bool
        Return labels; else the tally, its numbers after each other along z.
    dtype : numpy dtype
        What the probabilities of turned planes are rounded to, see `stored`.
    scaling : Scaling, optional
        Of grey values before anything else.
    """
    shape = networks[0].volume_shape
    block = three(min(b, n) for b, n in zip(block_shape, shape, strict=True))
    reaches = [_reach(network, block, shape) for network in networks]
    halo = Halo.symmetric(three(max(r[a] for r in reaches) for a in range(3)))
    k = 1 if labels else ballot.numbers
    return Kernel(
        "fuse planes" if labels else "add planes",
        _FuseBlock(networks, ballot, labels, dtype, scaling),
        halo,
        np.dtype(np.uint8 if labels else np.float32),
        # With the scaled values, and a mask of those that are finite.
        bytes_per_voxel=16 + (0 if scaling is None else 4 + 1),
        parameters={}
        if labels
        else {"planes": [{**n.parameters, "numbers": k} for n in networks], "dtype": dtype.name},
        factor=(1 / k, 1.0, 1.0),
        target_shape=None if labels else partial(interleaved, shape=shape, numbers=k),
        located=True,
        fixed_bytes=max(n.fixed_bytes for n in networks) + _working_bytes(networks, ballot, block),
        own_threads=True,
    )


@dataclass(frozen=True)
class _FuseBlock:
    networks: tuple[PlaneNetwork, ...]
    ballot: Ballot
    labels: bool
    dtype: np.dtype
    scaling: Scaling | None

    def __call__(self, grey: Array, block: Block) -> Array:
        k = 1 if self.labels else self.ballot.numbers
        region = voxels_of(block, k)
        if self.scaling is not None:
            grey = scale_region(grey, block.read, self.scaling)
        tally = namespace_for(grey).zeros(tally_shape(region, self.ballot.numbers), np.float32)
        for network in self.networks:
            add_plane(tally, self._shares(network, grey, region, block), self.ballot)
        return elected(tally, self.ballot) if self.labels else written(tally, region, block)

    def _shares(self, network: PlaneNetwork, grey: Array, region: Region, block: Block) -> Array:
        """What one plane says of a region of the volume: (classes, z, y, x)."""
        if network.plane.rotation is None:
            return network.shares(region, partial(part_of, grey, block), grey)
        rotation = Rotation(network.plane.rotation, block.source_shape)
        box = rotation.canvas_box(region)

        def turned(wanted: Region) -> Array:
            needed = rotation.volume_box(wanted)
            values = part_of(grey, block, needed)
            return rotation.turn(values, tuple(n.start for n in needed), wanted)

        shares = network.shares(box, turned, grey)
        result = namespace_for(grey).empty((len(shares), *region_shape(region)), np.float32)
        for label, share in enumerate(shares):
            rounded = restored(stored(share, self.dtype))
            result[label] = rotation.turn_back(rounded, tuple(b.start for b in box), region)
        return result


def _reach(network: PlaneNetwork, block: Shape, shape: Shape) -> Shape:
    """Voxels around a block that a plane may read on either side, no more than the volume has."""
    tiles = network.tiles
    beyond = network.along_axes(
        three(
            t - 1 + max(b, a) + s
            for t, b, a, s in zip(tiles.tile, tiles.before, tiles.after, tiles.stride, strict=True)
        )
    )
    beyond = three(0 if a == network.plane.normal else n for a, n in enumerate(beyond))
    if network.plane.rotation is not None:
        u, v = (a for a in range(3) if a != network.plane.rotation)
        # A block turned to the canvas and its box turned back, each with a voxel for the samples around it: the window
        # goes beyond it along one of both axes of the canvas.
        more = math.ceil((beyond[u] + beyond[v] + 4) / math.sqrt(2)) + 2
        along = beyond[network.plane.rotation]
        turned = {u: -(-block[v] // 2) + more, v: -(-block[u] // 2) + more}
        beyond = three(turned.get(a, along) for a in range(3))
    return three(min(n, length) for n, length in zip(beyond, shape, strict=True))


def _working_bytes(networks: tuple[PlaneNetwork, ...], ballot: Ballot, block: Shape) -> int:
    """Memory of the tally of a block, and of what one plane says of it, turned and turned back."""
    z, y, x = block
    turned = max(((a + b) / math.sqrt(2) + 4) ** 2 * c for a, b, c in ((z, y, x), (z, x, y), (y, x, z)))
    widest = turned if len(networks) > 3 else math.prod(block)
    return int(4 * (math.prod(block) * (ballot.numbers + ballot.n_classes + 2) + widest * (ballot.n_classes + 1)))
