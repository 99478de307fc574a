"""Label a volume by a network whose output depends on the window as a whole: the mean over windows of a fixed grid.

The grid (`tomoscale.networks.windows`) is of the volume, never of a block. What a window says of a voxel is rounded to a
whole number of small steps after it is weighted by the window's share of that voxel, and added as an integer:

.. code-block:: text

    steps of a voxel and class = sum over windows of round(share * value * 2**bits)                     int32

Integers add to the same bits in every order, so the sum may begin in one block and end in another, on any worker, and
is the same as if one process had added all windows; float32 would depend on who added first. Shares add to 1, so the
sum is the mean itself, needs no division, and stays in range:

``logits``
    of a voxel are taken relative to its largest, which changes no label and no probability, and differences of more than
    2047 count as 2047; one step is 2**-20, finer than float32 at logits of 16. Those of regions that may overlap are taken
    as they are, from -2047 to 2047.
``probabilities``
    one step is 2**-30.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from tomoscale.arrays import Array, namespace_for
from tomoscale.errors import InputError
from tomoscale.geometry import Block, Halo, Region, Shape, region_shape, shift, three
from tomoscale.kernels.grey_windows import ANSWERED, ANSWERS, GreyWindows, counts_of, only_value
from tomoscale.kernels.network import (
    TORCH_BYTES,
    Runtime,
    Sink,
    by_class,
    class_of,
    describe,
    first_largest,
    start,
    three_slices,
)
from tomoscale.kernels.scaling import Scaling
from tomoscale.kernels.tiles import activation_bytes
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.card import Windows
from tomoscale.networks.runtime import Forward, window_threads
from tomoscale.networks.windows import WindowGrid
from tomoscale.step import Counts, Kernel

BITS = {"logits": 20, "probabilities": 30}
"""Of the fraction of a step, by what is averaged."""
WAITING_BYTES = 1500
"""Of a window that waits for a thread, which counts where windows are small: 1100 measured."""
LARGEST_DIFFERENCE = 2047.0
"""Of two logits of a voxel; what is further behind is 0 as a probability, in any precision."""

Index = tuple[int, int, int]
HandOver = Callable[[Block, Array, Region], None]
"""Takes the sums of a block's own windows, (classes, z, y, x) int32, and the region of the volume they are of."""


def window_inference(  # noqa: PLR0913 -- each is one decision that the result or the memory depends on
    bundle: Bundle,
    shape: Shape,
    *,
    scaling: Scaling | None = None,
    output: str = "labels",
    runtime: Runtime | None = None,
    sink: Sink | None = None,
    hand_over: HandOver | None = None,
) -> Kernel:
    """Kernel that runs a network on the windows of its card.

    Parameters
    ----------
    bundle : Bundle
        Whose card says how windows lie.
    shape : (Z, Y, X)
        Of the whole volume.
    scaling, output, runtime, sink
        As for `tomoscale.kernels.network.inference`.
    hand_over : callable, optional
        Where given, a block computes the windows that begin in it alone, and its result is final only where no earlier
        block's windows reach. Without it, a block computes all windows that touch it, each as often as blocks do.

    Raises
    ------
    ValueError
        If the card names no windows, or an argument is out of its range.
    InputError
        If the network does not take windows of the card's shape.
    """
    runtime = runtime or Runtime()
    if bundle.card.windows is None:
        raise ValueError(f"the card of {bundle.path} names no windows")
    grid = WindowGrid(shape, bundle.card.windows)
    windows = GreyWindows.of(bundle, shape, scaling)
    target = class_of(bundle, output)
    n_classes = bundle.card.outputs
    if target is not None and grid.windows.regions:
        raise ValueError(f"{output!r} is a region that others lie over: such a network gives labels alone")
    window = _window_bytes(bundle, windows.batch_shape(grid.window))
    values = 4 * n_classes * int(np.prod(grid.window))
    at_once = runtime.windows_at_once(window + 4 * values)
    dtype = np.dtype(np.uint8 if target is None else np.float32)
    around = three(w - 1 for w in grid.window)
    halo = Halo((0, 0, 0) if hand_over else around, around)
    return Kernel(
        name="inference on windows",
        function=_WindowInference(bundle, grid, windows, target, runtime, at_once, sink, hand_over),
        halo=halo + Halo((windows.around, 0, 0), (windows.around, 0, 0)),
        dtype=dtype,
        # Sums, labels while they are compared, windows that wait; and copies of the sums for a file, or probabilities.
        bytes_per_voxel=4 * n_classes
        + 7
        + WAITING_BYTES / _voxels_per_window(grid)
        + (4 * n_classes if hand_over else 0)
        + _probability_bytes(output, sink, n_classes),
        parameters={
            **describe(bundle, scaling, output, runtime),
            "window": list(grid.window),
            "step": grid.windows.step,
            "weights": grid.windows.weights,
            "average": grid.windows.average,
            "mirror_axes": list(grid.windows.mirror_axes),
            "axes": list(grid.windows.axes),
            "regions": list(grid.windows.regions),
            "windows": len(grid),
        },
        located=True,
        fixed_bytes=TORCH_BYTES + at_once * (window + 4 * values) + ANSWERS * values + 2 * bundle.weights_bytes,
        own_threads=True,
        counted=True,
    )


