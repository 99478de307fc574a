"""Batches of patches straight from volumes: batch k depends on the seed and k alone, so a resumed run goes on as it would have."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tomoscale.geometry import AXES, Region
from tomoscale.kernels.scaling import Scaling
from tomoscale.training.augmentation import Placement, change_greys, interpolate, place
from tomoscale.training.chunk_cache import ChunkCache
from tomoscale.training.class_index import ClassIndex
from tomoscale.training.recipe import Recipe
from tomoscale.training.samples import Sample
from tomoscale.volume import Volume


@dataclass(frozen=True)
class Prepared:
    """A sample whose labels are counted and whose grey values are known.

    Attributes
    ----------
    sample : Sample
    labels : Volume
        As `Sample.known` gives them.
    index : ClassIndex
    scaling : Scaling
    axes : tuple of int
        Across which slices may be taken.
    """

    sample: Sample
    labels: Volume
    index: ClassIndex
    scaling: Scaling
    axes: tuple[int, ...]


class Patches:
    """Batches by their number.

    Parameters
    ----------
    samples : sequence of Prepared
    recipe : Recipe
    """

    def __init__(self, samples: Sequence[Prepared], recipe: Recipe) -> None:
        self.samples, self.recipe = list(samples), recipe
        self.cache = ChunkCache(recipe.sampling.cache_mib * 2**20)
        self.numbers = [(self.cache.add(s.sample.grey), self.cache.add(s.labels)) for s in self.samples]
        self.totals = np.stack([s.index.totals for s in self.samples])

    def batch(self, step: int, numbers: range | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches of a step, or some of them.

        Parameters
        ----------
        step : int
        numbers : range, optional
            Those of one device.

        Returns
        -------
        values : (N, C, ...) float32 tensor
            Normalised; C are neighbouring slices.
        labels : (N, ...) int64 tensor
            255 is ignored.
        """
        numbers = range(self.recipe.sampling.batch) if numbers is None else numbers
        drawn = [self.patch(step, n) for n in numbers]
        values, labels = (np.stack(parts) for parts in zip(*drawn, strict=True))
        return torch.from_numpy(values), torch.from_numpy(labels.astype(np.int64))

    def batches(
        self, steps: range, numbers: range | None = None
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        """Batches of some steps in order, prepared ahead by ``sampling.threads`` threads."""
        threads = self.recipe.sampling.threads
        if not threads:
            yield from (self.batch(step, numbers) for step in steps)
            return
        with ThreadPoolExecutor(threads, "patches") as pool:
            ahead: list[Future[Any]] = []
            try:
                for step in steps:
                    ahead.append(pool.submit(self.batch, step, numbers))
                    if len(ahead) > threads:
                        yield ahead.pop(0).result()
                while ahead:
                    yield ahead.pop(0).result()
            finally:
                for future in ahead:
                    future.cancel()

    def patch(self, step: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """One patch: (C, ...) float32 and (...) uint8."""
        random = np.random.default_rng([self.recipe.seed, step, number])
        which, voxel = self._voxel(random)
        axis = int(random.choice(self.samples[which].axes))
        spatial = (axis, *(a for a in range(3) if a != axis)) if self.recipe.dimensions == 2 else (0, 1, 2)
        placement = place(self.recipe.augmentation, self.recipe.sampling.patch, random)
        grey, labels = self._read(which, voxel, spatial, placement, random)
        values = self.samples[which].scaling.scaled(grey)
        return change_greys(placement.reorder(values), self.recipe.augmentation, random), placement.reorder(labels)

    def _voxel(self, random: np.random.Generator) -> tuple[int, tuple[int, int, int]]:
        """Draw a sample and a labelled voxel, of a class drawn evenly or of any."""
        pooled = self.totals.sum(axis=0)
        shares = np.where(pooled > 0, 1.0, 0.0) if random.random() < self.recipe.sampling.balance else pooled
        wanted = int(random.choice(len(pooled), p=shares / shares.sum()))
        column = self.totals[:, wanted]
        which = int(random.choice(len(column), p=column / column.sum()))
        labels = self.numbers[which][1]
        return which, self.samples[which].index.draw(wanted, random, lambda region: self.cache.read(labels, region))

    def _read(
        self,
        which: int,
        voxel: Sequence[int],
        spatial: tuple[int, ...],
        placement: Placement,
        random: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Grey values (C, ...) and labels (...) of a patch that holds a voxel, before it is mirrored or turned."""
        lengths = self.samples[which].sample.grey.shape
        axes = spatial[-len(placement.shape) :]
        starts = [
            min(max(voxel[a] - int(random.integers(n)), 0), lengths[a] - n)
            for a, n in zip(axes, placement.shape, strict=True)
        ]
        if placement.exact:
            spans = {a: (s, s + n) for a, s, n in zip(axes, starts, placement.shape, strict=True)}
            return self._slab(which, voxel, spatial, spans)
        centre = [s + (n - 1) / 2 for s, n in zip(starts, placement.shape, strict=True)]
        where = placement.offsets() + np.reshape(centre, (-1, *[1] * len(placement.shape)))
        spans = {}
        for number, axis in enumerate(axes):
            low, high = math.floor(where[number].min()), math.ceil(where[number].max()) + 1
            spans[axis] = max(0, low), min(lengths[axis], high)
            where[number] -= spans[axis][0]
        grey, labels = self._slab(which, voxel, spatial, spans)
        return interpolate(grey.astype(np.float32), labels, where)

    def _slab(
        self, which: int, voxel: Sequence[int], spatial: tuple[int, ...], spans: dict[int, tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a part of a slice with its neighbours, or of a volume; what is beyond the first and last slice is theirs."""
        grey, labels = self.numbers[which]
        if len(spans) == 3:
            region = _region(spans)
            return self.cache.read(grey, region)[None], self.cache.read(labels, region)
        across, half = spatial[0], self.recipe.in_slices // 2
        last = self.samples[which].sample.grey.shape[across] - 1
        middle = voxel[across]
        low, high = max(0, middle - half), min(last, middle + half)
        slab = np.moveaxis(self.cache.read(grey, _region({**spans, across: (low, high + 1)})), across, 0)
        shown = [min(max(n, low), high) - low for n in range(middle - half, middle + half + 1)]
        return slab[shown], np.squeeze(
            self.cache.read(labels, _region({**spans, across: (middle, middle + 1)})), axis=across
        )


def _region(spans: dict[int, tuple[int, int]]) -> Region:
    z, y, x = (slice(*spans[a]) for a in range(len(AXES)))
    return z, y, x
