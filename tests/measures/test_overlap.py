"""Confusion against scikit-learn's definition by brute force, and the ratios against answers a person can check."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tomoscale.errors import InputError
from tomoscale.measures import overlap


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes, ignore=st.sampled_from([None, -1, 2]))
def test_confusion_by_blocks_equals_brute_force(seed, shape, block_shape, ignore):
    rng = np.random.default_rng(seed)
    truth, labels = rng.integers(0, 4, shape), rng.integers(0, 4, shape)
    if ignore == -1:
        truth[rng.random(shape) < 0.2] = -1
    volumes = (truth.astype(np.int16), labels.astype(np.uint8))
    counts = measure_by_blocks(overlap.confusion(4, ignore=ignore), volumes, block_shape)["confusion"]
    expected = [[((truth == k) & (labels == m) & (truth != ignore)).sum() for m in range(4)] for k in range(4)]
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int64


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_what_is_not_valid_is_in_no_confusion_whatever_it_holds(seed, shape, block_shape):
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < 0.7
    truth, labels = (np.where(valid, rng.integers(0, 3, shape), 200).astype(np.uint8) for _ in range(2))
    counts = measure_by_blocks(overlap.confusion(3, valid=True), (truth, labels, valid), block_shape)["confusion"]
    expected = [[((truth == k) & (labels == m) & valid).sum() for m in range(3)] for k in range(3)]
    np.testing.assert_array_equal(counts, expected)


def test_confusion_on_the_device(device):
    rng = np.random.default_rng(0)
    volumes = tuple(rng.integers(0, 3, (5, 6, 130), dtype=np.uint8) for _ in range(2))
    counts = measure_by_blocks(overlap.confusion(3), volumes, (2, 6, 100), device)["confusion"]
    np.testing.assert_array_equal(counts.ravel(), np.bincount((volumes[0] * 3 + volumes[1]).ravel(), minlength=9))


def test_an_id_that_is_no_class_is_refused_with_its_place():
    labels = np.zeros((4, 4, 4), np.uint8)
    truth = labels.copy()
    truth[3, 1, 2] = 255
    with pytest.raises(InputError, match="truth holds the label 255 at z 3, y 1, x 2, but only 0 to 3 are expected"):
        measure_by_blocks(overlap.confusion(4), (truth, labels), (2, 2, 2))
    counts = measure_by_blocks(overlap.confusion(4, ignore=255), (truth, labels), (2, 2, 2))["confusion"]
    assert counts.sum() == counts[0, 0] == 63


def test_perfect_prediction_has_overlap_one():
    table = np.diag([5, 0, 7, 9])
    np.testing.assert_array_equal(overlap.iou(table), [1, math.nan, 1, 1])
    np.testing.assert_array_equal(overlap.dice(table), [1, math.nan, 1, 1])
    np.testing.assert_array_equal(overlap.iou(table, absent="zero"), [1, 0, 1, 1])
    assert overlap.mean_iou(table, "s1_all4") == 1
    assert overlap.mean_iou(table, "s1_all4", absent="zero") == 0.75
    assert overlap.relative_error(2.0, 2.0) == 0


def test_iou_and_dice_of_a_small_table():
    # Class 1: 2 right, 1 missed, 3 too many.
    table = np.array([[10, 3], [1, 2]])
    np.testing.assert_allclose(overlap.iou(table), [10 / 14, 2 / 6], rtol=1e-15)
    np.testing.assert_allclose(overlap.dice(table), [20 / 24, 4 / 8], rtol=1e-15)


@given(seed=seeds)
def test_dice_follows_from_iou(seed):
    table = np.random.default_rng(seed).integers(0, 10**12, (4, 4))
    iou = overlap.iou(table)
    np.testing.assert_allclose(overlap.dice(table), 2 * iou / (1 + iou), rtol=1e-14)


def test_a_class_in_only_one_volume_has_overlap_zero():
    table = np.array([[4, 2], [0, 0]])
    np.testing.assert_allclose(overlap.iou(table), [4 / 6, 0.0])


def test_the_two_published_means_differ_by_the_background():
    table = np.diag([90, 1, 1, 1]) + np.array([[0, 1, 1, 1]] + [[0] * 4] * 3)
    assert overlap.mean_iou(table, "s2_foreground3") == 0.5
    assert overlap.mean_iou(table, "s1_all4") == pytest.approx((90 / 93 + 1.5) / 4)
    assert overlap.mean_iou(table, (0, 3)) == pytest.approx((90 / 93 + 0.5) / 2)
    with pytest.raises(ValueError, match="are not all among the 4 of the confusion matrix"):
        overlap.mean_iou(table, (1, 4))


def test_pooled_samples_weigh_by_their_voxels_and_their_mean_does_not():
    large, small = np.array([[0, 0], [0, 98]]), np.array([[0, 1], [1, 0]])
    assert overlap.mean_iou(overlap.pooled([large, small]), (1,)) == 0.98
    assert np.mean([overlap.mean_iou(t, (1,)) for t in (large, small)]) == 0.5


def test_relative_error_has_a_sign_and_is_nan_without_reference():
    assert overlap.relative_error(3.0, 4.0) == -0.25
    assert math.isnan(overlap.relative_error(3.0, 0.0))
