"""Label a volume by a network, with the same bits for every tiling, worker count and restart.

The result is defined on a grid of tiles that the network, the volume's shape and `tile_shape` fix, never the block. Each
tile is computed on its whole window: the tile and the network's margin, cut at the volume's true border, where the
network's own zero padding acts as it would on the whole slice. A block computes every tile it touches.

.. code-block:: text

    slice     |--------------------------------------------|000|      zeros up to a multiple of the stride
    tiles     |=== tile 0 ===|=== tile 1 ===|=== tile 2 ===|
    window          [ margin |=== tile 1 ===| margin ]                starts and ends at multiples of the stride
    block              |== write ==|                                  computes tiles 0 and 1
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Block, Grid, Halo, Region, Shape, read_span, region_shape, shift, three
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.runtime import Forward, check_runtime, forward_of, share_memory_pool, window_threads
from tomoscale.networks.workspace import workspace_bytes
from tomoscale.step import Kernel

WHOLE_SLICE_BYTES = 2**30
"""A slice whose activations take no more than this is one tile."""
ALL_WINDOWS_BYTES = 4 * 2**30
"""Windows are computed at once, a thread each, up to this many bytes of activations."""
TORCH_BYTES = 200 * 2**20
"""A process with torch imported, beyond one without: 190 MiB measured."""
TILE_VOXELS = {2: 1024, 3: 128}
"""Edge of a tile of larger slices, and of volumes: margins are then computed 1.2 times (depth 3) to 2 times (depth 5)."""


def inference(  # noqa: PLR0913 -- each is one decision that the result or the memory depends on
    bundle: Bundle,
    shape: Shape,
    *,
    normalise: tuple[float, float] | None = None,
    tile_shape: Shape | None = None,
    output: str = "labels",
    backend: str = "torch",
    precision: str = "float32",
    at_once: int | None = None,
) -> Kernel:
    """Kernel that runs a network on a volume of `shape`, slice by slice for a network of two dimensions.

    Parameters
    ----------
    bundle : Bundle
    shape : (Z, Y, X)
        Of the whole volume.
    normalise : (low, high), optional
        Grey values that become 0 and 1, values beyond are clipped; by default the volume is taken as scaled already.
    tile_shape : (z, y, x), optional
        Part of the result's definition. Multiples of the network's stride, or the volume's length. For a network of
        two dimensions z is the number of slices computed as one batch. By default one whole slice, or 1024 x 1024 of
        it where its activations take more than 1 GiB.
    output : str
        "labels", the smallest class id among the most probable, uint8; or the name of a class, for its probability,
        float32.
    backend : str
        "torch", or "openvino" (2 to 10 times faster on a CPU). Labels agree but for near ties: see `agreement`.
    precision : str
        "float32" or "bfloat16".
    at_once : int, optional
        Windows computed at once in a process, a thread each; no part of the result. By default as many as this machine
        has cores and 4 GiB hold. A GPU computes one.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the backend is not installed.
    """
    check_runtime(backend, precision)
    if bundle.arguments["in_channels"] != 1:
        raise ValueError(f"the network takes {bundle.arguments['in_channels']} channels, a volume has one")
    if normalise is not None and not (np.isfinite(normalise).all() and normalise[0] < normalise[1]):
        raise ValueError(f"normalise must be two finite increasing grey values (low, high), got {normalise}")
    names = [c.name for c in bundle.classes]
    if output != "labels" and output not in names:
        raise ValueError(f"output must be 'labels' or one of the classes {names}, got {output!r}")
    tiles = _tiles(bundle, shape, tile_shape)
    # Resident memory grew by 1.4 times the activations: libraries copy to their own layouts.
    window = workspace_bytes(bundle.skeleton(), _batch_shape(bundle, tiles.largest_window)) * 3 // 2
    at_once = at_once or max(1, min(os.cpu_count() or 1, ALL_WINDOWS_BYTES // window))
    target = None if output == "labels" else names.index(output)
    dtype = np.dtype(np.uint8 if target is None else np.float32)
    return Kernel(
        name="inference",
        function=_Inference(bundle, tiles, normalise, target, (backend, precision), at_once),
        halo=Halo(tiles.before, tiles.after),
        dtype=dtype,
        # The result; what a window needs is counted below.
        bytes_per_voxel=dtype.itemsize,
        parameters={
            "weights_sha256": bundle.weights_sha256,
            "architecture": bundle.architecture,
            "arguments": dict(bundle.arguments),
            "normalise": None if normalise is None else list(normalise),
            "tile_shape": list(tiles.tile),
            "margin": [list(tiles.before), list(tiles.after)],
            "stride": list(tiles.stride),
            "output": output,
            "backend": backend,
            "precision": precision,
        },
        stride=tiles.stride,
        tile=tiles.tile,
        located=True,
        # OpenVINO holds the weights twice: as read and as it packs them.
        fixed_bytes=TORCH_BYTES + at_once * window + 2 * bundle.weights_bytes,
        own_threads=True,
    )


def agreement(first: Kernel, second: Kernel, sample: Array) -> float:
    """Share of voxels of a sample that two kernels give the same label, 0 to 1.

    What a faster backend or precision costs must be measured on the trained network and real grey values: networks with
    random weights nearly tie everywhere.

    Parameters
    ----------
    first, second : Kernel
        From `inference` for the shape of the sample.
    sample : (Z, Y, X) array
    """
    grid = Grid(sample.shape, sample.shape)
    one, other = (kernel.apply(sample, kernel.block(grid, 0, sample.shape)) for kernel in (first, second))
    return float((one == other).mean())


@dataclass(frozen=True)
class _Tiles:
    """Grid of tiles over a whole volume and the window each is computed on; all from the volume's origin.

    Attributes
    ----------
    shape : (Z, Y, X)
        Of the volume.
    tile, stride, before, after : (z, y, x)
        Size of a tile, stride of the network, margins of a window.
    """

    shape: Shape
    tile: Shape
    stride: Shape
    before: Shape
    after: Shape

    @property
    def canvas(self) -> Shape:
        """Shape of the volume, padded at its end to a multiple of the stride: part of what the network means."""
        return three(-(-n // s) * s for n, s in zip(self.shape, self.stride, strict=True))

    @property
    def largest_window(self) -> Shape:
        """Shape that no window exceeds."""
        return three(
            min(c, t + b + a) for c, t, b, a in zip(self.canvas, self.tile, self.before, self.after, strict=True)
        )

    def touched_by(self, write: Region) -> Iterator[Region]:
        """Tiles that a region touches, cut at the volume's end."""
        axes = (range(w.start // t, -(-w.stop // t)) for w, t in zip(write, self.tile, strict=True))
        for place in itertools.product(*axes):
            z, y, x = (slice(p * t, min((p + 1) * t, n)) for p, t, n in zip(place, self.tile, self.shape, strict=True))
            yield z, y, x

    def window(self, tile: Region) -> Region:
        """Part of the canvas that a tile is computed on."""
        spans = zip(tile, self.canvas, self.before, self.after, self.stride, strict=True)
        z, y, x = (read_span(t.start, t.stop, c, b, a, s, 1) for t, c, b, a, s in spans)
        return z, y, x


@dataclass(frozen=True)
class _Inference:
    """The function of the kernel; a class, so that it pickles as a bundle's address and a few numbers."""

    bundle: Bundle
    tiles: _Tiles
    normalise: tuple[float, float] | None
    target: int | None
    runtime: tuple[str, str]
    at_once: int

    def __call__(self, values: Array, block: Block) -> Array:
        if block.source_shape != self.tiles.shape:
            raise ValueError(f"the kernel is for a volume of shape {self.tiles.shape}, got {block.source_shape}")
        if values.dtype.itemsize > 4 or values.dtype.kind not in "uifb":
            raise InputError(
                f"a network takes integers or floats of at most 32 bits, got {values.dtype}: convert the volume first"
            )
        xp = namespace_for(values)
        device = "cpu" if on_host(values) else f"cuda:{values.device.id}"
        streams = max(1, min(self.at_once, torch.get_num_threads())) if device == "cpu" else 1
        forward = forward_of(self.bundle, *self.runtime, device, streams)
        if device != "cpu":
            share_memory_pool(xp)
        result = xp.empty(block.write_shape, np.uint8 if self.target is None else np.float32)
        tiles = list(self.tiles.touched_by(block.write))

        def compute(tile: Region) -> None:
            self._compute(tile, values, block, forward, result)

        if device == "cpu":
            list(window_threads(streams).map(compute, tiles))
        else:
            for tile in tiles:
                compute(tile)
        return result

    def _compute(self, tile: Region, values: Array, block: Block, forward: Forward, result: Array) -> None:
        """Write the part of one tile that lies in the block."""
        xp = namespace_for(values)
        window = self.tiles.window(tile)
        padded = self._input(window, values, block)
        logits = forward(from_dlpack(padded.reshape(_batch_shape(self.bundle, padded.shape))))
        wanted = _region(
            slice(max(w.start, t.start), min(w.stop, t.stop)) for w, t in zip(block.write, tile, strict=True)
        )
        inside = shift(wanted, tuple(-w.start for w in window))
        # The classes come first, and slices of a batch become z again.
        by_class = logits.transpose(0, 1)[:, *inside] if self.bundle.dimensions == 2 else logits[0][:, *inside]
        if self.target is None:
            part = _first_largest(by_class)
        else:
            # Over the whole window: vector instructions round the ends of rows otherwise.
            shares = logits.softmax(1)
            whole = shares[:, self.target] if self.bundle.dimensions == 2 else shares[0, self.target]
            part = whole[inside]
        result[shift(wanted, tuple(-w.start for w in block.write))] = xp.from_dlpack(part.contiguous())

    def _input(self, window: Region, values: Array, block: Block) -> Array:
        """Values of a window, scaled, with zeros beyond the volume's end: float32."""
        xp = namespace_for(values)
        real = _region(slice(w.start, min(w.stop, n)) for w, n in zip(window, self.tiles.shape, strict=True))
        part = values[shift(real, tuple(-r.start for r in block.read))]
        assert part.shape == region_shape(real), "the block's read region must hold the windows of its tiles"
        padded = xp.zeros(region_shape(window), np.float32)
        view = padded[tuple(slice(0, n) for n in part.shape)]
        view[...] = part
        if values.dtype.kind == "f" and not bool(xp.isfinite(view).all()):
            raise InputError(f"the grey values in {_place(real)} hold NaN or infinity, which no network can label")
        if self.normalise is not None:
            low, high = (np.float32(v) for v in self.normalise)
            xp.clip(view, low, high, out=view)
            view -= low
            view /= high - low
        return padded


def _tiles(bundle: Bundle, shape: Shape, tile_shape: Shape | None) -> _Tiles:
    """Tile grid of a network on a volume: `tile_shape`, or whole slices where they are small enough."""
    missing = 3 - bundle.dimensions
    stride, before, after = (
        three((*((fill,) * missing), *values))
        for fill, values in (
            (1, bundle.reach.stride),
            (0, bundle.reach.margin_before),
            (0, bundle.reach.margin_after),
        )
    )
    tiles = _Tiles(shape, (1, 1, 1), stride, before, after)
    if tile_shape is None:
        return _replace_tile(tiles, _default_tile(bundle, tiles))
    for name, tile, step, length in zip(AXES, tile_shape, stride, shape, strict=True):
        if tile < 1 or (tile % step and tile < length):
            raise ValueError(
                f"tile_shape {tile_shape} is not a multiple of the network's stride {stride} on axis {name}: windows would "
                "start between the cells of its coarsest level"
            )
    return _replace_tile(tiles, tile_shape)


def _default_tile(bundle: Bundle, tiles: _Tiles) -> Shape:
    whole = tiles.canvas if bundle.dimensions == 3 else (1, *tiles.canvas[1:])
    if workspace_bytes(bundle.skeleton(), _batch_shape(bundle, whole)) <= WHOLE_SLICE_BYTES:
        return whole
    edge = TILE_VOXELS[bundle.dimensions]
    return three(min(n, math.lcm(s, edge)) for n, s in zip(whole, tiles.stride, strict=True))


def _replace_tile(tiles: _Tiles, tile: Shape) -> _Tiles:
    """Give tiles their size; one that covers an axis covers the canvas, so that its end is a multiple of the stride."""
    sizes = three(c if t >= n else t for t, n, c in zip(tile, tiles.shape, tiles.canvas, strict=True))
    return _Tiles(tiles.shape, sizes, tiles.stride, tiles.before, tiles.after)


def _batch_shape(bundle: Bundle, window: Shape) -> tuple[int, ...]:
    """Shape of a window as the network takes it: slices are a batch, a volume is one sample."""
    return (window[0], 1, *window[1:]) if bundle.dimensions == 2 else (1, 1, *window)


def _first_largest(by_class: torch.Tensor) -> torch.Tensor:
    """Index of the largest along the first axis, the smallest index where several are equal: uint8."""
    largest = by_class[0].clone()
    labels = torch.zeros(largest.shape, dtype=torch.uint8, device=largest.device)
    for index in range(1, len(by_class)):
        labels.masked_fill_(by_class[index] > largest, index)
        torch.maximum(largest, by_class[index], out=largest)
    return labels


def _region(slices: Iterator[slice]) -> Region:
    """Region of exactly three slices."""
    z, y, x = slices
    return z, y, x


def _place(region: Region) -> str:
    return ", ".join(f"{axis} {r.start}:{r.stop}" for axis, r in zip(AXES, region, strict=True))
