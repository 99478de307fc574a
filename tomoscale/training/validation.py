"""What a network in training does on whole slices it has not seen: counts of truth against label, pooled over all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from tomoscale.geometry import Region
from tomoscale.training.patches import Prepared
from tomoscale.training.recipe import IGNORED, Recipe

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Logits float32 of values, on the device of the network."""


def validate(
    forward: Forward, samples: Sequence[Prepared], recipe: Recipe, stride: Sequence[int], device: torch.device
) -> tuple[np.ndarray, float]:
    """Label the labelled slices (or windows) of some samples.

    As in inference, a slice is padded with zeros at its end to a multiple of the network's stride. A network of three
    dimensions sees windows of the size of a patch, side by side.

    Parameters
    ----------
    forward : callable
    samples : sequence of Prepared
    recipe : Recipe
    stride : sequence of int
        Of the network.
    device : torch device

    Returns
    -------
    confusion : (n_classes, n_classes) int64 array
        Labelled voxels by (truth, label).
    loss : float
        Cross-entropy over all of them.
    """
    n_classes = samples[0].index.counts.shape[1]
    confusion, losses = np.zeros((n_classes, n_classes), np.int64), []
    for sample in samples:
        parts = _slices(sample, recipe) if recipe.dimensions == 2 else _windows(sample, recipe)
        for values, truth in parts:
            padded = _padded(torch.from_numpy(values), stride)
            inside = tuple(slice(0, n) for n in truth.shape)
            logits = forward(padded[None].to(device))[0][:, *inside].cpu()
            known = torch.from_numpy(truth.astype(np.int64))
            losses.append(
                functional.cross_entropy(logits[None], known[None], ignore_index=IGNORED, reduction="sum").item()
            )
            labels = logits.argmax(0).numpy()
            chosen = truth != IGNORED
            pairs = n_classes * truth[chosen].astype(np.int64) + labels[chosen]
            confusion += np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)
    return confusion, math.fsum(losses) / max(1, int(confusion.sum()))


def measures_anew(recipe: Recipe, network: nn.Module) -> bool:
    """Whether a network keeps statistics (those of batch norm) and the recipe wants them of whole slices."""
    kept = any(isinstance(m, _BatchNorm) and m.track_running_stats for m in network.modules())
    return bool(recipe.recalibrate) and kept


def whole_slices(samples: Sequence[Prepared], recipe: Recipe, stride: Sequence[int]) -> Iterator[torch.Tensor]:
    """Normalised slices of some samples by turns, or windows, as inference sees them: (1, C, ...).

    ``recipe.recalibrate`` are drawn, and of those that are drawn twice the second is left out. Eight were too few on phantoms
    where slices differ: IoU of the rarest class 0.68, with the patches' own statistics 0.74, with 32 slices 0.74.

    Parameters
    ----------
    samples : sequence of Prepared
    recipe : Recipe
        The seed says which slices.
    stride : sequence of int
        Of the network.
    """
    drawn = dict.fromkeys(_place(samples, recipe, number) for number in range(recipe.recalibrate))
    for which, axis, starts in drawn:
        sample = samples[which]
        if recipe.dimensions == 2:
            values = _slab(sample, recipe, axis, starts[0])
        else:
            z, y, x = (slice(s, s + p) for s, p in zip(starts, recipe.sampling.patch, strict=True))
            values = sample.scaling.scaled(sample.sample.grey.read((z, y, x)))[None]
        yield _padded(torch.from_numpy(values), stride)[None]


def _place(samples: Sequence[Prepared], recipe: Recipe, number: int) -> tuple[int, int, tuple[int, ...]]:
    """Draw a sample by turns, an axis and a slice across it, or where a window starts."""
    which, random = number % len(samples), np.random.default_rng([recipe.seed, number])
    shape = samples[which].sample.grey.shape
    if recipe.dimensions == 2:
        axis = int(random.choice(samples[which].axes))
        return which, axis, (int(random.integers(shape[axis])),)
    free = [n - p + 1 for n, p in zip(shape, recipe.sampling.patch, strict=True)]
    return which, 0, tuple(int(random.integers(n)) for n in free)


def _slices(sample: Prepared, recipe: Recipe) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Normalised slabs (C, ...) around the labelled slices across the sample's first axis, and their labels."""
    axis = sample.axes[0]
    for middle in _labelled(sample, axis):
        truth = np.take(sample.labels.read(_at(sample, axis, middle, middle + 1)), 0, axis)
        if (truth != IGNORED).any():
            yield _slab(sample, recipe, axis, middle), truth


def _slab(sample: Prepared, recipe: Recipe, axis: int, middle: int) -> np.ndarray:
    """Normalised slice with its neighbours; what is beyond the first and last slice is theirs: (C, ...) float32."""
    half, length = recipe.in_slices // 2, sample.sample.grey.shape[axis]
    low, high = max(0, middle - half), min(length - 1, middle + half)
    slab = np.moveaxis(sample.sample.grey.read(_at(sample, axis, low, high + 1)), axis, 0)
    shown = [min(max(n, low), high) - low for n in range(middle - half, middle + half + 1)]
    scaled: np.ndarray = sample.scaling.scaled(slab[shown])
    return scaled


def _labelled(sample: Prepared, axis: int) -> Sequence[int]:
    return sample.sample.slices.get("zyx"[axis], ()) or range(sample.sample.grey.shape[axis])


def _windows(sample: Prepared, recipe: Recipe) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    shape, patch = sample.sample.grey.shape, recipe.sampling.patch
    for start in itertools.product(*(range(0, n, p) for n, p in zip(shape, patch, strict=True))):
        z, y, x = (slice(s, min(s + p, n)) for s, p, n in zip(start, patch, shape, strict=True))
        truth = sample.labels.read((z, y, x))
        if (truth != IGNORED).any():
            yield sample.scaling.scaled(sample.sample.grey.read((z, y, x)))[None], truth


def _at(sample: Prepared, axis: int, start: int, stop: int) -> Region:
    shape = sample.sample.grey.shape
    z, y, x = (slice(start, stop) if a == axis else slice(0, n) for a, n in enumerate(shape))
    return z, y, x


def _padded(values: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    missing = [-n % s for n, s in zip(values.shape[1:], stride, strict=True)]
    return functional.pad(values, [n for m in reversed(missing) for n in (0, m)])
