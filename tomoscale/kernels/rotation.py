r"""Turn a volume by 45 degrees about one of its axes, and turn class probabilities back.

.. code-block:: text

    +------+             . /\ .
    |      |     <->     /    \       the canvas (u', v') holds every corner of the slice (u, v) and one voxel around it;
    |      |             \    /       what lies beyond the volume is 0
    +------+             . \/ .

Both ways are samples of a line along either axis of the slice, none along the axis of rotation (Baltruschat et al. 2021:
bilinear, filled with zeros, about the centre, not cropped). Positions are computed in float64 from indices in the whole
volume, never from a block's, and a sample is ``a + f (b - a)`` in float32: a constant stays exactly what it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.geometry import Block, Halo, Region, Shape, region_shape, three
from tomoscale.kernels.scaling import Scaling, scale_region
from tomoscale.kernels.slice_sampling import Tables, differences, positions, sample, sample_on_host, span_of, sums
from tomoscale.step import Kernel

_STEP = math.sqrt(0.5)


@dataclass(frozen=True)
class Rotation:
    """A rotation of a whole volume by 45 degrees, and the two grids it leads between.

    Attributes
    ----------
    axis : 0, 1, 2
        That it turns about; the other two, in order, are u and v.
    shape : (Z, Y, X)
        Of the volume.
    """

    axis: int
    shape: Shape

    @property
    def in_plane(self) -> tuple[int, int]:
        """Axes u and v."""
        u, v = (a for a in range(3) if a != self.axis)
        return u, v

    @property
    def edge(self) -> int:
        """Voxels of the canvas along u' and v': every corner, and one voxel beyond for the samples around it."""
        u, v = self.in_plane
        return math.ceil((self.shape[u] + self.shape[v]) / math.sqrt(2)) + 2

    @property
    def canvas(self) -> Shape:
        """Shape of the turned volume; u' and v' lie where u and v lay."""
        return three(n if a == self.axis else self.edge for a, n in enumerate(self.shape))

    def canvas_box(self, region: Region) -> Region:
        """Part of the canvas that a region of the volume is sampled from."""
        u, v = self.in_plane
        return self._box(region, self._back_tables(region[u], region[v]), self.canvas)

    def volume_box(self, region: Region) -> Region:
        """Part of the volume that a region of the canvas is sampled from; empty (0:0) where it lies outside."""
        u, v = self.in_plane
        return self._box(region, self._tables(region[u], region[v]), self.shape)

    def footprint(self, normal: int) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 voxel, across each slice of the canvas, that a voxel of the volume is sampled from.

        What lies beyond is never looked at: a third to half of the canvas.

        Parameters
        ----------
        normal : int
            Axis that slices are cut across: that of u' or of v'.

        Returns
        -------
        start, stop : (slices,) int64 arrays
            Along the other of both axes; a slice that nothing is sampled from has 0 and 0.
        """
        centre = (self.edge - 1) / 2
        there = np.arange(self.edge) - centre
        # Voxels around a sample lie up to sqrt(2) from it along u and v.
        reach_u, reach_v = (math.sqrt(2) * ((self.shape[a] - 1) / 2 + 1.5) for a in self.in_plane)
        # u goes by the sum of both indices, v by their difference.
        low = np.maximum(-reach_u - there, there - reach_v) + centre
        high = np.minimum(reach_u - there, there + reach_v) + centre
        assert normal in self.in_plane
        start = np.clip(np.ceil(low), 0, self.edge).astype(np.int64)
        stop = np.clip(np.floor(high) + 1, 0, self.edge).astype(np.int64)
        some = start < stop
        return np.where(some, start, 0), np.where(some, stop, 0)

    def turn(self, values: Array, start: tuple[int, ...], region: Region) -> Array:
        """Grey values of a region of the canvas: float32.

        Parameters
        ----------
        values : (z, y, x) array, NumPy or CuPy
            Of a part of the volume that holds `volume_box` of the region; what lies beyond it is taken as 0.
        start : (z, y, x)
            Where that part begins.
        region : Region
            Of the canvas.
        """
        u, v = self.in_plane
        return self._sampled(values, start, region, self._tables(region[u], region[v]))

    def turn_back(self, values: Array, start: tuple[int, ...], region: Region) -> Array:
        """Values of a region of the volume from a part of the canvas that holds `canvas_box` of it: float32."""
        u, v = self.in_plane
        return self._sampled(values, start, region, self._back_tables(region[u], region[v]))

    def _tables(self, u: slice, v: slice) -> Tables:
        """Positions in the volume of voxels (u', v'): u by their sum, v by their difference."""
        first, second = ((self.shape[a] - 1) / 2 for a in self.in_plane)
        total, difference = sums(u, v), differences(u, v)
        return Tables(
            positions((total - (self.edge - 1)) * _STEP + first),
            positions(difference * _STEP + second),
            first_by_sum=True,
        )

    def _back_tables(self, u: slice, v: slice) -> Tables:
        """Positions on the canvas of voxels (u, v): u' by their difference, v' by their sum."""
        first, second = ((self.shape[a] - 1) / 2 for a in self.in_plane)
        centre = (self.edge - 1) / 2
        total, difference = sums(u, v), differences(u, v)
        return Tables(
            positions((total - (first + second)) * _STEP + centre),
            positions((-difference - (first - second)) * _STEP + centre),
            first_by_sum=False,
        )

    def _box(self, region: Region, tables: Tables, shape: Shape) -> Region:
        spans = dict(zip(self.in_plane, (tables.first, tables.second), strict=True))
        z, y, x = (
            region[a] if a == self.axis else span_of(spans[a][0], n) for a, n in zip(range(3), shape, strict=True)
        )
        return z, y, x

    def _sampled(self, values: Array, start: tuple[int, ...], region: Region, tables: Tables) -> Array:
        (u, v), a = self.in_plane, self.axis
        lines = slice(region[a].start - start[a], region[a].stop - start[a])
        assert 0 <= lines.start <= lines.stop <= values.shape[a], (
            "values must hold the region along the axis of rotation"
        )
        xp = namespace_for(values)
        result = xp.empty(region_shape(region), np.float32)
        source = values.transpose(a, u, v)[lines]
        fill = sample_on_host if on_host(values) else sample
        fill(source, result.transpose(a, u, v), tables, (start[u], start[v]))
        return result


