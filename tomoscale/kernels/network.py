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

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.geometry import Block, Halo, Region, Shape, shift, three
from tomoscale.kernels.grey_windows import ANSWERED, ANSWERS, GreyWindows, counts_of, only_value
from tomoscale.kernels.scaling import Scaling
from tomoscale.kernels.tiles import Tiles, activation_bytes, batch_shape, tiles_of
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.runtime import (
    Forward,
    check_runtime,
    forward_of,
    share_memory_pool,
    window_threads,
)
from tomoscale.step import Counts, Kernel

ALL_WINDOWS_BYTES = 4 * 2**30
"""Windows are computed at once, a thread each, up to this many bytes of activations."""
TORCH_BYTES = 200 * 2**20
"""A process with torch imported, beyond one without: 190 MiB measured."""

Sink = Callable[[Block, Array], Counts]
"""Takes the probabilities of a block, (classes, z, y, x) float32, and keeps them; returns counts that say what it kept."""


@dataclass(frozen=True)
class Runtime:
    """What runs a network, and how much at once.

    Attributes
    ----------
    backend : str
        "torch", or "openvino" (2 to 10 times faster on a CPU). Labels agree but for near ties.
    precision : str
        "float32" or "bfloat16".
    at_once : int or None
        Windows computed at once in a process, a thread each; no part of the result. By default as many as this machine
        has cores and 4 GiB hold. A GPU computes one.
    """

    backend: str = "torch"
    precision: str = "float32"
    at_once: int | None = None

    def __post_init__(self) -> None:
        check_runtime(self.backend, self.precision)

    def windows_at_once(self, window_bytes: int) -> int:
        """Windows that are computed at once."""
        return self.at_once or max(1, min(os.cpu_count() or 1, ALL_WINDOWS_BYTES // window_bytes))

    @property
    def exact(self) -> bool:
        """Whether this is what the author of the network computed with."""
        return (self.backend, self.precision) == ("torch", "float32")


def inference(  # noqa: PLR0913 -- each is one decision that the result or the memory depends on
    bundle: Bundle,
    shape: Shape,
    *,
    scaling: Scaling | None = None,
    tile_shape: Shape | None = None,
    margin: Shape | None = None,
    output: str = "labels",
    runtime: Runtime | None = None,
    sink: Sink | None = None,
) -> Kernel:
    """Kernel that runs a network on a volume of `shape`, slice by slice for a network of two dimensions.

    Parameters
    ----------
    bundle : Bundle
        Of a network whose result is local.
    shape : (Z, Y, X)
        Of the whole volume.
    scaling : Scaling, optional
        Of grey values; by default the volume is taken as scaled already.
    tile_shape : (z, y, x), optional
        Part of the result's definition. Multiples of the network's stride, or the volume's length. For a network of
        two dimensions z is the number of slices computed as one batch. By default one whole slice, or 1024 x 1024 of
        it where its activations take more than 1 GiB.
    margin : (z, y, x), optional
        Of tiles, instead of the network's own: faster, and no longer exact.
    output : str
        "labels", the smallest class id among the most probable, uint8; or the name of a class, for its probability,
        float32.
    runtime : Runtime, optional
    sink : callable, optional
        Keeps the probabilities of all classes.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the backend is not installed.
    """
    runtime = runtime or Runtime()
    windows = GreyWindows.of(bundle, shape, scaling)
    tiles = tiles_of(bundle, shape, tile_shape, margin)
    target = class_of(bundle, output)
    # Resident memory grew by 1.4 times the activations: libraries copy to their own layouts.
    window = activation_bytes(bundle, batch_shape(bundle, tiles.largest_window)) * 3 // 2
    at_once = runtime.windows_at_once(window)
    dtype = np.dtype(np.uint8 if target is None else np.float32)
    answers = ANSWERS * 4 * len(bundle.classes) * int(np.prod(tiles.largest_window))
    return Kernel(
        name="inference",
        function=_Inference(bundle, tiles, windows, target, runtime, at_once, sink),
        halo=_with_slices(Halo(tiles.before, tiles.after), windows.around),
        dtype=dtype,
        # The result, and what is kept of it; what a window needs is counted below.
        bytes_per_voxel=dtype.itemsize + (0 if sink is None else 8 * len(bundle.classes)),
        parameters={
            **describe(bundle, scaling, output, runtime),
            "tile_shape": list(tiles.tile),
            "margin": [list(tiles.before), list(tiles.after)],
            "stride": list(tiles.stride),
            "tiles": int(np.prod(tiles.counts)),
        },
        stride=tiles.stride,
        tile=tiles.tile,
        located=True,
        # OpenVINO holds the weights twice: as read and as it packs them.
        fixed_bytes=TORCH_BYTES + at_once * window + 2 * bundle.weights_bytes + answers,
        own_threads=True,
        counted=True,
    )


def class_of(bundle: Bundle, output: str) -> int | None:
    """Number of the class that is wanted; None for labels.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    names = [c.name for c in bundle.classes]
    if output != "labels" and output not in names:
        raise ValueError(f"output must be 'labels' or one of the classes {names}, got {output!r}")
    return None if output == "labels" else names.index(output)


def describe(bundle: Bundle, scaling: Scaling | None, output: str, runtime: Runtime) -> dict[str, Any]:
    """JSON values that say what any kernel that runs a network computes."""
    return {
        "weights_sha256": bundle.weights_sha256,
        "architecture": bundle.architecture,
        "arguments": dict(bundle.arguments),
        "scaling": None if scaling is None else scaling.describe(),
        "output": output,
        "backend": runtime.backend,
        "precision": runtime.precision,
    }


@dataclass(frozen=True)
class _Inference:
    """The function of the kernel; a class, so that it pickles as a bundle's address and a few numbers."""

    bundle: Bundle
    tiles: Tiles
    windows: GreyWindows
    target: int | None
    runtime: Runtime
    at_once: int
    sink: Sink | None

    def __call__(self, values: Array, block: Block) -> tuple[Array, Counts]:
        self.windows.check(values, block)
        xp = namespace_for(values)
        device, forwards, threads = start(self.bundle, self.runtime, self.at_once, values)
        n_classes = len(self.bundle.classes)
        result = xp.empty(block.write_shape, np.uint8 if self.target is None else np.float32)
        shares = None if self.sink is None else xp.empty((n_classes, *block.write_shape), np.float32)
        tiles = list(self.tiles.touched_by(block.write))

        def compute(tile: Region) -> bool:
            padded = self._input(tile, values, block)
            value = only_value(padded)
            if value is None:
                logits = mean_logits(forwards, padded)
            else:
                key = (self.bundle.card_sha256, self.runtime, device, value, padded.shape)
                logits = ANSWERED.take(key, lambda: mean_logits(forwards, padded))
            self._put(tile, logits, block, result, shares)
            return value is not None

        constant = sum(map(compute, tiles) if threads == 0 else window_threads(threads).map(compute, tiles))
        counts = counts_of(len(tiles), constant)
        if self.sink is not None:
            assert shares is not None
            counts |= self.sink(block, shares)
        return result, counts

    def _input(self, tile: Region, values: Array, block: Block) -> Array:
        window = self.tiles.window(tile)
        real = three_slices(slice(w.start, min(w.stop, n)) for w, n in zip(window, self.tiles.shape, strict=True))
        return self.windows.cut(values, block, real, (0, 0, 0), three(w.stop - w.start for w in window))

    def _put(self, tile: Region, logits: torch.Tensor, block: Block, result: Array, shares: Array | None) -> None:
        """Write the part of one tile that lies in the block."""
        xp = namespace_for(result)
        wanted = three_slices(
            slice(max(w.start, t.start), min(w.stop, t.stop)) for w, t in zip(block.write, tile, strict=True)
        )
        inside = shift(wanted, tuple(-w.start for w in self.tiles.window(tile)))
        place = shift(wanted, tuple(-w.start for w in block.write))
        probabilities = logits
        if self.target is not None or shares is not None:
            # Over the whole window: vector instructions round the ends of rows otherwise.
            probabilities = logits.softmax(0)
        if self.target is None:
            result[place] = xp.from_dlpack(first_largest(logits[:, *inside]))
        else:
            result[place] = xp.from_dlpack(probabilities[self.target][inside].contiguous())
        if shares is not None:
            shares[:, *place] = xp.from_dlpack(probabilities[:, *inside].contiguous())


def start(bundle: Bundle, runtime: Runtime, at_once: int, values: Array) -> tuple[str, tuple[Forward, ...], int]:
    """Device of a block, the networks on it, and how many threads compute windows (0: this one)."""
    device = "cpu" if on_host(values) else f"cuda:{values.device.id}"
    streams = max(1, min(at_once, torch.get_num_threads())) if device == "cpu" else 1
    if device != "cpu":
        share_memory_pool(namespace_for(values))
    how = (bundle, runtime.backend, runtime.precision, device, streams)
    forwards = tuple(forward_of(*how, member) for member in range(bundle.members))
    return device, forwards, streams if device == "cpu" else 0


def by_class(logits: torch.Tensor, dimensions: int) -> torch.Tensor:
    """Logits with the classes first: slices of a batch become z again."""
    return logits.transpose(0, 1) if dimensions == 2 else logits[0]


def first_largest(values: torch.Tensor) -> torch.Tensor:
    """Index of the largest along the first axis, the smallest index where several are equal: uint8."""
    largest = values[0].clone()
    labels = torch.zeros(largest.shape, dtype=torch.uint8, device=largest.device)
    for index in range(1, len(values)):
        labels.masked_fill_(values[index] > largest, index)
        torch.maximum(largest, values[index], out=largest)
    return labels


def three_slices(slices: Iterable[slice]) -> Region:
    """Region of exactly three slices."""
    z, y, x = slices
    return z, y, x


def mean_logits(forwards: tuple[Forward, ...], padded: Array) -> torch.Tensor:
    """Mean over the members of the logits of a window: (classes, z, y, x), members added in order."""
    values = from_dlpack(padded)
    total = forwards[0](values)
    for forward in forwards[1:]:
        total = total + forward(values)
    if len(forwards) > 1:
        total = total / len(forwards)
    return by_class(total, values.dim() - 2)


def _with_slices(halo: Halo, slices: int) -> Halo:
    return halo + Halo((slices, 0, 0), (slices, 0, 0))
