"""Losses against formulas written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tomoscale.training.losses import class_weights, cross_entropy, dice, hard_cross_entropy, loss_function, loss_of
from tomoscale.training.recipe import Loss

WEIGHTS = np.array([0.5, 1.0, 3.0])


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (2, 5, 6))
    labels[0, :2] = 255
    return random.standard_normal((2, 3, 5, 6)), labels


def chances(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def of_truth(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the class of every labelled voxel, and the class."""
    known = labels != 255
    return np.moveaxis(chances(logits), 1, -1)[known][np.arange(known.sum()), labels[known]], labels[known]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_the_weighted_mean_over_labelled_voxels(case, weights):
    logits, labels = case
    p, classes = of_truth(logits, labels)
    w = np.ones(3) if weights is None else weights
    expected = -(w[classes] * np.log(p)).sum() / w[classes].sum()
    tensor = None if weights is None else torch.tensor(weights)
    assert cross_entropy(torch.tensor(logits), torch.tensor(labels), tensor).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("background", [True, False])
def test_dice_is_that_of_the_labelled_voxels_of_the_batch(case, background):
    logits, labels = case
    known = labels != 255
    p = np.moveaxis(chances(logits), 1, -1)[known]
    t = np.eye(3)[labels[known]]
    by_class = (2 * (p * t).sum(0) + 1) / (p.sum(0) + t.sum(0) + 1)
    expected = by_class[0 if background else 1 :].mean()
    found = dice(torch.tensor(logits), torch.tensor(labels), background=background).item()
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("below", "least"), [(0.5, 1), (0.05, 20), (0.9, 10_000)])
def test_only_hard_voxels_count_or_the_hardest_where_they_are_few(case, below, least):
    logits, labels = case
    p, classes = of_truth(logits, labels)
    hard = p < below
    if hard.sum() < min(least, len(p)):
        hard = np.zeros(len(p), bool)
        hard[np.argsort(p)[: min(least, len(p))]] = True
    w = WEIGHTS[classes]
    expected = -(w * np.log(p))[hard].sum() / w[hard].sum()
    found = hard_cross_entropy(torch.tensor(logits), torch.tensor(labels), torch.tensor(WEIGHTS), below, least)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["cross_entropy", "dice_cross_entropy", "ohem"])
def test_a_batch_without_labels_teaches_nothing_and_breaks_nothing(kind):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = loss_function(Loss(kind), None)(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert torch.isfinite(loss)
    assert not logits.grad.any()


def test_side_outputs_are_summed_by_their_weights_at_their_resolution(case):
    logits, labels = (torch.tensor(v) for v in case)
    coarse = torch.randn(2, 3, 5, 3, dtype=torch.float64)
    function = loss_function(Loss("cross_entropy"), None)
    # Of two voxels the nearest of a half of the resolution is the second.
    expected = 0.75 * function(logits.float(), labels) + 0.25 * function(coarse.float(), labels[:, :, 1::2])
    found = loss_of([(logits, 0.75), (coarse, 0.25), (coarse * torch.nan, 0.0)], labels, function)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_rare_classes_weigh_more_and_the_mean_voxel_weighs_one():
    counts = np.array([900, 90, 10])
    weights = class_weights(Loss(weights="inverse_root"), counts).numpy()
    assert weights[2] / weights[0] == pytest.approx(np.sqrt(90), rel=1e-5)
    assert (counts * weights).sum() / 1000 == pytest.approx(1, rel=1e-5)
    with pytest.raises(ValueError, match="class_weights must be 3 numbers"):
        class_weights(Loss(weights="given", class_weights=(1.0, 2.0)), counts)
