"""Run a network on slices of a volume in any of nine planes, and add up what they say of every voxel.

Every plane has its own grid of tiles over its own slices (`tomoscale.kernels.network`), which the network, the volume's
shape and the tile's edge fix; so a window holds the same values whoever computes it, and what a plane says of a voxel is
the same bits by slabs of whole slices, by blocks, and in memory at once.

The tally of a volume (`tomoscale.kernels.voting`) is stored with the numbers of a slice after each other along z: plane
``z * numbers + i`` holds number i of slice z.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Block, Halo, Region, Shape, region_shape, shift, three
from tomoscale.kernels.network import ALL_WINDOWS_BYTES, TORCH_BYTES
from tomoscale.kernels.network import _batch_shape as batch_shape
from tomoscale.kernels.network import _Tiles as Tiles
from tomoscale.kernels.network import _tiles as tiles_of
from tomoscale.kernels.rotation import Rotation
from tomoscale.kernels.voting import Ballot, add_plane, elected, restored, stored
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.runtime import Forward, check_runtime, forward_of, share_memory_pool, window_threads
from tomoscale.networks.workspace import workspace_bytes
from tomoscale.step import Kernel

WINDOW_STEP = 64
"""Windows on the canvas begin and end at multiples of this: libraries prepare every shape of a window once."""


@dataclass(frozen=True)
class Plane:
    """One way to cut a volume into slices.

    Attributes
    ----------
    name : str
    rotation : 0, 1, 2 or None
        Axis that the volume is turned about by 45 degrees first.
    normal : 0, 1, 2
        Axis of the (turned) volume that slices are cut across.
    """

    name: str
    rotation: int | None
    normal: int


PLANES = (
    Plane("rc", None, 0),
    Plane("cp", None, 1),
    Plane("pr", None, 2),
    Plane("z1", 0, 2),
    Plane("z2", 0, 1),
    Plane("y1", 1, 2),
    Plane("y2", 1, 0),
    Plane("x1", 2, 1),
    Plane("x2", 2, 0),
)
"""The planes of Baltruschat et al. 2021 in the order they are added: the three faces of a cube, and the six diagonal ones.