def probabilities_of(sums: Array, windows: Windows) -> Array:
    """Probabilities of sums of steps of all windows: (outputs, z, y, x) float32; of regions, of each by itself."""
    xp = namespace_for(sums)
    step = np.float32(2.0 ** -BITS[windows.average])
    if windows.average == "probabilities":
        return xp.minimum(sums.astype(np.float32) * step, np.float32(1))
    if windows.regions:
        # Each quotient is at most 1, so that nothing overflows.
        fall = xp.exp(-xp.abs(sums).astype(np.float32) * step)
        return xp.where(sums > 0, 1, fall) / (1 + fall)
    # Not torch's softmax: its vector instructions round the ends of rows otherwise, and rows are the block's here.
    shares = xp.exp((sums - sums.max(axis=0)).astype(np.float32) * step)
    shares /= shares.sum(axis=0)
    return shares


def labels_of(sums: Array, regions: tuple[int, ...]) -> Array:
    """Classes of the largest sums, the smallest where several are equal, or of the regions: (z, y, x) uint8."""
    if not regions:
        return namespace_for(sums).from_dlpack(first_largest(from_dlpack(sums)))
    labels = namespace_for(sums).zeros(sums.shape[1:], np.uint8)
    for number, written in enumerate(regions):
        labels[sums[number] > 0] = written
    return labels


