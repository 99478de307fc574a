"""What blocks know of each other's voxels: sums of windows that cross from one block into another, in files.

A file of a block holds

``rim0``, ``rim1``, ``rim2``
    what its own windows say of its voxels that earlier blocks' windows also hold: a slab each at its first voxels along
    z, y and x, without what a slab before has.
``inner``
    the rest of its voxels; only where probabilities are wanted.
``to17``
    what its windows say of voxels of block 17.

All are (classes, z, y, x) int32 and add, see `tomoscale.kernels.window_sums`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.arrays import Array, to_host
from tomoscale.errors import IntegrityError
from tomoscale.geometry import Block, Grid, Halo, Region, region_shape, shift
from tomoscale.kernels.network import Sink, class_of
from tomoscale.kernels.window_sums import labels_of, probabilities_of
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.windows import WindowGrid
from tomoscale.objects.stored import StoredArrays, save_arrays
from tomoscale.step import Counts, Kernel


@dataclass(frozen=True)
class Seams:
    """Where the files lie; it pickles small.

    Attributes
    ----------
    folder : str
    windows : WindowGrid
    blocks : Grid
    whole : bool
        Sums of all voxels are kept, not of rims alone.
    """

    folder: str
    windows: WindowGrid
    blocks: Grid
    whole: bool

    def __call__(self, block: Block, sums: Array, region: Region) -> None:
        """Write the file of a block: the sums of its windows over a region."""
        host = to_host(sums)
        origin = tuple(-r.start for r in region)
        arrays = {name: host[:, *shift(part, origin)] for name, part in self.own(block.write)}
        for number, part in self.windows.receivers(self.blocks, block.number):
            arrays[f"to{number}"] = host[:, *shift(part, origin)]
        save_arrays(self.file_of(block.number), arrays)

    def own(self, write: Region) -> Iterator[tuple[str, Region]]:
        """Parts of a block whose own sums are kept, by name; empty ones are left out."""
        rest = list(write)
        for axis, n in enumerate(self.windows.rim(write)):
            part = [*rest]
            part[axis] = slice(write[axis].start, write[axis].start + n)
            rest[axis] = slice(write[axis].start + n, write[axis].stop)
            if all(r.stop > r.start for r in part):
                yield f"rim{axis}", (part[0], part[1], part[2])
        if self.whole and all(r.stop > r.start for r in rest):
            yield "inner", (rest[0], rest[1], rest[2])

    def sums(self, block: Block, part: Region, name: str) -> np.ndarray:
        """Sums of all windows over one part of a block: (classes, z, y, x) int32."""
        found = StoredArrays.open(self.file_of(block.number)).read(name)
        for giver, common in self.windows.givers(self.blocks, block.number):
            self._add(giver, block.number, common, part, found)
        return found

    def _add(self, giver: int, receiver: int, common: Region, part: Region, sums: np.ndarray) -> None:
        both = tuple(slice(max(c.start, p.start), min(c.stop, p.stop)) for c, p in zip(common, part, strict=True))
        if all(b.stop > b.start for b in both):
            given = StoredArrays.open(self.file_of(giver)).read(f"to{receiver}")
            there, here = (
                tuple(slice(b.start - r.start, b.stop - r.start) for b, r in zip(both, region, strict=True))
                for region in (common, part)
            )
            sums[:, *here] += given[:, *there]

    def file_of(self, number: int) -> Path:
        """File of a block; a thousand to a folder."""
        return Path(self.folder) / f"{number // 1000:06d}" / f"{number:09d}.arrays"


def seam_bytes(windows: WindowGrid, n_classes: int, whole: bool, blocks: Grid) -> int:
    """Bytes of the files of all blocks; 0 where no window crosses from one block into another."""
    return 4 * n_classes * windows.seam_voxels(blocks, whole=whole)


def joining(seams: Seams, bundle: Bundle, output: str, sink: Sink | None, parameters: dict[str, Any]) -> Kernel:
    """Kernel of the second pass: labels of the first, and what they become where windows of other blocks add to them.

    Parameters
    ----------
    seams : Seams
    bundle : Bundle
    output, sink
        As for `tomoscale.kernels.network.inference`; but for labels alone, `seams` must be whole.
    parameters : dict
        JSON values that say what the first pass computed.
    """
    target = class_of(bundle, output)
    dtype = np.dtype(np.uint8 if target is None else np.float32)
    n_classes = bundle.card.outputs
    shares = 12 * n_classes if seams.whole else 0
    return Kernel(
        name="join windows",
        function=_Joining(seams, n_classes, target, sink),
        halo=Halo(),
        dtype=dtype,
        # The sums of a part, and those of another block that are added; labels while they are compared.
        bytes_per_voxel=8 * n_classes + 6 + dtype.itemsize + shares,
        parameters=parameters,
        located=True,
        counted=True,
    )


@dataclass(frozen=True)
class _Joining:
    seams: Seams
    n_classes: int
    target: int | None
    sink: Sink | None

    def __call__(self, first: Array, block: Block) -> tuple[np.ndarray, Counts]:
        labels = to_host(first)
        wanted = self.target is not None or self.sink is not None
        shape = (self.n_classes, *block.write_shape) if wanted else (0, 0, 0, 0)
        shares = np.empty(shape, np.float32)
        for name, part in self.seams.own(block.write):
            place = shift(part, tuple(-w.start for w in block.write))
            sums = self.seams.sums(block, part, name)
            if sums.shape != (self.n_classes, *region_shape(part)):
                raise IntegrityError(f"{self.seams.file_of(block.number)} is of another run: remove its folder")
            labels[place] = labels_of(sums, self.seams.windows.windows.regions)
            if wanted:
                shares[:, *place] = probabilities_of(sums, self.seams.windows.windows)
        kept = {} if self.sink is None else self.sink(block, shares)
        return labels if self.target is None else shares[self.target], kept