def rotate(axis: int, shape: Shape, scaling: Scaling | None = None) -> Kernel:
    """Kernel of `Rotation.turn` for a volume of `shape`; a block reads whole slices across the axis of rotation.

    Parameters
    ----------
    axis : 0, 1, 2
    shape : (Z, Y, X)
    scaling : Scaling, optional
        Of grey values before they are turned: what lies beyond the volume is 0 after it.
    """
    rotation = Rotation(axis, shape)
    whole = three(1 if a == axis else max(n, rotation.edge) for a, n in enumerate(shape))
    ratio = math.prod(rotation.canvas) / math.prod(shape)
    return Kernel(
        "rotate by 45 degrees",
        partial(_rotate_block, rotation=rotation, scaling=scaling),
        Halo(),
        np.dtype(np.float32),
        # The result, and the scaled values with a mask of those that are finite.
        bytes_per_voxel=4 * ratio + (0 if scaling is None else 4 + 1),
        parameters={"axis": axis, "shape": list(shape), "scaling": scaling and scaling.describe()},
        tile=whole,
        target_shape=partial(_canvas_of, rotation=rotation),
        located=True,
    )


def _rotate_block(values: Array, block: Block, rotation: Rotation, scaling: Scaling | None) -> Array:
    if scaling is not None:
        values = scale_region(values, block.read, scaling)
    return rotation.turn(values, tuple(r.start for r in block.read), block.write)


def _canvas_of(source_shape: Shape, rotation: Rotation) -> Shape:
    if source_shape != rotation.shape:
        raise ValueError(f"the kernel is for a volume of shape {rotation.shape}, got {source_shape}")
    return rotation.canvas
