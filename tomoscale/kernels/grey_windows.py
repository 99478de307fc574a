"""What a network sees of a block: a window of it, scaled, with zeros around the volume; and windows without contrast.

A window of one grey value (air that was masked or clipped) has one answer, which is computed once in a process and
taken again: the same bits, since a network sees nothing but its window.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tomoscale.arrays import Array, namespace_for
from tomoscale.errors import InputError
from tomoscale.geometry import Block, Region, Shape, region_shape, shift, three
from tomoscale.kernels.scaling import Scaling, refuse_not_finite
from tomoscale.networks.bundle import Bundle

ANSWERS = 4
"""Answers to windows without contrast that a process keeps: air has one value, and windows few shapes."""


@dataclass(frozen=True)
class GreyWindows:
    """Cuts windows out of blocks, as a network takes them.

    Attributes
    ----------
    shape : (Z, Y, X)
        Of the whole volume.
    dimensions, in_slices : int
        Of the network: slices are a batch for two dimensions, each shown with its neighbours; the first and the last
        slice of the volume stand for those beyond.
    scaling : Scaling or None
    axes : tuple of int
        Axis of the volume that is each axis of the network.
    """

    shape: Shape
    dimensions: int
    in_slices: int
    scaling: Scaling | None
    axes: Shape = (0, 1, 2)

    @classmethod
    def of(cls, bundle: Bundle, shape: Shape, scaling: Scaling | None) -> GreyWindows:
        """Windows for the network of a bundle.

        Raises
        ------
        ValueError
            If the network takes several grey values per voxel.
        """
        if bundle.arguments["in_channels"] != 1:
            raise ValueError(f"the network takes {bundle.arguments['in_channels']} channels, a volume has one")
        windows = bundle.card.windows
        axes = (0, 1, 2) if windows is None else windows.axes
        return cls(shape, bundle.dimensions, int(bundle.arguments.get("in_slices", 1)), scaling, axes)

    @property
    def around(self) -> int:
        """Slices that are read before and after a window."""
        return self.in_slices // 2

    def batch_shape(self, window: Shape) -> tuple[int, ...]:
        """Shape of a window of (z, y, x) voxels as the network takes it."""
        first, *others = (window[axis] for axis in self.axes)
        return (first, self.in_slices, *others) if self.dimensions == 2 else (1, 1, first, *others)

    def check(self, values: Array, block: Block) -> None:
        """Refuse what no network takes.

        Raises
        ------
        ValueError
            If the block is of a volume of another shape.
        InputError
            If the values have more than 32 bits.
        """
        if block.source_shape != self.shape:
            raise ValueError(f"the kernel is for a volume of shape {self.shape}, got {block.source_shape}")
        if values.dtype.itemsize > 4 or values.dtype.kind not in "uifb":
            raise InputError(
                f"a network takes integers or floats of at most 32 bits, got {values.dtype}: convert the volume first"
            )

    def cut(self, values: Array, block: Block, real: Region, before: Shape, window: Shape) -> Array:
        """Values of a window as the network takes them: float32 of `batch_shape`.

        Parameters
        ----------
        values : (Z, Y, X) array
            Of ``block.read``.
        block : Block
        real : Region
            Part of the window that lies in the volume.
        before, window : (z, y, x)
            Voxels of the window before that, and of the whole window; what is not real is 0.

        Raises
        ------
        InputError
            If a value is NaN or infinite.
        """
        z, y, x = real
        slices = slice(max(0, z.start - self.around), min(self.shape[0], z.stop + self.around))
        read: Region = (slices, y, x)
        part = values[shift(read, three(-r.start for r in block.read))]
        assert part.shape == region_shape(read), "the block's read region must hold its windows"
        xp = namespace_for(values)
        after = [w - b - (r.stop - r.start) for w, b, r in zip(window, before, real, strict=True)]
        padded = xp.zeros((part.shape[0] + before[0] + after[0], *window[1:]), np.float32)
        view = padded[tuple(slice(b, b + n) for b, n in zip(before, part.shape, strict=True))]
        view[...] = part
        refuse_not_finite(view, read, values.dtype)
        if self.scaling is not None:
            self.scaling.apply(view)
        if self.in_slices == 1:
            return xp.ascontiguousarray(padded.transpose(self.axes)).reshape(self.batch_shape(window))
        shown = np.arange(z.start, z.stop)[:, None] + np.arange(-self.around, self.around + 1)
        return padded[np.clip(shown, 0, self.shape[0] - 1) - slices.start]


def only_value(window: Array) -> float | None:
    """Value that all voxels of a window have; None if they differ."""
    first = window.reshape(-1)[0]
    # Most windows are not constant, which their ends show.
    ends = window.reshape(-1)[:: max(1, window.size // 64)]
    if bool((ends != first).any()) or bool((window != first).any()):
        return None
    return float(first)


class Answers:
    """Results for windows of one value, kept in this process; the oldest makes place."""

    def __init__(self) -> None:
        self.kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self.lock = threading.Lock()

    def take(self, key: Hashable, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Answer of a key, computed if it is not there; nobody may write into it."""
        with self.lock:
            found = self.kept.get(key)
            if found is None:
                found = self.kept[key] = compute()
                if len(self.kept) > ANSWERS:
                    self.kept.popitem(last=False)
            return found


ANSWERED = Answers()


def counts_of(windows: int, constant: int) -> dict[str, Any]:
    """Count what a kernel computed: windows, and those of one value among them."""
    return {"windows": np.array([windows], np.int64), "constant_windows": np.array([constant], np.int64)}