Slices across the axis of a rotation are left out: they are those of the volume, turned in themselves.
"""


@dataclass(frozen=True)
class PlaneNetwork:
    """A network on the slices of one plane of a volume.

    Attributes
    ----------
    bundle : Bundle
    plane : Plane
    volume_shape : (Z, Y, X)
        Of the whole volume before it is turned.
    shape : (Z, Y, X)
        Of the whole volume that is cut: turned if the plane wants that.
    tiles : Tiles
        Over that volume with its axes in the order (slice, row, column).
    space : "probabilities" or "logits"
    runtime : (backend, precision)
    at_once : int
        Windows computed at once.
    fixed_bytes : int
        Memory of torch, the weights and the windows computed at once.
    """

    bundle: Bundle
    plane: Plane
    volume_shape: Shape
    shape: Shape
    tiles: Tiles
    space: str
    runtime: tuple[str, str]
    at_once: int
    fixed_bytes: int

    @property
    def order(self) -> Shape:
        """Axes of the volume as (slice, row, column)."""
        return three((self.plane.normal, *(a for a in range(3) if a != self.plane.normal)))

    def along_axes(self, values: Shape) -> Shape:
        """Numbers of (slice, row, column) as (z, y, x)."""
        return three(values[self.order.index(a)] for a in range(3))

    def shares(self, region: Region, grey: Callable[[Region], Array], like: Array) -> Array:
        """What the network says of a region of the volume that is cut: (classes, z, y, x) float32.

        Parameters
        ----------
        region : Region
        grey : callable
            Values of any region.
        like : array
            Lives where the result is to live.
        """
        xp = namespace_for(like)
        device = "cpu" if on_host(like) else f"cuda:{like.device.id}"
        streams = max(1, min(self.at_once, torch.get_num_threads())) if device == "cpu" else 1
        forward = forward_of(self.bundle, *self.runtime, device, streams)
        if device != "cpu":
            share_memory_pool(xp)
        result = xp.empty((len(self.bundle.classes), *region_shape(region)), np.float32)
        view = result.transpose(0, *(1 + a for a in self.order))
        ordered = _ordered(region, self.order)

        def compute(tile: Region) -> None:
            self._compute(tile, ordered, grey, forward, view)

        tiles = self.tiles_of(ordered)
        if self.trimmed:
            # Nothing looks at what lies beyond the turned volume.
            result.fill(0)
        if device == "cpu":
            list(window_threads(streams).map(compute, tiles))
        else:
            for tile in tiles:
                compute(tile)
        return result

    def _compute(
        self, tile: Region, region: Region, grey: Callable[[Region], Array], forward: Forward, result: Array
    ) -> None:
        """Write the part of one tile that lies in the region."""
        window = self.tiles.window(tile)
        padded = self._input(window, grey)
        logits = forward(from_dlpack(padded.reshape(batch_shape(self.bundle, padded.shape))))
        # Over the whole window: vector instructions round the ends of rows otherwise.
        values = logits.softmax(1) if self.space == "probabilities" else logits
        z, y, x = (slice(max(w.start, t.start), min(w.stop, t.stop)) for w, t in zip(region, tile, strict=True))
        inside = shift((z, y, x), tuple(-w.start for w in window))
        part = values.transpose(0, 1)[:, *inside].contiguous()
        result[:, *shift((z, y, x), tuple(-r.start for r in region))] = namespace_for(padded).from_dlpack(part)

    def _input(self, window: Region, grey: Callable[[Region], Array]) -> Array:
        """Values of a window with zeros beyond the volume's end: float32, (slice, row, column)."""
        real = [slice(w.start, min(w.stop, n)) for w, n in zip(window, self.tiles.shape, strict=True)]
        z, y, x = (real[self.order.index(a)] for a in range(3))
        part = grey((z, y, x))
        xp = namespace_for(part)
        padded = xp.zeros(region_shape(window), np.float32)
        view = padded[tuple(slice(0, r.stop - r.start) for r in real)]
        view[...] = part.transpose(self.order)
        if part.dtype.kind == "f" and not bool(xp.isfinite(view).all()):
            place = ", ".join(f"{axis} {r.start}:{r.stop}" for axis, r in zip(AXES, (z, y, x), strict=True))
            raise InputError(f"the grey values in {place} hold NaN or infinity, which no network can label")
        return padded

    def tiles_of(self, region: Region) -> list[Region]:
        """Tiles that are computed for a region, both as (slice, row, column)."""
        return [t for t in map(self._needed, self.tiles.touched_by(region)) if _meet(t, region)]

    @property
    def trimmed(self) -> bool:
        """Whether tiles are cut at the turned volume: where it ends is all that a local network sees of what lies beyond."""
        return self.plane.rotation is not None and self.bundle.reach.local

    def _needed(self, tile: Region) -> Region:
        """Part of a tile that the volume is sampled from; it may be empty."""
        if not self.trimmed:
            return tile
        starts, stops = self._footprint
        across = self._across
        start = max(tile[across].start, int(starts[tile[0].start]))
        stop = min(tile[across].stop, int(stops[tile[0].start]))
        cut = list(tile)
        cut[across] = slice(start, stop)
        z, y, x = cut
        return z, y, x

    @property
    def _across(self) -> int:
        """Place in (slice, row, column) of the axis of the canvas that slices lie in."""
        assert self.plane.rotation is not None
        return self.order.index(3 - self.plane.rotation - self.plane.normal)

    @property
    def _footprint(self) -> tuple[np.ndarray, np.ndarray]:
        """Range across each slice, to multiples of `WINDOW_STEP` so that windows have few lengths."""
        assert self.plane.rotation is not None
        step = math.lcm(WINDOW_STEP, self.tiles.stride[self._across])
        return _footprint(Rotation(self.plane.rotation, self.volume_shape), self.plane.normal, step)

    def window_voxels(self, spans: tuple[list[slice], list[slice], list[slice]]) -> int:
        """Voxels that the network takes in for every block of a grid, margins included.

        Parameters
        ----------
        spans : three lists of slice
            Of the blocks along z, y and x of the volume that is cut.
        """
        ordered = [spans[a] for a in self.order]
        if not self.trimmed:
            return math.prod(self._total(a, ordered[a]) for a in range(3))
        across = self._across
        along = 3 - across
        slices = np.concatenate([np.arange(s.start, s.stop) for s in ordered[0]])
        starts, stops = self._footprint
        total = sum(int(self._lengths(across, s, starts[slices], stops[slices]).sum()) for s in ordered[across])
        return total * self._total(along, ordered[along])

    def _total(self, place: int, spans: list[slice]) -> int:
        return sum(int(self._lengths(place, s).sum()) for s in spans)

    def _lengths(
        self, place: int, span: slice, first: np.ndarray | int = 0, last: np.ndarray | int | None = None
    ) -> np.ndarray:
        """Lengths of the windows of all tiles that a span touches, cut to first..last: (tiles, ...) int64."""
        tiles = self.tiles
        tile, length, step = tiles.tile[place], tiles.shape[place], tiles.stride[place]
        number = np.arange(span.start // tile, -(-span.stop // tile))
        number = number if np.ndim(first) == 0 else number[:, None]
        start = np.maximum(number * tile, first)
        stop = np.minimum((number + 1) * tile, length if last is None else last)
        low = np.maximum((start - tiles.before[place]) // step * step, 0)
        high = np.minimum(-(-(np.minimum(stop, length) + tiles.after[place]) // step) * step, tiles.canvas[place])
        met = (start < stop) & (start < span.stop) & (stop > span.start)
        return np.where(met, high - low, 0).astype(np.int64)


def plane_network(  # noqa: PLR0913 -- each is one decision that the result or the memory depends on
    bundle: Bundle,
    plane: Plane,
    volume_shape: Shape,
    *,
    tile: int | None = None,
    space: str = "probabilities",
    backend: str = "torch",
    precision: str = "float32",
) -> PlaneNetwork:
    """Network on one plane of a volume.

    Parameters
    ----------
    bundle : Bundle
        Of a network on slices.
    plane : Plane
    volume_shape : (Z, Y, X)
        Of the volume before it is turned.
    tile : int or None
        Edge of the tiles within a slice, a multiple of the network's stride; part of the result's definition. None takes
        a whole slice, or 1024 x 1024 of it where its activations take more than 1 GiB.
    space, backend, precision
        See `PlaneNetwork` and `tomoscale.kernels.network.inference`.

    Raises
    ------
    InputError
        If the network is not one on slices of one channel.
    ValueError
        If the tile is not a multiple of the stride, or the backend is not installed.
    """
    check_runtime(backend, precision)
    _check_bundle(bundle)
    shape = volume_shape if plane.rotation is None else Rotation(plane.rotation, volume_shape).canvas
    order = (plane.normal, *(a for a in range(3) if a != plane.normal))
    tiles = tiles_of(bundle, three(shape[a] for a in order), None if tile is None else (1, tile, tile))
    if not bundle.reach.local and tiles.tile[1:] != tiles.canvas[1:]:
        raise InputError(
            f"{bundle.path}: what this network says of a voxel depends on its whole window, and slices of {tiles.shape[1:]} voxels "
            f"are cut into tiles of {tiles.tile[1:]}: give a tile as large as a slice, or a network that is local"
        )
    # Resident memory grew by 1.4 times the activations: libraries copy to their own layouts.
    window = workspace_bytes(bundle.skeleton(), batch_shape(bundle, tiles.largest_window)) * 3 // 2
    at_once = max(1, min(os.cpu_count() or 1, ALL_WINDOWS_BYTES // window))
    fixed_bytes = TORCH_BYTES + at_once * window + 2 * bundle.weights_bytes
    return PlaneNetwork(bundle, plane, volume_shape, shape, tiles, space, (backend, precision), at_once, fixed_bytes)


def add_predicted(network: PlaneNetwork, ballot: Ballot, *, first: bool) -> Kernel:
    """Kernel that adds what a plane without rotation says to a tally: inputs "grey" and, unless `first`, "tally".

    Tallies are read as (z, numbers, y, x) and written with the numbers after each other along z.
    """
    k = ballot.numbers
    return Kernel(
        f"add plane {network.plane.name}",
        _AddPredicted(network, ballot),
        _halo(network),
        np.dtype(np.float32),
        # The tally and the shares of a plane.
        bytes_per_voxel=4 * (2 * k + ballot.n_classes),
        parameters=_parameters(network, ballot),
        stride=network.along_axes(network.tiles.stride),
        tile=network.along_axes(network.tiles.tile),
        factor=(1 / k, 1.0, 1.0),
        target_shape=partial(_interleaved, shape=network.shape, numbers=k),
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
        _halo(network),
        dtype,
        bytes_per_voxel=n * (4 + dtype.itemsize) + 8,
        parameters={**_parameters(network), "dtype": dtype.name},
        stride=network.along_axes(network.tiles.stride),
        tile=network.along_axes(network.tiles.tile),
        factor=(1 / n, 1.0, 1.0),
        target_shape=partial(_interleaved, shape=network.shape, numbers=n),
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
        target_shape=partial(_interleaved, shape=frame, numbers=k, to=rotation.shape),
        located=True,
        inputs=("shares", "tally"),
    )


def fuse_blocks(
    networks: tuple[PlaneNetwork, ...],
    ballot: Ballot,
    block_shape: Shape,
    *,
    labels: bool,
    dtype: np.dtype,
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
    """
    shape = networks[0].volume_shape
    block = three(min(b, n) for b, n in zip(block_shape, shape, strict=True))
    reaches = [_reach(network, block, shape) for network in networks]
    halo = Halo.symmetric(three(max(r[a] for r in reaches) for a in range(3)))
    k = 1 if labels else ballot.numbers
    return Kernel(
        "fuse planes" if labels else "add planes",
        _FuseBlock(networks, ballot, labels, dtype),
        halo,
        np.dtype(np.uint8 if labels else np.float32),
        bytes_per_voxel=16,
        parameters={} if labels else {"planes": [_parameters(n, ballot) for n in networks], "dtype": dtype.name},
        factor=(1 / k, 1.0, 1.0),
        target_shape=None if labels else partial(_interleaved, shape=shape, numbers=k),
        located=True,
        fixed_bytes=max(n.fixed_bytes for n in networks) + _working_bytes(networks, ballot, block),
        own_threads=True,
    )


@dataclass(frozen=True)
class _AddPredicted:
    network: PlaneNetwork
    ballot: Ballot

    def __call__(self, grey: Array, *rest: Array | Block) -> Array:
        block = rest[-1]
        assert isinstance(block, Block)
        region = _voxels(block, self.ballot.numbers)
        inside = shift(region, tuple(-r.start for r in block.read))
        xp = namespace_for(grey)
        if len(rest) == 2:
            z, y, x = inside
            tally = rest[0][z, :, y, x].copy()  # type: ignore[index]
        else:
            tally = xp.zeros(_tally_shape(region, self.ballot.numbers), np.float32)
        add_plane(tally, self.network.shares(region, partial(_part, grey, block), grey), self.ballot)
        return _written(tally, region, block)


@dataclass(frozen=True)
class _Predict:
    network: PlaneNetwork
    dtype: np.dtype

    def __call__(self, grey: Array, block: Block) -> Array:
        region = _voxels(block, len(self.network.bundle.classes))
        shares = self.network.shares(region, partial(_part, grey, block), grey)
        result = namespace_for(grey).empty(_tally_shape(region, len(shares)), self.dtype)
        for label, share in enumerate(shares):
            result[:, label] = stored(share, self.dtype)
        return _written(result, region, block)


def _add_turned(shares: Array, tally: Array, block: Block, rotation: Rotation, ballot: Ballot) -> Array:
    region = _voxels(block, ballot.numbers)
    start = tuple(r.start for r in block.read)
    z, y, x = shift(region, tuple(-s for s in start))
    total = tally[z, :, y, x].copy()
    turned = namespace_for(shares).empty((ballot.n_classes, *region_shape(region)), np.float32)
    for label in range(ballot.n_classes):
        turned[label] = rotation.turn_back(restored(shares[:, label]), start, region)
    add_plane(total, turned, ballot)
    return _written(total, region, block)


@dataclass(frozen=True)
class _FuseBlock:
    networks: tuple[PlaneNetwork, ...]
    ballot: Ballot
    labels: bool
    dtype: np.dtype

    def __call__(self, grey: Array, block: Block) -> Array:
        k = 1 if self.labels else self.ballot.numbers
        region = _voxels(block, k)
        tally = namespace_for(grey).zeros(_tally_shape(region, self.ballot.numbers), np.float32)
        for network in self.networks:
            add_plane(tally, self._shares(network, grey, region, block), self.ballot)
        return elected(tally, self.ballot) if self.labels else _written(tally, region, block)

    def _shares(self, network: PlaneNetwork, grey: Array, region: Region, block: Block) -> Array:
        """What one plane says of a region of the volume: (classes, z, y, x)."""
        if network.plane.rotation is None:
            return network.shares(region, partial(_part, grey, block), grey)
        rotation = Rotation(network.plane.rotation, block.source_shape)
        box = rotation.canvas_box(region)

        def turned(wanted: Region) -> Array:
            needed = rotation.volume_box(wanted)
            values = _part(grey, block, needed)
            return rotation.turn(values, tuple(n.start for n in needed), wanted)

        shares = network.shares(box, turned, grey)
        result = namespace_for(grey).empty((len(shares), *region_shape(region)), np.float32)
        for label, share in enumerate(shares):
            rounded = restored(stored(share, self.dtype))
            result[label] = rotation.turn_back(rounded, tuple(b.start for b in box), region)
        return result


def _check_bundle(bundle: Bundle) -> None:
    channels = bundle.arguments["in_channels"] * bundle.arguments.get("in_slices", 1)
    if bundle.dimensions != 2 or channels != 1:
        what = "on volumes" if bundle.dimensions == 3 else f"that takes {channels} values or slices at once"
        raise InputError(
            f"{bundle.path} is a network {what}, but planes are fused for networks on single slices: segment with planes=1, "
            "or give another model"
        )


def _part(values: Array, block: Block, region: Region) -> Array:
    """Values of a region of the source."""
    inside = shift(region, tuple(-r.start for r in block.read))
    held = all(i.start >= 0 and i.stop <= n for i, n in zip(inside, values.shape, strict=True))
    assert held or not math.prod(region_shape(region)), "a block must read what its windows need"
    return values[inside] if held else values[:0, :0, :0]


def _voxels(block: Block, numbers: int) -> Region:
    """Voxels of the volume that a block of interleaved numbers writes some number of."""
    z, y, x = block.write
    return slice(z.start // numbers, -(-z.stop // numbers)), y, x


def _tally_shape(region: Region, numbers: int) -> tuple[int, int, int, int]:
    z, y, x = region_shape(region)
    return z, numbers, y, x


def _written(tally: Array, region: Region, block: Block) -> Array:
    """Part of (z, numbers, y, x) that a block writes, the numbers after each other along z."""
    numbers = tally.shape[1]
    first = block.write[0].start - region[0].start * numbers
    return tally.reshape(-1, *tally.shape[2:])[first : first + block.write_shape[0]]


def _interleaved(source_shape: Shape, shape: Shape, numbers: int, to: Shape | None = None) -> Shape:
    if source_shape != shape:
        raise ValueError(f"the kernel is for a volume of shape {shape}, got {source_shape}")
    z, y, x = to or shape
    return z * numbers, y, x


def _meet(tile: Region, region: Region) -> bool:
    """Whether a tile, which may be empty, has a voxel in a region."""
    return all(max(t.start, r.start) < min(t.stop, r.stop) for t, r in zip(tile, region, strict=True))


def _ordered(region: Region, order: Shape) -> Region:
    z, y, x = (region[a] for a in order)
    return z, y, x


def _halo(network: PlaneNetwork) -> Halo:
    return Halo(network.along_axes(network.tiles.before), network.along_axes(network.tiles.after))


@lru_cache(maxsize=16)
def _footprint(rotation: Rotation, normal: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Footprint of a rotation, outwards to multiples of `step`."""
    start, stop = rotation.footprint(normal)
    return start // step * step, np.minimum(-(-stop // step) * step, rotation.edge)


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


def _parameters(network: PlaneNetwork, ballot: Ballot | None = None) -> dict[str, object]:
    bundle, tiles = network.bundle, network.tiles
    backend, precision = network.runtime
    counted = {} if ballot is None else {"numbers": ballot.numbers}
    return {
        "plane": network.plane.name,
        "weights_sha256": bundle.weights_sha256,
        "architecture": bundle.architecture,
        "arguments": dict(bundle.arguments),
        "tile_shape": list(tiles.tile),
        "margin": [list(tiles.before), list(tiles.after)],
        "stride": list(tiles.stride),
        "window_step": WINDOW_STEP,
        "space": network.space,
        "backend": backend,
        "precision": precision,
        **counted,
    }
