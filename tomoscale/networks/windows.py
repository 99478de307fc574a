"""Grid of overlapping windows over a whole volume: where they lie, which block owns them, and how they share voxels.

The positions are those of nnU-Net (Isensee et al. 2021), fixed by the volume's shape alone. A block owns the windows
that begin in it, so every window is computed once, and hands what it knows of voxels of later blocks over to them:

.. code-block:: text

    volume    |---------------------------------------------|
    windows   [== 0 ==]
                  [== 1 ==]
                      [== 2 ==]                               begins in block 0, ends in block 1
                          [== 3 ==]
    blocks    |======= 0 =======|======= 1 =======|=== 2 ===|
                                [rim]                         voxels of block 1 that windows of block 0 also hold

Every voxel gets the mean over the windows that hold it. The weights are products of one factor per axis, and so are
their sums over all windows: each window's *share* of a voxel is known before anything is computed, and shares add to 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tomoscale.geometry import Grid, Region, Shape, three
from tomoscale.networks.card import Windows

GAUSSIAN_SIGMA = 1 / 8
"""Standard deviation of the Gaussian weights over the length of a window."""


@dataclass(frozen=True)
class WindowAxis:
    """Windows along one axis.

    Attributes
    ----------
    length : int
        Voxels of the volume.
    window : int
        Voxels of a window; where it is longer than the volume, the volume lies in its middle, among zeros.
    step : float
        Largest distance of neighbouring windows over their length.
    weights : "gaussian" or "uniform"

    Examples
    --------
    >>> WindowAxis(20, 8, 0.5, "uniform").starts.tolist()
    [0, 4, 8, 12]
    >>> WindowAxis(5, 8, 0.5, "uniform").starts.tolist()
    [-1]
    """

    length: int
    window: int
    step: float
    weights: str

    @cached_property
    def starts(self) -> np.ndarray:
        """First voxel of each window, increasing: (n,) int64; negative where the window is longer than the volume."""
        free = self.length - self.window
        if free <= 0:
            return np.array([-(-free // 2)], np.int64)
        intervals = math.ceil(free / max(1.0, self.window * self.step))
        # Halves go to the even number, as in nnU-Net.
        return np.array([round(free / intervals * i) for i in range(intervals + 1)], np.int64)

    @cached_property
    def origins(self) -> np.ndarray:
        """First voxel of the volume in each window; its block owns the window."""
        return np.asarray(np.maximum(self.starts, 0))

    @cached_property
    def ends(self) -> np.ndarray:
        """Last voxel of the volume in each window, plus one."""
        return np.asarray(np.minimum(self.starts + self.window, self.length))

    @cached_property
    def profile(self) -> np.ndarray:
        """Weights of the voxels of a window: (window,) float64, greater than 0."""
        if self.weights == "uniform":
            return np.ones(self.window)
        # The middle is that of nnU-Net: of an even length it is the voxel after it.
        distance = (np.arange(self.window) - self.window // 2) / (GAUSSIAN_SIGMA * self.window)
        return np.exp(-0.5 * distance**2)

    @cached_property
    def totals(self) -> np.ndarray:
        """Sum of the weights of all windows at each voxel: (length,) float64."""
        totals = np.zeros(self.length)
        for start, low, high in zip(self.starts, self.origins, self.ends, strict=True):
            totals[low:high] += self.profile[low - start : high - start]
        return totals

    def shares(self, index: int) -> np.ndarray:
        """Share of window `index` of each voxel of the volume in it: float64; those of all windows add to 1."""
        low, high, start = self.origins[index], self.ends[index], self.starts[index]
        return np.asarray(self.profile[low - start : high - start] / self.totals[low:high])

    def owned(self, start: int, stop: int) -> range:
        """Windows that begin in ``start : stop``."""
        first, last = np.searchsorted(self.origins, (start, stop))
        return range(int(first), int(last))

    def touching(self, start: int, stop: int) -> range:
        """Windows that hold a voxel of ``start : stop``."""
        return range(int(np.searchsorted(self.ends, start, "right")), int(np.searchsorted(self.origins, stop)))

    def extent(self, windows: range) -> tuple[int, int]:
        """First voxel of consecutive windows, and last plus one; equal where there is none."""
        return (int(self.origins[windows[0]]), int(self.ends[windows[-1]])) if windows else (0, 0)

    def rim(self, start: int, stop: int) -> int:
        """Voxels from `start` on, before `stop`, that windows hold which begin before it."""
        before = int(np.searchsorted(self.origins, start))
        return 0 if before == 0 else min(max(int(self.ends[before - 1]) - start, 0), stop - start)


@dataclass(frozen=True)
class WindowGrid:
    """Windows over a volume of one shape; for a network of two dimensions each holds one slice.

    Attributes
    ----------
    shape : (Z, Y, X)
        Of the volume.
    windows : Windows
    """

    shape: Shape
    windows: Windows

    @property
    def window(self) -> Shape:
        """Voxels of a window along (z, y, x)."""
        return self.windows.lengths

    @cached_property
    def axes(self) -> tuple[WindowAxis, WindowAxis, WindowAxis]:
        """Windows along z, y and x."""
        z, y, x = (
            WindowAxis(n, w, self.windows.step, self.windows.weights)
            for n, w in zip(self.shape, self.window, strict=True)
        )
        return z, y, x

    def __reduce__(self) -> tuple[type[WindowGrid], tuple[Shape, Windows]]:
        # Without what was worked out: it is as long as the volume.
        return WindowGrid, (self.shape, self.windows)

    def __len__(self) -> int:
        return math.prod(len(axis.starts) for axis in self.axes)

    def owned(self, write: Region) -> tuple[range, range, range]:
        """Windows per axis that begin in a region."""
        z, y, x = (axis.owned(w.start, w.stop) for axis, w in zip(self.axes, write, strict=True))
        return z, y, x

    def touching(self, region: Region) -> tuple[range, range, range]:
        """Windows per axis that hold a voxel of a region."""
        z, y, x = (axis.touching(r.start, r.stop) for axis, r in zip(self.axes, region, strict=True))
        return z, y, x

    def extent(self, windows: tuple[range, range, range]) -> Region:
        """Voxels of the volume that some windows hold, as one region; empty where there is none."""
        spans = [axis.extent(w) for axis, w in zip(self.axes, windows, strict=True)]
        z, y, x = (slice(*span) for span in spans) if all(windows) else (slice(0, 0),) * 3
        return z, y, x

    def span(self, index: tuple[int, int, int]) -> Region:
        """Voxels of the volume that a window holds."""
        z, y, x = (slice(int(axis.origins[i]), int(axis.ends[i])) for axis, i in zip(self.axes, index, strict=True))
        return z, y, x

    def padding(self, index: tuple[int, int, int]) -> Shape:
        """Voxels of a window that lie before the volume."""
        return three(int(axis.origins[i] - axis.starts[i]) for axis, i in zip(self.axes, index, strict=True))

    def shares(self, index: tuple[int, int, int]) -> np.ndarray:
        """Share of a window of each voxel of its span: (z, y, x) float64."""
        z, y, x = (axis.shares(i) for axis, i in zip(self.axes, index, strict=True))
        return np.asarray(z[:, None, None] * y[:, None] * x)

    def rim(self, write: Region) -> Shape:
        """Voxels at the start of a region, per axis, that windows of earlier blocks also hold; the rest is its own."""
        return three(axis.rim(w.start, w.stop) for axis, w in zip(self.axes, write, strict=True))

    def receivers(self, blocks: Grid, number: int) -> Iterator[tuple[int, Region]]:
        """Other blocks that windows of a block reach into, and the region of the volume where they do."""
        extent = self.extent(self.owned(blocks.region(number)))
        yield from _crossings(blocks, extent, number)

    def givers(self, blocks: Grid, number: int) -> Iterator[tuple[int, Region]]:
        """Other blocks whose windows reach into a block, and where; what `receivers` says, seen from the receiver."""
        write = blocks.region(number)
        axes = zip(blocks.position(number), blocks.block_shape, self.window, strict=True)
        for place in itertools.product(*(range(max(0, p - -(-w // b)), p + 1) for p, b, w in axes)):
            giver = int(np.ravel_multi_index(place, blocks.counts))
            extent = self.extent(self.owned(blocks.region(giver)))
            common = _common(extent, write)
            if giver != number and common is not None:
                yield giver, common

    def seam_voxels(self, blocks: Grid, *, whole: bool = False) -> int:
        """Voxels whose sums blocks leave in files: their rims (or all of them) and what they know of other blocks."""
        reached, own, free, all_voxels = 1, 1, 1, 1
        for axis, n, size in zip(self.axes, blocks.counts, blocks.block_shape, strict=True):
            spans = [(p * size, min((p + 1) * size, axis.length)) for p in range(n)]
            extents = [(*axis.extent(axis.owned(*span)), span[1]) for span in spans]
            reached *= sum(high - low for low, high, _ in extents)
            own *= sum(max(0, min(high, stop) - low) for low, high, stop in extents)
            free *= sum(stop - start - axis.rim(start, stop) for start, stop in spans)
            all_voxels *= axis.length
        return reached - own + (all_voxels if whole else all_voxels - free)


def _crossings(blocks: Grid, extent: Region, own: int) -> Iterator[tuple[int, Region]]:
    """Blocks that a region crosses, but for one, with their part of it."""
    if any(e.stop <= e.start for e in extent):
        return
    axes = (range(e.start // b, -(-e.stop // b)) for e, b in zip(extent, blocks.block_shape, strict=True))
    for place in itertools.product(*axes):
        number = int(np.ravel_multi_index(place, blocks.counts))
        common = _common(extent, blocks.region(number))
        if number != own and common is not None:
            yield number, common


def _common(one: Region, other: Region) -> Region | None:
    """Intersection of two regions; None if it is empty."""
    z, y, x = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return None if any(r.stop <= r.start for r in (z, y, x)) else (z, y, x)
