"""A few blocks of a volume that say roughly what it holds, within a budget of decoded bytes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoscale.errors import InputError, IntegrityError, NotStored
from tomoscale.geometry import Region, Shape

if TYPE_CHECKING:
    from tomoscale.volume import Volume

BUDGET_BYTES = 128 * 2**20
SECONDS = 5.0
LEAST_EDGE = 32
"""Voxels along an edge of a sampled block, where a chunk is smaller and this is cheap."""
BLOCK_BYTES = 4 * 2**20
KEPT_VOXELS = 1 << 16
"""Values kept of a block for the percentiles."""
MAX_VALUES = 32
RIM_SHARE = 0.98
"""So many of the voxels outside the disc inscribed in a slice are 0 where a reconstruction leaves a rim."""


@dataclass
class Probe:
    """Values of a few blocks and what is odd about them.

    Attributes
    ----------
    shape : (Z, Y, X)
        Of the volume.
    kind : str
    blocks, voxels : int
        What was read.
    not_finite : int
        NaN and infinite values among them.
    outside, outside_zero : int
        Voxels outside the disc inscribed in a slice, and those of them that are 0.
    zero : int
        Voxels that are 0.
    slices : dict
        Least and greatest value by z.
    unread : str
        Why some blocks could not be read; "" if all were.
    """

    shape: Shape
    kind: str
    blocks: int = 0
    voxels: int = 0
    not_finite: int = 0
    outside: int = 0
    outside_zero: int = 0
    zero: int = 0
    slices: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    unread: str = ""
    _parts: list[np.ndarray] = field(default_factory=list)

    def add(self, region: Region, values: np.ndarray) -> None:
        """Take in a block, slice by slice: a chunk may be large, and what is computed of it should not be."""
        self.blocks += 1
        self.voxels += values.size
        values = values.view(np.uint8) if values.dtype.kind == "b" else values
        outside = ~_in_disc(region, self.shape)
        step = max(1, values.size // KEPT_VOXELS)
        for z, plane in enumerate(values, region[0].start):
            zero = plane == 0
            self.zero += int(np.count_nonzero(zero))
            self.outside += int(np.count_nonzero(outside))
            self.outside_zero += int(np.count_nonzero(zero & outside))
            low, high = self.slices.get(z, (plane.flat[0], plane.flat[0]))
            self.slices[z] = min(low, plane.min()), max(high, plane.max())
            kept = plane[np.isfinite(plane)]
            self.not_finite += plane.size - kept.size
            if kept.size:
                # What is kept for percentiles may miss the ends.
                self._parts.append(np.append(kept[::step], [kept.min(), kept.max()]))

    def summary(self) -> dict[str, Any]:
        """Return the probe as JSON values; ``values`` lists those of labels where there are few."""
        values = np.concatenate(self._parts) if self._parts else np.zeros(0)
        found: dict[str, Any] = {
            "blocks": self.blocks,
            "voxels": self.voxels,
            "voxels_in_all": math.prod(self.shape),
            "minimum": None,
            "maximum": None,
            "percentiles": None,
            "values": None,
        }
        if not values.size:
            return found
        different = np.unique(values) if self.kind != "grey" else values[:0]
        low, high = np.percentile(values, (1, 99))
        return {
            **found,
            "minimum": values.min().item(),
            "maximum": values.max().item(),
            "percentiles": [float(low), float(high)],
            "values": different.tolist() if 0 < different.size <= MAX_VALUES else None,
        }

    def warnings(self) -> list[str]:
        """What a user should know before measuring, in words."""
        texts = [f"some blocks could not be read: {self.unread}"] if self.unread else []
        if self.not_finite:
            part = 100 * self.not_finite / self.voxels
            texts.append(
                f"{part:.3g} % of the sample is NaN or infinite: `convert` refuses it unless told what it becomes (`convert --not-finite zero`)"
            )
        if self.kind != "grey":
            return texts
        if self._has_rim:
            texts.append(
                "outside the disc inscribed in a slice all is 0: leave it out of the percentiles (`normalise "
                "--exclude-zeros`)"
            )
        constant = sorted(z for z, (low, high) in self.slices.items() if low == high)
        if constant:
            texts.append(
                f"slices that hold one value only, as far as sampled: z = {_ranges(constant)} "
                f"({len(constant)} of the {len(self.slices)} looked at)"
            )
        return texts

    @property
    def _has_rim(self) -> bool:
        inside, inside_zero = self.voxels - self.outside, self.zero - self.outside_zero
        return (
            self.outside > 0
            and self.outside_zero >= RIM_SHARE * self.outside
            and inside > 0
            and inside_zero < RIM_SHARE * inside
        )


def read_probe(volume: Volume) -> Probe:
    """Read the middle of a volume, its corners, edges and faces, as far as budget and time allow.

    Raises
    ------
    InputError
        If one chunk takes more than the budget.
    InputError, IntegrityError, OSError
        If no block can be read: the first error.
    """
    piece = _piece(volume)
    one = math.prod(piece) * volume.dtype.itemsize
    if one > 2 * BUDGET_BYTES:
        raise InputError(f"one chunk takes {one / 2**30:.1f} GiB, more than is decoded for a sample")
    probe, first = Probe(volume.shape, "mask" if volume.dtype.kind == "b" else volume.kind), None
    started, finished = time.monotonic(), volume.finished
    for region in itertools.islice(_places(volume.shape, piece), max(1, BUDGET_BYTES // one)):
        if time.monotonic() - started > SECONDS:
            break
        try:
            probe.add(region, volume.read(region))
        except (InputError, IntegrityError, OSError) as error:
            # What a run has not computed yet is no fault.
            first = first or (None if isinstance(error, NotStored) and not finished else error)
    if first is not None and not probe.blocks:
        raise first
    probe.unread = "" if first is None else str(first).splitlines()[0]
    return probe


def _piece(volume: Volume) -> Shape:
    """Block of whole chunks, with edges of `LEAST_EDGE` voxels where that is not too much."""
    piece = [min(c, n) for c, n in zip(volume.storage.chunk_shape, volume.shape, strict=True)]
    for axis in (2, 1, 0):
        room = BLOCK_BYTES // (math.prod(piece) * volume.dtype.itemsize)
        wanted = -(-LEAST_EDGE // piece[axis])
        piece[axis] = min(piece[axis] * max(1, min(room, wanted)), volume.shape[axis])
    z, y, x = piece
    return z, y, x


def _places(shape: Shape, piece: Shape) -> Iterator[Region]:
    """Regions of the middle, the corners, and all between, each once, most telling first."""
    starts = []
    for n, p in zip(shape, piece, strict=True):
        last = (n - 1) // p
        starts.append(sorted({0, last // 2, last}, key=lambda place: (place != last // 2, place)))
    ranks = [range(len(s)) for s in starts]
    # The middle, then corners (no axis in its middle), then faces and edges.
    order = sorted(
        itertools.product(*ranks),
        key=lambda r: (r != (0, 0, 0), sum(rank == 0 and len(s) > 1 for rank, s in zip(r, starts, strict=True))),
    )
    for ranked in order:
        z, y, x = (
            slice(s[rank] * p, min((s[rank] + 1) * p, n))
            for s, rank, p, n in zip(starts, ranked, piece, shape, strict=True)
        )
        yield z, y, x


def _in_disc(region: Region, shape: Shape) -> np.ndarray:
    """Which voxels of a region lie in the disc inscribed in a slice: (y, x) bool array."""
    y, x = ((np.arange(r.start, r.stop) + 0.5 - n / 2) / (n / 2) for r, n in zip(region[1:], shape[1:], strict=True))
    return np.asarray(y[:, None] ** 2 + x**2 <= 1.0)


def _ranges(numbers: list[int]) -> str:
    """Sorted numbers in words, those that follow each other as a range.

    Examples
    --------
    >>> _ranges([0, 1, 2, 7])
    '0-2, 7'
    """
    groups = [[n for _, n in group] for _, group in itertools.groupby(enumerate(numbers), lambda e: e[1] - e[0])]
    words = [f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups]
    return ", ".join(words[:6]) + (" ..." if len(words) > 6 else "")
