"""Run a network on slices of a volume in any of nine planes.

Every plane has its own grid of tiles over its own slices (`tomoscale.kernels.network`), which the network, the volume's
shape and the tile's edge fix; so a window holds the same values whoever computes it, and what a plane says of a voxel is
the same bits by slabs of whole slices, by blocks, and in memory at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Halo, Region, Shape, region_shape, shift, three
from tomoscale.kernels.network import TORCH_BYTES, Runtime, mean_logits, start
from tomoscale.kernels.nine_planes import Plane
from tomoscale.kernels.rotation import Rotation
from tomoscale.kernels.tiles import Tiles, batch_shape, tiles_of
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.runtime import Forward, window_threads
from tomoscale.networks.workspace import workspace_bytes

WINDOW_STEP = 64
"""Windows on the canvas begin and end at multiples of this: libraries prepare every shape of a window once."""


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
    def halo(self) -> Halo:
        """Margins of a window along z, y and x."""
        return Halo(self.along_axes(self.tiles.before), self.along_axes(self.tiles.after))

    @property
    def parameters(self) -> dict[str, object]:
        """JSON values that say what is computed."""
        backend, precision = self.runtime
        return {
            "plane": self.plane.name,
            "weights_sha256": self.bundle.weights_sha256,
            "architecture": self.bundle.architecture,
            "arguments": dict(self.bundle.arguments),
            "tile_shape": list(self.tiles.tile),
            "margin": [list(self.tiles.before), list(self.tiles.after)],
            "stride": list(self.tiles.stride),
            "window_step": WINDOW_STEP,
            "space": self.space,
            "backend": backend,
            "precision": precision,
        }

    def along_axes(self, values: Shape) -> Shape:
        """Numbers of (slice, row, column) as (z, y, x)."""
        return three(values[self.plane.order.index(a)] for a in range(3))

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
        _, forwards, streams = start(self.bundle, Runtime(*self.runtime), self.at_once, like)
        result = xp.empty((len(self.bundle.classes), *region_shape(region)), np.float32)
        view = result.transpose(0, *(1 + a for a in self.plane.order))
        ordered = _ordered(region, self.plane.order)

        def compute(tile: Region) -> None:
            self._compute(tile, ordered, grey, forwards, view)

        tiles = self.tiles_of(ordered)
        if self.trimmed:
            # Nothing looks at what lies beyond the turned volume.
            result.fill(0)
        if streams:
            list(window_threads(streams).map(compute, tiles))
        else:
            for tile in tiles:
                compute(tile)
        return result

    def _compute(
        self,
        tile: Region,
        region: Region,
        grey: Callable[[Region], Array],
        forwards: tuple[Forward, ...],
        result: Array,
    ) -> None:
        """Write the part of one tile that lies in the region."""
        window = self.tiles.window(tile)
        padded = self._input(window, grey)
        logits = mean_logits(forwards, padded.reshape(batch_shape(self.bundle, padded.shape)))
        # Over the whole window: vector instructions round the ends of rows otherwise.
        values = logits.softmax(0) if self.space == "probabilities" else logits
        z, y, x = (slice(max(w.start, t.start), min(w.stop, t.stop)) for w, t in zip(region, tile, strict=True))
        inside = shift((z, y, x), tuple(-w.start for w in window))
        part = values[:, *inside].contiguous()
        result[:, *shift((z, y, x), tuple(-r.start for r in region))] = namespace_for(padded).from_dlpack(part)

    def _input(self, window: Region, grey: Callable[[Region], Array]) -> Array:
        """Values of a window with zeros beyond the volume's end: float32, (slice, row, column)."""
        real = [slice(w.start, min(w.stop, n)) for w, n in zip(window, self.tiles.shape, strict=True)]
        z, y, x = (real[self.plane.order.index(a)] for a in range(3))
        part = grey((z, y, x))
        xp = namespace_for(part)
        padded = xp.zeros(region_shape(window), np.float32)
        view = padded[tuple(slice(0, r.stop - r.start) for r in real)]
        view[...] = part.transpose(self.plane.order)
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
        starts, stops = self.footprint
        across = self.across
        start = max(tile[across].start, int(starts[tile[0].start]))
        stop = min(tile[across].stop, int(stops[tile[0].start]))
        cut = list(tile)
        cut[across] = slice(start, stop)
        z, y, x = cut
        return z, y, x

    @property
    def across(self) -> int:
        """Place in (slice, row, column) of the axis of the canvas that slices lie in."""
        assert self.plane.rotation is not None
        return self.plane.order.index(3 - self.plane.rotation - self.plane.normal)

    @property
    def footprint(self) -> tuple[np.ndarray, np.ndarray]:
        """Range across each slice, to multiples of `WINDOW_STEP` so that windows have few lengths."""
        assert self.plane.rotation is not None
        step = math.lcm(WINDOW_STEP, self.tiles.stride[self.across])
        return _footprint(Rotation(self.plane.rotation, self.volume_shape), self.plane.normal, step)


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
    runtime = Runtime(backend, precision)
    _check_bundle(bundle)
    shape = plane.cut_shape(volume_shape)
    tiles = tiles_of(bundle, three(shape[a] for a in plane.order), None if tile is None else (1, tile, tile))
    if not bundle.reach.local and tiles.tile[1:] != tiles.canvas[1:]:
        raise InputError(
            f"{bundle.path}: what this network says of a voxel depends on its whole window, and slices of {tiles.shape[1:]} voxels "
            f"are cut into tiles of {tiles.tile[1:]}: give a tile as large as a slice, or a network that is local"
        )
    # Resident memory grew by 1.4 times the activations: libraries copy to their own layouts.
    window = workspace_bytes(bundle.skeleton(), batch_shape(bundle, tiles.largest_window)) * 3 // 2
    at_once = runtime.windows_at_once(window)
    fixed_bytes = TORCH_BYTES + at_once * window + 2 * bundle.weights_bytes
    return PlaneNetwork(bundle, plane, volume_shape, shape, tiles, space, (backend, precision), at_once, fixed_bytes)


def _check_bundle(bundle: Bundle) -> None:
    channels = bundle.arguments["in_channels"] * bundle.arguments.get("in_slices", 1)
    if bundle.dimensions != 2 or channels != 1:
        what = "on volumes" if bundle.dimensions == 3 else f"that takes {channels} values or slices at once"
        raise InputError(
            f"{bundle.path} is a network {what}, but planes are fused for networks on single slices: segment with planes=1, "
            "or give another model"
        )


def _meet(tile: Region, region: Region) -> bool:
    """Whether a tile, which may be empty, has a voxel in a region."""
    return all(max(t.start, r.start) < min(t.stop, r.stop) for t, r in zip(tile, region, strict=True))


def _ordered(region: Region, order: Shape) -> Region:
    z, y, x = (region[a] for a in order)
    return z, y, x


@lru_cache(maxsize=16)
def _footprint(rotation: Rotation, normal: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Footprint of a rotation, outwards to multiples of `step`."""
    start, stop = rotation.footprint(normal)
    return start // step * step, np.minimum(-(-stop // step) * step, rotation.edge)