@dataclass(frozen=True)
class _WindowInference:
    """The function of the kernel; a class, so that it pickles as a bundle's address and a few numbers."""

    bundle: Bundle
    grid: WindowGrid
    windows: GreyWindows
    target: int | None
    runtime: Runtime
    at_once: int
    sink: Sink | None
    hand_over: HandOver | None

    def __call__(self, values: Array, block: Block) -> tuple[Array, Counts]:
        self.windows.check(values, block)
        chosen = self.grid.touching(block.write) if self.hand_over is None else self.grid.owned(block.write)
        region = block.write if self.hand_over is None else _hull(block.write, self.grid.extent(chosen))
        device, forwards, threads = start(self.bundle, self.runtime, self.at_once, values)
        sums = torch.zeros((self.bundle.card.outputs, *region_shape(region)), dtype=torch.int32, device=device)
        adding = threading.Lock()

        def compute(index: Index) -> bool:
            window, constant = self._window(index, values, block, device, forwards)
            steps, part = self._steps(index, window, region)
            with adding:
                sums[:, *part] += steps
            return constant

        places = list(itertools.product(*chosen))
        constant = sum(map(compute, places) if threads == 0 else window_threads(threads).map(compute, places))
        found = namespace_for(values).from_dlpack(sums)
        result, kept = self._result(found, block, region)
        return result, counts_of(len(places), constant) | kept

    def _result(self, sums: Array, block: Block, region: Region) -> tuple[Array, Counts]:
        """Labels or shares of a block, and counts of what is kept."""
        windows = self.grid.windows
        own = sums[:, *shift(block.write, tuple(-r.start for r in region))]
        if self.hand_over is not None:
            self.hand_over(block, sums, region)
        if self.target is None and self.sink is None:
            return labels_of(own, windows.regions), {}
        shares = probabilities_of(own, windows)
        kept = {} if self.sink is None else self.sink(block, shares)
        return labels_of(own, windows.regions) if self.target is None else shares[self.target], kept

    def _window(
        self, index: Index, values: Array, block: Block, device: str, forwards: tuple[Forward, ...]
    ) -> tuple[torch.Tensor, bool]:
        """Values to add of a window, (classes, z, y, x) float32, and whether it has one grey value."""
        real, before = self.grid.span(index), self.grid.padding(index)
        padded = self.windows.cut(values, block, real, before, self.grid.window)
        value = only_value(padded)
        if value is None:
            return self._mean(from_dlpack(padded), forwards, real), False
        key = (self.bundle.card_sha256, self.runtime, device, value, padded.shape, "windows")
        return ANSWERED.take(key, lambda: self._mean(from_dlpack(padded), forwards, real)), True

    def _mean(self, values: torch.Tensor, forwards: tuple[Forward, ...], real: Region) -> torch.Tensor:
        """Mean over members and mirrorings, added in this order."""
        mirrors = [tuple(2 + a for a in axes) for axes in _subsets(self.grid.windows.mirror_axes)]
        averaged = self.grid.windows.average
        total: torch.Tensor | None = None
        for forward, axes in itertools.product(forwards, mirrors):
            # OpenVINO takes arrays, whose strides are positive.
            found = forward(values.flip(axes).contiguous() if axes else values)
            found = found.softmax(1) if averaged == "probabilities" else found
            found = found.flip(axes) if axes else found
            total = found if total is None else total + found
        assert total is not None
        mean = by_class(total / (len(forwards) * len(mirrors)), self.windows.dimensions)
        mean = mean.permute(0, *(1 + self.windows.axes.index(axis) for axis in range(3)))
        if not bool(torch.isfinite(mean).all()):
            raise InputError(
                f"the network gives NaN or infinity for the window at z, y, x {tuple(r.start for r in real)}: its grey values "
                "are not scaled as it was trained, or the precision is too low; try precision float32"
            )
        if averaged == "probabilities":
            return mean
        if self.grid.windows.regions:
            return mean.clamp_(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)
        return (mean - mean.amax(0)).clamp_(min=-LARGEST_DIFFERENCE)

    def _steps(self, index: Index, window: torch.Tensor, region: Region) -> tuple[torch.Tensor, Region]:
        """What a window adds to the sums of a region, int32, and where in it."""
        span = self.grid.span(index)
        common = three_slices(
            slice(max(s.start, r.start), min(s.stop, r.stop)) for s, r in zip(span, region, strict=True)
        )
        shares = self.grid.shares(index)[shift(common, tuple(-s.start for s in span))]
        scaled = torch.from_numpy((shares * 2.0 ** BITS[self.grid.windows.average]).astype(np.float32))
        inside = shift(common, tuple(b - s.start for b, s in zip(self.grid.padding(index), span, strict=True)))
        steps = (window[:, *inside] * scaled.to(window.device)).round_().to(torch.int32)
        return steps, shift(common, tuple(-r.start for r in region))


def _subsets(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All combinations of axes, none first."""
    return [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]


def _hull(one: Region, other: Region) -> Region:
    """Smallest region that holds two; the second may be empty."""
    if any(o.stop <= o.start for o in other):
        return one
    return three_slices(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _window_bytes(bundle: Bundle, shape: tuple[int, ...]) -> int:
    """Memory of one window; resident memory grew by 1.4 times the activations."""
    try:
        return activation_bytes(bundle, shape) * 3 // 2
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{bundle.path}: the network does not take the windows of its card, {shape[2:]} voxels "
            f"({str(error).splitlines()[0]}): save the bundle again with windows that are a multiple of its stride"
        ) from error


def _voxels_per_window(grid: WindowGrid) -> float:
    return float(np.prod([max(1.0, w * grid.windows.step) if w > 1 else 1 for w in grid.window]))


def _probability_bytes(output: str, sink: Sink | None, n_classes: int) -> int:
    return 0 if output == "labels" and sink is None else 12 * n_classes
