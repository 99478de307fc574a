"""How far a network looks: its one-sided reach and its total stride, measured on the loaded network.

Formulae miss what a network does in detail (how it upsamples, where it pads), and gradients miss what max pooling did
not select. Here a stretch of the input is NaN: every operation that uses it passes NaN on, whatever the weights, so the
NaN in the output show exactly which voxels depend on that stretch. float64, since its convolutions are plain sums on
the CPU, without transforms that would smear NaN.

.. code-block:: text

    input    . . . . . . . . . N N N N . . . . . . . .
    output   . . . . N N N N N N N N N N N N N N . . .
                     |<-after->|     |<-before->|         voxels before p + after p are needed for output p
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

DEFAULT_UNIT = {2: 64, 3: 16}
"""Voxels that the strides of most networks divide, by dimensions."""
MAX_EXTENT_VOXELS = 2**14
"""More than any network looks; a window is at least as long."""


@dataclass(frozen=True)
class Reach:
    """Which input voxels an output voxel of a network depends on, per axis of the network.

    Attributes
    ----------
    stride : tuple of int
        The network does the same at all places that are this far apart; sizes must be multiples of it.
    before, after : tuple of int
        Voxels needed before and after an output voxel, at most.
    margin_before, margin_after : tuple of int
        Voxels, a multiple of the stride, that a window needs before and after a tile that starts and ends at multiples
        of it. Up to a stride less than `before` rounded up: the voxels that look furthest back are not a tile's first.
    local : bool
        False where a result depends on the window as a whole (instance norm, attention, aligned corners) or on more
        than was probed. The margins are then no more than the context a window is given.
    """

    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    margin_before: tuple[int, ...]
    margin_after: tuple[int, ...]
    local: bool = True

    def __post_init__(self) -> None:
        extents = (self.before, self.after, self.margin_before, self.margin_after)
        if len(self.stride) not in (2, 3) or {len(e) for e in extents} != {len(self.stride)}:
            raise ValueError(f"a reach has two or three strides, and as many extents and margins, got {self}")
        if min(self.stride) < 1 or min(map(min, extents)) < 0:
            raise ValueError(f"a reach has strides >= 1 and extents >= 0, got {self}")
        if max(map(max, (self.stride, *extents))) > MAX_EXTENT_VOXELS:
            raise ValueError(f"a reach has no more than {MAX_EXTENT_VOXELS} voxels, got {self}")
        margins = zip(self.margin_before, self.margin_after, self.stride, strict=True)
        if any(b % s or a % s for b, a, s in margins):
            raise ValueError(f"margins are multiples of the stride, got {self}")


def probe(
    module: nn.Module,
    in_channels: int = 1,
    dimensions: int = 2,
    max_stride: int | None = None,
    max_reach: int = 2048,
) -> Reach:
    """Measure stride and reach of a network that returns one output voxel per input voxel.

    Parameters
    ----------
    module : torch module
        (N, in_channels, ...) -> (N, anything, ...); a copy of it is taken.
    in_channels : int
        Of the tensor it takes: neighbouring slices that are shown count as channels.
    dimensions : int
    max_stride : int, optional
        A multiple of the network's stride; 64 for slices and 16 for volumes by default.
    max_reach : int
        A network that looks further is taken to depend on its whole window.

    Returns
    -------
    Reach
        Where it is not local, stride and context are `max_stride`.

    Raises
    ------
    ValueError
        If the network does not take sizes that are multiples of `max_stride`, or its output does not depend on its
        input.

    Notes
    -----
    One axis costs between ``4 + log2(max_stride)`` passes over a thin strip (stride `max_stride`) and ``4 + max_stride``
    (stride 1).
    """
    unit = max_stride or DEFAULT_UNIT[dimensions]
    network = copy.deepcopy(module).cpu().double().eval()
    found = []
    threads = torch.get_num_threads()
    # Strips are thin: on busy cores, threads that wait for each other made this ten times slower.
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for axis in range(dimensions):
                strip = _Strip(network, in_channels, dimensions, axis, unit)
                span = strip.lengthen(max_reach)
                if not span or not strip.shifts_with_input(span):
                    return Reach(*((unit,) * dimensions,) * 5, local=False)
                found.append(strip.extents())
    finally:
        torch.set_num_threads(threads)
    stride, before, after, margin_before, margin_after = zip(*found, strict=True)
    return Reach(stride, before, after, margin_before, margin_after)


class _Strip:
    """A network seen along one axis, on inputs along the others as narrow as it takes."""

    def __init__(self, network: nn.Module, in_channels: int, dimensions: int, axis: int, unit: int) -> None:
        self.network = network
        self.unit = unit
        self.axis = axis + 2
        self.length = 8 * unit
        self.spans: dict[int, tuple[int, int]] = {}
        for width in (w for w in range(1, unit + 1) if unit % w == 0):
            self.shape = [1, in_channels, *[width] * dimensions]
            if width == unit or self._takes(2 * unit):
                break

    @property
    def first(self) -> int:
        """Where the first stretch starts, so that the stretches at `first` to `first + unit` are in the middle."""
        return self.length // 2 - self.unit

    def lengthen(self, max_reach: int) -> int:
        """Make the strip long enough to see the whole reach; return an upper bound of it, or 0 if there is none."""
        while self.length // 2 <= max_reach + 4 * self.unit or self.length == 8 * self.unit:
            start, stop = self.affected(self.first)
            if start >= self.unit and stop <= self.length - 2 * self.unit:
                return max(self.first - start, stop - self.first) + self.unit
            self.length *= 2
            self.spans.clear()
        return 0

    def affected(self, start: int) -> tuple[int, int]:
        """First and last + 1 output voxel that depend on the stretch of `unit` voxels from `start`."""
        if start not in self.spans:
            values = self._random(self.length)
            values.narrow(self.axis, start, self.unit).fill_(torch.nan)
            seen = self._run(values).isnan().transpose(0, self.axis).flatten(1).any(1).nonzero()
            if len(seen) == 0:
                raise ValueError("the network's output does not depend on its input")
            self.spans[start] = int(seen[0]), int(seen[-1]) + 1
        return self.spans[start]

    def shifts_with_input(self, reach: int) -> bool:
        """Tell whether the output, far from the ends, moves with the input and ignores the strip's length."""
        values = self._random(self.length + 2 * self.unit)
        whole = self._run(values)
        part = self._run(values.narrow(self.axis, self.unit, self.length))
        count = self.length - 2 * reach
        if count < 1:
            self.length *= 2
            return self.shifts_with_input(reach)
        expected = whole.narrow(self.axis, self.unit + reach, count)
        if float(expected.std()) == 0:
            raise ValueError("the network's output is constant: load its weights before probing")
        difference = (part.narrow(self.axis, reach, count) - expected).abs().max()
        return bool(difference <= 1e-9 * expected.abs().max())

    def extents(self) -> tuple[int, int, int, int, int]:
        """Stride, voxels before and after, margins before and after."""
        positions = range(self.first, self.first + self.unit + 1)
        self._fill(positions[0], positions[-1])
        starts = [p - self.spans[p][0] for p in positions]
        stops = [self.spans[p][1] - p - self.unit for p in positions]
        divisors = (s for s in range(1, self.unit + 1) if self.unit % s == 0)
        stride = next(s for s in divisors if starts[s:] == starts[:-s] and stops[s:] == stops[:-s])
        # `first` is a multiple of the stride: inputs up to it change outputs up to `stops[0]` after it.
        margin_before, margin_after = (-(-extent // stride) * stride for extent in (stops[0], starts[0]))
        return stride, max(stops), max(starts), margin_before, margin_after

    def _fill(self, low: int, high: int) -> None:
        """Find the spans between two positions: both ends only move forward, so equal spans enclose equal ones."""
        if self.affected(low) == self.affected(high):
            self.spans.update(dict.fromkeys(range(low, high), self.spans[low]))
        elif high - low > 1:
            middle = (low + high) // 2
            self._fill(low, middle)
            self._fill(middle, high)

    def _takes(self, length: int) -> bool:
        try:
            self._run(self._random(length))
        except ValueError:
            return False
        return True

    def _random(self, length: int) -> torch.Tensor:
        shape = list(self.shape)
        shape[self.axis] = length
        return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def _run(self, values: torch.Tensor) -> torch.Tensor:
        try:
            result: torch.Tensor = self.network(values)
        except RuntimeError as error:
            raise ValueError(
                f"the network does not take an input of shape {tuple(values.shape)} ({str(error).splitlines()[0]}): "
                f"give a max_stride that is a multiple of its stride, not {self.unit}"
            ) from error
        if result.shape[2:] != values.shape[2:]:
            raise ValueError(
                f"the network turns {tuple(values.shape[2:])} voxels into {tuple(result.shape[2:])}: "
                "only networks that return one output voxel per input voxel can run by blocks"
            )
        return result
