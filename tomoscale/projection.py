"""A plan: a step on volumes, and the projections of what it will read, hold and write."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import tomoscale
from tomoscale.geometry import Block, Grid, Halo, Shape
from tomoscale.own_code import own_code
from tomoscale.places import Place, is_bucket
from tomoscale.resources import Resources, bytes_of_a_process
from tomoscale.spans import Axis, decoded_along, held_along, lengths_along, read_along
from tomoscale.step import Kernel, Measure, make_block
from tomoscale.volume import Volume
from tomoscale.words import shape_text, size

Step = Kernel | tuple[Measure, ...]

DEVICE_FACTOR = 3.0
"""What a step takes on a GPU over what it takes on the host: CuPy works out of place, so that a sum, one of its terms
and the conversion of that are held where the host holds the sum. Counted from the formulations, not measured."""
COMPRESSED = {"labels": 0.25, "mask": 0.25, "grey": 1.0}
"""Share of the uncompressed size that a target may take on disk: noise does not compress, labels always do."""


@dataclass(frozen=True)
class Plan:
    """A step on volumes over a grid, with every projection; made by `plan_map` or `plan_measure`, run by `run`.

    Attributes
    ----------
    step : Kernel or tuple of Measure
    sources : mapping of str to Volume
    target : Volume or None
        None for measures.
    grid : Grid
        Over the target, or over the sources of a measure.
    record : Path, BucketPath or None
        Folder of the ledger; None keeps nothing, so the run cannot be resumed.
    resources : Resources
    """

    step: Step
    sources: Mapping[str, Volume]
    target: Volume | None
    grid: Grid
    record: Place | None
    resources: Resources

    @property
    def name(self) -> str:
        """What the step does."""
        if isinstance(self.step, Kernel):
            return self.step.name
        names = [m.name for m in self.step]
        return " + ".join(names) if len(names) <= 2 else f"{len(names)} measures ({names[0]}, {names[1]}, ...)"

    @property
    def source_shape(self) -> Shape:
        """Shape of the sources, which agree."""
        return next(iter(self.sources.values())).shape

    @property
    def halo(self) -> Halo:
        """Voxels read around a core: of the kernel, or the largest of the measures."""
        halo = Halo()
        for step in (self.step,) if isinstance(self.step, Kernel) else self.step:
            halo = halo | step.halo
        return halo

    def block(self, number: int) -> Block:
        """Block `number`."""
        if isinstance(self.step, Kernel):
            return self.step.block(self.grid, number, self.source_shape)
        return make_block(self.grid, number, self.source_shape, self.halo)

    @cached_property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """What is read along z, y and x."""
        kernel = self.step if isinstance(self.step, Kernel) else None
        halo = self.halo
        z, y, x = (
            Axis(
                self.grid.block_shape[a],
                self.grid.shape[a],
                self.source_shape[a],
                (halo.before[a], halo.after[a]),
                kernel.stride[a] if kernel else 1,
                kernel.factor[a] if kernel else 1.0,
                kernel.tile[a] if kernel else 1,
            )
            for a in range(3)
        )
        return z, y, x

    @cached_property
    def read_voxels(self) -> int:
        """Voxels read of each source, margins included."""
        return math.prod(read_along(axis)[0] for axis in self.axes)

    def voxels_of(self, numbers: np.ndarray) -> int:
        """Voxels that some blocks read of each source, margins included: what their work is in proportion to."""
        places = np.unravel_index(numbers, self.grid.counts)
        z, y, x = (lengths_along(axis)[place] for axis, place in zip(self.axes, places, strict=True))
        return int((z * y * x).sum())

    @cached_property
    def read_bytes(self) -> int:
        """Bytes the blocks take in from all sources."""
        return self.read_voxels * self.source_itemsize

    @cached_property
    def decoded_bytes(self) -> int:
        """Bytes that must be decoded for that, since storage decodes whole chunks."""
        return sum(self._decoded_voxels(v.storage.chunk_shape) * v.dtype.itemsize for v in self.sources.values())

    @property
    def write_bytes(self) -> int:
        """Bytes of the target before compression."""
        return 0 if self.target is None else math.prod(self.target.shape) * self.target.dtype.itemsize

    @property
    def disk_bytes(self) -> int:
        """Bytes the target may take on disk, and what the kernel leaves beside it."""
        return 0 if self.target is None else int(self.write_bytes * COMPRESSED[self.target.kind]) + self.beside_bytes

    @cached_property
    def beside_bytes(self) -> int:
        """Bytes that the kernel leaves in files of its own."""
        beside = self.step.beside_bytes if isinstance(self.step, Kernel) else None
        return 0 if beside is None else beside(self.grid)

    @property
    def source_itemsize(self) -> int:
        """Bytes of one voxel of all sources together."""
        return sum(v.dtype.itemsize for v in self.sources.values())

    @property
    def redundancy(self) -> float:
        """Voxels computed over voxels wanted."""
        return self.read_voxels / math.prod(self.source_shape)

    @cached_property
    def padded_voxels(self) -> int:
        """Voxels of the largest block as read."""
        return math.prod(read_along(axis)[1] for axis in self.axes)

    @cached_property
    def core_voxels(self) -> int:
        """Voxels of the largest block as written or counted."""
        return math.prod(min(b, n) for b, n in zip(self.grid.block_shape, self.grid.shape, strict=True))

    @property
    def memory_bytes(self) -> int:
        """Projected peak of one process, tested against what is measured by ``benchmarks/memory.py``.

        `slots` blocks compute, or are read or written, while `io_slots` others are read or written:

        .. code-block:: text

            read       its values, and their chunks as stored
            computed   its values, and what the kernel or the measure declares
            written    its values, and their chunks as stored
        """
        threads = min(self.resources.slots + self.resources.io_slots, len(self.grid))
        slots = min(self.resources.slots, threads)
        moving = max(self._reading_bytes, self._writing_bytes)
        blocks = slots * max(self._computing_bytes, moving) + (threads - slots) * moving
        return self.process_bytes + self._counts_bytes + blocks + self._decoding_bytes

    @property
    def device_bytes(self) -> int:
        """Projected peak on the GPU; 0 without one."""
        if self.resources.device == "cpu":
            return 0
        fixed = self.step.fixed_bytes if isinstance(self.step, Kernel) else 0
        working = DEVICE_FACTOR * max(self._step_bytes_per_voxel, 2.0)
        return fixed + int(self.padded_voxels * (self.source_itemsize + working))

    @property
    def process_bytes(self) -> int:
        """What a process takes before it holds a voxel."""
        return bytes_of_a_process() + (self.step.fixed_bytes if isinstance(self.step, Kernel) else 0)

    @property
    def fits(self) -> bool:
        """Whether the projected memory is there, on the host and on the GPU."""
        return self.memory_bytes <= self.resources.memory_bytes and self.device_bytes <= self.resources.device_bytes

    @property
    def _reading_bytes(self) -> int:
        """Most that one block takes while it is read: its values and their chunks as stored, of a bucket all at once."""
        stored = sum(v.dtype.itemsize * COMPRESSED[v.kind] * self._held_voxels(v) for v in self.sources.values())
        return self.padded_voxels * self.source_itemsize + int(stored)

    def _held_voxels(self, source: Volume) -> int:
        """Voxels of the chunks that are in memory, as stored, while the largest block is read."""
        if not is_bucket(source.name):
            return self.padded_voxels
        return math.prod(held_along(axis, c) for axis, c in zip(self.axes, source.storage.chunk_shape, strict=True))

    @property
    def _written_bytes(self) -> int:
        """Bytes of the largest block of the target."""
        return 0 if self.target is None else self.core_voxels * self.target.dtype.itemsize

    @property
    def _writing_bytes(self) -> int:
        """Most that one block takes while it is written: its values, and their chunks as stored, and as sent to a bucket."""
        if self.target is None:
            return 0
        stored = COMPRESSED[self.target.kind] * (2 if is_bucket(self.target.name) else 1)
        return int(self._written_bytes * (1 + stored))

    @property
    def _computing_bytes(self) -> int:
        """Most that one block holds on the host while it computes."""
        read = self.padded_voxels * self.source_itemsize
        if self.resources.device != "cpu":
            return read + self._written_bytes
        # The core of a block with a margin is copied out of the result.
        whole = not isinstance(self.step, Kernel) or self.step.located or self.padded_voxels == self.core_voxels
        return read + int(self.padded_voxels * self._step_bytes_per_voxel) + (0 if whole else self._written_bytes)

    @property
    def _step_bytes_per_voxel(self) -> float:
        """What the kernel, or the greediest of the measures, takes beyond its input."""
        if isinstance(self.step, Kernel):
            return self.step.bytes_per_voxel
        return max(m.bytes_per_voxel for m in self.step)

    @property
    def _counts_bytes(self) -> int:
        """Counts of a measure: three times of every block that computes, one sum of some, the total before and after."""
        if isinstance(self.step, Kernel):
            return 0
        return sum(m.counts_bytes for m in self.step) * (3 * self.resources.slots + self.resources.io_slots + 3)

    @property
    def _decoding_bytes(self) -> int:
        """Chunks being decoded at once, by as many threads as there are cores."""
        largest = max(math.prod(v.storage.chunk_shape) * v.dtype.itemsize for v in self.sources.values())
        return 2 * min(8, os.cpu_count() or 1) * largest

    def _decoded_voxels(self, chunk: Shape) -> int:
        return math.prod(decoded_along(axis, c) for axis, c in zip(self.axes, chunk, strict=True))

    def describe(self) -> dict[str, Any]:
        """What guards a resumed run: the program, the step, the sources, the target and the grid, as JSON values."""
        steps = (self.step,) if isinstance(self.step, Kernel) else self.step
        code = own_code({step.name: (step.function, step.parameters) for step in steps})
        target = None if self.target is None else {"shape": list(self.target.shape), "dtype": self.target.dtype.str}
        return {
            "program": f"tomoscale {tomoscale.__version__}",
            "step": {step.name: dict(step.parameters) for step in steps},
            **({"code": code} if code else {}),
            "sources": {name: volume.identity() for name, volume in self.sources.items()},
            "target": target,
            "grid": {"shape": list(self.grid.shape), "block_shape": list(self.grid.block_shape)},
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return the plan as a table: what, and how much in words."""
        return [
            ("step", self.name),
            ("source", ", ".join(f"{v.name} {shape_text(v.shape)} {v.dtype}" for v in self.sources.values())),
            (
                "target",
                "counts only"
                if self.target is None
                else f"{self.target.name} {shape_text(self.grid.shape)} {self.target.dtype}",
            ),
            ("blocks", f"{len(self.grid)} of {shape_text(self.grid.block_shape)} voxels (z, y, x)"),
            (
                "margin",
                f"{shape_text(self.halo.before)} before, {shape_text(self.halo.after)} after; {self.redundancy:.2f}x the voxels",
            ),
            ("reads", f"{size(self.read_bytes)}, decoding {size(self.decoded_bytes)}"),
            (
                "writes",
                "nothing"
                if self.target is None
                else f"{size(self.write_bytes)} before compression, disk up to {size(self.disk_bytes)}",
            ),
            *([("files", f"{size(self.beside_bytes)} beside the target")] if self.beside_bytes else []),
            (
                "workers",
                f"{self.resources.processes} process(es) x {self.resources.slots} block(s) at once on {self.resources.device}",
            ),
            ("memory", f"{size(self.memory_bytes)} of {size(self.resources.memory_bytes)} per process"),
            *(
                [("GPU memory", f"{size(self.device_bytes)} of {size(self.resources.device_bytes)}")]
                if self.resources.device != "cpu"
                else []
            ),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:>10}  {value}" for name, value in self.rows())

    def _repr_html_(self) -> str:
        # Loaded only where it is shown: a worker that runs blocks draws nothing, and drawings know plans.
        from tomoscale.notebook.sketch import plan_html

        return plan_html(self)
