"""Thresholds are those with the greatest variance between the classes, exactly, for two classes and for more."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from skimage.filters import threshold_multiotsu, threshold_otsu

from tests.blocks import map_whole, seeds
from tomoscale.errors import InputError
from tomoscale.kernels.classes import threshold
from tomoscale.measures.otsu import otsu_thresholds


def score(counts, values, ends):
    """Sum over classes of moment² / voxels, in fractions."""
    total = Fraction(0)
    for first, stop in zip((0, *ends), (*ends, len(counts)), strict=True):
        weight = sum(counts[first:stop])
        moment = sum(c * Fraction(v) for c, v in zip(counts[first:stop], values[first:stop], strict=True))
        total += moment**2 / weight
    return total


@given(seed=seeds, n=st.integers(2, 9), n_classes=st.integers(2, 5), wide=st.booleans())
def test_every_choice_of_ends_is_no_better(seed, n, n_classes, wide):
    assume(n >= n_classes)
    rng = np.random.default_rng(seed)
    # Few different counts and values make ties, which must fall to the least last threshold.
    values = np.sort(rng.choice(n + 2, n, replace=False)) * (0.37 if wide else 1) - 3
    counts = rng.integers(1, 10**12 if wide else 3, n)
    choices = [
        (score(counts.tolist(), values.tolist(), ends), ends) for ends in combinations(range(1, n), n_classes - 1)
    ]
    best = max(s for s, _ in choices)
    expected = min((ends for s, ends in choices if s == best), key=lambda ends: ends[::-1])
    assert otsu_thresholds(counts, values, n_classes) == tuple(float(values[e - 1]) for e in expected)


@given(seed=seeds, size=st.integers(2, 400), spread=st.integers(2, 300))
def test_two_classes_are_those_of_scikit_image(seed, size, spread):
    values = np.random.default_rng(seed).integers(0, spread, (1, 1, size))
    assume(values.min() < values.max())
    counts = np.bincount(values.ravel())
    (found,) = otsu_thresholds(counts, np.arange(len(counts)))
    expected = threshold_otsu(values)
    if found != expected:  # scikit-image sums in floating point and may leave a tie to rounding
        grey, ends = np.arange(len(counts)).tolist(), [(int(t) + 1,) for t in (found, expected)]
        assert score(counts.tolist(), grey, ends[0]) >= score(counts.tolist(), grey, ends[1])
    assert map_whole(threshold(low=found), values).sum() == (values > found).sum()


def test_three_and_four_classes_of_a_smooth_histogram_are_those_of_scikit_image():
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(m, 9, 20_000) for m in (40, 100, 150, 220)]).clip(0, 255).astype(np.uint8)
    counts = np.bincount(values, minlength=256)
    for n_classes in (3, 4):
        expected = threshold_multiotsu(values, n_classes).tolist()
        assert list(otsu_thresholds(counts, np.arange(256), n_classes)) == expected


def test_values_that_no_voxel_has_change_nothing_and_sixteen_bits_are_no_limit():
    counts = np.zeros(65536, np.uint64)
    counts[[100, 101, 30000, 60000]] = 5 * 10**11, 5 * 10**11, 7, 10**11
    assert otsu_thresholds(counts, np.arange(65536)) == (30000,)
    assert otsu_thresholds(counts, np.arange(65536), 3) == (100, 30000)
    assert otsu_thresholds(counts, np.arange(65536), 4) == (100, 101, 30000)


def test_what_cannot_be_separated_is_refused():
    with pytest.raises(InputError, match="the histogram of 7 voxels holds fewer than 2 different grey values"):
        otsu_thresholds(np.array([0, 7, 0]), np.arange(3))
    with pytest.raises(InputError, match="fewer than 3 different grey values"):
        otsu_thresholds(np.array([1, 7, 0]), np.arange(3), 3)
    with pytest.raises(ValueError, match="n_classes must be at least 2, got 1"):
        otsu_thresholds(np.array([1, 7]), np.arange(2), 1)
    for counts, values in (([1.0, 2.0], [0, 1]), ([1, 2], [0, 1, 2]), ([1, 2], [1, 0])):
        with pytest.raises(ValueError, match="a histogram needs integer counts and one ascending value for each"):
            otsu_thresholds(np.array(counts), np.array(values))
