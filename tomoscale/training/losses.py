"""Losses over labelled voxels: cross-entropy, Dice, and cross-entropy of hard voxels (OHEM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from tomoscale.training.recipe import IGNORED, Loss

Outputs = Sequence[tuple[torch.Tensor, float]]
"""Logits (N, classes, ...) of a network and its side outputs, at any resolution, with their weights."""
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_function(how: Loss, weights: torch.Tensor | None) -> LossFunction:
    """Loss of logits (N, classes, ...) and labels (N, ...).

    Parameters
    ----------
    how : Loss
    weights : (classes,) float32 tensor or None
        See `class_weights`.
    """

    def cross_entropy_alone(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, labels, weights)

    def with_dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, labels, weights) + 1 - dice(logits, labels, background=how.dice_background)

    def of_hard(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return hard_cross_entropy(logits, labels, weights, how.hard_below, how.hard_least)

    return {"cross_entropy": cross_entropy_alone, "dice_cross_entropy": with_dice, "ohem": of_hard}[how.kind]


def loss_of(outputs: Outputs, labels: torch.Tensor, function: LossFunction) -> torch.Tensor:
    """Weighted sum over the outputs of a network; labels follow coarser ones by the nearest voxel."""
    total = None
    for logits, weight in outputs:
        if not weight:
            continue
        near = labels
        if logits.shape[2:] != labels.shape[1:]:
            near = functional.interpolate(labels[:, None].float(), logits.shape[2:], mode="nearest-exact")[:, 0].long()
        part = weight * function(logits.float(), near)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("all outputs of the network have the weight 0")
    return total


def side_weights(how: Loss, count: int) -> list[float]:
    """Weights of the outputs of a network, from the finest.

    Examples
    --------
    >>> side_weights(Loss(sides="halving"), 3)
    [0.6666666666666666, 0.3333333333333333, 0.0]
    """
    if how.sides == "equal" or count == 1:
        return [1.0] * count
    halves = [0.5**n for n in range(count - 1)] + [0.0]
    return [h / sum(halves) for h in halves]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Mean over labelled voxels of ``-w log p`` of their class, divided by the mean weight; 0 where none is labelled."""
    total = functional.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORED, reduction="sum")
    return total / _weights_of(labels, weights).sum().clamp(min=1e-6)


def dice(logits: torch.Tensor, labels: torch.Tensor, *, background: bool = True, smooth: float = 1.0) -> torch.Tensor:
    """Mean over the classes of ``(2 sum p t + s) / (sum p + sum t + s)``, summed over the labelled voxels of the batch."""
    known = (labels != IGNORED)[:, None]
    shares = logits.softmax(1) * known
    truth = torch.zeros_like(shares).scatter_(1, labels.masked_fill(labels == IGNORED, 0)[:, None], 1.0) * known
    axes = [0, *range(2, logits.ndim)]
    both = (shares * truth).sum(axes)
    ratio = (2 * both + smooth) / (shares.sum(axes) + truth.sum(axes) + smooth)
    return ratio[0 if background else 1 :].mean()


def hard_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, below: float, least: int
) -> torch.Tensor:
    """Cross-entropy of the voxels whose class gets a probability under a limit: `below`, or more where they are too few."""
    known = labels != IGNORED
    if not bool(known.any()):
        return logits.sum() * 0
    losses = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")[known]
    chances = torch.exp(-losses.detach())
    rank = min(least, len(chances)) - 1
    limit = torch.kthvalue(chances, rank + 1).values.clamp(min=below)
    hard = (chances < limit) | (chances <= limit) & (limit > below)
    weight = _weights_of(labels, weights)[known]
    return (losses * weight)[hard].sum() / weight[hard].sum().clamp(min=1e-6)


def class_weights(how: Loss, counts: np.ndarray) -> torch.Tensor | None:
    """Weights of the classes in the cross-entropy.

    Parameters
    ----------
    how : Loss
    counts : (classes,) integers
        Labelled voxels of each class in the training data.

    Raises
    ------
    ValueError
        If the recipe gives another number of weights than there are classes.
    """
    if how.weights == "equal":
        return None
    if how.weights == "given":
        if len(how.class_weights) != len(counts):
            raise ValueError(
                f"class_weights must be {len(counts)} numbers, one for each class, got {how.class_weights}"
            )
        return torch.tensor(how.class_weights, dtype=torch.float32)
    shares = counts / counts.sum()
    roots = 1 / np.sqrt(shares)
    return torch.from_numpy((roots / (shares * roots).sum()).astype(np.float32))


def _weights_of(labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Weight of every voxel, 0 where nothing is labelled."""
    known = labels != IGNORED
    if weights is None:
        return known.float()
    return weights[labels.masked_fill(~known, 0)] * known
