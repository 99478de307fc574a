"""Grid of tiles over a whole volume, and the window that each is computed on; for networks whose result is local."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from tomoscale.geometry import AXES, Region, Shape, read_span, three
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.workspace import workspace_bytes

WHOLE_SLICE_BYTES = 2**30
"""A slice whose activations take no more than this is one tile."""
TILE_VOXELS = {2: 1024, 3: 128}
"""Edge of a tile of larger slices, and of volumes: margins are then computed 1.2 times (depth 3) to 2 times (depth 5)."""


@dataclass(frozen=True)
class Tiles:
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

    @property
    def counts(self) -> Shape:
        """Tiles along each axis."""
        return three(-(-n // t) for n, t in zip(self.shape, self.tile, strict=True))

    def touched_by(self, write: Region) -> Iterator[Region]:
        """Tiles that a region touches, cut at the volume's end."""
        axes = (range(w.start // t, -(-w.stop // t)) for w, t in zip(write, self.tile, strict=True))
        return map(self.region, itertools.product(*axes))

    def region(self, place: tuple[int, ...]) -> Region:
        """Voxels of the tile at a place, cut at the volume's end."""
        z, y, x = (slice(p * t, min((p + 1) * t, n)) for p, t, n in zip(place, self.tile, self.shape, strict=True))
        return z, y, x

    def window(self, tile: Region) -> Region:
        """Part of the canvas that a tile is computed on."""
        spans = zip(tile, self.canvas, self.before, self.after, self.stride, strict=True)
        z, y, x = (read_span(t.start, t.stop, c, b, a, s, 1) for t, c, b, a, s in spans)
        return z, y, x


def tiles_of(bundle: Bundle, shape: Shape, tile_shape: Shape | None, margin: Shape | None = None) -> Tiles:
    """Tile grid of a network on a volume: `tile_shape`, or whole slices where they are small enough.

    Parameters
    ----------
    bundle : Bundle
    shape : (Z, Y, X)
    tile_shape : (z, y, x), optional
    margin : (z, y, x), optional
        Instead of the network's own, on both sides, a multiple of the stride: results are then not exact.

    Raises
    ------
    ValueError
        If a tile is not a multiple of the network's stride, or the network is defined on windows alone.
    """
    windows = bundle.card.windows
    if windows is not None and (windows.axes != (0, 1, 2) or windows.regions):
        raise ValueError(
            f"{bundle.card.name!r} labels regions, or slices across another axis than z, which its windows alone do: leave "
            "tiles and planes out"
        )
    missing = 3 - bundle.dimensions
    stride, before, after = (
        three((*((fill,) * missing), *values))
        for fill, values in (
            (1, bundle.reach.stride),
            (0, bundle.reach.margin_before),
            (0, bundle.reach.margin_after),
        )
    )
    tiles = Tiles(shape, (1, 1, 1), stride, margin or before, margin or after)
    if tile_shape is None:
        return _with_tile(tiles, _default_tile(bundle, Tiles(shape, (1, 1, 1), stride, before, after)))
    for name, tile, step, length in zip(AXES, tile_shape, stride, shape, strict=True):
        if tile < 1 or (tile % step and tile < length):
            raise ValueError(
                f"tile_shape {tile_shape} is not a multiple of the network's stride {stride} on axis {name}: windows would "
                "start between the cells of its coarsest level"
            )
    return _with_tile(tiles, tile_shape)


def batch_shape(bundle: Bundle, window: Shape) -> tuple[int, ...]:
    """Shape of a window as the network takes it: slices are a batch, a volume is one sample."""
    slices = int(bundle.arguments.get("in_slices", 1))
    return (window[0], slices, *window[1:]) if bundle.dimensions == 2 else (1, 1, *window)


@lru_cache(maxsize=256)
def activation_bytes(bundle: Bundle, shape: tuple[int, ...]) -> int:
    """Peak bytes of the activations for an input of one shape, see `workspace_bytes`."""
    return workspace_bytes(bundle.skeleton(), shape)


def _default_tile(bundle: Bundle, tiles: Tiles) -> Shape:
    whole = tiles.canvas if bundle.dimensions == 3 else (1, *tiles.canvas[1:])
    if activation_bytes(bundle, batch_shape(bundle, whole)) <= WHOLE_SLICE_BYTES:
        return whole
    edge = TILE_VOXELS[bundle.dimensions]
    return three(min(n, math.lcm(s, edge)) for n, s in zip(whole, tiles.stride, strict=True))


def _with_tile(tiles: Tiles, tile: Shape) -> Tiles:
    """Give tiles their size; one that covers an axis covers the canvas, so that its end is a multiple of the stride."""
    sizes = three(c if t >= n else t for t, n, c in zip(tile, tiles.shape, tiles.canvas, strict=True))
    return replace(tiles, tile=sizes)
